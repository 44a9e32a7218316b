"""The verbs: plan, run, watch, status, cancel, resolve, du, rm. The command line is a thin shell over these."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from batchling import catalog, config, cost, limits
from batchling.api import ownership
from batchling.api.execution import Allowance, advance, advance_all, opened, outcome
from batchling.api.kits import admit, names_shipped
from batchling.api.outcome import LaneReport, Outcome, PlanReport, PlanStatus, Shown
from batchling.api.pruning import Agree, Pruned, collect_pruned
from batchling.api.pruning import prune as prune_superseded
from batchling.api.queueing import queues
from batchling.api.standing import plan_status, status, statuses
from batchling.api.workspace import Workspace, state_name
from batchling.config import Project
from batchling.errors import (
    ChangedError,
    ConfigError,
    DiskError,
    JournalError,
    LockedError,
    ProviderError,
    RefusedError,
    UsageError,
)
from batchling.journal import says_finished
from batchling.ledger import UNRESOLVED, UNSENT, Phase
from batchling.ledger.events import CancelRequested
from batchling.providers.gate import Gate
from batchling.runner.broken import broken
from batchling.runner.compiling import Known, Totals
from batchling.runner.doubts import told
from batchling.runner.folder import PlanFolder
from batchling.runner.planning import (
    Again,
    Draft,
    Large,
    Opened,
    count,
    data_urls,
    draft,
    find_same,
    forget,
    known_keys,
    open_plan,
    unfinished,
    unknown_usd,
)
from batchling.runner.remarks import notes
from batchling.runner.session import Observer, Session
from batchling.runner.shards import read_index
from batchling.scratch import scratch
from batchling.scrub import cut
from batchling.spec import Spec
from batchling.trust import COMPATIBLE, Origin, recipients, recorded

DAMAGED = "damaged"
"""State of an outcome that is about a plan which cannot be read."""

CHANGED = "changed"
"""The same, about a plan of which a file was changed after it was made."""

Confirm = Callable[[str, Decimal | None], bool]
"""(what is about to be sent, its worst case in USD or None when unknown) → whether to go on."""


def specs_of(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    multirun: bool = False,
    sweep: Mapping[str, Any] | None = None,
    project: Project | None = None,
    config_dir: Path | None = None,
) -> tuple[list[Spec], Path]:
    """The runs that an experiment makes, and the folder that plans go to.

    Raises:
        ConfigError: something is wrong, with file and line.
    """
    place = project or config.project_of(experiment)
    points = config.expand(
        str(experiment), overrides, multirun=multirun, sweep=sweep, project=place, config_dir=config_dir
    )
    return [point.spec for point in points], points[0].runs(place)


def plan(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    multirun: bool = False,
    sweep: Mapping[str, Any] | None = None,
    show: int = 0,
    fresh: bool = False,
    retry: Sequence[str] = (),
    large: Large | None = None,
    project: Project | None = None,
    config_dir: Path | None = None,
) -> PlanReport:
    """Composes, compiles, counts and prices. Sends nothing; leaves nothing in the project.

    Args:
        experiment: a folder with a config.yaml, a .yaml file, or a bare name in `experiments/`.
        overrides: in Hydra's grammar.
        multirun: whether overrides may sweep (`model=a,b`).
        sweep: grid, zip, points and exclude, in place of the experiment's `sweep:`.
        show: how many requests to show as rendered.
        large: asked, in words, about a plan that is larger than its bounds; None: it is refused.

    Raises:
        UsageError: config, data, prompt, schema or metrics are wrong.
        RefusedError: the worst case is above the budget, or the plan is larger than its bounds.
    """
    specs, runs = specs_of(
        experiment, overrides, multirun=multirun, sweep=sweep, project=project, config_dir=config_dir
    )
    return plan_specs(specs, runs, show=show, fresh=fresh, retry=retry, large=large)


def plan_specs(
    specs: Sequence[Spec],
    runs: Path,
    *,
    show: int = 0,
    fresh: bool = False,
    retry: Sequence[str] = (),
    gate: Gate | None = None,
    large: Large | None = None,
) -> PlanReport:
    """`plan`, for specs that are composed already."""
    from batchling.runner.planning import plan_document, refuse_over_budget, room

    workspace = Workspace(runs)
    with scratch("plan") as folder:
        made = draft(specs, folder, runs, now=workspace.clock.now(), large=large)
        known = known_keys(workspace.disk, runs, made, fresh=fresh, retry=frozenset(retry))
        totals = count(made, known, show=show, sized=room(made, runs, large))
        refuse_over_budget(made, totals)
        remarks = notes(made, totals)
        document = plan_document(made, known, totals, now=workspace.clock.now())
    same = find_same(workspace.disk, runs, made.identity)
    lanes = []
    for lane, tally, queue in zip(made.lanes, totals.lanes, queues(made.lanes, totals.lanes), strict=True):
        lanes.append(
            LaneReport(
                provider=lane.spec.config.provider.name,
                model=lane.model,
                endpoint=lane.path,
                requests=tally.requests,
                shards=tally.shards,
                bytes=tally.bytes,
                input_tokens=tally.input_tokens,
                tokens_by=next(p.counter.note or p.counter.name for p in made.points if p.lane == lane.number),
                max_usd=tally.worst_usd,
                price_source=None if lane.price is None else lane.price.source,
                runs=sum(1 for point in made.points if point.lane == lane.number),
                split_by=tally.split_by,
                enqueued_tokens=lane.enqueued_tokens,
                learned=lane.learned_tokens is not None and lane.learned_tokens == lane.enqueued_tokens,
                concurrent_batches=lane.concurrent_batches,
                creations_per_hour=lane.creations_per_hour,
                waves=queue.waves,
                waits_for=queue.because,
                best_seconds=queue.best_seconds,
                worst_seconds=queue.worst_seconds,
                assumes=queue.assumes,
                rpm=queue.rpm,
                tpm=queue.tpm,
                concurrency=queue.concurrency,
                pacing_seconds=queue.pacing_seconds,
                recipients=recorded(lane.spec.document["provider"]),
            )
        )
    return PlanReport(
        experiment=document.experiment,
        identity=made.identity,
        runs=len(document.runs),
        rows=document.rows,
        requests=document.requests,
        duplicates=totals.duplicates,
        cached=document.cached,
        awaiting=document.awaiting,
        lanes=tuple(lanes),
        estimated_usd=document.estimated_usd,
        max_usd=document.estimated_usd_max,
        budget_usd=document.budget_usd,
        simulated=document.simulated,
        shown=tuple(Shown(row, key, limits.own(body)) for row, key, body in totals.shown),
        same=same[0].plan_id if same else None,
        same_state=state_name(same[1]) if same else None,
        notes=(*remarks, *_unconfirmed(made, gate or Gate()), *_doubts(known, totals)),
        unknown_usd=tuple(unknown_usd(made.lanes, totals)),
        document=document,
    )


def _doubts(known: Known, totals: Totals) -> Iterator[str]:
    left = known.doubts.counted()
    if left:
        yield f"{told(left)}: left out; run --retry missing asks them again, after a question"
    if known.doubts.again:
        yield f"{known.doubts.again:,} of the requests may have been paid for and were not received: run asks first"
    for plan, n in totals.doubtful.items():
        yield f"{n:,} of the requests may be in flight or answered in plan {plan}, which cannot be read: run asks first"


def _unconfirmed(made: Draft, gate: Gate) -> Iterator[str]:
    """A sentence for each key that would go where it never went."""
    said = set()
    for lane in made.lanes:
        compatible = names_shipped(lane.spec, COMPATIBLE)
        for variable, url, key in recipients(lane.spec.config.provider):
            with suppress(ConfigError):  # `run` says what is wrong with the address
                origin = Origin.of(url, key=key)
                if (variable, origin) not in said and gate.verdict(variable, origin, compatible=compatible) != "yes":
                    said.add((variable, origin))
                    yield f"{variable} was never sent to {origin}: `run` asks first, or needs --trust-host {origin.host}"


def run(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    multirun: bool = False,
    sweep: Mapping[str, Any] | None = None,
    detach: bool = False,
    fresh: bool = False,
    retry: Sequence[str] = (),
    prune: bool | Agree = False,
    confirm: Confirm | None = None,
    again: Again | None = None,
    large: Large | None = None,
    observer: Observer | None = None,
    gate: Gate | None = None,
    command: str | None = None,
    project: Project | None = None,
    config_dir: Path | None = None,
) -> Outcome:
    """Plans, submits, waits, collects, validates. Run again, it resumes, or finds everything answered.

    Args:
        detach: return when everything that can be sent now is sent.
        fresh: buy again what was answered before.
        retry: record states whose rows are asked again: invalid, truncated, refused, filtered, error; and missing: those
            that may have been paid for and were not received.
        prune: cancel the batches of older unfinished plans of this experiment that no plan wants any more; a function
            is asked first, with what it is in words.
        confirm: asked before more than `budget.confirm_usd` may be spent, and before anything is asked again that may have
            been paid for; None: the first is allowed, the second is not.
        again: asked before requests are sent that a plan which cannot be read may have bought; None: they are not sent.
        large: asked, in words, about a plan that is larger than its bounds; None: it is refused.
        observer: hears what happens.
        gate: what every key passes on its way to a provider; None: one that can ask nobody.
        command: how a person would say this call again.

    Raises:
        UsageError, RefusedError, ProviderError, LockedError, DetachedError: see `batchling.errors`.
    """
    specs, runs = specs_of(
        experiment, overrides, multirun=multirun, sweep=sweep, project=project, config_dir=config_dir
    )
    if command is None:
        command = " ".join(["batchling run", str(experiment), *overrides, *(["-m"] if multirun else [])])
    return run_specs(
        specs,
        runs,
        command=command,
        detach=detach,
        fresh=fresh,
        retry=retry,
        prune=prune,
        confirm=confirm,
        again=again,
        large=large,
        observer=observer,
        gate=gate,
    )


def run_specs(
    specs: Sequence[Spec],
    runs: Path,
    *,
    command: str,
    detach: bool = False,
    fresh: bool = False,
    retry: Sequence[str] = (),
    prune: bool | Agree = False,
    confirm: Confirm | None = None,
    again: Again | None = None,
    large: Large | None = None,
    observer: Observer | None = None,
    gate: Gate | None = None,
    tell: Callable[[str], None] | None = None,
) -> Outcome:
    """`run`, for specs that are composed already. `tell` hears each note of a new plan, before anything is sent."""
    command = cut(command, [url for spec in specs for url in data_urls(spec)])
    gate = gate or Gate()
    workspace = Workspace(runs, gate=gate)
    budgets = [s.config.budget.usd for s in specs if s.config.budget.usd is not None]
    allow = Allowance(
        budget_usd=Decimal(str(min(budgets))) if budgets else None,
        resubmit_usd=min(Decimal(str(s.config.retry.resubmit_usd)) for s in specs),
        attempts=max(s.config.retry.attempts for s in specs),
        repairs=max((s.config.retry.repair for s in specs), key=int),
    )
    threshold = Decimal(str(min(s.config.budget.confirm_usd for s in specs)))
    opened_plan = open_plan(
        workspace.disk,
        workspace.clock,
        runs,
        specs,
        admit=partial(admit, gate=gate),
        command=command,
        fresh=fresh,
        retry=retry,
        refresh_stale=workspace.refresh_stale,
        again=again,
        large=large,
        remember=ownership.remember,
        recognise=partial(ownership.recognise, workspace),
    )
    created = opened_plan.how == "created"
    if opened_plan.how == "finished":
        workspace.evaluate_again(
            opened_plan.folder,
            metric_seconds=max(s.config.limits.metric_seconds for s in specs),
            metric_mb=max(s.config.limits.memory_mb for s in specs),
        )
    if tell is not None:
        for note in opened_plan.notes:
            tell(note)
    pruned = Pruned()

    def ask(session: Session) -> None:
        nonlocal pruned
        try:
            _ask(session, threshold, confirm)
        except BaseException:  # Ctrl-C at the question too
            if created:
                _forget(workspace, session.folder)
            raise
        if prune:
            pruned = prune_superseded(workspace, session.folder, prune if callable(prune) else None, observer)

    try:
        found = advance(
            workspace,
            opened_plan.folder,
            created=created,
            detach=detach,
            allow=allow,
            observer=observer,
            before=ask,
            before_other=_asking(workspace, confirm),
        )
    except (RefusedError, ProviderError):
        # A key is missing, or another plan was not confirmed: a plan of which nothing was sent must not hold its keys.
        if created:
            _forget_unsent(workspace, opened_plan.folder)
        raise
    warnings = [*_not_asked_again(opened_plan, fresh=fresh, retry=retry), *pruned.notes]
    if opened_plan.totals is not None:
        warnings += [
            f"{n:,} of these requests may have been bought in plan {plan} as well: if they ran there, they are paid for twice"
            for plan, n in opened_plan.totals.doubtful.items()
        ]
    if pruned.plans and not detach:
        warnings += collect_pruned(workspace, pruned, observer)
    return replace(found, warnings=(*found.warnings, *warnings), notes=opened_plan.notes)


def _ask(session: Session, threshold: Decimal, confirm: Confirm | None) -> None:
    """Asks before what was never sent is sent. `confirm` None: what it costs is allowed, paying for it twice is not.

    Raises:
        RefusedError: it is not confirmed.
    """
    unsent = [s for s in session.state.shards.values() if s.current.phase in UNSENT and not s.replanned]
    if not unsent:
        return
    worst: Decimal | None = Decimal(0)
    repaired = False
    for shard in unsent:
        # An answer that does not fit is paid, and so are its repairs.
        kit = session.kit(shard)
        rounds = min(session.attempts, 1 + kit.repairs) if kit.repair is not None else 1
        repaired = repaired or rounds > 1
        worst = None if worst is None or shard.max_usd is None else worst + shard.max_usd * rounds
    # What may have been paid before is never asked again without a question, however little it costs.
    fresh = not any(a.intent_at for _, a in session.state.attempts())
    doubted = session.folder.load(session.disk).doubted if fresh else 0
    if not doubted and (confirm is None or (worst is not None and worst <= threshold)):
        return
    requests = sum(s.rows for s in unsent)
    what = f"{requests:,} request{'s' * (requests != 1)} in {len(unsent)} batch{'es' * (len(unsent) != 1)}"
    if any(kit.price is not None and kit.price.pretend for kit in session.kits):
        what += " at pretend prices"
    if repaired:
        what += ", and repairs of all answers,"
    if doubted:
        each = f"{doubted:,} of which may have been paid for and " + ("was" if doubted == 1 else "were")
        what += f", {each} not received,"
    if confirm is None or not confirm(what, worst):
        cost_text = "an unknown price" if worst is None else f"up to {worst:.4f} USD"
        raise RefusedError(
            f"not confirmed: {what} for {cost_text}; nothing was sent",
            next_command="run the same command with --yes (from Python: confirm=lambda what, usd: True)"
            if doubted
            else "run the same command with --yes, or "
            + ("set model.price and budget.usd" if worst is None else "raise budget.confirm_usd"),
        )


def _asking(workspace: Workspace, confirm: Confirm | None) -> Callable[[Session], None]:
    """Asks before a plan is sent of which nothing was sent yet; one of which something was sent was confirmed then."""

    def ask(session: Session) -> None:
        if not any(a.intent_at for _, a in session.state.attempts()):
            _ask(session, session.folder.load(workspace.disk).confirm_usd, confirm)

    return ask


def _forget(workspace: Workspace, folder: PlanFolder) -> None:
    """Removes a plan that was just made and of which nothing was sent; its lock is held."""
    forget(workspace.disk, folder)
    catalog.forget(workspace.runs, folder.plan_id)


def _forget_unsent(workspace: Workspace, folder: PlanFolder) -> None:
    """`_forget`, unless another process has taken it up by now."""
    if not workspace.disk.exists(folder.document):
        return
    with suppress(LockedError):
        lock = workspace.disk.lock(folder.lock)
        try:
            if all(a.phase is Phase.PLANNED for _, a in workspace.state(folder).attempts()):
                _forget(workspace, folder)
        finally:
            lock.release()


def _not_asked_again(plan: Opened, *, fresh: bool, retry: Sequence[str]) -> Iterator[str]:
    """What `--retry` and `--fresh` do not do while requests are in flight, a sentence each."""
    if retry and plan.how == "unfinished":
        yield (
            f"--retry asked nothing again: plan {plan.folder.plan_id} was not finished, and this went on with it;"
            " give the same command again for what is left"
        )
    if fresh and plan.totals is not None and plan.totals.awaiting:
        yield (
            f"--fresh asked {plan.totals.awaiting:,} requests not again: an unfinished plan is buying their answers,"
            " and this one takes them over"
        )


def watch(
    plan: str | None = None,
    *,
    runs: Path,
    detach: bool = False,
    confirm: Confirm | None = None,
    observer: Observer | None = None,
    gate: Gate | None = None,
) -> list[Outcome]:
    """Goes on with a plan, or with every unfinished plan.

    Of several plans, one that cannot go on (a key is missing, its disk is full) is an outcome and does not stop the others.

    Args:
        confirm: asked before a plan is sent of which nothing was sent yet; None: that is allowed.
        gate: what every key passes on its way to a provider; None: one that can ask nobody.

    Raises:
        LockedError: another process holds the plan that was named, or every unfinished plan.
        RefusedError: sending the plan that was named was not confirmed.
    """
    workspace = Workspace(runs, gate=gate or Gate())
    ask = _asking(workspace, confirm)
    if plan is not None:
        folder = workspace.find(plan)
        return [advance(workspace, folder, detach=detach, observer=observer, before=ask, before_other=ask)]
    left = [folder for folder, _ in unfinished(workspace.disk, runs)]
    done = [
        _unreadable(workspace, folder, error)
        for folder, error in broken(workspace.disk, runs)
        if not says_finished(workspace.disk, folder.journal)
    ]
    for ended, error in advance_all(workspace, left, detach=detach, observer=observer, before=ask):
        if error is not None:
            details = (f"{ended.plan_id}: {error.message}", *ended.details)
            again = error.next_command or f"batchling watch {ended.plan_id}"
            ended = replace(ended, exit_code=error.exit_code, details=details, next_command=again)
        done.append(ended)
    return done


def _unreadable(workspace: Workspace, folder: PlanFolder, error: JournalError) -> Outcome:
    """What is heard of a plan that cannot be read."""
    document = None
    with suppress(JournalError):
        document = folder.load(workspace.disk)
    return Outcome(
        plan_id=folder.plan_id,
        folder=folder.path,
        experiment="" if document is None else document.experiment,
        reason="failed",
        state=CHANGED if isinstance(error, ChangedError) else DAMAGED,
        exit_code=error.exit_code,
        created=False,
        simulated=document is not None and document.simulated,
        runs=(),
        states={},
        requests=0 if document is None else document.requests,
        bought=0,
        reused=0 if document is None else document.cached,
        batches=0,
        actual_usd=None,
        next_command=error.next_command,
        details=(f"{error.where}: {error.message}",),
    )


def cancel(
    plan: str | None = None, *, runs: Path, observer: Observer | None = None, gate: Gate | None = None
) -> Outcome:
    """Cancels at the provider, waits for the terminal state, collects what was paid.

    Raises:
        LockedError: another process holds the plan.
        RefusedError: nobody confirmed that the key may go where the plan's batches are.
    """
    workspace = Workspace(runs, gate=gate)
    folder = workspace.find(plan, unfinished=plan is None)
    if workspace.state(folder).finished:
        return outcome(workspace, folder, workspace.state(folder), "finished", created=False)

    def request(session: Session) -> None:
        if not session.state.cancel_requested:
            session.record(CancelRequested())

    return advance(workspace, folder, observer=observer, before=request)


def resolve(
    plan: str | None = None,
    *,
    runs: Path,
    decision: str,
    batch_id: str | None = None,
    shard: int | None = None,
    force: bool = False,
    gate: Gate | None = None,
) -> PlanStatus:
    """A person's decision for parked submissions.

    Args:
        decision: adopt (it is this batch), resubmit (it did not happen), or drop (leave its rows).
        shard: which, when several are parked.
        force: with adopt, although the batch does not say that it is ours; with resubmit, although a batch that runs may
            be it; with drop, whatever the provider says, and without asking it.

    Raises:
        UsageError: nothing is parked, or the decision does not fit.
    """
    from batchling.runner import resolving

    workspace = Workspace(runs, gate=gate)
    folder = workspace.find(plan, unfinished=plan is None)
    if decision == "drop" and force:
        with opened(workspace, folder, alone=True) as session:
            resolving.let_go(session, shard)
        workspace.refresh(folder)
        return plan_status(workspace, folder)
    with opened(workspace, folder) as session:
        parked = [s.number for s, a in session.state.attempts() if a.phase is Phase.PARKED]
        if decision == "drop" and not parked:  # batches that the provider does not know any more
            parked = [s.number for s, a in session.state.attempts() if a.phase is Phase.CREATED]
        if shard is not None:
            parked = [number for number in parked if number == shard]
        if not parked:
            raise UsageError(
                f"nothing needs a decision in {folder.plan_id}" + (f" with shard {shard}" if shard is not None else ""),
                next_command=f"batchling status {folder.plan_id}",
            )
        if decision == "adopt":
            if len(parked) > 1:
                raise UsageError(
                    f"shards {', '.join(map(str, parked))} need a decision: say which", next_command="--shard N"
                )
            if not batch_id:
                raise UsageError("--adopt needs the batch's id")
            resolving.adopt(session, parked[0], batch_id, force=force)
        else:
            for number in parked:
                if decision == "resubmit":
                    resolving.resubmit(session, number, force=force)
                else:
                    resolving.drop(session, number)
    workspace.refresh(folder)
    return plan_status(workspace, folder)


def remove(plan: str, *, runs: Path, keep_answers: bool = False, force: bool = False) -> int:
    """Removes a finished plan's files; returns the bytes freed. Its answers stay reusable only with `keep_answers`.

    Args:
        force: also a plan whose journal is damaged.

    Raises:
        JournalError: the plan's journal is damaged, and `force` is not given.
        UsageError: the plan is not finished (its batches would be lost).
    """
    workspace = Workspace(runs)
    folder = workspace.find(plan)
    try:
        state = workspace.state(folder)
        safe = bool(state.finished) or all(a.phase in UNSENT for _, a in state.attempts())
        safe = safe or (force and not any(a.phase in UNRESOLVED for _, a in state.attempts()))
        out = sorted({s.number for s, a in state.attempts() if a.phase in UNRESOLVED})
        if force:
            for number in out:
                read_index(workspace.disk, folder.index(number))  # unreadable: nothing of it can be received any more
    except (JournalError, DiskError, ValueError):
        if not force:
            raise
        safe = True
    if not safe:
        raise UsageError(
            f"plan {folder.plan_id} is not finished: what was paid for would be lost",
            next_command=f"batchling resolve {folder.plan_id} --drop --shard {out[0]} --force"
            if force
            else f"batchling watch {folder.plan_id}   or   batchling cancel {folder.plan_id}",
        )
    lock = workspace.disk.lock(folder.lock)
    try:
        before = size_of(folder.path)
        if keep_answers:
            catalog.forget(runs, folder.plan_id, keep_answers=True)
        else:
            catalog.forget(runs, folder.plan_id)
        for path in catalog.removable(folder.path, keep_answers=keep_answers):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return before - (size_of(folder.path) if folder.path.exists() else 0)
    finally:
        lock.release()


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


__all__ = [
    "Confirm",
    "cancel",
    "cost",
    "plan",
    "plan_specs",
    "plan_status",
    "remove",
    "resolve",
    "run",
    "run_specs",
    "specs_of",
    "status",
    "statuses",
    "watch",
]
