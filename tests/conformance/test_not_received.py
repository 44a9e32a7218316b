"""What may have been paid and was not received is said, and costs a question before it is asked again."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from batchling.api.outcome import Outcome
from batchling.errors import RefusedError
from tests.servers.batches import as_files
from tests.workbench import Workbench

QUICK = "limits.poll_seconds=0.02"
LOST = "1 row may have been paid for and was not received (shard 1 batch batch_0001)"


def last_line_lost(bench: Workbench) -> Outcome:
    """The provider says that it answered three rows, and its file has two lines for ever."""
    bench.server.arrange = lambda out, errors: (b"".join(out[:-1]), None)
    return bench.run()


def bought_twice(bench: Workbench) -> bool:
    return max(bench.server.keys.values()) > 1


def test_30_the_summary_status_and_results_say_it(bench: Workbench) -> None:
    plan = last_line_lost(bench)
    (doubt,) = plan.not_received
    assert (doubt.shard, doubt.batch_id, doubt.rows) == (1, "batch_0001", 1)
    again = bench.cli("run", "--yes", *bench.arguments(QUICK))
    assert again.returncode == 3
    assert LOST in again.stdout and f"warning: {LOST}" in again.stderr
    assert "--retry missing does, after a question" in again.stderr
    assert "next:" not in again.stderr, "a plain run is not what is proposed"
    assert LOST in bench.cli("status", plan.plan_id).stdout
    assert LOST in bench.cli("results", plan.plan_id).stderr
    for command in ("status", "results"):
        document = json.loads(bench.cli(command, plan.plan_id, "--json").stdout)
        assert document["not_received"][0]["batch_id"] == "batch_0001"


def test_30_running_it_again_buys_nothing(bench: Workbench) -> None:
    plan = last_line_lost(bench)
    again = bench.run()
    assert (again.plan_id, again.exit_code, again.next_command) == (plan.plan_id, 3, None)
    assert bench.server.creates == 1 and not bought_twice(bench)


def test_30_another_experiment_with_the_row_leaves_it_out_and_says_so(bench: Workbench) -> None:
    plan = last_line_lost(bench)
    bench.server.arrange = as_files
    bench.rows(4)
    other = bench.run()
    assert other.plan_id != plan.plan_id
    assert bench.states(other) == {"ok": 3, "missing": 1}
    assert [d.plan_id for d in other.not_received] == [plan.plan_id]
    assert not bought_twice(bench)
    third = bench.run(retry=["error"])
    assert bench.states(third) == {"ok": 3, "missing": 1}, "nor does a plan after that"
    assert not bought_twice(bench)


def test_30_a_plan_that_waits_for_the_row_leaves_it_out_too(bench: Workbench) -> None:
    bench.server.arrange = lambda out, errors: (b"".join(out[:-1]), None)
    first = bench.run(detach=True)
    bench.rows(4)
    second = bench.run()
    assert second.plan_id != first.plan_id
    assert bench.states(second)["missing"] == 2, "the one of each batch"
    assert {d.plan_id for d in second.not_received} == {first.plan_id, second.plan_id}
    assert not bought_twice(bench)


def test_30_asking_again_is_a_question_whatever_it_costs(bench: Workbench) -> None:
    last_line_lost(bench)
    bench.server.arrange = as_files
    asked: list[tuple[str, Decimal | None]] = []

    def no(what: str, worst: Decimal | None) -> bool:
        asked.append((what, worst))
        return False

    with pytest.raises(RefusedError, match="not received"):
        bench.run(retry=["missing"], confirm=no)
    assert "1 of which may have been paid for and was not received" in asked[0][0] and asked[0][1]
    assert len(bench.plans) == 1, "nothing is left of what was not confirmed"
    refused = bench.cli("run", "--retry", "missing", *bench.arguments(QUICK))
    assert refused.returncode == 4 and "--yes" in refused.stderr.splitlines()[-1]
    assert bench.server.creates == 1
    yes = bench.cli("run", "--yes", "--retry", "missing", *bench.arguments(QUICK))
    assert yes.returncode == 0, yes.stderr
    assert bench.server.creates == 2 and bench.states() == {"ok": 3}


def test_30_plan_says_what_run_would_leave_out(bench: Workbench) -> None:
    last_line_lost(bench)
    bench.rows(4)
    shown = bench.cli("plan", *bench.arguments(QUICK))
    assert "1 row may have been paid for and was not received" in shown.stdout + shown.stderr


def test_30_journals_of_0_1_0_do_not_buy_them_silently_either(bench: Workbench) -> None:
    from batchling.ledger import State, apply, event_of
    from batchling.ledger.upgrade import upgrade

    def fold(*events: dict[str, object]) -> State:
        state = State()
        for seq, event in enumerate(events, 1):
            apply(state, event_of(upgrade({"seq": seq, "ts": 1.0, **event})))
        return state

    about = {"shard": 1, "attempt": 1}
    shard = {"shard": 1, "lane": 0, "rows": 3, "bytes": 9, "sha256": "x", "input_tokens": 3, "max_usd": "1"}
    state = fold(
        {"kind": "planned", "shards": [{**shard, "row_attempt": 1, "kind": "first"}], "why": "first"},
        {"kind": "upload_intent", **about},
        {"kind": "uploaded", **about, "file_id": "f"},
        {"kind": "create_intent", **about, "file_id": "f"},
        {"kind": "created", **about, "batch_id": "b"},
        {"kind": "ended", **about, "reason": "completed", "output_file_id": "o", "completed": 3},
        {"kind": "collected", **about, "files": [{"file": "a", "whole": False}]},
        {
            "kind": "closed",
            **about,
            "counts": {"ok": 2, "missing": 1},
            "kept": {"ok": 2, "missing": 1},
            "again": 1,
            "retry": 0,
            "unsure": True,
            "usd": "0",
        },
    )
    assert state.again == 0
    assert [(s.number, a.batch_id, rows) for s, a, rows in state.doubts()] == [(1, "b", 1)]
