"""The submission protocol as a small state machine, explored completely.

One shard, three attempts, two crashes anywhere, two faults (a reply or a request that is lost, a request that is
delayed, a definite refusal, a file that is not deleted, a list that leaves batches out), any delay of requests and of
the list. What is left out is what money does not depend on: results, budgets, several shards. Time is abstracted to
the one thing that settling is for: when it is over, a list that works shows every batch that was made before the input
file was deleted. A list that leaves batches out is one that lacks others of ours, which are known to be there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

ATTEMPTS = 3
CRASHES = 2
FAULTS = 2

OVER = ("created", "parked", "unclear")
"""Phases in which nothing more is done: it is recorded, or a person decides (`unclear`: nothing proves its absence)."""


@dataclass(frozen=True)
class Protocol:
    """The protocol, or a variant with one of its safeties taken out.

    `presume_unfenced`: absence is assumed although the input file could not be deleted. `believe_short_list`: it is
    assumed of a list in which batches are missing that are known to be there.
    """

    name: str
    fence: bool = True
    settle: bool = True
    sdk_retries: int = 0
    durable_intent: bool = True
    ambiguous_is_refused: bool = False
    second_look: bool = True
    presume_unfenced: bool = False
    believe_short_list: bool = False


class Shard(NamedTuple):
    """One state of the world.

    Attributes:
        attempt: 0-based number of the attempt; `phase`: of it, as the journal has it.
        call: what the process is in the middle of, lost in a crash: how often the create may still be sent, or the
            answer that is not journaled yet.
        files: of each attempt: is its input file at the provider?
        flying: of each attempt: creates that are still on their way.
        hidden, shown: batches that the list does not show yet, and that it shows.
    """

    attempt: int = 0
    phase: str = "planned"
    call: str = ""
    sends: int = 0
    files: tuple[bool, ...] = (False,) * ATTEMPTS
    flying: tuple[int, ...] = (0,) * ATTEMPTS
    hidden: int = 0
    shown: int = 0
    crashes: int = CRASHES
    faults: int = FAULTS

    @property
    def billed(self) -> int:
        """Batches that were made: each of them runs every row."""
        return self.hidden + self.shown


def put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def steps(s: Shard, p: Protocol) -> Iterator[Shard]:
    """Every state that can come next."""
    yield from _world(s)
    if s.crashes and s.phase not in OVER:
        yield from _crashes(s, p)
    n = s.attempt
    if s.call == "sending":
        yield from _create(s, p)
    elif s.call == "heard":
        yield s._replace(phase="created", call="")
    elif s.call == "refused":
        yield s._replace(phase="uploaded", call="")
    elif s.call == "deleted":
        yield s._replace(phase="fenced", call="")
    elif s.phase == "planned":
        yield s._replace(phase="uploaded", files=_flag(s.files, n, True))
    elif s.phase == "uploaded":
        # The intent is journaled, then the request leaves.
        yield s._replace(phase="creating", call="sending", sends=1 + p.sdk_retries)
    elif s.phase == "creating":
        if s.shown:
            yield s._replace(phase="created")
        elif p.fence:
            yield s._replace(files=_flag(s.files, n, False), call="deleted")
            if s.faults:
                yield s._replace(phase="unfenced", faults=s.faults - 1)  # the provider does not delete it
        else:
            yield s._replace(phase="fenced")
    elif s.phase in ("fenced", "unfenced"):
        settled = s._replace(shown=s.billed, hidden=0) if p.settle else s
        if settled.shown and p.second_look:
            yield settled._replace(phase="created")
        elif s.phase == "unfenced" and not p.presume_unfenced:
            yield settled._replace(phase="unclear")
        elif n + 1 < ATTEMPTS:
            yield settled._replace(attempt=n + 1, phase="planned")
        else:
            yield settled._replace(phase="parked")
        if s.faults:
            short = s._replace(faults=s.faults - 1)  # the list leaves batches out, this one too if there is one
            if p.believe_short_list and n + 1 < ATTEMPTS:
                yield short._replace(attempt=n + 1, phase="planned")
            else:
                yield short._replace(phase="unclear")


def _flag(values: tuple[bool, ...], place: int, value: bool) -> tuple[bool, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _world(s: Shard) -> Iterator[Shard]:
    """What happens by itself: late requests arrive, the list catches up."""
    if s.hidden:
        yield s._replace(hidden=s.hidden - 1, shown=s.shown + 1)
    for place, flying in enumerate(s.flying):
        if flying:
            landed = s._replace(flying=put(s.flying, place, flying - 1))
            yield landed._replace(hidden=s.hidden + 1) if s.files[place] else landed


def _crashes(s: Shard, p: Protocol) -> Iterator[Shard]:
    dead = s._replace(crashes=s.crashes - 1, call="", sends=0)
    if s.call == "sending" and not p.durable_intent:
        # The journal's last line is lost with the power: the process believes that nothing was sent.
        dead = dead._replace(phase="uploaded")
    yield dead
    if s.call == "sending":
        # The request had left: it arrives now or at any later time.
        yield dead._replace(flying=put(s.flying, s.attempt, s.flying[s.attempt] + 1))


def _create(s: Shard, p: Protocol) -> Iterator[Shard]:
    n = s.attempt
    made = s._replace(hidden=s.hidden + 1) if s.files[n] else s
    yield made._replace(call="heard", sends=0)
    if not s.faults:
        return
    faulty = s._replace(faults=s.faults - 1)
    yield faulty._replace(call="refused", sends=0)
    unheard = (
        faulty,  # the request is lost
        made._replace(faults=s.faults - 1),  # the reply is lost
        faulty._replace(flying=put(s.flying, n, s.flying[n] + 1)),  # the request is late
    )
    for after in unheard:
        if s.sends > 1:
            yield after._replace(sends=s.sends - 1)  # what an SDK does by itself
        elif p.ambiguous_is_refused:
            yield after._replace(call="refused", sends=0)
        else:
            yield after._replace(call="", sends=0)


@dataclass(frozen=True)
class Explored:
    """What a complete exploration found. `stuck` states have no next one and are neither created nor parked."""

    protocol: Protocol
    states: int
    twice: int
    stuck: int
    never_recorded: int


def explore(p: Protocol) -> Explored:
    """Visits every state that can be reached."""
    first = Shard()
    seen = {first}
    queue = deque([first])
    twice = stuck = never_recorded = 0
    while queue:
        s = queue.popleft()
        twice += s.billed > 1
        following = list(steps(s, p))
        stuck += not following and s.phase not in OVER
        never_recorded += s.phase == "parked" and not any(s.flying) and s.billed > 0
        for after in following:
            if after not in seen:
                seen.add(after)
                queue.append(after)
    return Explored(p, len(seen), twice, stuck, never_recorded)


PROTOCOL = Protocol("the protocol")
VARIANTS = (
    Protocol("without the fence", fence=False),
    Protocol("with the SDK's two retries", sdk_retries=2),
    Protocol("without the settling time", settle=False),
    Protocol("without the second look at the list", second_look=False),
    Protocol("without an fsync of the intent", durable_intent=False),
    Protocol("an ambiguous answer taken for a refusal", ambiguous_is_refused=True),
    Protocol("absence assumed without a confirmed deletion", presume_unfenced=True),
    Protocol("absence assumed of a list that lacks known batches", believe_short_list=True),
)


def table() -> str:
    """The figures that the documentation shows."""
    lines = ["| variant | states | of them with two batches of one shard |", "|---|--:|--:|"]
    for p in (PROTOCOL, *VARIANTS):
        found = explore(p)
        lines.append(f"| {p.name} | {found.states:,} | {found.twice:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())  # noqa: T201 (what this module is run for)
