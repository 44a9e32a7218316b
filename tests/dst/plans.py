"""Several plans in one folder: what people do at once, and one after the other, under one seed.

The plans are made and driven by the production functions: `open_plan` (draft, claims, reuse), `loop.steps`, `take_over`,
`prune_in`, `resolving`, `forget`. Several processes live at the same time; one turn of another, or a whole new plan, may
come between any two effects of a process. Processes are killed anywhere, with or without the power, which takes them all.

Not simulated: the snapshot of the rows, which `draft` writes on the machine's disk, and the catalog, in whose place
`Decoded` finds the same answers in the plans' decoded files.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from batchling.api import verbs
from batchling.api.pruning import prune_in
from batchling.catalog.rows import Answer
from batchling.config import find_project
from batchling.errors import DiskError, LockedError, UnfinishedError, UsageError
from batchling.journal import Journal, read
from batchling.ledger import InvariantError, Pace, Policy, replay
from batchling.ledger.events import CancelRequested, SessionStarted
from batchling.models import ANSWERED
from batchling.providers.openai import ADAPTER
from batchling.request import repair, repair_key
from batchling.runner import loop, planning, resolving
from batchling.runner.awaiting import LOCKED_PAUSE_SECONDS, take_over
from batchling.runner.caching import CacheLane, cached_tags, decode_cache
from batchling.runner.folder import PlanFolder, folders
from batchling.runner.points import LanePlan, Point, make_ready
from batchling.runner.session import LaneKit, Session
from batchling.runner.shards import read_index
from batchling.runner.superseding import wanted_keys
from batchling.spec import Spec
from batchling.testing import Chaos, Faults, Killed, Overrun, SimClient, SimClock, SimDisk, SimServer, SimTime
from batchling.testing.chaos import Blocked
from tests.dst.harness import Broken, Result

ROUNDS = 60
"""How often the plans that are left are watched before they are said to be stuck."""

EXPERIMENT = """\
defaults:
  - /base
  - override /model: custom
  - override /provider: compatible
  - _self_
name: {name}
data: {{path: {rows}.jsonl, id: id}}
provider: {{base_url: "http://simulated.invalid/v1"}}
model: {{id: {model}, max_output_tokens: 5, price: {{input: 1000, output: 10000}}}}
prompt:
  messages:
    - {{role: user, content: "Which number is {{text}}?"}}
schema: {{fields: {{n: {{type: integer}}}}}}
limits: {{max_requests: {shard}}}
budget: {{confirm_usd: 1000}}
"""


@dataclass(frozen=True)
class Variant:
    """One way in which somebody asks: an experiment as its config stands at some time."""

    specs: tuple[Spec, ...]
    points: tuple[Point, ...]
    lanes: tuple[LanePlan, ...]


@cache
def variants() -> tuple[Variant, ...]:
    """Two experiments about the same texts. The rows of the first change; once it also asks a second model."""
    root = Path(tempfile.mkdtemp(prefix="batchling-plans-"))
    rows = {"few": range(4), "more": range(7), "others": range(3, 9)}
    for name, numbers in rows.items():
        lines = "".join(json.dumps({"id": str(n), "text": f"row {n}"}) + "\n" for n in numbers)
        (root / f"{name}.jsonl").write_text(lines)
    made = []
    asked = [
        ("ask", "few", "m-1", 3),
        ("ask", "more", "m-1", 3),
        ("ask", "others", "m-1", 2),
        ("check", "more", "m-1", 4),
    ]
    for number, (name, data, model, shard) in enumerate(asked):
        path = root / f"{name}-{number}.yaml"
        path.write_text(EXPERIMENT.format(name=name, rows=data, model=model, shard=shard))
        for models in ([], ["model.id=m-1,m-2"]) if number == 1 else ([],):
            specs, _ = verbs.specs_of(path, models, multirun=bool(models), project=find_project(root))
            made.append(Variant(tuple(specs), *map(tuple, make_ready(specs))))  # type: ignore[arg-type]
    return tuple(made)


@dataclass(frozen=True)
class Decoded:
    """What earlier plans answered, read from their decoded files by the catalog's rule: of several answers to a key,
    that of the newest plan counts, in it one before none, and of these the last."""

    disk: SimDisk
    runs: Path

    def answers(self, lane: CacheLane) -> Iterator[Answer]:
        found: dict[str, tuple[tuple[int, bool, int, int], dict[str, Any], str]] = {}
        for age, folder in enumerate(folders(self.disk, self.runs)):
            lanes = [number for number, each in enumerate(folder.load(self.disk).lanes) if each.place == lane]
            lane_of = _lanes(self.disk, folder)
            for document in decoded(self.disk, folder):
                if document["file"] is None or lane_of(document) not in lanes:
                    continue
                place = (age, document["outcome"] in ANSWERED, document["shard"], document["attempt"])
                if document["key"] not in found or found[document["key"]][0] <= place:
                    found[document["key"]] = place, document, folder.plan_id
        for key, (_, document, plan_id) in found.items():
            if document["outcome"] in ANSWERED:
                where = document["file"], document["offset"], document["length"]
                yield Answer(key, document["outcome"], plan_id, *where, document["state"])

    def behind(self) -> Iterable[Path]:
        return ()

    def learned(self, *, now: float, unit: str) -> Mapping[tuple[str, str], int]:
        return {}

    def unanswered(self, plan_id: str) -> bool:
        return False  # nothing here was made by an older version


def decoded(disk: SimDisk, folder: PlanFolder) -> Iterator[dict[str, Any]]:
    """Every decoded line of a plan, with its shard and attempt (0 and 1 for what it reused)."""
    for name in disk.names(folder.responses):
        if name.endswith(".decoded.jsonl"):
            parts = name.split(".")
            shard, attempt = (0, 1) if parts[0] == "cache" else (int(parts[0]), int(parts[1]))
            for text in disk.read(folder.responses / name).split(b"\n"):
                if text:
                    yield {**orjson.loads(text), "shard": shard, "attempt": attempt, "decoded": name}


def _lanes(disk: SimDisk, folder: PlanFolder) -> Callable[[dict[str, Any]], int]:
    """Says in which lane of a plan a decoded line was asked."""
    shards = {number: shard.lane for number, shard in replay(read(disk, folder.journal)).shards.items()}
    reused: dict[str, dict[str, int]] = {}
    for tag in cached_tags(disk, folder):
        entries = read_index(disk, folder.responses / f"{tag}.index.csv")
        reused[f"{tag}.decoded.jsonl"] = {entry.key: entry.lane for entry in entries}

    def lane(document: dict[str, Any]) -> int:
        return shards[document["shard"]] if document["shard"] else reused[document["decoded"]][document["key"]]

    return lane


class Interleaved(Chaos):
    """After each step somebody else may come between."""

    between: Callable[[], None] | None = None

    def step(self, name: str, last: Callable[[], None] | None = None, *, weight: float = 1.0) -> None:
        super().step(name, last, weight=weight)
        if self.between is not None:
            self.between()


Turns = Generator[float, None, str]


@dataclass(eq=False)
class Process:
    """One command that runs. `wake`: Unix seconds; `running`: in the middle of a turn; `waits`: for another one's lock."""

    number: int
    what: str
    turns: Turns
    wake: float
    running: bool = False
    waits: bool = False


@dataclass
class House:
    """Everything that happens in one folder under one seed."""

    seed: int
    result: Result = field(init=False)
    made: dict[str, Variant] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    refused: int = 0
    power: bool = False
    depth: int = 0
    serial: int = 0
    news: int = 4
    todo: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = f"plans:{self.seed}"
        rng = self.rng = random.Random(name)
        self.result = Result("plans", self.seed)
        self.switch = random.Random(f"{name}/switch")
        self.switch_rate = rng.choice((0.002, 0.01, 0.05))
        self.chaos = Interleaved(
            name, kill_rate=rng.choice((0.0, 0.002, 0.01, 0.03)), max_kills=rng.randint(1, 6), max_steps=150_000
        )
        self.chaos.between = self._between
        self.time = SimTime()
        self.disk = SimDisk(self.chaos, fsync_fails=rng.choice((0.0, 0.0, 0.002)))
        self.disk.elsewhere = lambda path: path.parent.name == "data" and path.suffix == ".parquet"

        def rate(*rates: float) -> float:
            return rng.choice(rates) if rng.random() < 0.3 else 0.0

        faults = Faults(
            upload_lost=rate(0.1), upload_unheard=rate(0.1), create_lost=rate(0.1, 0.3), create_unheard=rate(0.1, 0.4),
            create_late=rate(0.1, 0.3), late_seconds=800.0, create_refused=rate(0.1), list_lag_seconds=rate(5.0, 800.0),
            list_down=rate(0.1), read_down=rate(0.1, 0.3), not_found=rate(0.05), download_cut=rate(0.2),
            fence_lost=rate(0.2), cancel_lost=rate(0.2), batch_expired=rate(0.1, 0.3), batch_failed=rate(0.1),
            batch_cancelled=rate(0.1), row_retryable=rate(0.1, 0.3), row_error=rate(0.1), row_missing=rate(0.1),
            row_invalid=rate(0.1, 0.4), row_refused=rate(0.1), line_twice=rate(0.1), line_foreign=rate(0.1),
            run_seconds=rng.choice(((40.0, 200.0), (60.0, 3600.0), (3600.0, 14_000.0))), window_seconds=15_000.0,
        )  # fmt: skip
        self.server = SimServer(self.time, name, faults)

    # A runs folder, as the production functions see it.

    @property
    def library(self) -> Decoded:
        return Decoded(self.disk, self.runs)

    def refresh_stale(self) -> None:
        """The library is never behind."""

    def run(self) -> Result:
        with tempfile.TemporaryDirectory(prefix="batchling-plans-") as folder:
            self.runs = Path(folder)
            try:
                self._live()
            except Overrun as error:
                self.result.problems.append(f"neither finished nor parked: {error}")
            except (Broken, InvariantError) as error:
                self.result.problems.append(f"{type(error).__name__}: {error}")
            except Exception as error:
                self.result.problems.append(f"crash {type(error).__name__}: {error}")
                if getattr(self, "reraise", False):
                    raise
        self.result.kills, self.result.steps = self.chaos.kills, self.chaos.steps
        self.result.faults, self.result.trace = self.chaos.faults, self.chaos.digest
        self.result.requests = sum(len(b.requests) for b in self.server.batches.values())
        return self.result

    # Who does what, and when.

    def _live(self) -> None:
        todo = self.todo
        todo += [
            self.time.now + self.rng.choice((0.0, 30.0, 600.0, 3_600.0, 30_000.0))
            for _ in range(self.rng.randint(2, 6))
        ]
        rounds = 0
        while True:
            todo.sort()
            due = min((p.wake for p in self.processes), default=None)
            if todo and (due is None or todo[0] <= due):
                self.time.pass_by(todo.pop(0) - self.time.now)
                self._turn(self._begin())
            elif due is not None:
                process = min(self.processes, key=lambda p: p.wake)
                self.time.pass_by(process.wake - self.time.now)
                self._turn(process)
            else:
                left = self._unfinished()
                if not left:
                    break
                rounds += 1
                if rounds > ROUNDS:
                    raise Broken(f"neither finished nor parked: {', '.join(left)}")
                if rounds > 8:
                    self._calm_down()
                self.time.pass_by(self.rng.choice((1.0, 600.0, 30_000.0)))
                for plan_id in self.rng.sample(left, self.rng.randint(1, len(left))):
                    self._start(f"watch {plan_id}", lambda plan_id=plan_id: self._watch(plan_id))  # type: ignore[misc]
            if self.power:
                self._power_is_gone()
        self._check_end()

    def _calm_down(self) -> None:
        self.disk.fsync_fails = 0.0
        self.chaos.max_kills = self.chaos.kills
        self.server.faults = Faults(run_seconds=(60.0, 600.0), list_lag_seconds=self.server.faults.list_lag_seconds)

    def _begin(self) -> Process:
        """What somebody types next."""
        plans = sorted(self.made)
        dice = self.rng.random()
        if not plans or dice < 0.6:
            variant = self.rng.randrange(len(variants()))
            prune, sure = self.rng.random() < 0.3, self.rng.random() < 0.9
            return self._start(f"run {variant}", lambda: self._run(variants()[variant], prune=prune, sure=sure))
        plan_id = self.rng.choice(plans)
        if dice < 0.8:
            return self._start(f"watch {plan_id}", lambda: self._watch(plan_id))
        return self._start(f"cancel {plan_id}", lambda: self._watch(plan_id, first=_cancel))

    def _start(self, what: str, turns: Callable[[], Turns]) -> Process:
        self.serial += 1
        process = Process(1000 * (self.disk.process // 1000) + 1000 + self.serial, what, turns(), self.time.now)
        self.processes.append(process)
        self.result.processes += 1
        self.chaos.note(f"PROCESS {process.what}")
        return process

    def _turn(self, process: Process) -> None:
        """A process goes on until it waits for something, ends or dies."""
        outer, self.disk.process = self.disk.process, process.number
        process.running = True
        ended = True
        try:
            process.wake = next(process.turns)
            process.waits = 0.0 < process.wake - self.time.now <= LOCKED_PAUSE_SECONDS
            others = [p.wake for p in self.processes if p is not process and not p.running and not p.waits]
            if process.waits and others:
                process.wake = max(
                    process.wake, min(others) + 1.0
                )  # it looks every two seconds, and nothing has changed
            ended = False
        except StopIteration as end:
            self.chaos.note(f"{process.what}: {end.value}")
            if end.value == "refused":
                self.refused += 1
                if self.refused > 5:
                    self._calm_down()
        except Killed:
            self.chaos.alive = True
            self.power = self.power or self.rng.random() < 0.3
        except Blocked:
            # It would wait until the other one, in whose middle it came, lets go. It is typed again then.
            self.chaos.note(f"{process.what}: gave up at a lock")
            self.todo.append(self.time.now + 1.0)
        except (LockedError, DiskError, UnfinishedError) as error:
            self.chaos.note(f"{process.what}: {type(error).__name__}")
        finally:
            process.running = False
            if ended:
                self.processes.remove(process)
                self.disk.gone(process.number)
            self.disk.process = outer
            if self.power:
                self.chaos.alive = False

    def _between(self) -> None:
        """Somebody else comes between two steps of a process: one turn of another one, or something new."""
        if self.depth or self.switch.random() >= self.switch_rate or not self.processes:
            return
        self.depth += 1
        try:
            others = [p for p in self.processes if not p.running]
            process = self.switch.choice(others) if others and self.switch.random() < 0.7 else None
            if process is None and self.news:
                self.news -= 1
                process = self._begin()
            if process is not None:
                self._turn(process)
        finally:
            self.depth -= 1
        if self.power:
            raise Killed("the power is gone")

    def _power_is_gone(self) -> None:
        self.chaos.alive = True
        for process in self.processes:
            process.turns.close()
        self.processes.clear()
        self.disk.next_process(power_loss=True)
        self.power = False
        self.chaos.note("POWER")

    # The commands.

    def _run(self, variant: Variant, *, prune: bool, sure: bool) -> Turns:
        opened = planning.open_plan(
            self.disk,
            SimClock(self.time, self.chaos),
            self.runs,
            variant.specs,
            command="batchling run ask",
            refresh_stale=self.refresh_stale,
            library=self.library,
            entropy=self.rng.randbytes,
        )
        self.made.setdefault(opened.folder.plan_id, variant)
        if opened.how == "finished":
            return "finished"
        if opened.how == "created" and not sure:
            with self._hold(opened.folder):
                planning.forget(self.disk, opened.folder)
            return "not confirmed"

        def first(session: Session) -> None:
            if prune:
                prune_in(self, session.folder, None, self._hold)

        return (yield from self._drive(opened.folder, first))

    def _watch(self, plan_id: str, first: Callable[[Session], None] | None = None) -> Turns:
        folder = PlanFolder(self.runs / plan_id)
        if not self.disk.exists(folder.document) or replay(read(self.disk, folder.journal)).finished:
            return "finished"
        return (yield from self._drive(folder, first))

    def _drive(self, folder: PlanFolder, first: Callable[[Session], None] | None) -> Turns:
        with self._hold(folder) as session:
            if session.state.finished:
                return "finished"
            if first is not None:
                first(session)
            reason = yield from loop.steps(session, awaited=self._awaited)
            if reason == "parked":
                self._decide(session)
            return reason

    def _awaited(self, session: Session) -> float | None:
        return take_over(self, session, self._go_on, library=self.library)

    def _go_on(self, other: PlanFolder) -> str:
        try:
            with self._hold(other) as session:
                if session.state.finished:
                    return "finished"
                return loop.drive(session, awaited=self._awaited)
        except LockedError:
            return "locked"

    @contextmanager
    def _hold(self, folder: PlanFolder) -> Iterator[Session]:
        disk, variant = self.disk, self._variant(folder)
        clock = SimClock(self.time, self.chaos)
        lock = disk.lock(folder.lock)
        try:
            if not disk.exists(folder.document):
                raise LockedError("it was given up meanwhile")
            journal = Journal(disk, folder.journal)
            schemas = {point.schema_index: point.schema for point in variant.points}
            prices = {lane.number: lane.price for lane in variant.lanes}
            for tag in cached_tags(disk, folder):
                if not disk.exists(folder.responses / f"{tag}.decoded.jsonl"):
                    decode_cache(disk, folder, schemas, prices, lambda _: ADAPTER.envelope.decode, tag=tag)
            client = SimClient(self.server, self.chaos, watch=self._sent)
            kits = tuple(
                LaneKit(
                    lane=lane.lane(),
                    shape=lane.shape(),
                    client=client,
                    envelope=lane.envelope,
                    schemas=schemas,
                    price=lane.price,
                    window="24h",
                    poll_seconds=lane.poll_seconds,
                    repair=repair,
                    repair_key=repair_key,
                )
                for lane in variant.lanes
            )
            session = Session(
                disk=disk,
                clock=clock,
                folder=folder,
                journal=journal,
                state=replay(journal.events),
                policy=Policy(tuple(kit.lane for kit in kits), resubmit_usd=Decimal(1)),
                kits=kits,
                attempts=3,
                rng=random.Random(folder.plan_id),
                observer=self,
                pace=Pace(),
            )
            if not session.state.finished:
                session.record(SessionStarted({}))
            yield session
            journal.close()
        finally:
            lock.release()

    def _variant(self, folder: PlanFolder) -> Variant:
        if folder.plan_id not in self.made:  # its process died before it could say what it had made
            experiment = folder.load(self.disk)
            models = {lane.model for lane in experiment.lanes}
            self.made[folder.plan_id] = next(
                v
                for v in variants()
                if {lane.model for lane in v.lanes} == models
                and [p.config_sha256 for p in v.points] == [run.config_sha256 for run in experiment.runs]
            )
        return self.made[folder.plan_id]

    def _decide(self, session: Session) -> None:
        """The person looks at the provider's dashboard, which is the truth, and decides."""
        self.result.parked += 1
        for shard, attempt in resolving.parked(session):
            while self.server.on_its_way:
                self.time.pass_by(3600.0)
                self.server.catch_up()
            made = [b for b in self.server.batches.values() if b.file_id == attempt.file_id]
            try:
                if made:
                    resolving.adopt(session, shard.number, made[0].id)
                elif self.rng.random() < 0.3:
                    resolving.drop(session, shard.number)
                else:
                    resolving.resubmit(session, shard.number)
            except (UnfinishedError, UsageError) as error:
                self.chaos.note(f"resolve: {error.message}")

    # The observer's side of the sessions.

    def event(self, session: Session, event: dict[str, Any]) -> None:
        self.chaos.note(f"{session.folder.tail} {event['seq']} {event['kind']}")

    def polled(self, session: Session) -> None: ...

    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None: ...

    # What must hold.

    def _sent(self, name: str, subject: str) -> None:
        """No request is out, or was answered, when it is sent."""
        if name != "create" or subject not in self.server.files:
            return
        keys = {orjson.loads(text)["custom_id"][:43] for text in self.server.files[subject].split(b"\n") if text}
        for batch in self.server.batches.values():
            again = keys & {custom_id[:43] for custom_id, _ in batch.requests}
            if again and not batch.over and batch.file_id != subject:
                raise Broken(f"{len(again)} keys billed twice: {min(again)} is bought while {batch.id} may answer it")
        again = keys & {run.key for run in self.server.runs if run.billed}
        if again:
            raise Broken(f"{len(again)} keys billed twice: {min(again)} is bought, and was answered")

    def _unfinished(self) -> list[str]:
        return [folder.plan_id for folder, _ in planning.unfinished(self.disk, self.runs)]

    def _check_end(self) -> None:
        while self.server.on_its_way or any(not b.over for b in self.server.batches.values()):
            self.time.pass_by(3600.0)
            self.server.catch_up()
        billed: dict[str, list[Any]] = {}
        for run in self.server.runs:
            if run.billed:
                billed.setdefault(run.key, []).append(run)
        twice = {key: runs for key, runs in billed.items() if len(runs) > 1}
        self.result.twice = len(twice)
        if twice:
            key, runs = next(iter(twice.items()))
            raise Broken(f"{len(twice)} keys billed twice: {key} in {', '.join(r.batch_id for r in runs)}")
        texts: set[tuple[str, str | None]] = set()
        for folder in folders(self.disk, self.runs):
            said: set[str] = set()
            for document in decoded(self.disk, folder):
                texts.add((document["key"], document["text"]))
                said.add(document["parent_key"] or document["key"])
            wanted = _every_key(self.disk, folder)
            self.result.rows += len(wanted)
            if wanted - said:
                raise Broken(f"{len(wanted - said)} rows of {folder.plan_id} are lost: {min(wanted - said)}")
        for key, runs in billed.items():
            if (key, runs[0].text) not in texts:
                raise Broken(f"the paid answer to {key} in {runs[0].batch_id} is lost")


def _cancel(session: Session) -> None:
    if not session.state.cancel_requested:
        session.record(CancelRequested())


def _every_key(disk: SimDisk, folder: PlanFolder) -> set[str]:
    keys: set[str] = set()
    for name in disk.names(folder.manifest):
        for text in disk.read(folder.manifest / name).decode().splitlines()[1:]:
            keys.add(text.rpartition(",")[2])
    assert all(key in wanted_keys(disk, folder) for key in keys)
    return keys


def run_house(seed: int) -> Result:
    """Plays one schedule of several plans."""
    return House(seed).run()
