"""The fold and the decisions, without any disk or provider."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from batchling.ledger import (
    STEPS,
    Action,
    Do,
    InvariantError,
    Lane,
    Pace,
    Phase,
    Policy,
    State,
    apply,
    decide,
    event_of,
    replay,
)
from batchling.ledger.events import SessionStarted

NOW = 1_000_000.0
LANE = Lane(number=0, group="g", model="m")


class Plan:
    """A state that events are told to."""

    def __init__(
        self, *shards: int, usd: str | None = "0.5", tokens: int | None = 100, bytes: int = 4000, lane: Lane = LANE
    ):
        self.state = State()
        self.policy = Policy((lane,))
        self.pace = Pace()
        self.pace.audits["g"] = NOW
        self.tell("plan_created")
        self.tell("planned", shards=[self.shard(n + 1, rows, usd, tokens, bytes) for n, rows in enumerate(shards)])

    @staticmethod
    def shard(
        number: int, rows: int, usd: str | None = "0.5", tokens: int | None = 100, bytes: int = 4000
    ) -> dict[str, Any]:
        return {
            "shard": number, "lane": 0, "rows": rows, "bytes": bytes, "sha256": "00", "input_tokens": tokens,
            "max_usd": usd, "row_attempt": 1, "kind": "first",
        }  # fmt: skip

    def tell(self, kind: str, ts: float = NOW, **fields: Any) -> Plan:
        apply(self.state, event_of({"seq": self.state.seq + 1, "ts": ts, "kind": kind, **fields}))
        return self

    def about(self, kind: str, shard: int = 1, attempt: int = 1, **fields: Any) -> Plan:
        return self.tell(kind, shard=shard, attempt=attempt, **fields)

    def send(self, shard: int = 1, attempt: int = 1) -> Plan:
        file_id = f"file-{shard}-{attempt}"
        self.about("upload_intent", shard, attempt)
        self.about("uploaded", shard, attempt, file_id=file_id)
        return self.about("create_intent", shard, attempt, file_id=file_id)

    def created(self, shard: int = 1, attempt: int = 1) -> Plan:
        return self.send(shard, attempt).about(
            "created", shard, attempt, batch_id=f"b-{shard}-{attempt}", adopted=False
        )

    def closed(self, shard: int = 1, attempt: int = 1, usd: str = "0.1", **fields: Any) -> Plan:
        rows = self.state.shards[shard].rows
        self.about("ended", shard, attempt, reason="completed")
        self.about("collected", shard, attempt, files=[])
        return self.about("closed", shard, attempt, usd=usd, **{"counts": {"ok": rows}, "kept": {"ok": rows}, **fields})

    def decide(self, now: float = NOW, **policy: Any) -> list[Action]:
        from dataclasses import replace

        return decide(self.state, now, replace(self.policy, **policy), self.pace)

    def todo(self, now: float = NOW, **policy: Any) -> list[tuple[Do, int]]:
        return [(action.do, action.shard) for action in self.decide(now, **policy)]

    def attempt(self, shard: int = 1, attempt: int = 1) -> Any:
        return self.state.shards[shard].attempts[attempt - 1]


def test_a_shard_goes_from_planned_to_closed() -> None:
    plan = Plan(3)
    assert plan.todo() == [(Do.UPLOAD, 1)]
    plan.created()
    assert plan.todo() == [(Do.POLL, 0)]
    plan.closed()
    assert plan.state.counts() == {"ok": 3}
    assert plan.state.spent == Decimal("0.1")
    assert plan.todo() == [(Do.AUDIT, 0)]
    plan.pace.audited_seq["g"] = plan.state.seq
    assert plan.todo() == [(Do.FINISH, 0)]
    plan.tell("finished", state="finished")
    assert plan.decide() == [Action(Do.STOP, why="finished")]


@pytest.mark.parametrize("kind", sorted(step.kind for step in STEPS))
def test_an_event_that_may_not_follow_is_refused(kind: str) -> None:
    plan = Plan(3).created().closed()
    fields = {"file_id": "f", "batch_id": "b", "reason": "completed", "files": [], "counts": {"ok": 3}, "usd": "0"}
    with pytest.raises(InvariantError):
        plan.about(kind, **fields)


def test_events_must_follow_each_other_without_a_gap() -> None:
    with pytest.raises(InvariantError, match="I8"):
        apply(State(), SessionStarted({}, seq=2))


def test_a_lost_reply_is_looked_for_before_anything_else_is_sent() -> None:
    plan = Plan(3, 3).send()
    assert plan.todo() == [(Do.RECOVER, 1)]


def test_settling_counts_from_when_this_process_can_be_certain_of() -> None:
    plan = Plan(3).send().about("fenced")
    plan.pace.settling[1, 1] = NOW
    assert plan.decide(NOW + 899.0) == [Action(Do.WAIT, until=NOW + 900.0)]
    assert plan.todo(NOW + 900.0) == [(Do.SETTLE, 1)]


def test_an_absence_opens_the_next_attempt_and_stays_in_the_worst_case() -> None:
    plan = Plan(3).send().about("fenced").about("absent")
    assert plan.todo() == [(Do.UPLOAD, 1)]
    assert plan.decide()[0].attempt == 2
    assert plan.state.worst() == Decimal("0.5")


def test_what_a_person_says_did_not_happen_is_believed() -> None:
    plan = Plan(3).send().about("parked").about("absent", by="person")
    assert plan.state.worst() == Decimal(0)
    assert plan.todo() == [(Do.UPLOAD, 1)]


def test_a_parked_shard_waits_for_a_person_and_the_others_go_on() -> None:
    plan = Plan(3, 3).send().about("parked")
    assert plan.todo() == [(Do.UPLOAD, 2)]
    plan.created(2).closed(2)
    plan.pace.audited_seq["g"] = plan.state.seq
    assert plan.decide() == [Action(Do.STOP, why="parked")]


def test_a_batch_that_turns_up_late_stops_the_attempt_that_was_to_replace_it() -> None:
    plan = Plan(3).send().about("fenced").about("absent").about("upload_intent", attempt=2)
    plan.about("created", batch_id="late", adopted=True)
    assert plan.attempt(attempt=2).phase is Phase.DROPPED
    assert not plan.attempt().stray
    plan.closed()
    assert plan.state.counts() == {"ok": 3}
    assert plan.state.shards[1].over


def test_a_batch_that_turns_up_when_another_is_out_is_cancelled_and_read() -> None:
    plan = Plan(3).send().about("fenced").about("absent").created(attempt=2)
    plan.about("created", batch_id="late", adopted=True)
    assert plan.attempt().stray
    assert (Do.CANCEL, 1) in plan.todo()
    plan.closed(attempt=2).closed()
    assert plan.state.counts() == {"ok": 3}
    assert plan.state.spent == Decimal("0.2")


def test_a_second_batch_of_one_create_is_an_attempt_of_its_own() -> None:
    plan = Plan(3).created().about("duplicate", batch_id="b-again")
    assert [a.stray for a in plan.state.shards[1].attempts] == [False, True]
    assert (Do.CANCEL, 1) in plan.todo()


def test_a_batch_refused_for_the_token_limit_costs_no_attempt_of_a_row_and_waits() -> None:
    plan = Plan(3).created().about("ended", reason="throttled").about("throttled", retry_at=NOW + 60.0)
    assert plan.state.shards[1].row_attempt == 1
    assert plan.decide() == [Action(Do.WAIT, until=NOW + 60.0)]
    assert plan.todo(NOW + 60.0) == [(Do.UPLOAD, 1)]


def test_a_shard_above_a_learned_limit_is_cut() -> None:
    plan = Plan(3).tell("learned", group="g", model="m", limit=60)
    assert plan.todo() == [(Do.SPLIT, 1)]


def test_an_input_file_serves_one_attempt() -> None:
    plan = Plan(3, 3).send()
    plan.about("upload_intent", 2)
    with pytest.raises(InvariantError, match="I4"):
        plan.about("uploaded", 2, file_id="file-1-1")


def test_a_shard_is_never_out_twice() -> None:
    plan = Plan(3).created()
    plan.state.shards[1].attempts.append(type(plan.attempt())(2, Phase.UPLOADED, file_id="other"))
    with pytest.raises(InvariantError, match="I1"):
        plan.about("create_intent", attempt=2, file_id="other")


def test_rows_must_add_up_before_a_shard_is_closed() -> None:
    plan = Plan(3).created().about("ended", reason="completed").about("collected", files=[])
    with pytest.raises(InvariantError, match="I6"):
        plan.about("closed", counts={"ok": 2}, usd="0")


def test_a_plan_with_a_batch_out_cannot_be_finished() -> None:
    with pytest.raises(InvariantError, match="I3"):
        Plan(3).created().tell("finished", state="finished")


def test_the_budget_holds_the_worst_case_of_everything_that_may_be_out() -> None:
    plan = Plan(3, 3, 3).send()
    assert plan.todo(budget_usd=Decimal("0.9")) == [(Do.RECOVER, 1)]
    plan.about("created", batch_id="b", adopted=True)
    assert plan.todo(budget_usd=Decimal("0.9")) == [(Do.POLL, 0)]
    plan.closed()
    assert (Do.UPLOAD, 2) in plan.todo(budget_usd=Decimal("0.9"))
    plan.created(2).closed(2, usd="0.4").created(3).closed(3)
    assert plan.state.worst() == Decimal("0.6")


def test_a_budget_that_nothing_can_free_stops_the_plan() -> None:
    assert Plan(3).decide(budget_usd=Decimal("0.1")) == [Action(Do.STOP, why="budget")]


def test_answers_that_were_lost_stay_in_the_worst_case() -> None:
    plan = Plan(3).created().closed(usd="0.2", unsure=True)
    assert plan.state.spent == Decimal("0.2")
    assert plan.state.worst() == Decimal("0.5")


def test_a_cancelled_plan_sends_nothing_more_and_still_reads_what_was_paid() -> None:
    plan = Plan(3, 3).created().tell("cancel_requested")
    assert plan.todo() == [(Do.CANCEL, 1), (Do.DROP, 2), (Do.POLL, 0)]
    plan.about("dropped", 2, why="cancelled")
    assert plan.state.counts() == {"pending": 3, "cancelled": 3}


def test_a_fatal_refusal_stops_its_lane_until_another_process_starts() -> None:
    plan = Plan(3).about("upload_intent").about("rejected", status=401, code="invalid_api_key", fatal=True)
    assert plan.decide() == [Action(Do.STOP, why="refused")]
    plan.tell("session", fingerprints={})
    assert plan.todo() == [(Do.UPLOAD, 1)]


def test_rows_to_ask_again_are_gathered_while_others_are_out() -> None:
    plan = Plan(3, 3).created(1).created(2)
    plan.closed(1, counts={"ok": 2, "expired": 1}, kept={"ok": 2}, retry=1)
    assert plan.todo() == [(Do.POLL, 0)]
    plan.pace.polls["g"] = NOW + 10_000.0
    assert plan.decide() == [Action(Do.WAIT, until=NOW + 900.0)]
    assert plan.decide(NOW + 900.0) == [Action(Do.REPLAN, shards=(1,))]


def test_rows_that_moved_on_count_where_they_went() -> None:
    plan = Plan(3).created().closed(counts={"ok": 2, "expired": 1}, kept={"ok": 2}, retry=1)
    assert plan.state.counts() == {"ok": 2, "expired": 1}
    plan.tell("planned", shards=[Plan.shard(2, 1)], replaces=[1])
    assert plan.state.counts() == {"ok": 2, "pending": 1}


def test_the_first_look_of_a_process_is_for_batches_that_it_does_not_know() -> None:
    plan = Plan(3).created()
    plan.pace = Pace()
    assert plan.decide() == [Action(Do.AUDIT, group="g")]


def test_a_long_wait_is_interrupted_by_an_audit() -> None:
    plan = Plan(3).created()
    assert plan.todo(NOW + 3600.0) == [(Do.AUDIT, 0)]


def test_the_last_look_comes_after_a_batch_that_turned_up_late_as_well() -> None:
    plan = Plan(3).send().about("fenced").about("absent").created(attempt=2).closed(attempt=2)
    plan.pace.audited_seq["g"] = plan.state.seq
    plan.about("created", batch_id="late", adopted=True).closed()
    assert plan.todo() == [(Do.AUDIT, 0)]


def test_a_failed_audit_is_put_off_and_does_not_spin() -> None:
    plan = Plan(3).created().closed()
    plan.pace.due["audit g", 0, 0] = NOW + 5.0
    assert plan.decide() == [Action(Do.WAIT, until=NOW + 5.0)]


def test_a_replay_gives_the_same_state() -> None:
    events = [
        {"seq": 1, "ts": NOW, "kind": "plan_created"},
        {"seq": 2, "ts": NOW, "kind": "planned", "shards": [Plan.shard(1, 3)]},
        {"seq": 3, "ts": NOW, "kind": "upload_intent", "shard": 1, "attempt": 1},
        {"seq": 4, "ts": NOW, "kind": "uploaded", "shard": 1, "attempt": 1, "file_id": "f"},
        {"seq": 5, "ts": NOW, "kind": "a remark of a later version"},
    ]
    assert replay(events) == replay([dict(event) for event in events])
    assert replay(events).shards[1].current.phase is Phase.UPLOADED
