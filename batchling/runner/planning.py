"""Making a plan: identity, what is known already, what is in flight elsewhere, and a folder that appears whole.

All of it happens under `runs/lock`, so that two plans made at once never both take a key: the
folder is renamed into place with its journal in it, and from then on its keys are claimed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from batchling import catalog, limits, source
from batchling.clock import Clock
from batchling.collect import lines
from batchling.disk import Disk, write_file
from batchling.errors import BatchlingError, ChangedError, ConfigError, DiskError, JournalError, RefusedError
from batchling.journal import Journal
from batchling.ledger import Event, Phase, State
from batchling.ledger.events import PlanCreated, Planned
from batchling.models import ANSWERED, RowState
from batchling.packing import KeySet, plan_id, plan_identity
from batchling.plan_document import PlanDocument, PlanLane, PlanRun
from batchling.request import repair_key
from batchling.runner.broken import Unreadable, may_have, plans, survey, whole
from batchling.runner.broken import name as tell
from batchling.runner.caching import CatalogLibrary, Library, reuse_answers
from batchling.runner.compiling import CountingSink, FolderSink, Known, Totals, compile_requests
from batchling.runner.doubts import doubts_for
from batchling.runner.folder import PlanFolder, folders, moment_after
from batchling.runner.gathering import chunks
from batchling.runner.points import LanePlan, Point, make_ready, run_lookup_in, sha256_json
from batchling.runner.provenance import provenance
from batchling.runner.remarks import notes
from batchling.runner.sealing import digests_of, mark_of
from batchling.runner.session import write
from batchling.runner.shards import read_index
from batchling.scrub import cut, urls_in
from batchling.spec import Spec

Again = Callable[[str], bool]
"""What may be bought twice, in words → whether to buy it all the same."""

Remember = Callable[[str, str], None]
"""(id, mark) of a plan that is about to appear: it is the user's own."""

_REPAIRS = 1000  # of one request; more than anybody asks for


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """Specs made ready, with their rows: everything known before keys are looked up."""

    points: tuple[Point, ...]
    lanes: tuple[LanePlan, ...]
    snapshots: dict[str, source.Snapshot]
    identity: str
    doubtful: tuple[str, ...] = ()
    """What metrics compare that can never be equal, a sentence each."""

    @property
    def budget(self) -> Decimal | None:
        """USD; the tightest of the runs' budgets."""
        given = [p.spec.config.budget.usd for p in self.points if p.spec.config.budget.usd is not None]
        return Decimal(str(min(given))) if given else None

    @property
    def name(self) -> str:
        return self.points[0].spec.config.name

    @property
    def simulated(self) -> bool:
        """No model was asked: the embedded server makes the answers up, in this process or in one of its own."""
        engines = [p.spec.config.provider.engine for p in self.points]
        return all(engine is not None and engine.kind != "http" for engine in engines)


@dataclass(frozen=True, slots=True)
class Opened:
    """A plan to drive. `how`: created, unfinished or finished."""

    folder: PlanFolder
    how: str
    totals: Totals | None = None
    notes: tuple[str, ...] = ()


Large = Callable[[str], bool]
"""What a plan needs, in words, that is more than its bounds → whether to make it all the same."""


def draft(
    specs: Sequence[Spec],
    data_folder: Path,
    runs: Path,
    *,
    now: float,
    library: Library | None = None,
    large: Large | None = None,
) -> Draft:
    """Compiles schemas, snapshots the rows into `data_folder`, checks the metrics.

    Args:
        now: Unix seconds; limits that refusals taught hold for a while.
        library: what is known of earlier plans; None: the runs folder's catalog.
        large: asked where the rows are more than `limits.plan_rows` and the like allow; None: the answer is no.

    Raises:
        UsageError: a schema, a source or a metric is wrong.
        RefusedError: the rows are more than the bounds allow, and nobody agreed.
    """
    points, lanes = make_ready(specs)
    library = library or CatalogLibrary(runs)
    tokens, requests = library.learned(now=now, unit="tokens"), library.learned(now=now, unit="requests")
    lanes = [
        lane.within(tokens.get((lane.group, lane.model)), requests.get((lane.group, lane.model))) for lane in lanes
    ]
    snapshots: dict[str, source.Snapshot] = {}
    for point in points:
        if point.data_key not in snapshots:
            spec = point.spec
            with _without_queries(spec), spec.placing():
                snapshots[point.data_key] = _snapshot(spec, data_folder, runs, large)
    _agree_to_rows(points, snapshots, large)
    checked: set[str] = set()
    doubtful: dict[str, None] = {}
    for point in points:
        _check_budget_is_countable(point)
        metrics = point.spec.config.metrics
        types = output_type(point), data_type(snapshots[point.data_key])
        mark = sha256_json([metrics, types, point.data_key])
        if metrics and mark not in checked:  # the points of a sweep mostly share them
            rows = snapshots[point.data_key].path
            with point.spec.placing():
                catalog.check(metrics, *types, rows, memory_mb=point.spec.config.limits.memory_mb)
            checked.add(mark)
            schema = None if point.schema is None else point.schema.json_schema
            for name, texts in catalog.never_equal(metrics, *types, rows, schema).items():
                place = point.spec.set_at(f"metrics.{name}")
                doubtful.update((f"metrics.{name} {text}" + (f" [{place}]" if place else ""), None) for text in texts)
    identity = plan_identity(
        [
            part
            for p in points
            for part in (p.config_sha256, snapshots[p.data_key].sha256, p.prompt_sha256, p.schema_sha256)
        ]
    )
    return Draft(tuple(points), tuple(lanes), snapshots, identity, tuple(doubtful))


def _snapshot(spec: Spec, folder: Path, runs: Path, large: Large | None) -> source.Snapshot:
    limits = spec.config.limits
    bounds = source.Bounds(limits.plan_rows, limits.plan_bytes, limits.memory_mb, limits.unpack_factor)
    try:
        return source.snapshot(spec.config.data, spec.root, folder, run_lookup=run_lookup_in(runs), bounds=bounds)
    except source.TooLarge as found:
        _agree(f"the data source {found.what}", found.key, large)
    bounds = source.Bounds(sys.maxsize - 1, sys.maxsize, limits.memory_mb, limits.unpack_factor)
    return source.snapshot(spec.config.data, spec.root, folder, run_lookup=run_lookup_in(runs), bounds=bounds)


def _agree_to_rows(points: Sequence[Point], snapshots: dict[str, source.Snapshot], large: Large | None) -> None:
    """Few rows are many, too, when a sweep or `repeats` asks each a million times."""
    rows = sum(snapshots[p.data_key].rows * p.spec.config.repeats for p in points)
    most = max(p.spec.config.limits.plan_rows for p in points)
    if rows > most and any(snapshots[p.data_key].rows < rows for p in points):
        _agree(f"the plan has {rows:,} rows with its runs and repeats, more than {most:,}", "limits.plan_rows", large)


def _agree(what: str, key: str | None, large: Large | None) -> None:
    """Raises: RefusedError, when nobody says yes."""
    if large is not None and large(what):
        return
    hint = "free some space on the disk" if key is None else f"raise {key}, or set data.limit"
    raise RefusedError(f"{what}; nothing was sent", next_command=hint)


def room(made: Draft, runs: Path, large: Large | None) -> Callable[[int], None]:
    """A callback that receives the size of the requests so far, in bytes, and asks once when that is above the bounds.

    Raises (when called): RefusedError, when nobody says yes.
    """
    most, key = source.most_bytes(runs, max(p.spec.config.limits.plan_bytes for p in made.points))

    def sized(size: int) -> None:
        nonlocal most
        if size > most:
            _agree(f"the plan {source.too_many_bytes(most, key).what}", key, large)
            most = sys.maxsize

    return sized


def data_urls(spec: Spec) -> list[str]:
    """The addresses that a run's rows are read from and that have a query, which may be a signature."""
    return urls_in(spec.config.data.model_dump(mode="json", include={"path", "sql", "options", "where"}))


@contextmanager
def _without_queries(spec: Spec) -> Iterator[None]:
    """Takes the queries of data URLs out of the words of whoever could not read them."""
    try:
        yield
    except BatchlingError as error:
        urls = data_urls(spec)
        if not urls:
            raise
        error.message = cut(error.message, urls)
        error.where = error.where and cut(error.where, urls)
        error.args = (error.message,)
        raise error from None


def _check_budget_is_countable(point: Point) -> None:
    config = point.spec.config
    if config.budget.usd is not None and config.tokens == "off":
        raise ConfigError(
            "budget.usd needs counted tokens, and tokens is off",
            next_command="set tokens=auto, or remove the budget",
        )


def output_type(point: Point) -> str | None:
    """DuckDB type of `output` in records.parquet; None for plain text."""
    if point.spec.config.model.endpoint == "embeddings":
        return "FLOAT[]"
    return point.schema.duckdb_type() if point.schema is not None else None


def data_type(snapshot: source.Snapshot) -> str:
    """DuckDB type of `data`."""
    from batchling.duck import identifier

    return "STRUCT(" + ", ".join(f"{identifier(c.name)} {c.type}" for c in snapshot.columns) + ")"


def count(
    made: Draft,
    known: Known,
    *,
    show: int = 0,
    sized: Callable[[int], None] | None = None,
) -> Totals:
    """What `plan` prints: nothing is written. `sized` hears how many bytes the requests have so far."""
    shapes = [lane.shape() for lane in made.lanes]
    sink = CountingSink(made.lanes, shapes)
    totals = compile_requests(made.points, made.lanes, made.snapshots, known, sink, show=show, sized=sized)
    for number, tally in enumerate(totals.lanes):
        tally.shards = sink.shards(number)
        tally.split_by = tuple(sink.reasons(number))
    return totals


def refuse_over_budget(made: Draft, totals: Totals) -> None:
    """Step 2 for the whole plan.

    Raises:
        RefusedError: the worst case is above the budget, or cannot be known.
    """
    budget = made.budget
    if budget is None:
        return
    worst = Decimal(0)
    for lane, tally in zip(made.lanes, totals.lanes, strict=True):
        if not tally.requests:
            continue
        if tally.worst_usd is None:
            if any(p.spec.config.budget.unknown == "allow" for p in made.points):
                continue
            raise RefusedError(
                f"budget.usd is {budget} USD, but the price of {lane.model} at {lane.spec.config.provider.name} is not known",
                next_command="set model.price, or budget.unknown=allow",
            )
        worst += tally.worst_usd
    if worst > budget:
        raise RefusedError(
            f"the worst case is {worst:.4f} USD, above budget.usd = {budget}",
            next_command="raise budget.usd, lower model.max_output_tokens or set data.limit",
        )


def known_keys(
    disk: Disk, runs: Path, made: Draft, *, fresh: bool, retry: frozenset[str], library: Library | None = None
) -> Known:
    """Answered keys (unless `fresh`), and the keys that unfinished plans hold. Writes nothing.

    What the catalog has not seen yet is read from the plans' decoded answers.

    Args:
        retry: record states whose rows are asked again.
    """
    # Claims first: a plan that ends in between is then in both, and not in neither.
    readable, unreadable = survey(disk, runs)
    claims, damaged = _claims(disk, readable)
    unreadable += damaged
    known = Known(
        claimed=claims,
        doubtful=held_by_broken(disk, [folder for folder, _ in unreadable]),
        broken={folder.plan_id: error.where or "" for folder, error in unreadable},
    )
    if not fresh:
        library = library or CatalogLibrary(runs)
        found = _Found(retry)
        for lane in made.lanes:
            for answer in library.answers(lane_identity(lane)):
                found.add(answer.key, answer.state)
        for path in library.behind():
            if path.name not in known.broken:  # what is whole of them is in the catalog
                _add_decoded(disk, PlanFolder(path), found)
        known.answered = found.answered()
    reopened = fresh or RowState.MISSING in retry
    known.doubts = doubts_for(disk, runs, made.identity, reopened=reopened)
    return known


def claimed(disk: Disk, runs: Path, *, but: str | None = None) -> dict[str, KeySet]:
    """Plan id → the keys that an unfinished plan (not `but`) may still bring answers to. Broken plans are named."""
    claims, damaged = _claims(disk, plans(disk, runs), but)
    return claims | held_by_broken(disk, [folder for folder, _ in damaged])


def _claims(
    disk: Disk, found: Iterable[tuple[PlanFolder, State]], but: str | None = None
) -> tuple[dict[str, KeySet], Unreadable]:
    """Claims, and the plans that turn out to be broken when their indexes are read."""
    claims: dict[str, KeySet] = {}
    damaged: Unreadable = []
    for folder, state in found:
        if state.finished or folder.plan_id == but:
            continue
        keys = KeySet()
        try:
            for shard in state.open_shards():
                for entry in read_index(disk, folder.index(shard.number)):
                    keys.add(entry.key)
        except JournalError as error:
            tell(folder, error)
            damaged.append((folder, error))
            continue
        if keys:
            claims[folder.plan_id] = keys
    return claims, damaged


def held_by_broken(disk: Disk, unreadable: Iterable[PlanFolder]) -> dict[str, KeySet]:
    """Plan id → the keys that a plan which cannot be read may have in flight or answered."""
    found = {folder.plan_id: may_have(disk, folder) for folder in unreadable}
    return {plan: keys for plan, keys in found.items() if keys}


def given_up(disk: Disk, folder: PlanFolder, state: State) -> Iterator[str]:
    """Keys that a person gave up although their batch may have been made, and that nothing was read of since."""
    for shard in state.shards.values():
        if not shard.closed and any(a.phase is Phase.DROPPED and a.presumed for a in shard.attempts):
            for entry in read_index(disk, folder.index(shard.number)):
                yield entry.key


class _Found:
    """Which keys are answered for good: of a request and its repairs, the last answer says what state the row is in.

    Args:
        retry: record states whose rows are asked again.
    """

    def __init__(self, retry: frozenset[str]):
        self._retry = retry
        self._kept = KeySet()
        self._reopened = KeySet()
        self._unfit = KeySet()
        self._unfit_keys: list[str] = []

    def add(self, key: str, state: str) -> None:
        if self._retry and state == RowState.INVALID:
            self._unfit.add(key)
            self._unfit_keys.append(key)
        elif state in self._retry:
            self._reopened.add(key)
        else:
            self._kept.add(key)

    def answered(self) -> KeySet:
        for key in self._unfit_keys:
            again = RowState.INVALID in self._retry
            for n in range(1, _REPAIRS):
                repair = repair_key(key, n)
                if repair in self._kept:
                    again = False
                elif repair in self._reopened:
                    again = True
                elif repair in self._unfit:
                    again = RowState.INVALID in self._retry
                else:
                    break
            if not again:
                self._kept.add(key)
        return self._kept


def _add_decoded(disk: Disk, folder: PlanFolder, found: _Found) -> None:
    wanted = {str(outcome) for outcome in ANSWERED}
    for name in disk.names(folder.responses):
        if name.endswith(".decoded.jsonl"):
            for _, line in lines(chunks(disk, folder.responses / name)):
                document = limits.own(line)
                if (
                    document["outcome"] in wanted
                    and document["file"] is not None
                    and not catalog.no_answer(
                        document["outcome"],
                        document["status_code"],
                        document["error_code"],
                        document["error_message"],
                        document["file"],
                    )
                ):
                    found.add(document["key"], document["state"])


def lane_identity(lane: LanePlan) -> tuple[str, str, str, str]:
    """Provider, address, URL path and model: what narrows the search for answers."""
    from batchling.request import address

    return lane.spec.config.provider.name, address(lane.spec.config), lane.path, lane.model


def unfinished(disk: Disk, runs: Path) -> Iterator[tuple[PlanFolder, State]]:
    """Plans whose journal has no end yet, oldest first; those that cannot be read are named."""
    for folder, state in plans(disk, runs):
        if not state.finished:
            yield folder, state


@contextmanager
def runs_locked(disk: Disk, runs: Path) -> Iterator[None]:
    """`runs/lock`: plans are made, and keys claimed, one at a time."""
    disk.make_folder(runs)
    lock = disk.lock(runs / "lock", wait=True)
    try:
        yield
    finally:
        lock.release()


def find_same(disk: Disk, runs: Path, identity: str) -> tuple[PlanFolder, State] | None:
    """The newest plan of this identity that can be read.

    Raises:
        ChangedError: its files are not what they were.
    """
    for folder in reversed(folders(disk, runs)):
        mark = folder.path / "identity"
        if disk.exists(mark) and disk.read(mark) == identity.encode():
            try:
                return folder, whole(disk, folder)
            except ChangedError:
                raise
            except JournalError as error:
                tell(folder, error)
    return None


def open_plan(
    disk: Disk,
    clock: Clock,
    runs: Path,
    specs: Sequence[Spec],
    *,
    admit: Callable[[Sequence[LanePlan]], None] | None = None,
    command: str,
    fresh: bool = False,
    retry: Iterable[str] = (),
    refresh_stale: Callable[[], object],
    library: Library | None = None,
    entropy: Callable[[int], bytes] = os.urandom,
    again: Again | None = None,
    large: Large | None = None,
    remember: Remember | None = None,
    recognise: Callable[[PlanFolder, Draft], None] | None = None,
) -> Opened:
    """The plan that these specs make: a new one, or the one that is there.

    Args:
        admit: called before a plan is made: raises where a key is missing or may not go where it would go.
        refresh_stale: brings the catalog up to date with every plan's files.
        library: what is known of earlier plans; None: the runs folder's catalog.
        entropy: so many random bytes, for the plan's id.
        again: asked before requests are sent that a plan which cannot be read may have bought; None: they are not sent.
        large: asked before a plan is made that is larger than its bounds; None: it is not made.
        remember: hears of a new plan before it appears, so that a kill in between leaves no plan that is nobody's.
        recognise: hears of the plan that is there, and what it would be if it was made now.

    Raises:
        UsageError: something in config, data, prompt or schema is wrong.
        ChangedError: files of the plan that is there were changed.
        RefusedError: the worst case is above the budget, or requests may be bought twice and nobody agreed.
    """
    if any(spec.config.paths.mode == "shared" for spec in specs):
        disk.share(runs)
    with runs_locked(disk, runs):
        for name in disk.names(runs):
            if name.startswith(".making-"):
                _clear(disk, runs / name)  # a plan that was never finished being made
        refresh_stale()
        work = runs / f".making-{os.getpid()}-{entropy(4).hex()}"
        library = library or CatalogLibrary(runs)
        try:
            made = draft(specs, work / "data", runs, now=clock.now(), library=library, large=large)
            states = frozenset(retry)
            same = None if fresh else find_same(disk, runs, made.identity)
            if same is not None:
                folder, state = same
                if recognise is not None:
                    recognise(folder, made)
                if not state.finished:
                    return Opened(folder, "unfinished")
                if not states and not state.again and not library.unanswered(folder.plan_id):
                    return Opened(folder, "finished")
            known = known_keys(disk, runs, made, fresh=fresh, retry=states, library=library)
            if admit is not None:
                admit(made.lanes)
            return _create(disk, clock, runs, work, made, known, command, library, entropy, again, large, remember)
        finally:
            _clear(disk, work)


def _clear(disk: Disk, folder: Path) -> None:
    """Removes what a plan was made in; what cannot be removed is in nobody's way."""
    with suppress(DiskError):
        disk.discard(folder)


def _create(
    disk: Disk,
    clock: Clock,
    runs: Path,
    work: Path,
    made: Draft,
    known: Known,
    command: str,
    library: Library,
    entropy: Callable[[int], bytes],
    again: Again | None,
    large: Large | None,
    remember: Remember | None,
) -> Opened:
    now = clock.now()
    name = plan_id(made.name, moment_after(now, disk, runs), made.identity, entropy(8))
    # The folder already has its last name inside, because custom_ids carry the end of it.
    folder = PlanFolder(work / name)
    for part in (folder.path, folder.requests, folder.responses, folder.manifest, folder.source):
        disk.make_folder(part)
    shapes = [lane.shape() for lane in made.lanes]
    sink = FolderSink(disk, folder, shapes, run_ids(made, name))
    totals = compile_requests(made.points, made.lanes, made.snapshots, known, sink, sized=room(made, runs, large))
    shards = sink.finish()
    for shard in shards:
        totals.lanes[shard.lane].shards += 1
    refuse_over_budget(made, totals)
    _ask_again(known, totals, again)
    sources = write_sources(disk, folder, made)
    made_with = provenance(made.points[0].spec.root)
    document = plan_document(made, known, totals, now=now, plan_id=name, command=command, **made_with)
    written = document.write()
    write_file(disk, folder.document, written)
    write_file(disk, folder.path / "identity", made.identity.encode())
    if totals.cached or known.doubts.found:
        attempts = max(p.spec.config.retry.attempts for p in made.points)
        where = {lane.number: lane_identity(lane) for lane in made.lanes}
        schemas = {p.schema_index: p.schema_sha256 for p in made.points}
        reuse_answers(disk, runs, folder, where, attempts, schemas, library=library)
    awaits = sorted(plan for plan in known.claimed if disk.exists(folder.held(plan)))
    journal = Journal(disk, folder.journal)
    try:
        files = digests_of(written, sources)
        events: list[Event] = [PlanCreated(name, made.identity, tuple(awaits), files)]
        if shards:
            events.append(Planned(tuple(shards), why="first"))
        first, *_ = list(write(journal, State(), events, ts=now))
    finally:
        journal.close()
    if remember is not None:
        remember(name, mark_of(name, first, files))
    disk.replace(work / "data", folder.data)
    target = PlanFolder(runs / name)
    disk.replace(folder.path, target.path)
    return Opened(target, "created", totals, notes(made, totals))


def _ask_again(known: Known, totals: Totals, again: Again | None) -> None:
    """What a broken plan may have bought is not bought here without a person's word."""
    for plan, where in known.broken.items():
        n = totals.doubtful.get(plan, 0)
        what = f"{n:,} of these requests may be in flight or answered in plan {plan}, which cannot be read"
        if n and not (again is not None and again(what)):
            raise RefusedError(
                f"{what}: sent again, they may be paid twice; nothing was sent",
                where=where,
                next_command=f"batchling doctor; to send them anyway, give that plan up: batchling rm {plan} --force",
            )


def write_sources(disk: Disk, folder: PlanFolder, made: Draft) -> dict[str, bytes]:
    """Copies the files that the runs were made from; returns their contents by name."""
    written: dict[str, bytes] = {}
    for point in made.points:
        for file in point.spec.sources:
            if written.get(file.name) == file.content:
                continue
            written[file.name] = file.content
            path = folder.source / file.name
            disk.make_folder(path.parent)
            write_file(disk, path, file.content)
    return written


def estimate_usd(made: Draft, totals: Totals) -> Decimal | None:
    """A guess: input as counted, and answers a quarter as long as they may be (200 tokens where no limit is set)."""
    total = Decimal(0)
    for lane, tally in zip(made.lanes, totals.lanes, strict=True):
        if not tally.requests:
            continue
        if lane.price is None or (tally.input_tokens is None and lane.price.input):
            return None
        from batchling import cost

        each = 200 if lane.max_output_tokens is None else max(1, lane.max_output_tokens // 4)
        total += cost.usd(lane.price, tally.input_tokens or 0, each * tally.requests if lane.price.output else 0)
    return total


def worst_usd(totals: Totals) -> Decimal | None:
    """USD that the plan can cost at most, row attempts after the first not counted; None when unknown."""
    total = Decimal(0)
    for tally in totals.lanes:
        if tally.requests and tally.worst_usd is None:
            return None
        total += tally.worst_usd or Decimal(0)
    return total


def unknown_usd(lanes: Sequence[LanePlan], totals: Totals) -> Iterator[str]:
    """Why the cost of a lane's requests is not known, a sentence for each that has any."""
    for lane, tally in zip(lanes, totals.lanes, strict=True):
        if not tally.requests or tally.worst_usd is not None:
            continue
        yield why_unknown(
            lane.model,
            lane.spec.config.provider.name,
            priced=lane.price is not None,
            counted=tally.input_tokens is not None,
        )


def why_unknown(model: str, provider: str, *, priced: bool, counted: bool) -> str:
    """Why nobody can say what requests cost at most, and which key helps."""
    if not priced:
        return f"no price is known for {model} at {provider}: set model.price"
    if not counted:
        return f"the tokens of {model} are not counted: set tokens=auto"
    return f"answers of {model} have no limit: set model.max_output_tokens"


def run_ids(made: Draft, plan_id: str) -> list[str]:
    """The end of the plan's id, and a number."""
    return [f"{plan_id[-6:]}-{number:02d}" for number in range(1, len(made.points) + 1)]


def plan_document(
    made: Draft, known: Known, totals: Totals, *, now: float, plan_id: str = "", **made_with: Any
) -> PlanDocument:
    """The plan as it is shown and written: resolved configs, versions, git state, data hashes, prices.

    Args:
        plan_id: empty for a plan that is not made.
        made_with: `command`, and what `provenance` says; nothing for a plan that is not made.
    """
    runs = []
    for run_id, point, rows in zip(run_ids(made, plan_id), made.points, totals.rows_of, strict=True):
        config = point.spec.config
        snapshot = made.snapshots[point.data_key]
        runs.append(
            PlanRun(
                run_id=run_id,
                lane=point.lane,
                overrides=tuple(point.spec.overrides),
                config=point.spec.document,
                config_sha256=point.config_sha256,
                prompt_sha256=point.prompt_sha256,
                data_sha256=snapshot.sha256,
                data=f"data/{snapshot.path.name}",
                rows=rows // config.repeats,
                repeats=config.repeats,
                provider=config.provider.name,
                model=config.model.id,
                endpoint=config.model.endpoint,
                price=point.price,
                columns=tuple(c.name for c in snapshot.columns),
                schema=None if point.schema is None else point.schema.json_schema,
                schema_index=point.schema_index,
                schema_sha256=point.schema_sha256,
                repairs_once=True,
                output_type=output_type(point),
                data_type=data_type(snapshot),
                metrics=dict(config.metrics),
                tokens=point.counter.name,
            )
        )
    lanes = [
        PlanLane(
            lane.number,
            *lane_identity(lane),
            requests=tally.requests,
            input_tokens=tally.input_tokens,
            learned_tokens=lane.learned_tokens,
            learned_requests=lane.learned_requests,
        )
        for lane, tally in zip(made.lanes, totals.lanes, strict=True)
    ]
    return PlanDocument(
        plan_id=plan_id,
        identity=made.identity,
        experiment=made.name,
        created_at=now,
        simulated=made.simulated,
        **({"command": "", "python": None, "packages": {}, "git": {}} | made_with),
        requests=totals.requests,
        cached=totals.cached,
        duplicates=totals.duplicates,
        awaiting=totals.awaiting,
        estimated_usd=estimate_usd(made, totals),
        estimated_usd_max=worst_usd(totals),
        lanes=tuple(lanes),
        runs=tuple(runs),
        doubtful=known.doubts.counted(),
        doubted=known.doubts.again,
    )


def forget(disk: Disk, folder: PlanFolder) -> None:
    """Removes a plan that was made but not confirmed; nothing was sent for it.

    Its folder is renamed first: half of a plan, left by a crash, would be taken for one that has no requests.
    """
    hidden = folder.path.with_name(f".making-{folder.plan_id}")
    with suppress(FileNotFoundError):
        disk.replace(folder.path, hidden)
        disk.discard(hidden)
