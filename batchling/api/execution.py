"""Driving a plan from where it is to where it can get: locks, sessions, waiting for other plans."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

from batchling.api.kits import decode_cached, kits, offline_kits, recorded
from batchling.api.outcome import MetricValue, Outcome, RunReport
from batchling.api.ownership import is_own, take
from batchling.api.standing import command_of, not_received, recipients_of, undecided, unknown_usd
from batchling.api.workspace import Workspace, state_name
from batchling.catalog.rows import Refreshed
from batchling.disk import create_private
from batchling.duck import interrupted
from batchling.errors import (
    BatchlingError,
    CallError,
    DetachedError,
    DiskError,
    JournalError,
    LockedError,
    ProviderError,
    WaitingWarning,
)
from batchling.journal import Journal, read
from batchling.ledger import UNRESOLVED, UNSENT, Pace, Phase, Policy, State
from batchling.ledger.events import SessionStarted
from batchling.plan_document import Doubt
from batchling.printable import one_line
from batchling.providers.gate import Gate
from batchling.runner.awaiting import take_over
from batchling.runner.broken import check_files, events_of, folded
from batchling.runner.broken import name as tell
from batchling.runner.doubts import told
from batchling.runner.folder import PlanFolder, awaited_plan
from batchling.runner.loop import Steps, drive, steps
from batchling.runner.sealing import check_seal, no_links
from batchling.runner.session import LaneKit, Observer, Session, Silent
from batchling.waiting import Wait

REFRESH_SECONDS = 30.0
"""The catalog follows a plan that is being waited for at most this often."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the person allows this time; None: as the plan was made with."""

    budget_usd: Decimal | None = None
    resubmit_usd: Decimal | None = None
    attempts: int | None = None
    repairs: bool | int | None = None


@dataclass(slots=True)
class _Watcher:
    """Passes on what happens, keeps the plan's log, and lets the catalog follow."""

    workspace: Workspace
    inner: Observer
    log: logging.Logger
    refreshed_at: float = 0.0
    closed: bool = False

    def event(self, session: Session, event: dict[str, Any]) -> None:
        detail = {k: v for k, v in event.items() if k not in ("seq", "ts", "kind", "shards")}
        self.log.info("%s %s", event["kind"], detail)
        if event["kind"] == "closed":
            self.closed = True
        self.inner.event(session, event)

    def polled(self, session: Session) -> None:
        now = session.clock.now()
        if self.closed and now - self.refreshed_at > REFRESH_SECONDS:
            before = session.clock.now()
            self.workspace.refresh(session.folder)
            # A refresh that takes long comes less often: at most a tenth of the time goes into it.
            self.refreshed_at = session.clock.now() + 10 * (session.clock.now() - before)
            self.closed = False
        if not session.failures and not any(look.failures for look in session.looks.values()):
            session.telling.heard = None
        self.inner.polled(session)

    def waiting(self, session: Session, found: Sequence[Wait]) -> None:
        now = session.clock.now()
        for wait in found:
            self.log.info("%s", wait.text(now))
        told_to = getattr(self.inner, "waiting", None)
        if told_to is not None:
            told_to(session, found)
            return
        for wait in found:  # a program without an observer for it
            warnings.warn(f"{session.folder.plan_id}: {wait.text(now)}", WaitingWarning, stacklevel=2)

    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None:
        self.log.warning("%s: %s (again in %.0f s)", what, error, retry_in)
        session.telling.heard = f"last trouble: {what}: {one_line(str(error), 200)}"
        self.inner.trouble(session, what, error, retry_in)


@contextmanager
def _log(folder: PlanFolder) -> Iterator[logging.Logger]:
    logger = logging.getLogger(f"batchling.plan.{folder.tail}")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    create_private(folder.path / "log.txt")
    handler = logging.FileHandler(folder.path / "log.txt", encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    try:
        yield logger
    except BatchlingError as error:
        logger.error("%s: %s", type(error).__name__, error)
        raise
    except Exception:
        logger.exception("unexpected")
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def opened(
    workspace: Workspace,
    folder: PlanFolder,
    *,
    allow: Allowance | None = None,
    observer: Observer | None = None,
    alone: bool = False,
) -> Iterator[Session]:
    """Holds a plan: its lock, its journal, its connections.

    Args:
        alone: without connections, so that it works whatever the provider says, and without a key.

    Raises:
        LockedError: another process holds it.
        JournalError: the plan is broken.
        ProviderError: a key is missing, or is not the one that the plan's batches were made with.
        RefusedError: nobody confirmed that a key may go where this plan would send it, or that the plan may be driven at all.
    """
    allow = allow or Allowance()
    disk, clock = workspace.disk, workspace.clock
    with ExitStack() as stack:
        try:
            lock = disk.lock(folder.lock)
        except LockedError as error:
            raise LockedError(
                f"plan {folder.plan_id} is {error.message}",
                next_command=f"batchling status {folder.plan_id}    (the other process is running it)",
            ) from None
        except DiskError:
            if not is_own(workspace, folder):
                no_links(disk, folder)  # a lock file that is a link is named like every other
            raise
        stack.callback(lock.release)
        if not is_own(workspace, folder):
            no_links(disk, folder)  # before the journal's reserve is made
        try:
            journal = Journal(disk, folder.journal)
        except DiskError:
            events_of(disk, folder)  # one that cannot be read is named as broken
            raise
        stack.callback(journal.close)
        clock.not_before(journal.last_ts)
        state = folded(folder, journal.events)
        check_seal(disk, folder, journal.events)
        document = folder.load(disk)
        if not state.finished:
            check_files(disk, folder, state, document)
        own = take(workspace, folder, document, sends=not (state.finished or alone))
        if not own:
            no_links(disk, folder)
        made = recorded(disk, folder, own=own)
        log_file = folder.path / "log.txt"
        driven = log_file.exists() and log_file.stat().st_size > 0
        log = stack.enter_context(_log(folder))
        connections = stack.enter_context(ExitStack())
        decode_cached(disk, made)
        lanes: tuple[LaneKit, ...] = ()
        if not state.finished:
            lanes = offline_kits(made) if alone else kits(made, connections, workspace.gate or Gate())
        budget = document.budget_usd if allow.budget_usd is None else allow.budget_usd
        resubmit = document.resubmit_usd if allow.resubmit_usd is None else allow.resubmit_usd
        lanes = tuple(replace(kit, repairs=document.repairs(kit.lane.number, allow.repairs)) for kit in lanes)
        session = Session(
            disk=disk,
            clock=clock,
            folder=folder,
            journal=journal,
            state=state,
            policy=Policy(lanes=tuple(kit.lane for kit in lanes), budget_usd=budget, resubmit_usd=resubmit),
            kits=lanes,
            attempts=allow.attempts or document.attempts,
            rng=random.Random(folder.plan_id),
            observer=_Watcher(workspace, observer or Silent(), log),
            pace=Pace(resumed=driven),
        )
        if not (state.finished or alone):
            _same_keys(session)
        yield session


def _same_keys(session: Session) -> None:
    """Another key than the one that batches are out with must show one of them: else their fate could not be seen.

    A key that was rotated sees what its project made. Of submissions without a batch id nothing can be looked at.

    Raises:
        ProviderError: the key is of another project, or whether it is not cannot be found out now.
    """
    prints: dict[str, str] = {}
    for kit in session.kits:
        mark = kit.client.fingerprint()
        if mark is not None:
            prints[kit.lane.group] = mark
    for group, mark in prints.items():
        before = session.state.fingerprints.get(group)
        if before is None or before == mark:
            continue
        kits = session.kits_of(group)
        numbers = {kit.lane.number for kit in kits}
        made = [a for s, a in session.state.attempts() if s.lane in numbers]
        if not any(a.phase in UNRESOLVED for a in made):
            continue
        made.sort(key=lambda a: a.phase not in UNRESOLVED)  # providers forget old batches
        batch_id = next((a.batch_id for a in made if a.batch_id is not None), None)
        if batch_id is None:
            tried = "it has no batch yet that could be looked for with the new key"
        else:
            try:
                kits[0].client.poll(batch_id)
                continue
            except CallError as error:
                tried = f"with the new key the provider does not show batch {batch_id}: {error.message}"
        raise ProviderError(
            f"the key for {group} is not the one that this plan's batches were made with, and {tried}",
            where=session.folder.plan_id,
            next_command="set the variable to a key of the same project, then run the same command again",
        )
    session.record(SessionStarted(prints))


def advance(
    workspace: Workspace,
    folder: PlanFolder,
    *,
    created: bool = False,
    detach: bool = False,
    allow: Allowance | None = None,
    observer: Observer | None = None,
    before: Callable[[Session], None] | None = None,
    before_other: Callable[[Session], None] | None = None,
) -> Outcome:
    """Drives a plan as far as it goes and says where that is.

    Args:
        before: called with the held plan before anything is done, e.g. to ask whether to spend; `before_other` with
            each plan that is driven because this one waits for its answers.

    Raises:
        DetachedError: Ctrl-C; nothing is cancelled at the provider.
    """
    with opened(workspace, folder, allow=allow, observer=observer) as session:
        if before is not None:
            before(session)
        reason = "finished"
        if not session.state.finished:
            try:
                reason = drive(
                    session,
                    detach=detach,
                    awaited=_taking_over(workspace, observer, detach, before_other),
                )
            except BaseException as error:
                if not _stops(error):
                    raise
                raise DetachedError(STOPPED, next_command=f"batchling watch {folder.plan_id}") from None
        state = session.state
    return outcome(workspace, folder, state, reason, created=created)


STOPPED = "stopped watching; nothing is cancelled at the provider"


def _stops(error: BaseException) -> bool:
    """Ctrl-C, in one of its forms; a DetachedError comes out of another plan that was driven for its answers."""
    return isinstance(error, KeyboardInterrupt | DetachedError) or interrupted(error)


@dataclass(slots=True)
class _Going:
    """One of several plans that a process drives."""

    folder: PlanFolder
    holding: ExitStack
    state: State
    steps: Steps | None = None
    wake: float = 0.0
    reason: str = "finished"
    failure: BatchlingError | None = None


def advance_all(
    workspace: Workspace,
    plans: Sequence[PlanFolder],
    *,
    detach: bool = False,
    observer: Observer | None = None,
    before: Callable[[Session], None] | None = None,
) -> list[tuple[Outcome, BatchlingError | None]]:
    """Drives several plans at once, each at its own pace: one that waits a day holds up no other.

    `before` is called with every plan that is held, one that is driven for the answers that another waits for too.

    A plan that cannot go on (a key is missing, its disk is full) stops no other; its error comes with its outcome.

    Raises:
        LockedError: other processes hold all of them.
        DetachedError: Ctrl-C; nothing is cancelled at the provider.
    """
    going: list[_Going] = []
    locked: LockedError | None = None
    with ExitStack() as stack:
        for folder in plans:
            plan = _Going(folder, stack.enter_context(ExitStack()), workspace.state(folder))
            try:
                session = plan.holding.enter_context(opened(workspace, folder, observer=observer))
                plan.state = session.state
                if before is not None:
                    before(session)
                awaited = _taking_over(workspace, observer, detach, before)
                plan.steps = steps(session, detach=detach, awaited=awaited)
            except LockedError as error:
                locked = error
                continue
            except BatchlingError as error:
                plan.reason, plan.failure = "failed", error
                plan.holding.close()
            going.append(plan)
        try:
            while active := [plan for plan in going if plan.steps is not None]:
                plan = min(active, key=lambda each: each.wake)
                workspace.clock.sleep(max(0.0, plan.wake - workspace.clock.now()))
                _one_step(plan)
        except BaseException as error:
            if not _stops(error):
                raise
            raise DetachedError(STOPPED, next_command="batchling watch") from None
    if not going and locked is not None:
        raise locked
    found = []
    for p in going:
        try:
            if isinstance(p.failure, JournalError):
                raise p.failure
            found.append((outcome(workspace, p.folder, p.state, p.reason, created=False), p.failure))
        except JournalError as error:  # broken in a way that shows only when it is driven: no one else's fault
            tell(p.folder, error)
    return found


def _one_step(plan: _Going) -> None:
    assert plan.steps is not None
    try:
        plan.wake = next(plan.steps)
        return
    except StopIteration as end:
        plan.reason = str(end.value)
    except DetachedError:
        raise
    except BatchlingError as error:
        plan.reason, plan.failure = "failed", error
    plan.steps = None
    plan.holding.close()  # its lock, its connections, its embedded server


def _taking_over(
    workspace: Workspace, observer: Observer | None, detach: bool, before: Callable[[Session], None] | None
) -> Callable[[Session], float | None]:
    def go_on(folder: PlanFolder) -> str:
        """Drives another plan whose keys this one waits for."""
        try:
            return advance(
                workspace, folder, detach=detach, observer=observer, before=before, before_other=before
            ).reason
        except LockedError:
            return "locked"

    return lambda held: take_over(workspace, held, go_on, detach=detach)


def outcome(workspace: Workspace, folder: PlanFolder, state: State, reason: str, *, created: bool) -> Outcome:
    """Refreshes the catalog and puts together what the caller hears."""
    refreshed = workspace.refresh(folder)
    document = folder.load(workspace.disk)
    command = command_of(workspace, folder, document)
    states: dict[str, int] = {}
    reports = run_reports(refreshed)
    for report in reports:
        for name, n in report.states.items():
            states[name] = states.get(name, 0) + n
    not_ok = sum(n for name, n in states.items() if name != "ok")
    refused = ((document.lanes[number], why) for number, why in sorted(state.fatal.items()))
    details = [f"{lane.provider} {lane.model}: {why}" for lane, why in refused]
    code = 0
    if reason in ("parked", "unread", "detached", "awaiting", "locked"):
        code = 75
    elif reason == "refused" or (reason == "finished" and state.fatal):
        code = 5
    elif reason == "budget":
        code = 4
    elif not_ok:
        code = 3
    if reason == "parked":
        for shard, attempt in state.attempts():
            if attempt.phase == "parked":
                details.append(undecided(shard, attempt))
    unread = list(_unread(workspace, folder, state)) if reason == "unread" else []
    details += [what for what, _ in unread]
    details += _refusals(workspace, folder)
    for other in sorted({awaited_plan(name) for name in state.awaits}):
        try:
            workspace.state(PlanFolder(workspace.runs / other))
        except JournalError:
            details.append(
                f"it waits for answers of plan {other}, which cannot be read (batchling doctor); to buy its requests here, "
                f"perhaps a second time, give it up: batchling rm {other} --force"
            )
            continue
        details.append(
            f"it is waiting for answers that plan {other} is paying for; resume that one (batchling watch {other}), "
            f"or cancel it (batchling cancel {other})"
        )
    if reason == "refused" and not state.fatal:
        details.append(
            "a request is larger than all the prompt tokens that the provider lets wait for its model: "
            "shorten or split the row, or have the account's limit raised"
        )
    if reason == "budget":
        details.append("the worst case of what is left is above the budget")
    next_command = None
    if reason == "parked":
        next_command = f"batchling resolve {folder.plan_id} --adopt BATCH_ID | --resubmit | --drop"
    elif unread:
        next_command = unread[0][1]
    elif reason in ("unread", "detached", "awaiting", "locked"):
        next_command = f"batchling watch {folder.plan_id}"
    elif reason == "budget":
        next_command = f"{command} budget.usd=N"
    elif reason == "refused":
        next_command = f"batchling watch {folder.plan_id}"
    elif state.again:
        next_command = command
    lost = tuple(not_received(workspace, folder, state, document))
    again = command if command.startswith("batchling run ") else None
    return Outcome(
        plan_id=folder.plan_id,
        folder=folder.path,
        experiment=document.experiment,
        reason=reason if reason != "finished" else (state.finished or "finished"),
        state=state_name(state),
        exit_code=code,
        created=created,
        simulated=document.simulated,
        runs=reports,
        states=states,
        requests=document.asked,
        bought=sum(s.rows for s in state.shards.values() if s.primary.phase not in UNSENT and s.primary.batch_id),
        reused=document.cached,
        batches=sum(1 for _, a in state.attempts() if a.batch_id),
        actual_usd=state.known_spent(),
        unknown_usd=tuple(unknown_usd(state, document, worst=False)),
        next_command=next_command,
        details=tuple(details),
        warnings=(*refreshed.warnings, *_remarks(workspace, folder), *_asking_again(lost, again)),
        not_received=lost,
        recipients=recipients_of(document),
    )


def _asking_again(lost: Sequence[Doubt], command: str | None) -> Iterator[str]:
    """Which command asks again what may have been paid: never the plain one."""
    if lost and command is not None:
        yield (
            f"{told(lost)}; running it again does not ask them again, because they could be paid twice; "
            f"{command} --retry missing does, after a question"
        )


ROWS_NAMED = 5
"""Rows that a sentence names; how many more there are is said."""


def _unread(workspace: Workspace, folder: PlanFolder, state: State) -> Iterator[tuple[str, str]]:
    """Which batches, or lists of them, the provider does not show, in its words, and the command that helps with each."""
    events = read(workspace.disk, folder.journal)
    said = {(e["shard"], e["attempt"]): e for e in events if e["kind"] == "unread"}
    for shard, attempt in state.attempts():
        event = said.get((shard.number, attempt.number))
        if attempt.phase in (Phase.CREATED, Phase.ENDED) and event is not None:
            what = "show" if attempt.phase is Phase.CREATED else "hand out the files of"
            drop = f"batchling resolve {folder.plan_id} --drop --shard {shard.number}"
            if event.get("status") != 404 or attempt.phase is Phase.ENDED:
                drop += " --force"
            yield (
                f"the provider does not {what} batch {attempt.batch_id} (shard {shard.number}): "
                f"{one_line(event['why'], 300)}; it may have run and may have to be paid, so nothing is asked again; "
                f"batchling watch {folder.plan_id} asks for it again, {drop} gives it up",
                drop,
            )
    last = max((n for n, e in enumerate(events) if e["kind"] == "session"), default=0)
    for event in events[last:]:
        if event["kind"] == "unlisted":
            again = f"batchling watch {folder.plan_id}"
            yield (
                f"{event['group']} does not list its batches: {one_line(event['why'], 300)}; whether there are batches of "
                f"this plan that it does not know cannot be told without the list, so nothing is sent; {again} asks again",
                again,
            )


def _refusals(workspace: Workspace, folder: PlanFolder) -> Iterator[str]:
    """What the provider did not take: rows that it refused one by one, and batches that were cut because of their size."""
    events = read(workspace.disk, folder.journal)
    refused: dict[str, str] = {}
    for before, event in pairwise(events):
        for key in event.get("refused", ()):
            refused[key] = before["words"]
    if refused:
        rows = _rows_of(workspace, folder, refused)
        names = ", ".join(rows[:ROWS_NAMED]) + (
            f" and {len(rows) - ROWS_NAMED:,} more" if len(rows) > ROWS_NAMED else ""
        )
        words = next(iter(refused.values()))
        yield f"the provider does not take row {names}; the others were sent without: {words}"
    sizes = [event["why"] for event in events if event.get("about") == "size" and event.get("why")]
    if sizes:
        yield sizes[0]


def _rows_of(workspace: Workspace, folder: PlanFolder, keys: Iterable[str]) -> list[str]:
    """Ids of the plan's rows whose requests have these keys."""
    from batchling import catalog

    wanted = ", ".join(f"'{key}'" for key in keys if key.isascii() and key.replace("-", "").isalnum())
    sql = f"SELECT DISTINCT row_id FROM records WHERE request_key IN ({wanted}) AND run_id LIKE '{folder.tail}-%'"
    return sorted(str(row_id) for (row_id,) in catalog.query(workspace.runs, sql))


def _remarks(workspace: Workspace, folder: PlanFolder) -> Iterator[str]:
    """A sentence for each batch whose files held lines that answer none of its requests, and for what was bought after
    another plan gave it up."""
    for event in read(workspace.disk, folder.journal):
        if event["kind"] == "awaited" and event.get("given_up"):
            n = event["given_up"]
            yield (
                f"{n:,} request{'' if n == 1 else 's'} that were given up in plan {awaited_plan(event['plan_id'])} were "
                "sent here: if that plan's batch ran after all, they are paid for twice"
            )
        if event["kind"] == "closed" and event.get("blotted"):
            n = event["blotted"]
            yield (
                f"{n:,} answer{'s repeat' if n > 1 else ' repeats'} a key (shard {event['shard']} attempt "
                f"{event['attempt']}): it is kept in the raw bytes in {folder.responses} only; replace that key"
            )
        if event["kind"] == "closed" and event.get("strays"):
            n = event["strays"]
            where = folder.strays(event["shard"], event["attempt"])
            yield (
                f"{n:,} line{'' if n == 1 else 's'} of shard {event['shard']} attempt {event['attempt']} set aside: "
                f"unreadable, for nobody here, or a second answer (see {where})"
            )


def run_reports(refreshed: Refreshed) -> tuple[RunReport, ...]:
    """The catalog's summaries with their metrics."""
    metrics: dict[str, list[MetricValue]] = {}
    for m in refreshed.metrics:
        metrics.setdefault(m.run_id, []).append(MetricValue(m.name, m.value, m.low, m.high, m.n, m.coverage, m.problem))
    return tuple(
        RunReport(
            run_id=r.run_id,
            provider=r.provider,
            model=r.model,
            overrides=r.overrides,
            rows=r.rows,
            states=r.states,
            input_tokens=r.input_tokens,
            output_tokens=r.output_tokens,
            cost_usd=r.cost_usd,
            metrics=tuple(metrics.get(r.run_id, ())),
        )
        for r in refreshed.runs
    )


def reports_of(folder: Path) -> tuple[RunReport, ...]:
    """A plan's runs as its last refresh left them, from the summary in its folder; none before the first."""
    from batchling import catalog

    summary = catalog.read_summary(folder)
    if summary is None:
        return ()
    return run_reports(Refreshed(None, summary.runs, summary.metrics, rebuilt=False))


__all__ = ["Allowance", "advance", "field", "opened", "outcome", "reports_of", "run_reports"]
