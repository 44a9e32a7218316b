"""What is bought once is never bought again: amended data, more repeats, other experiments, a catalog that is gone."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from batchling.api import verbs
from batchling.errors import BatchlingError, ConfigError, RefusedError, UsageError
from tests.servers.batches import Ending, answered, fitting, text_of
from tests.servers.scripted import refuse
from tests.workbench import KEY, Workbench


def asked(bench: Workbench) -> Counter[str]:
    return Counter(text_of(request) for request in bench.server.sent())


def test_added_rows_are_the_only_ones_that_are_sent(bench: Workbench) -> None:
    bench.run()
    bench.rows(5)
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reused, outcome.bought, bench.states(outcome)) == (0, 3, 2, {"ok": 5})
    assert set(asked(bench).values()) == {1}


def test_fresh_buys_again_and_retry_reopens_only_the_states_that_are_named(bench: Workbench) -> None:
    bench.server.row = lambda r: answered(r, '{"label": "zebra"}') if "number 1" in text_of(r) else fitting(r)
    assert bench.run().exit_code == 3
    bench.server.row = fitting
    assert bench.run().created is False
    retried = bench.run(retry=("invalid",))
    assert (retried.exit_code, retried.bought, retried.reused) == (0, 1, 2)
    assert bench.run().bought == 1, "what the last plan says stands"
    fresh = bench.run(fresh=True)
    assert (fresh.exit_code, fresh.bought, fresh.reused) == (0, 3, 0)
    assert sorted(asked(bench).values()) == [2, 2, 3]


def test_repeats_ask_each_row_several_times_and_more_repeats_only_the_missing_ones(bench: Workbench) -> None:
    assert bench.run("repeats=2").bought == 6
    outcome = bench.run("repeats=3")
    assert (outcome.exit_code, outcome.reused, outcome.bought) == (0, 6, 3)
    assert bench.server.times_answered() == {1}
    assert bench.query(
        f"select count(*), count(distinct repeat) from records where run_id like '{outcome.plan_id[-6:]}%'"
    ) == [(9, 3)]


def test_equal_rows_are_asked_once_unless_dedupe_is_off(bench: Workbench) -> None:
    bench.rows([{"id": f"r{n}", "text": "number 1"} for n in range(4)])
    outcome = bench.run()
    assert (outcome.bought, bench.states(outcome)) == (1, {"ok": 4})
    apart = bench.run("dedupe=false")
    assert (apart.bought, bench.states(apart)) == (4, {"ok": 4})
    assert bench.run("dedupe=false").created is False


def test_an_earlier_experiment_s_output_is_a_source_of_rows(bench: Workbench) -> None:
    bench.run()
    config = (bench.root / "experiments/ask/config.yaml").read_text()
    bench.write(
        {
            "experiments/check/config.yaml": config.replace("name: ask", "name: check")
            .replace("path: rows.jsonl\n  id: id", "run: ask\n  where: state = 'ok'")
            .replace("Which one is {text}?", "Is {output.label} right for {data.text}?")
        }
    )
    outcome = bench.run(name="check")
    assert (outcome.exit_code, outcome.bought) == (0, 3)
    assert sorted(text_of(r) for r in bench.server.sent())[:1] == ["Is a right for number 0?"]


def test_a_schema_change_that_leaves_the_body_alone_reads_the_answers_again_for_free(bench: Workbench) -> None:
    bench.run("schema.strict=false")
    outcome = bench.run("schema.strict=false", "schema.fields={label: {enum: [b, c]}}")
    assert (outcome.exit_code, outcome.bought, outcome.reused, bench.states(outcome)) == (3, 0, 3, {"invalid": 3})
    assert bench.server.creates == 1


@pytest.mark.parametrize("damage", ["deleted", "corrupt", "truncated"])
def test_a_catalog_that_is_gone_or_corrupt_buys_nothing_again(bench: Workbench, damage: str) -> None:
    bench.run()
    catalog = bench.runs / "catalog.duckdb"
    if damage == "deleted":
        catalog.unlink()
    else:
        catalog.write_bytes(b"\xff" * 8192 if damage == "corrupt" else catalog.read_bytes()[:5000])
    shown = bench.cli("query", "select state, count(*) as n from records group by 1", "--json")
    assert shown.returncode == 0, shown.stderr
    assert "ok" in shown.stdout and "3" in shown.stdout
    bench.rows(4)
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reused, outcome.bought) == (0, 3, 1)
    assert set(asked(bench).values()) == {1}


@pytest.mark.parametrize("keep", [True, False])
def test_a_removed_plan_s_answers_are_reused_only_when_they_were_kept(bench: Workbench, keep: bool) -> None:
    first = bench.run()
    removed = bench.cli("rm", "--yes", first.plan_id, *(["--keep-answers"] if keep else []))
    assert removed.returncode == 0, removed.stderr
    outcome = bench.run()
    assert (outcome.exit_code, outcome.created, bench.states(outcome)) == (0, True, {"ok": 3})
    assert (outcome.reused, outcome.bought) == ((3, 0) if keep else (0, 3))


def test_an_unfinished_plan_is_not_removed(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    with pytest.raises(UsageError, match="not finished"):
        verbs.remove(plan.plan_id, runs=bench.runs)
    assert bench.run().exit_code == 0


def test_a_cancelled_plan_keeps_what_was_paid_and_frees_the_rest(bench: Workbench) -> None:
    bench.rows(6)
    bench.server.endings = [Ending(statuses=("in_progress",) * 50, answers=4), Ending()]
    plan = bench.run(detach=True)
    outcome = verbs.cancel(plan.plan_id, runs=bench.runs)
    assert outcome.states == {"ok": 4, "cancelled": 2}
    assert outcome.exit_code == 3
    again = bench.run()
    assert (again.exit_code, again.reused, again.bought, bench.states(again)) == (0, 4, 2, {"ok": 6})
    assert bench.server.times_answered() == {1}


def test_a_cancelled_plan_that_was_never_sent_sends_nothing(bench: Workbench) -> None:
    bench.server.endings = [Ending(statuses=("in_progress",) * 50, answers=0)]
    bench.rows(4)
    plan = bench.run("limits.max_requests=2", "limits.concurrent_batches=1", detach=True)
    outcome = verbs.cancel(plan.plan_id, runs=bench.runs)
    assert (outcome.states, bench.server.creates) == ({"cancelled": 4}, 1)


def test_a_budget_refusal_leaves_nothing(bench: Workbench) -> None:
    with pytest.raises(RefusedError) as caught:
        bench.run("budget.usd=0.000001")
    assert caught.value.exit_code == 4
    assert bench.plans == []
    assert not [path for path in bench.runs.glob("*") if path.name.startswith(".making") or path.is_dir()]
    assert bench.server.log == []
    command = bench.cli("run", *bench.arguments("budget.usd=0.000001"))
    assert command.returncode == 4, command.stderr


def test_without_a_terminal_and_without_yes_a_dear_plan_is_refused_and_leaves_nothing(bench: Workbench) -> None:
    command = bench.cli("run", *bench.arguments("budget.confirm_usd=0"))
    assert command.returncode == 4, command.stderr
    assert "--yes" in command.stderr
    assert (bench.plans, bench.server.creates) == ([], 0)
    assert (
        bench.cli("run", "--yes", *bench.arguments("budget.confirm_usd=0", "limits.poll_seconds=0.01")).returncode == 0
    )


def test_a_value_that_looks_like_a_key_is_refused_before_anything_is_written(bench: Workbench) -> None:
    with pytest.raises(ConfigError) as caught:
        bench.run("model.params={api_key: sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD}")
    assert "sk-proj-abcdefghij" not in str(caught.value)
    assert not bench.runs.exists()
    assert bench.server.log == []


def test_no_file_under_runs_holds_the_key(bench: Workbench) -> None:
    def row(request: dict[str, object]) -> dict[str, object]:
        return answered(request, "{}")

    bench.server.row = row
    bench.run()
    bench.cli("status", "-v")
    for path in bench.runs.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_a_provider_that_echoes_the_key_in_an_error_does_not_get_it_onto_the_disk(bench: Workbench) -> None:
    bench.server.on("POST", "/v1/files", refuse(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"))
    outcome = bench.run()
    assert outcome.exit_code == 5
    assert KEY not in json.dumps(outcome.details)
    for path in bench.runs.rglob("*"):
        if path.is_file():
            assert KEY.encode() not in path.read_bytes(), path


def test_a_missing_key_says_which_variable_before_a_plan_is_made(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORKBENCH_KEY")
    with pytest.raises(BatchlingError, match="WORKBENCH_KEY") as caught:
        bench.run()
    assert caught.value.exit_code == 5
    assert bench.plans == []


def test_a_budget_that_holds_a_repair_back_is_told_at_once(bench: Workbench) -> None:
    bench.rows(4)
    bench.server.row = lambda request: answered(request, "no JSON")
    bench.server.endings = [Ending(), Ending(statuses=("in_progress",) * 60)]
    outcome = bench.run(
        "limits.max_requests=2", "limits.concurrent_batches=1", "retry.repair=true", "budget.usd=0.00065"
    )
    assert (outcome.exit_code, outcome.reason) == (4, "budget")
    last = max(event["ts"] for event in bench.events() if event["kind"] == "closed")
    assert bench.clock.time() - last < 120
