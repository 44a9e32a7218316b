"""An event is checked before it is written: what the fold refuses is on no disk, and the check changes nothing."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest

from batchling.journal import Journal, parse
from batchling.ledger import EVENTS, InvariantError, State, apply, check, event_of, replay
from batchling.ledger.events import PlanCreated, Remark, Uploaded
from batchling.runner.session import write
from batchling.testing import SimDisk
from batchling.testing.chaos import Chaos
from tests.ledger.test_ledger import Plan

JOURNAL = Path("/plan/journal.jsonl")

STRANGE: tuple[Any, ...] = (
    None,
    "",
    "x",
    "\ud800",
    0,
    -1,
    1,
    2,
    99,
    10**30,
    1.5,
    float("nan"),
    [],
    {},
    [1],
    {"a": "b"},
    True,
)
"""What a damaged line, another version or a provider may put anywhere."""

KINDS = sorted({*(event.kind for event in EVENTS), "audited", "of another version"})


def fresh(rng: random.Random, state: State) -> dict[str, Any]:
    """Some event, mostly of the right form."""
    shard = rng.choice((1, 2, 2, 3))
    file_id, batch_id = rng.choice(("f1", "f2")), rng.choice(("b1", "b2"))
    event: dict[str, Any] = {
        "seq": state.seq + 1, "ts": 1.0, "kind": rng.choice(KINDS), "shard": shard, "attempt": rng.choice((1, 1, 2, 3)),
        "file_id": file_id, "batch_id": batch_id, "reason": rng.choice(("completed", "failed", "throttled")), "files": [],
        "counts": {"ok": 3}, "usd": "0.1", "retry_at": 5.0, "limit": 10, "group": "g", "model": "m", "plan_id": "p",
        "fingerprints": {}, "state": "finished", "kept": {"ok": 2}, "retry": 1, "again": 1, "by": rng.choice((None, "person")),
        "shards": rng.choice(([], [1], [7], [Plan.shard(rng.choice((2, 3, 4)), 3)])), "replaces": rng.choice(([], [1], [9])),
    }  # fmt: skip
    if rng.random() < 0.5:
        event["kind"] = rng.choice(
            ("upload_intent", "uploaded", "create_intent", "created", "ended", "collected", "closed")
        )
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        name = rng.choice(sorted(event))
        if rng.random() < 0.3:
            del event[name]
        else:
            event[name] = rng.choice(STRANGE)
    return event


@pytest.mark.parametrize("seed", range(40))
def test_a_refused_event_changes_nothing_and_an_accepted_one_folds(seed: int) -> None:
    rng = random.Random(seed)
    state = Plan(3, 3).state
    taken = refused = 0
    for _ in range(400):
        event = fresh(rng, state)
        before = copy.deepcopy(state)
        try:
            check(state, event_of(event))
        except InvariantError:
            refused += 1
            assert state == before
            try:
                apply(state, event_of(event))
            except InvariantError:
                assert state == before
            continue
        assert state == before
        taken += 1
        apply(state, event_of(event))
        assert state.seq == before.seq + 1
    assert taken > 20 and refused > 100


@pytest.mark.parametrize("seed", range(20))
def test_what_is_in_a_journal_folds_to_the_state_of_who_wrote_it(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimDisk(Chaos(str(seed)))
    disk.make_folder(JOURNAL.parent)
    journal, state = Journal(disk, JOURNAL), State()
    shards = [Plan.shard(1, 3), Plan.shard(2, 3)]
    for kind in ({"kind": "plan_created"}, {"kind": "planned", "shards": shards}):
        list(write(journal, state, [event_of({"seq": 0, "ts": 0.0, **kind})], ts=1.0))
    for _ in range(300):
        event = {**fresh(rng, state), "seq": 0, "ts": 0.0}
        size = disk.size(JOURNAL)
        if not isinstance(event.get("kind"), str):
            event["kind"] = "audited"
        try:
            list(write(journal, state, [event_of(event)], ts=2.0))
        except InvariantError:
            assert disk.size(JOURNAL) == size, "nothing that is refused is ever on the disk"
    events, good = parse(disk.read(JOURNAL), where="journal")
    assert good == disk.size(JOURNAL)
    assert replay(events) == state


def test_of_several_events_nothing_is_written_from_the_refused_one_on() -> None:
    disk = SimDisk(Chaos("several"))
    disk.make_folder(JOURNAL.parent)
    journal, state = Journal(disk, JOURNAL), State()
    good, bad, remark = PlanCreated(), Uploaded(1, 1, "f"), Remark("audited")
    with pytest.raises(InvariantError, match="no shard 1"):
        list(write(journal, state, [good, bad, remark], ts=1.0))
    assert [event["kind"] for event in parse(disk.read(JOURNAL), where="")[0]] == ["plan_created"]
    list(write(journal, state, [remark], ts=1.0))
    assert state.seq == 2


def test_a_file_id_may_come_again_once_it_is_certain_what_became_of_the_other() -> None:
    plan = Plan(3, 3)
    for shard in (1, 2):
        plan.about("upload_intent", shard).about("uploaded", shard, file_id="f")
        plan.about("create_intent", shard, file_id="f").about("created", shard, batch_id=f"b{shard}")
    assert plan.state.owners(0, "f") == ((1, 1), (2, 1))


@pytest.mark.parametrize("became", ["absent", "parked", "dropped"])
def test_i4_a_file_id_never_serves_again_while_its_create_may_arrive(became: str) -> None:
    plan = Plan(3, 3).send()
    if became == "absent":
        plan.about("fenced").about("absent")
    else:
        plan.about("parked")
        if became == "dropped":
            plan.about("dropped", why="resolved")
    plan.about("upload_intent", 2)
    with pytest.raises(InvariantError, match="I4"):
        plan.about("uploaded", 2, file_id="file-1-1")


def test_i4_after_a_definite_refusal_a_file_id_may_be_used_again() -> None:
    plan = Plan(3, 3).send().about("rejected", status=400)
    plan.about("upload_intent", 2).about("uploaded", 2, file_id="file-1-1")
    plan.about("create_intent", 2, file_id="file-1-1")


def test_i8_a_batch_id_takes_the_place_of_no_other() -> None:
    plan = Plan(3, 3).created(1).send(2)
    event = {"seq": plan.state.seq + 1, "ts": 1.0, "kind": "created", "shard": 2, "attempt": 1, "batch_id": "b-1-1"}
    with pytest.raises(InvariantError, match="shard 1 already"):
        check(plan.state, event_of(event))
    check(plan.state, event_of(event), recorded=True)  # version 0.1.0 wrote it
    with pytest.raises(InvariantError, match="shard 1 already"):
        check(plan.state, event_of({**event, "by": "person"}))
    plan.closed(1)
    check(plan.state, event_of({**event, "seq": plan.state.seq + 1, "by": "person"}))


def test_what_a_provider_says_is_written_whatever_is_in_it() -> None:
    disk = SimDisk(Chaos("strange"))
    disk.make_folder(JOURNAL.parent)
    journal, state = Journal(disk, JOURNAL), State()
    said = {
        "message": "half \ud83d of it",
        "counts": {"n": 10**40},
        "wait": float("inf"),
        "good": "😀",
    }
    (line,) = write(journal, state, [Remark("remark", said)], ts=1.0)
    assert line["message"] == "half \ufffd of it" and line["counts"] == {"n": 2**63 - 1} and line["good"] == "😀"
    assert parse(disk.read(JOURNAL), where="")[0] == [line]
