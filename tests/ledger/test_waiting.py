"""What a plan waits for, as a function of its journal, the moment and what the provider said last."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from batchling.ledger import Lane, Pace, Policy, State, apply, event_of
from batchling.models import Batch
from batchling.waiting import waits

ABOUT = {"shard": 1, "attempt": 1}
SHARD = {"shard": 1, "lane": 0, "rows": 6, "bytes": 9, "sha256": "x", "input_tokens": 3, "max_usd": "2.5"}
SENT: list[dict[str, Any]] = [
    {"kind": "planned", "shards": [{**SHARD, "row_attempt": 1, "kind": "first"}], "why": "first"},
    {"kind": "upload_intent", **ABOUT},
    {"kind": "uploaded", **ABOUT, "file_id": "file-1"},
    {"kind": "create_intent", **ABOUT, "file_id": "file-1"},
]
CREATED = {"kind": "created", **ABOUT, "batch_id": "batch_7"}
POLICY = Policy(lanes=(Lane(0, "p", "m", settle_seconds=900.0),))
DROP = "batchling resolve plan --drop --shard 1 --force"


def fold(*events: dict[str, Any]) -> State:
    state = State()
    for seq, event in enumerate(events, 1):
        apply(state, event_of({"seq": seq, "ts": 1000.0, **event}))
    return state


def test_a_batch_that_is_out_is_named_with_the_providers_last_word_and_the_command_that_ends_it() -> None:
    batch = Batch("batch_7", "in_progress", total=6, completed=2, failed=0)
    (wait,) = waits(fold(*SENT, CREATED), 1300.0, "plan", policy=POLICY, pace=Pace(), batches={"batch_7": batch})
    assert (wait.shard, wait.batch_id, wait.since, wait.until) == (1, "batch_7", 1000.0, None)
    assert wait.text(1300.0) == (
        "waiting for batch batch_7 (shard 1) since 5 min; the provider says 'in_progress', 2 of 6 done; no end set; "
        "Ctrl-C stops watching, `batchling cancel plan` ends it"
    )


def test_a_batch_that_cannot_be_read_can_be_given_up() -> None:
    (wait,) = waits(fold(*SENT, CREATED), 1300.0, "plan", heard="the provider answered 500")
    assert wait.said == "the provider answered 500" and wait.ends == DROP


def test_another_word_for_the_end_is_told() -> None:
    batch = Batch("batch_7", "complete", total=6, completed=6, failed=0, output_file_id="o")
    (wait,) = waits(fold(*SENT, CREATED), 1300.0, "plan", batches={"batch_7": batch})
    assert "'complete', 6 of 6 done" in wait.text(1300.0)


@pytest.mark.parametrize(
    ("events", "what", "until"),
    [
        ([], "confirmation that the provider made a batch of shard 1", 1310.0),
        ([{"kind": "fenced", **ABOUT}], "the settling time of shard 1, whose submission got no answer", None),
        ([CREATED, {"kind": "ended", **ABOUT, "reason": "completed"}], "the files of batch batch_7 (shard 1)", 1320.0),
    ],
)
def test_every_wait_before_the_answers_says_until_when_and_how_to_give_up(
    events: list[dict[str, Any]], what: str, until: float | None
) -> None:
    pace = Pace(due={("recover", 1, 1): 1310.0, ("collect", 1, 1): 1320.0}, settling={(1, 1): 1000.0})
    (wait,) = waits(fold(*SENT, *events), 1300.0, "plan", policy=POLICY, pace=pace)
    assert (wait.what, wait.ends) == (what, DROP)
    assert wait.again == until and (until is not None or (wait.until is not None and wait.until >= 1900.0))
    assert "no end set" not in wait.text(1300.0)


def test_a_wait_that_ends_by_itself_says_when() -> None:
    pace = Pace(due={("collect", 1, 1): 1320.0}, ends={(1, 1): 3600.0})
    (wait,) = waits(
        fold(*SENT, CREATED, {"kind": "ended", **ABOUT, "reason": "completed"}),
        1300.0,
        "plan",
        policy=POLICY,
        pace=pace,
    )
    assert "; again in 20 s, at most 38 min more; " in wait.text(1300.0)
    (wait,) = waits(fold(*SENT, CREATED), 1300.0, "plan", policy=POLICY, pace=pace, heard="404")
    assert "; at most 38 min more; " in wait.text(1300.0)


def test_a_refusal_for_now_says_when_it_is_sent_again() -> None:
    rejected = {"kind": "rejected", **ABOUT, "status": 429, "code": "rate_limit", "message": "slow down"}
    (wait,) = waits(fold(*SENT, {**rejected, "retry_at": 1500.0}), 1300.0, "plan", policy=POLICY)
    assert (wait.what, wait.again, wait.said) == ("sending shard 1", 1500.0, "rate_limit: slow down")


def test_a_budget_that_holds_something_back_is_named() -> None:
    policy = Policy(lanes=POLICY.lanes, budget_usd=Decimal(1))
    (wait,) = waits(fold(SENT[0]), 1300.0, "plan", policy=policy)
    assert wait.said is not None and "budget.usd (1 USD)" in wait.said


def test_another_plan_is_named_with_the_command_that_ends_it() -> None:
    (wait,) = waits(fold({"kind": "plan_created", "awaits": ["other~2"]}), 1300.0, "plan")
    assert wait.what == "answers that plan other is paying for" and wait.ends == "batchling cancel other"
