"""Where plans stand: read from their journals alone, so that it answers at once and while others work on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from batchling.api.outcome import BatchStatus, LaneStatus, PlanStatus, PointStatus
from batchling.api.ownership import is_own
from batchling.api.workspace import Workspace, state_name
from batchling.disk import RealDisk
from batchling.errors import BatchlingError, JournalError
from batchling.journal import read
from batchling.ledger import UNRESOLVED, UNSENT, Attempt, Phase, Shard, State
from batchling.plan_document import Doubt, PlanDocument, PlanLane
from batchling.printable import one_line
from batchling.runner.broken import as_broken, events_of, plans, whole
from batchling.runner.broken import name as tell
from batchling.runner.doubts import doubts_of
from batchling.runner.folder import MOMENT, PlanFolder, folders
from batchling.runner.sealing import check_seal
from batchling.trust import Recipient, recorded
from batchling.waiting import waits


@dataclass(frozen=True, slots=True)
class PlanLine:
    """One plan in a list.

    Attributes:
        states: of a finished plan its rows by state, of another its requests (equal rows once).
        out: batches that may have been billed and are not collected.
        actual_usd: None when it is not known.
    """

    plan_id: str
    experiment: str
    state: str
    created_at: float
    finished_at: float | None
    runs: int
    states: Mapping[str, int]
    out: int
    actual_usd: Decimal | None
    simulated: bool
    next_command: str | None

    @property
    def rows(self) -> int:
        return sum(self.states.values())


def status(plan: str | None = None, *, runs: Path) -> PlanStatus:
    """Where one plan's batches, rows and money are; from its journal alone, while another process holds it too."""
    workspace = Workspace(runs)
    return plan_status(workspace, workspace.find(plan))


def statuses(*, runs: Path) -> list[PlanStatus]:
    """Every plan that can be read, oldest first."""
    workspace = Workspace(runs)
    return [plan_status(workspace, folder) for folder, _ in plans(workspace.disk, runs)]


def name_broken(runs: Path, *, but: str | None = None) -> None:
    """Names every plan that cannot be read, as a warning; not `but`, which the caller deals with.

    A finished plan never changes, so where its summary is up to date its journal is not read again.
    """
    from batchling.catalog import read_summary

    disk = RealDisk()
    for folder in folders(disk, runs):
        if folder.plan_id == but:
            continue
        summary = read_summary(folder.path)
        done = summary is not None and not summary.stale and summary.plan.finished_at is not None
        try:
            if done:
                folder.load(disk)
            else:
                whole(disk, folder)
        except JournalError as error:
            tell(folder, error)


def trouble_of(workspace: Workspace, folder: PlanFolder) -> JournalError | None:
    """Which file of a plan is not what it was when the plan was made; None: all are, or its rows were removed."""
    if not workspace.disk.names(folder.data):
        return None
    try:
        check_seal(workspace.disk, folder, events_of(workspace.disk, folder))
    except JournalError as error:
        return error
    return None


def command_of(workspace: Workspace, folder: PlanFolder, document: PlanDocument) -> str:
    """The command that made a plan, for a person to type again; never one that a stranger wrote down."""
    return document.command if is_own(workspace, folder) else f"batchling status {folder.plan_id}"


def plan_status(workspace: Workspace, folder: PlanFolder) -> PlanStatus:
    state = workspace.state(folder, to_show=True)
    document = folder.load(workspace.disk)
    trouble = trouble_of(workspace, folder)
    own = is_own(workspace, folder)
    batches = []
    for shard, attempt in state.attempts():
        lane = document.lanes[shard.lane]
        batches.append(
            BatchStatus(
                shard=shard.number,
                attempt=attempt.number,
                provider=lane.provider,
                model=lane.model,
                phase=str(attempt.phase),
                batch_id=attempt.batch_id,
                requests=shard.rows,
                input_tokens=shard.input_tokens,
                max_usd=shard.max_usd,
                created_at=attempt.created_at,
                ended_at=attempt.ended_at,
                reason=attempt.reason or attempt.refusal,
                note=undecided(shard, attempt) if attempt.phase is Phase.PARKED else None,
            )
        )
    states = dict(state.counts())
    if document.cached:
        states["reused"] = document.cached
    name = state_name(state)
    next_command = None
    if not state.finished:
        next_command = f"batchling watch {folder.plan_id}"
        if name == "parked":
            next_command = f"batchling resolve {folder.plan_id} --adopt BATCH_ID | --resubmit | --drop"
    elif state.again and own:
        next_command = document.command
    if trouble is not None:
        next_command = trouble.next_command
    return PlanStatus(
        plan_id=folder.plan_id,
        experiment=document.experiment,
        state=name,
        created_at=document.created_at,
        finished_at=state.finished_at,
        runs=len(document.runs),
        requests=document.requests,
        cached=document.cached,
        states=states,
        batches=tuple(batches),
        actual_usd=state.known_spent(),
        worst_usd=state.known_worst(),
        simulated=document.simulated,
        holder=None if state.finished else workspace.holder(folder),
        next_command=next_command,
        unknown_usd=tuple(unknown_usd(state, document, worst=state.finished is None)),
        runs_detail=tuple(
            {k: getattr(run, k) for k in ("run_id", "provider", "model", "overrides", "rows", "repeats")}
            for run in document.runs
        ),
        points=tuple(_points(folder, document)),
        lanes=tuple(lane_statuses(state, document.lanes)),
        not_received=tuple(not_received(workspace, folder, state, document)),
        waits=tuple(waits(state, workspace.clock.now(), folder.plan_id)),
        recipients=recipients_of(document),
        own=own,
        trouble=None if trouble is None else trouble.message,
    )


def unknown_usd(state: State, document: PlanDocument, *, worst: bool) -> Iterator[str]:
    """Why an amount of a plan is not known, a sentence for each provider and model that it is not known of.

    Args:
        worst: include the worst case of batches in flight.
    """
    for number, lane in enumerate(document.lanes):
        run = next(document.runs_of(number), None)
        spent, most = state.known_spent(number), state.known_worst(number)
        if run is None or (spent is not None and (most is not None or not worst)):
            continue
        priced, counted = run.price is not None, lane.input_tokens is not None
        if priced and spent is None:
            yield f"answers of {lane.model} came without a number of tokens"
        else:
            from batchling.runner.planning import why_unknown  # only here: `batchling status` starts faster without it

            yield why_unknown(lane.model, lane.provider, priced=priced, counted=counted)


def undecided(shard: Shard, attempt: Attempt) -> str:
    """Why a submission needs a person's decision, what it can cost, and which key would decide it."""
    worst = "of unknown worst case" if shard.max_usd is None else f"worst case {shard.max_usd.normalize():f} USD"
    why = attempt.refusal or "nothing proves that it did not happen"
    return (
        f"shard {shard.number} attempt {attempt.number}: it is not certain whether the provider made this batch "
        f"({worst}): {one_line(why, 300)}; retry.resubmit_usd says up to how many USD a submission that does not show "
        "is sent again without asking"
    )


def not_received(workspace: Workspace, folder: PlanFolder, state: State, document: PlanDocument) -> Iterator[Doubt]:
    """What may have been paid and did not arrive: by this plan's batches, and by earlier ones whose rows it left alone."""
    for shard, attempt, rows in state.doubts():
        yield doubts_of(folder.plan_id, shard, attempt, rows)
    yield from document.doubtful
    if document.awaiting:
        for event in read(workspace.disk, folder.journal):
            if event["kind"] == "awaited":
                yield from (Doubt(**found) for found in event.get("doubtful", ()))


def recipients_of(document: PlanDocument) -> tuple[Recipient, ...]:
    """Which variable's value goes to which host, by a plan's document."""
    found = [recipient for run in document.runs for recipient in recorded(run.provider_config)]
    return tuple(dict.fromkeys(found))


def _points(folder: PlanFolder, document: PlanDocument) -> Iterator[PointStatus]:
    from batchling.catalog import read_summary

    summary = read_summary(folder.path)
    known = {run.run_id: run for run in summary.runs} if summary is not None else {}
    for run in document.runs:
        found = known.get(run.run_id)
        yield PointStatus(
            run_id=run.run_id,
            provider=run.provider,
            model=run.model,
            overrides=run.overrides,
            records=run.records,
            states={"pending": run.records} if found is None else dict(found.states),
            cost_usd=None if found is None else found.cost_usd,
        )


def lane_statuses(state: State, lanes: Sequence[PlanLane]) -> Iterator[LaneStatus]:
    """Each provider and model of a plan; `lanes` as plan.json has them."""
    for lane in lanes:
        number = lane.lane
        shards = [
            s for s in state.shards.values() if s.lane == number and not (s.replanned and s.primary.batch_id is None)
        ]
        phases = [shard.primary.phase for shard in shards]
        tokens = [shard.input_tokens for shard in shards]
        states = state.counts(number)
        yield LaneStatus(
            provider=lane.provider,
            model=lane.model,
            endpoint=lane.endpoint,
            waiting=sum(1 for phase in phases if phase in UNSENT or phase in (Phase.THROTTLED, Phase.ABSENT)),
            out=sum(1 for phase in phases if phase in UNRESOLVED),
            done=sum(1 for phase in phases if phase is Phase.CLOSED),
            requests=sum(states.values()),
            states=states,
            input_tokens=None if None in tokens else sum(n for n in tokens if n is not None),
            actual_usd=state.known_spent(number),
            worst_usd=state.known_worst(number),
            refused=state.fatal.get(number),
        )


def listing(*, runs: Path) -> list[PlanLine]:
    """Every plan in a line, oldest first.

    A finished plan never changes, so the summary in its folder is enough; only the others are replayed.
    """
    from batchling.catalog import plan_folders, read_summary

    workspace = Workspace(runs)
    lines = []
    for path in plan_folders(runs):
        summary = read_summary(path)
        if summary is None or summary.stale or summary.plan.finished_at is None:
            lines.append(_replayed(workspace, PlanFolder(path)))
            continue
        plan = summary.plan
        states: dict[str, int] = {}
        for run in summary.runs:
            for name, n in run.states.items():
                states[name] = states.get(name, 0) + n
        lines.append(
            PlanLine(
                plan_id=plan.plan_id,
                experiment=plan.experiment,
                state=plan.state,
                created_at=plan.created_at,
                finished_at=plan.finished_at,
                runs=plan.runs,
                states=states,
                out=0,
                actual_usd=plan.actual_usd,
                simulated=plan.simulated,
                next_command=None,
            )
        )
    return lines


def made_at(plan_id: str) -> float:
    """Unix seconds that a plan's id says; 0 where it says none."""
    with suppress(ValueError):
        return datetime.strptime(plan_id[:15], MOMENT).replace(tzinfo=UTC).timestamp()
    return 0.0


def _replayed(workspace: Workspace, folder: PlanFolder) -> PlanLine:
    try:
        plan = plan_status(workspace, folder)
    except BatchlingError as error:
        # One broken plan must not hide the others.
        tell(folder, as_broken(folder, error))
        created = made_at(folder.plan_id)
        hint = "batchling doctor"
        return PlanLine(folder.plan_id, folder.plan_id[16:-7], "damaged", created, None, 0, {}, 0, None, False, hint)
    if plan.trouble is not None and (trouble := trouble_of(workspace, folder)) is not None:
        tell(folder, trouble)
    return PlanLine(
        plan_id=plan.plan_id,
        experiment=plan.experiment,
        state=plan.state,
        created_at=plan.created_at,
        finished_at=plan.finished_at,
        runs=plan.runs,
        states=plan.states,
        out=sum(1 for batch in plan.batches if batch.phase in UNRESOLVED),
        actual_usd=plan.actual_usd,
        simulated=plan.simulated,
        next_command=plan.next_command,
    )
