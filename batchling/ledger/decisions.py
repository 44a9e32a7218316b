"""What to do next."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from batchling.ledger.policy import Pace, Policy
from batchling.ledger.sizes import largest_of, limit_of, named_limit, requests_limit_of, settling_seconds, size_of
from batchling.ledger.state import LIVE, UNSENT, Attempt, Phase, Shard, State


class Do(StrEnum):
    """What `decide` can ask for."""

    UPLOAD = "upload"
    CREATE = "create"
    RECOVER = "recover"  # list; adopt, or fence
    SETTLE = "settle"  # the settling time is over: list again; adopt, absent or park
    POLL = "poll"  # everything that is out in a group of lanes
    COLLECT = "collect"
    INGEST = "ingest"
    SPLIT = "split"
    REPLAN = "replan"
    CANCEL = "cancel"
    DROP = "drop"
    AUDIT = "audit"
    FINISH = "finish"
    WAIT = "wait"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `until` (Unix seconds) goes with WAIT, `why` with STOP: parked, budget, refused or unread."""

    do: Do
    shard: int = 0
    attempt: int = 0
    lane: int = 0
    group: str = ""
    until: float = 0.0
    why: str = ""
    shards: tuple[int, ...] = ()


SPLIT_AFTER = 4
"""Refusals for the enqueued-token limit, with nothing else of ours waiting, after which a shard is cut in two."""

PATIENCE = 3
"""How many times more of them a shard bears that is far below the limit: somebody else's batches may be in its way."""

COUNTED_HIGHER = 1.5
"""By how much a provider may well count more tokens than we do."""


HOUR = 3_605.0
"""Seconds that a create counts against the creations of an hour: the provider's clock starts when it hears of it."""


def decide(state: State, now: float, policy: Policy, pace: Pace) -> list[Action]:
    """What can be done at `now`: everything that needs no waiting, else one WAIT, STOP or FINISH."""
    if state.finished:
        return [Action(Do.STOP, why="finished")]
    actions: list[Action] = []
    wake: list[float] = []

    def when(moment: float, action: Action) -> None:
        if moment <= now:
            actions.append(action)
        else:
            wake.append(moment)

    groups = _groups(state, policy, pace)
    sent, perhaps, out, shown = groups.sent, groups.perhaps, groups.out, groups.shown
    rarely: list[tuple[float, Action]] = []  # done only while there is something else to wait for
    for group in sent | perhaps:
        # Before anything else in a process, and now and then: is there a batch with one of our files that we don't know?
        ready = pace.ready("audit " + group, 0, 0)
        if group not in pace.audits and group in pace.unlisted:
            rarely.append((ready, Action(Do.AUDIT, group=group)))
        elif group not in pace.audits:
            when(ready, Action(Do.AUDIT, group=group))
        elif group in shown:
            when(max(ready, pace.audits[group] + policy.audit_seconds), Action(Do.AUDIT, group=group))
    if actions:
        return actions

    for shard, attempt in state.attempts():
        number, n = shard.number, attempt.number
        lane = policy.lanes[shard.lane]
        if attempt.phase is Phase.FENCED:
            settled = pace.settling.get((number, n), now) + settling_seconds(lane, shard, attempt, policy)
            when(max(settled, pace.ready("settle", number, n)), Action(Do.SETTLE, number, n, shard.lane))
        elif attempt.phase is Phase.COLLECTED:
            actions.append(Action(Do.INGEST, number, n, shard.lane))
        elif (do := _call_for(state, shard, attempt)) is not None:
            call = pace.ready(str(do), number, n), Action(do, number, n, shard.lane)
            if (number, n) in pace.unread:
                rarely.append(call)
            else:
                when(*call)
    unlooked = perhaps.keys() - pace.audits.keys()
    blocked = _submit(state, now, policy, pace, actions, when, unlooked)
    for group in out:
        poll = pace.polls.get(group, 0.0), Action(Do.POLL, group=group)
        if group in shown:
            when(*poll)
        else:
            rarely.append(poll)
    blocked |= _replan(state, now, policy, actions, wake, blocked=bool(blocked))
    back = [a for a in actions if a.do in (Do.RECOVER, Do.SETTLE)]
    if back:
        return back  # what may have been spent is found out before anything more is
    if actions or wake:
        for each in rarely:
            when(*each)
    if actions:
        return actions
    if wake:
        return [Action(Do.WAIT, until=min(wake))]
    for group in sent:
        # The last look: the journal has moved since this group was audited.
        if pace.audited_seq.get(group, -1) < state.seq and group not in pace.unlisted:
            when(pace.ready("audit " + group, 0, 0), Action(Do.AUDIT, group=group))
    if actions or wake:
        return actions or [Action(Do.WAIT, until=min(wake))]
    if any(a.phase is Phase.PARKED for _, a in state.attempts()):
        blocked.add("parked")
    if rarely:
        blocked.add("unread")
    for why in ("parked", "refused", "unread", "budget"):
        if why in blocked:
            return [Action(Do.STOP, why=why)]
    return [Action(Do.FINISH)]


@dataclass(slots=True)
class _Groups:
    """Groups of lanes, in the order of their shards.

    Attributes:
        sent: those that can be audited and that something was sent to.
        perhaps: those that something may have been sent to without a word of it in the journal.
        out: those with batches at the provider; shown: of these, those with a batch that can be read.
    """

    sent: dict[str, None] = field(default_factory=dict)
    perhaps: dict[str, None] = field(default_factory=dict)
    out: dict[str, None] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)


def _groups(state: State, policy: Policy, pace: Pace) -> _Groups:
    groups = _Groups()
    for shard, attempt in state.attempts():
        lane = policy.lanes[shard.lane]
        if attempt.intent_at and lane.can_list:
            groups.sent[lane.group] = None
        elif attempt.phase in UNSENT and lane.can_list:
            leaves = not (state.cancel_requested or shard.unwanted)
            if pace.torn or (pace.resumed and leaves):
                groups.perhaps[lane.group] = None
        if attempt.phase is Phase.CREATED:
            groups.out[lane.group] = None
            if (shard.number, attempt.number) not in pace.unread:
                groups.shown.add(lane.group)
    return groups


def _call_for(state: State, shard: Shard, attempt: Attempt) -> Do | None:
    """The call that an attempt is waiting for; None: it waits for the provider, or for something else."""
    match attempt.phase:
        case Phase.CREATING:
            return Do.RECOVER
        case Phase.CREATED:
            unwanted = attempt.stray or shard.unwanted or state.cancel_requested
            return Do.CANCEL if unwanted and not attempt.cancelling else None
        case Phase.ENDED:
            return Do.COLLECT
        case _:
            return None


def _submit(
    state: State,
    now: float,
    policy: Policy,
    pace: Pace,
    actions: list[Action],
    when: Any,
    unlooked: Collection[str] = (),
) -> set[str]:
    """Adds uploads and creates that limits and budget admit; returns why others are held for good.

    Args:
        unlooked: groups whose list is to be read before anything is sent.
    """
    blocked: set[str] = set()
    tokens: dict[tuple[str, str], int] = {}
    requests: dict[tuple[str, str], int] = {}
    batches: dict[str, int] = {}
    creations: dict[str, list[float]] = {}
    for lane in policy.lanes:
        made = creations.setdefault(lane.group, [])
        made += [t for t in state.creations.get(lane.number, ()) if t > now - HOUR]
    held: dict[tuple[str, str], float] = {}
    unsent = [(shard, attempt) for shard in state.shards.values() if (attempt := shard.unsent) is not None]
    for shard, attempt in unsent:
        if attempt.retry_at > now:
            lane = policy.lanes[shard.lane]
            key = (lane.group, lane.model)
            held[key] = max(held.get(key, 0.0), attempt.retry_at)
    out = False
    worst = state.worst()
    for shard, attempt in state.attempts():
        if attempt.phase in (Phase.CREATING, Phase.FENCED, Phase.CREATED):
            lane = policy.lanes[shard.lane]
            key = (lane.group, lane.model)
            tokens[key] = tokens.get(key, 0) + size_of(shard)
            requests[key] = requests.get(key, 0) + shard.rows
            batches[lane.group] = batches.get(lane.group, 0) + 1
        out = out or attempt.phase in LIVE or attempt.phase in (Phase.CREATING, Phase.FENCED)
    for shard, attempt in unsent:
        lane = policy.lanes[shard.lane]
        key = (lane.group, lane.model)
        number, n = shard.number, attempt.number
        if lane.group in unlooked:
            if lane.group in pace.unlisted:
                blocked.add("unread")
            continue
        if state.cancel_requested or shard.unwanted:
            actions.append(Action(Do.DROP, number, n, shard.lane))
            continue
        if shard.lane in state.fatal:
            blocked.add("refused")
            continue
        limit = limit_of(state, lane)
        size = size_of(shard)
        most = requests_limit_of(state, lane)
        bytes_, rows = largest_of(state, lane)
        oversized = (bytes_ is not None and shard.bytes > bytes_) or any(
            n is not None and shard.rows > n for n in (rows, most)
        )
        refused = sum(a.alone + a.alone_refusals for a in shard.attempts)
        patience = PATIENCE if limit is not None and size * COUNTED_HIGHER <= limit else 1
        stuck = refused >= SPLIT_AFTER * patience and not tokens.get(key)
        if shard.rows > 1 and (stuck or oversized or (limit is not None and size > limit)):
            actions.append(Action(Do.SPLIT, number, n, shard.lane))
            continue
        named = named_limit(state, lane)
        if stuck and named is not None and size > named:
            blocked.add("refused")  # one request that is larger than all that may wait: it can never run here
            continue
        if limit is not None and tokens.get(key, 0) and tokens[key] + size > limit:
            continue  # its turn comes when a batch of this model ends
        if most is not None and requests.get(key, 0) and requests[key] + shard.rows > most:
            continue
        if lane.concurrent_batches and batches.get(lane.group, 0) >= lane.concurrent_batches:
            continue
        # A refusal for now holds for the whole model: the next shard would hear the same.
        ready = max(held.get(key, 0.0), pace.ready("submit", number, n))
        if lane.creations_per_hour:
            made = sorted(creations[lane.group])
            if len(made) >= lane.creations_per_hour:
                ready = max(ready, made[-lane.creations_per_hour] + HOUR)
        cost = shard.max_usd or Decimal(0)
        if policy.budget_usd is not None and worst + cost > policy.budget_usd:
            if not out:
                blocked.add("budget")
            continue  # batches in flight may cost less than their worst case
        do = Do.CREATE if attempt.phase is Phase.UPLOADED else Do.UPLOAD
        when(ready, Action(do, number, n, shard.lane))
        tokens[key] = tokens.get(key, 0) + size
        requests[key] = requests.get(key, 0) + shard.rows
        batches[lane.group] = batches.get(lane.group, 0) + 1
        creations[lane.group].append(max(now, ready))
        worst += cost
    return blocked


def _replan(
    state: State, now: float, policy: Policy, actions: list[Action], wake: list[float], *, blocked: bool
) -> set[str]:
    """Rows to ask again are gathered per lane while others of the lane are out, but not for long; why some are held.

    What waits for a person, or is held by the budget (`blocked`), is not waited for: nothing comes of it.
    """
    held: set[str] = set()
    if state.cancel_requested:
        return held

    def moves(shard: Shard) -> bool:
        phase = shard.current.phase
        return not (shard.over or phase is Phase.PARKED or (blocked and phase in UNSENT))

    for lane in policy.lanes:
        waiting = [
            s
            for s in state.shards.values()
            if s.lane == lane.number and s.retry and not s.replanned and not s.unwanted and s.over
        ]
        if not waiting:
            continue
        if lane.number in state.fatal:
            held.add("refused")  # they stay open until a person has acted
            continue
        busy = any(s.lane == lane.number and moves(s) for s in state.shards.values())
        due = min(s.closed_at for s in waiting) + (policy.merge_seconds if busy else 0.0)
        if due <= now:
            actions.append(Action(Do.REPLAN, lane=lane.number, shards=tuple(s.number for s in waiting)))
        else:
            wake.append(due)
    return held
