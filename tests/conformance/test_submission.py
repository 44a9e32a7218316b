"""What goes wrong between a plan and its batches, through the whole of batchling. Numbers: docs, conformance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchling.api import verbs
from batchling.errors import ProviderError, RefusedError, UnfinishedError, UsageError
from tests.servers.batches import Ending, text_of
from tests.servers.scripted import Request, Wire, cut, gateway, refuse, reply, reset
from tests.workbench import Workbench

CREATE = ("POST", "/v1/batches")


def test_01_a_503_while_polling_does_not_fail_a_batch(bench: Workbench) -> None:
    bench.server.on("GET", "/v1/batches/*", gateway(503), refuse(503, None, "later"), reset(), bench.server.normal)
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 1)


def test_01_a_503_when_a_plan_is_taken_up_again_does_not_make_a_second_batch(bench: Workbench) -> None:
    assert bench.run(detach=True).exit_code == 75
    for route in ("/v1/batches", "/v1/batches/*"):
        bench.server.on("GET", route, gateway(503), gateway(502), bench.server.normal)
    assert bench.run().exit_code == 0
    assert (bench.server.creates, bench.server.times_answered()) == (1, {1})


def test_02_a_batch_whose_id_was_lost_to_a_kill_is_adopted(bench: Workbench) -> None:
    """Killed between the provider's answer to the create and its record."""
    script = (
        "import os, signal, sys\n"
        "from batchling.journal import Journal\n"
        "from batchling.__main__ import main\n"
        "append = Journal.append\n"
        "def dying(self, events, *, ts):\n"
        "    events = list(events)\n"
        "    if any(event['kind'] == 'created' for event in events):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return append(self, events, ts=ts)\n"
        "Journal.append = dying\n"
        "sys.exit(main())\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, "run", "--yes", *bench.arguments()],
        cwd=bench.root,
        env={**os.environ},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    assert bench.server.creates == 1
    assert bench.events()[-1]["kind"] == "create_intent"
    outcome = bench.run()
    assert (outcome.exit_code, outcome.created, bench.server.creates) == (0, False, 1)
    assert bench.events(kind="created")[0]["adopted"] is True
    assert bench.server.times_answered() == {1}


@pytest.mark.parametrize(
    "heard",
    [reset(), gateway(502), gateway(500), refuse(500, "server_error", "oops"), cut({"id": "batch_0001"}, 9), reply({})],
    ids=["reset", "502", "500", "500-own", "cut", "no-id"],
)
def test_03_a_create_that_happened_although_the_gateway_says_500_is_adopted(bench: Workbench, heard: object) -> None:
    bench.server.on(*CREATE, bench.server.lost(heard), bench.server.normal)  # type: ignore[arg-type]
    outcome = bench.run()
    assert (outcome.exit_code, bench.server.creates, bench.server.times_answered()) == (0, 1, {1})
    assert bench.events(kind="created")[0]["adopted"] is True


def test_03_a_create_that_did_not_happen_is_sent_again_only_when_it_can_no_longer_arrive(bench: Workbench) -> None:
    remember, arrive = bench.server.late()
    bench.server.on(*CREATE, remember, bench.server.normal)
    outcome = bench.run()
    assert outcome.exit_code == 0
    assert [e["kind"] for e in bench.events() if e["kind"] in ("fenced", "absent")] == ["fenced", "absent"]
    assert bench.clock.passed >= 900.0, "the settling time was not kept"
    late = arrive()
    assert (late.status, bench.server.creates) == (400, 1), "its file is gone, so the late create fails"
    assert bench.server.times_answered() == {1}


def test_03_a_dear_create_whose_fate_is_unknown_waits_for_a_person(bench: Workbench) -> None:
    bench.server.on(*CREATE, reset(), bench.server.normal)
    outcome = bench.run("retry.resubmit_usd=0")
    assert (outcome.exit_code, outcome.reason, bench.server.creates) == (75, "parked", 0)
    assert outcome.next_command is not None and "resolve" in outcome.next_command
    verbs.resolve(outcome.plan_id, runs=bench.runs, decision="resubmit")
    assert bench.run("retry.resubmit_usd=0").exit_code == 0
    assert (bench.server.creates, bench.server.times_answered()) == (1, {1})


def test_04_a_404_right_after_the_create_and_again_later_is_polled_on(bench: Workbench) -> None:
    missing = refuse(404, None, "No batch found")
    normal = bench.server.normal
    bench.server.on("GET", "/v1/batches/*", *[missing] * 3, normal, *[missing] * 11, normal)
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 1)


def test_05_the_limit_of_enqueued_tokens_is_learned_and_costs_no_attempt(bench: Workbench) -> None:
    message = "Enqueued token limit reached for m-1 in organization org-1. Limit: 60 enqueued tokens. Please try again."
    throttled = Ending("failed", errors=({"code": "token_limit_exceeded", "message": message, "line": None},))
    bench.rows(12)
    bench.server.endings = [throttled, throttled, Ending()]
    outcome = bench.run("limits.max_requests=2", "retry.attempts=1")
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 12})
    assert bench.server.times_answered() == {1}
    assert bench.events(kind="learned")[0]["limit"] == 60
    assert {record["attempts"] for record in bench.records().values()} == {1}


def test_05_the_learned_limit_holds_back_what_does_not_fit_until_a_batch_ends(bench: Workbench) -> None:
    message = "Enqueued token limit reached for m-1. Limit: 100 enqueued tokens."
    bench.rows(8)
    waiting: list[int] = []

    def create(request: Request) -> Wire:
        out = sum(not made.over for made in bench.server.made.values())
        waiting.append(out)
        if out:
            return refuse(400, "token_limit_exceeded", message)(request)
        return bench.server.normal(request)

    bench.server.on(*CREATE, create)
    outcome = bench.run("limits.max_requests=2", "retry.attempts=1")
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 8})
    assert sum(out > 0 for out in waiting) == 1, "one refusal teaches it"


def test_06_a_file_that_is_not_ready_right_after_its_upload_is_waited_for(bench: Workbench) -> None:
    not_ready = refuse(400, "invalid_request", "The input file is not ready yet: it is being processed.")
    bench.server.on(*CREATE, not_ready, not_ready, bench.server.normal)
    outcome = bench.run()
    assert (outcome.exit_code, bench.server.creates) == (0, 1)


def test_06_a_batch_that_fails_because_its_file_was_not_found_is_sent_again(bench: Workbench) -> None:
    lost = Ending("failed", errors=({"code": None, "message": "No such File object: file-0001", "line": None},))
    bench.server.endings = [lost, Ending()]
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (0, {"ok": 3}, {1})


def test_07_another_key_than_the_batches_were_made_with_stops_the_plan(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "sk-workbench-0123456789abcdefghijklmnop"
    bench.run(detach=True)
    monkeypatch.setenv("WORKBENCH_KEY", "sk-another-0123456789abcdefghijklmno")
    bench.server.on("GET", "/v1/batches/*", refuse(404, None, "No batch found"))  # as this key sees it
    with pytest.raises(ProviderError) as caught:
        bench.run()
    bench.server.on("GET", "/v1/batches/*", bench.server.normal)
    assert caught.value.exit_code == 5
    assert bench.server.creates == 1, "nothing is sent again"
    monkeypatch.setenv("WORKBENCH_KEY", first)
    assert bench.run().exit_code == 0
    assert bench.server.times_answered() == {1}
    for path in bench.runs.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert first.encode() not in content and b"sk-another" not in content, path


def test_07_a_key_that_the_provider_refuses_stops_with_5_and_sends_nothing_again(bench: Workbench) -> None:
    bench.server.on(
        "POST", "/v1/files", refuse(401, "invalid_api_key", "Incorrect API key provided"), bench.server.normal
    )
    outcome = bench.run()
    assert (outcome.exit_code, bench.server.creates) == (5, 0)
    assert bench.run().exit_code == 0


def test_07_an_address_without_a_files_api_ends_instead_of_being_asked_for_ever(bench: Workbench) -> None:
    bench.server.on("POST", "/v1/files", refuse(404, None, "Resource not found"))
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reason) == (5, "refused")
    assert any("Resource not found" in text for text in outcome.details)
    assert len(bench.server.log) == 4


def test_08_a_dry_run_touches_nothing(bench: Workbench) -> None:
    bench.run()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bench.root.rglob("*") if path.is_file()}
    seen = len(bench.server.log)
    bench.rows(5)
    before[bench.root / "experiments/ask/rows.jsonl"] = (0, b"")
    report = verbs.plan(*_split(bench.arguments()), project=bench.project, show=1)
    assert (report.requests, report.cached) == (2, 3)
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bench.root.rglob("*") if path.is_file()}
    after[bench.root / "experiments/ask/rows.jsonl"] = (0, b"")
    assert after == before
    assert len(bench.server.log) == seen


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    return arguments[0], arguments[1:]


def test_09_every_part_of_a_split_is_submitted(bench: Workbench) -> None:
    bench.rows(7)
    outcome = bench.run("limits.max_requests=3")
    assert (outcome.exit_code, bench.server.creates) == (0, 3)
    assert [len(made.requests) for made in bench.server.made.values()] == [3, 3, 1]
    assert sorted(text_of(r) for r in bench.server.sent()) == [f"Which one is number {n}?" for n in range(7)]


def test_10_trouble_while_polling_or_downloading_never_leads_to_the_online_api(bench: Workbench) -> None:
    bench.server.on("GET", "/v1/batches/*", *[gateway(502)] * 20, bench.server.normal)
    bench.server.on("GET", "/v1/files/*", *[gateway(500)] * 20, bench.server.normal)
    outcome = bench.run()
    assert (outcome.exit_code, bench.server.creates) == (0, 1)
    called = {(r.method, r.path.split("/")[2]) for r in bench.server.log}
    assert called == {("POST", "files"), ("POST", "batches"), ("GET", "batches"), ("GET", "files")}


def test_10_no_model_provider_or_key_takes_the_place_of_another(bench: Workbench) -> None:
    bench.server.row = lambda request: {
        "custom_id": request["custom_id"],
        "response": {"status_code": 503, "body": {"error": {"message": "overloaded"}}},
        "error": None,
    }
    outcome = bench.run()
    assert (outcome.exit_code, bench.states()) == (3, {"error": 3})
    assert {request["body"]["model"] for request in bench.server.sent()} == {"m-1"}
    assert {r.headers["authorization"] for r in bench.server.log} == {"Bearer sk-workbench-0123456789abcdefghijklmnop"}


def test_the_batch_says_which_plan_and_shard_it_is(bench: Workbench) -> None:
    bench.run()
    (create,) = bench.server.requests(*CREATE)
    metadata = create.json["metadata"]
    assert metadata["batchling_plan"] == bench.plans[-1].name[-6:]
    assert metadata["batchling_shard"] == "0001"


def test_request_files_on_disk_are_what_was_sent(bench: Workbench) -> None:
    bench.run()
    stored = [path.read_bytes() for path in sorted(Path(bench.plans[-1] / "requests").glob("*.jsonl"))]
    assert stored == list(bench.server.uploads.values())


def test_03_a_create_that_is_ambiguous_every_time_ends_with_a_person(bench: Workbench) -> None:
    bench.server.on(*CREATE, refuse(500, "server_error", "oops"))
    outcome = bench.run("model.price={input: 0, output: 0}")
    assert (outcome.exit_code, outcome.reason) == (75, "parked")
    assert len(bench.events(kind="create_intent")) == 3
    assert len(bench.events(kind="absent")) == 2


def test_03_what_is_presumed_absent_is_bounded_for_the_shard_and_not_for_each_attempt(bench: Workbench) -> None:
    bench.server.on(*CREATE, refuse(500, "server_error", "oops"))
    parked = bench.run("retry.resubmit_usd=0")
    usd = float(bench.events(kind="planned")[0]["shards"][0]["max_usd"])
    verbs.resolve(parked.plan_id, runs=bench.runs, decision="drop")
    bench.run("retry.resubmit_usd=0")
    bench.rows([{"id": f"s{n}", "text": f"number {n + 5}"} for n in range(3)])
    outcome = bench.run(f"retry.resubmit_usd={usd * 1.5:.9f}")
    assert outcome.reason == "parked"
    assert len(bench.events(kind="create_intent")) == 2


def test_10_a_list_that_is_refused_keeps_no_finished_plan_open(bench: Workbench) -> None:
    bench.server.on("GET", "/v1/batches", refuse(403, "forbidden", "this key may not list"))
    outcome = bench.run()
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 3})


def test_10_batches_are_polled_by_themselves_where_the_list_is_refused(bench: Workbench) -> None:
    bench.server.on("GET", "/v1/batches", refuse(403, "forbidden", "this key may not list"))
    outcome = bench.run("limits.max_requests=1")
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 3})


@pytest.mark.parametrize("own", [True, False], ids=["the provider's words", "a gateway's page"])
def test_a_cancellation_with_a_key_that_is_refused_ends_soon_and_says_what_still_runs(
    bench: Workbench, own: bool
) -> None:
    plan = bench.run("limits.max_requests=1", detach=True)
    no = refuse(401, "invalid_api_key", "Incorrect API key provided") if own else gateway(401)
    for method in ("GET", "POST"):
        bench.server.on(method, "*", no)
    before = bench.clock.passed
    with pytest.raises(ProviderError, match="3 batches keep running") as caught:
        verbs.cancel(plan.plan_id, runs=bench.runs)
    assert caught.value.exit_code == 5 and bench.clock.passed - before < 60
    assert caught.value.next_command == f"correct the key, then: batchling cancel {plan.plan_id}"
    assert not bench.events(kind="cancelling"), "nobody has heard of it"
    for method in ("GET", "POST"):
        bench.server.on(method, "*", bench.server.normal)
    assert verbs.cancel(plan.plan_id, runs=bench.runs).state == "cancelled"
    assert len(bench.events(kind="cancelling")) == 3


def test_11_a_batch_that_the_provider_has_lost_can_be_given_up_and_only_then(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    with pytest.raises(UsageError, match="may still bring answers"):
        verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop")
    gone = refuse(404, None, "No batch found")
    bench.server.on("GET", "/v1/batches/*", gone)
    bench.server.on("GET", "/v1/batches", reply({"object": "list", "data": [], "has_more": False}))
    bench.server.on("POST", "/v1/batches/*/cancel", gone)
    with pytest.raises(UnfinishedError) as caught:
        verbs.cancel(plan.plan_id, runs=bench.runs)
    assert caught.value.next_command == f"batchling resolve {plan.plan_id} --drop --shard 1"
    status = verbs.resolve(plan.plan_id, runs=bench.runs, decision="drop", shard=1)
    assert status.worst_usd and status.worst_usd > 0, "it may have been billed"
    (outcome,) = bench.watch()
    assert outcome.states == {"cancelled": 3}
    bench.server.on("GET", "/v1/batches/*", bench.server.normal)
    assert bench.run().states == {"cancelled": 3}, "it may have been billed: asking again is a person's decision"
    with pytest.raises(RefusedError, match="may have been paid for") as refused:
        bench.run(retry=["missing"])
    assert refused.value.exit_code == 4 and bench.server.creates == 1, "nobody was asked"
    assert bench.run(retry=["missing"], confirm=lambda what, worst: True).states == {"ok": 3}
