"""A person can always stop waiting: `resolve --drop --shard N --force`, whatever the provider says."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from batchling.api import verbs
from batchling.api.outcome import Outcome
from batchling.errors import DetachedError, UsageError
from batchling.runner.shards import ShardWriter
from tests.servers.batches import Ending, failed, fitting, text_of
from tests.servers.scripted import gateway, refuse, reply, reset
from tests.workbench import ENDLESS, EXPERIMENT, KEY_VARIABLE, Workbench

CREATE = ("POST", "/v1/batches")


def waits(bench: Workbench) -> None:
    """Waits until it is plain that this does not end."""
    bench.clock.sleeps = ENDLESS - 25
    with pytest.raises(AssertionError, match="does not end"):
        bench.watch()
    bench.clock.sleeps = 0


def lost_by_the_server(bench: Workbench) -> Outcome:
    outcome = bench.run(detach=True)
    bench.server.on("GET", "/v1/batches/*", refuse(500, None, "The api_key client option must be set"))
    bench.server.on("GET", "/v1/batches", reply({"object": "list", "data": [], "has_more": False}))
    waits(bench)
    return outcome


def cancelling_for_ever(bench: Workbench) -> Outcome:
    bench.server.show = lambda view: {**view, "status": "cancelling"}
    outcome = bench.run(detach=True)
    waits(bench)
    return outcome


def in_progress(bench: Workbench) -> Outcome:
    bench.server.endings = [Ending(statuses=("in_progress",) * 10_000)]
    return bench.run(detach=True)


def recovering(bench: Workbench) -> Outcome:
    bench.server.on(*CREATE, bench.server.lost(reset()))
    bench.server.on("GET", "/v1/batches", gateway(503))
    outcome = bench.run(detach=True)
    assert bench.events()[-1]["kind"] == "create_intent"
    return outcome


def fenced(bench: Workbench) -> Outcome:
    bench.server.on(*CREATE, reset())
    outcome = bench.run(detach=True)
    assert bench.events()[-1]["kind"] == "fenced"
    return outcome


def parked(bench: Workbench) -> Outcome:
    bench.server.on(*CREATE, reset())
    outcome = bench.run("retry.resubmit_usd=0")
    assert outcome.reason == "parked"
    return outcome


def files_that_cannot_be_had(bench: Workbench) -> Outcome:
    outcome = bench.run(detach=True)
    bench.server.on("GET", "/v1/files/*/content", gateway(503))
    waits(bench)
    assert bench.events(kind="ended")
    return outcome


EVERY = [
    lost_by_the_server,
    cancelling_for_ever,
    in_progress,
    recovering,
    fenced,
    parked,
    files_that_cannot_be_had,
]


@pytest.mark.parametrize("stuck", EVERY)
def test_what_never_ends_can_be_given_up(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, stuck: Callable[[Workbench], Outcome]
) -> None:
    plan = stuck(bench)
    before = verbs.status(plan.plan_id, runs=bench.runs)
    monkeypatch.delenv(KEY_VARIABLE)
    asked = len(bench.server.log)
    after = verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", shard=1, force=True)
    assert len(bench.server.log) == asked, "the provider is not asked"
    assert (after.state, after.states) == ("finished", {"cancelled": 3})
    assert after.worst_usd == before.worst_usd and after.worst_usd and after.worst_usd > Decimal(0)
    assert bench.watch() == []
    assert bench.states(plan) == {"cancelled": 3}
    assert verbs.remove(plan.plan_id, runs=bench.runs, force=True) > 0


@pytest.mark.parametrize("stuck", [lost_by_the_server, recovering])
def test_a_plan_that_waits_for_these_rows_is_freed(bench: Workbench, stuck: Callable[[Workbench], Outcome]) -> None:
    plan = stuck(bench)
    config = (bench.root / "experiments/ask/config.yaml").read_text()
    bench.write({"experiments/other/config.yaml": config.replace("name: ask", "name: other")})
    bench.rows(4, name="other")
    for method, route in (("GET", "/v1/batches/*"), ("GET", "/v1/batches"), CREATE):
        bench.server.on(method, route, bench.server.normal)
    bench.server.endings = [Ending(statuses=("in_progress",))]
    other = bench.run(name="other", detach=True)
    assert bench.events(other.folder)[0]["awaits"] == [plan.plan_id]
    verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", shard=1, force=True)
    (outcome,) = bench.watch(other.plan_id)
    assert outcome.exit_code == 0 and bench.states(outcome) == {"ok": 4}
    assert any("given up" in text and plan.plan_id in text for text in outcome.warnings), outcome.warnings


def test_one_shard_is_given_up_and_the_others_go_on(bench: Workbench) -> None:
    bench.rows(4)
    bench.server.endings = [Ending(statuses=("in_progress",) * 10_000), Ending()]
    plan = bench.run("limits.max_requests=2", detach=True)
    with pytest.raises(UsageError, match="say which"):
        verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", force=True)
    left = verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", shard=1, force=True)
    assert left.state == "waiting"
    with pytest.raises(UsageError, match="nothing of shard 1 is left"):
        verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", shard=1, force=True)
    with pytest.raises(UsageError, match="not finished") as refused:
        verbs.remove(plan.plan_id, runs=bench.runs, force=True)
    assert f"batchling resolve {plan.plan_id} --drop --shard 2 --force" == refused.value.next_command
    (outcome,) = bench.watch()
    assert outcome.exit_code == 3 and bench.states(plan) == {"cancelled": 2, "ok": 2}


def test_answers_that_are_here_already_are_kept(bench: Workbench) -> None:
    """The output file arrived, the error file never does."""
    bench.server.row = lambda request: (
        failed(request, "bad_row") if text_of(request).endswith("number 2?") else fitting(request)
    )
    plan = bench.run(detach=True)
    gone = gateway(503)
    bench.server.on(
        "GET",
        "/v1/files/*/content",
        lambda request: gone(request) if "error" in request.path else bench.server.normal(request),
    )
    waits(bench)
    after = verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", shard=1, force=True)
    assert (after.state, after.states) == ("finished", {"ok": 2, "missing": 1})
    assert after.actual_usd == Decimal("0.000040000")


def test_the_command_works_without_a_key(bench: Workbench) -> None:
    plan = lost_by_the_server(bench)
    done = bench.cli("resolve", plan.plan_id, "--drop", "--shard", "1", "--force", environ={KEY_VARIABLE: ""})
    assert done.returncode == 0 and "given up" in done.stdout, done.stderr
    assert bench.cli("rm", plan.plan_id, "--force").returncode == 0
    assert not plan.folder.exists()


@pytest.mark.parametrize("rows", [1, 3])
def test_what_is_taken_over_may_be_interrupted_when_its_requests_are_written(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Ctrl-C after the request files of a plan that only waited are there, before its journal has them."""
    bench.rows(rows)
    bench.server.endings = [Ending(statuses=("in_progress",) * 10_000)]
    first = bench.run(detach=True)
    bench.write({"experiments/other/config.yaml": EXPERIMENT.replace("name: ask", "name: other")})
    bench.rows(rows, name="other")
    second = bench.run(name="other", detach=True)
    assert second.reason == "awaiting"
    bench.server.endings = [Ending()]
    verbs.resolve(first.plan_id, runs=bench.runs, decision="drop", shard=1, force=True)
    written = ShardWriter.finish

    def interrupted(writer: ShardWriter) -> object:
        written(writer)
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "finish", interrupted)
    with pytest.raises(DetachedError):
        bench.watch(second.plan_id)
    monkeypatch.setattr(ShardWriter, "finish", written)
    assert verbs.status(second.plan_id, runs=bench.runs).plan_id == second.plan_id
    (outcome,) = bench.watch(second.plan_id)
    assert (outcome.exit_code, outcome.states, bench.server.creates) == (0, {"ok": rows}, 2)
    assert bench.server.times_answered() == {1}, "the batch that was given up has answered nothing"
