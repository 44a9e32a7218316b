"""A batch of which the provider shows nothing more is left to a person after a bounded time, and never bought again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from batchling.api import verbs
from batchling.errors import ProviderError
from tests.servers.batches import Ending
from tests.servers.scripted import Behaviour, Request, Wire, gateway, refuse, reply, reset
from tests.workbench import Workbench

HOUR = 3600.0
ONE = "/v1/batches/batch_0001"


def somebody_elses(request: Request) -> Wire:
    """A server that lost its state and counts from 1 again."""
    mine = {"batchling_plan": "ffffff", "batchling_shard": "1", "batchling_attempt": "1", "batchling_sha256": "0" * 64}
    document = {"id": "batch_0001", "object": "batch", "status": "completed", "input_file_id": "file-x"}
    return reply({**document, "metadata": mine, "output_file_id": "file-9", "error_file_id": None})(request)


NONSENSE: dict[str, Behaviour] = {
    "a list": reply([]),
    "a page": gateway(200),
    "null": reply(None),
    "an error with 200": reply({"error": {"message": "no such batch", "code": None}}),
    "an empty object": reply({}),
    "somebody else's batch": somebody_elses,
    "404": refuse(404, None, "No batch found"),
    "a framework's 404": reply({"detail": "Not Found"}, 404),
    "a gateway's 404": gateway(404),
    "405": reply({"detail": "Method Not Allowed"}, 405),
}


@pytest.mark.parametrize("many", [1, 4])
@pytest.mark.parametrize("what", NONSENSE)
def test_a_batch_that_is_never_readable_ends_the_watch_with_the_command_that_gives_it_up(
    bench: Workbench, what: str, many: int
) -> None:
    bench.rows(many)
    bench.server.on("GET", ONE, NONSENSE[what])
    outcome = bench.run("limits.max_requests=1")
    assert (outcome.reason, outcome.exit_code) == ("unread", 75)
    assert outcome.states == {"pending": 1, **({"ok": many - 1} if many > 1 else {})}
    assert HOUR <= bench.clock.passed < 4 * HOUR
    assert outcome.next_command is not None
    assert outcome.next_command.startswith(f"batchling resolve {outcome.plan_id} --drop --shard 1")
    assert any("batch_0001" in text and "nothing is asked again" in text for text in outcome.details), outcome.details
    assert bench.server.creates == many
    assert len(bench.server.requests("GET", ONE)) < 120
    force = "--force" in outcome.next_command
    verbs.resolve(outcome.plan_id, runs=bench.runs, decision="drop", shard=1, force=force)
    assert verbs.status(outcome.plan_id, runs=bench.runs).worst_usd
    bench.watch()
    assert bench.states(outcome)["cancelled"] == 1 and bench.server.creates == many


@pytest.mark.parametrize("what", ["404", "a page"])
def test_a_batch_that_is_there_again_is_read(bench: Workbench, what: str) -> None:
    bench.server.on("GET", ONE, NONSENSE[what])
    outcome = bench.run()
    assert outcome.reason == "unread"
    bench.server.on("GET", ONE, bench.server.normal)
    (again,) = bench.watch()
    assert (again.exit_code, again.states, bench.server.creates) == (0, {"ok": 3}, 1)


def test_a_provider_that_only_says_5xx_is_waited_for_longer_than_its_outages_last(bench: Workbench) -> None:
    bench.clock.sleeps = -1000
    bench.server.on("GET", ONE, gateway(503))
    outcome = bench.run()
    assert (outcome.reason, outcome.exit_code, bench.server.creates) == ("unread", 75, 1)
    assert 24 * HOUR <= bench.clock.passed < 30 * HOUR


def test_files_that_are_never_handed_out_are_left_too_and_not_given_up(bench: Workbench) -> None:
    bench.clock.sleeps = -1000
    bench.server.on("GET", "/v1/files/*/content", gateway(503))
    outcome = bench.run()
    assert (outcome.reason, outcome.exit_code, bench.server.creates) == ("unread", 75, 1)
    assert any("files of batch batch_0001" in text for text in outcome.details)
    bench.server.on("GET", "/v1/files/*/content", bench.server.normal)
    (again,) = bench.watch()
    assert (again.exit_code, again.states) == (0, {"ok": 3})


@pytest.mark.parametrize("status", [400, 403, 410])
@pytest.mark.parametrize("fails", [1, 3, 5])
def test_29_batches_that_are_refused_are_asked_for_a_bounded_number_of_times_while_the_list_works(
    bench: Workbench, status: int, fails: int
) -> None:
    """The list shows them all, the others end: what is refused is counted for each batch."""
    bench.rows(5)
    bench.server.endings = [Ending(statuses=("in_progress",) * 8)]
    normal = bench.server.normal
    refused = [f"/v1/batches/batch_{number:04d}" for number in range(1, fails + 1)]

    def by_id(request: Request) -> Wire:
        no = refuse(status, "gone", "The batch is not shown any longer.")
        return no(request) if request.path in refused else normal(request)

    bench.server.on("GET", "/v1/batches/*", by_id)
    with pytest.raises(ProviderError, match="refuses to show our batches") as caught:
        bench.run("limits.max_requests=1")
    assert bench.clock.passed < 6 * HOUR
    assert max(len(bench.server.requests("GET", path)) for path in refused) <= 60
    assert bench.server.creates == 5
    assert sum(event["counts"].get("ok", 0) for event in bench.events(kind="closed")) == 5 - fails
    assert caught.value.next_command is not None
    assert ("key" if status == 403 else "--drop --shard 1 --force") in caught.value.next_command


@pytest.mark.parametrize("answer", ["404", "a page"])
def test_a_cancelled_plan_whose_batch_is_never_readable_ends_too(bench: Workbench, answer: str) -> None:
    bench.server.endings = [Ending(statuses=("in_progress",) * 10_000)]
    plan = bench.run(detach=True)
    for method, route in (("GET", "/v1/batches/*"), ("POST", "/v1/batches/*/cancel")):
        bench.server.on(method, route, gateway(502) if method == "POST" else NONSENSE[answer])
    outcome = verbs.cancel(plan.plan_id, runs=bench.runs)
    assert outcome.exit_code == 75 and outcome.reason == "unread"
    assert bench.clock.passed < 4 * HOUR


def test_a_list_row_of_such_a_batch_ends_nothing(bench: Workbench) -> None:
    """The list says `completed` for ever, a GET of the id is a page for ever."""
    bench.rows(4)
    show: Callable[[dict[str, Any]], dict[str, Any]] = lambda view: {**view, "status": "completed"}  # noqa: E731
    normal = bench.server.normal

    def listed(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        return reply({**document, "data": [show(row) for row in document["data"]]})(request)

    bench.server.on("GET", "/v1/batches", listed)
    bench.server.on("GET", "/v1/batches/*", gateway(200))
    outcome = bench.run("limits.max_requests=1")
    assert (outcome.reason, outcome.states, bench.server.creates) == ("unread", {"pending": 4}, 4)
    assert len(bench.server.requests("GET", "/v1/batches/*")) < 4 * 60


def test_a_provider_that_answers_every_get_with_5xx_is_left_after_a_day(bench: Workbench) -> None:
    """The batch is left after a day, and by then the list has failed for long enough too."""
    bench.clock.sleeps = -3000
    bench.server.endings = [Ending(statuses=("in_progress",) * 1000)]
    bench.run(detach=True)
    bench.server.on("GET", "/v1/batches", gateway(503))
    bench.server.on("GET", "/v1/batches/*", gateway(503))
    (outcome,) = bench.watch()
    assert (outcome.reason, outcome.exit_code, bench.server.creates) == ("unread", 75, 1)
    assert 24 * HOUR <= bench.clock.passed < 26 * HOUR
    assert (outcome.next_command or "").startswith(f"batchling resolve {outcome.plan_id} --drop --shard 1")


@pytest.mark.parametrize("list_says", [gateway(503), refuse(500, None, "no"), refuse(429, None, "slow down")])
def test_a_batch_that_is_not_there_and_a_list_that_is_down_end_after_hours(bench: Workbench, list_says: Any) -> None:
    bench.clock.sleeps = -3000
    bench.run(detach=True)
    bench.server.on("GET", "/v1/batches", list_says)
    bench.server.on("GET", "/v1/batches/*", refuse(404, None, "No batch"))
    (outcome,) = bench.watch()
    assert (outcome.reason, outcome.exit_code, bench.server.creates) == ("unread", 75, 1)
    assert HOUR <= bench.clock.passed < 6 * HOUR


def test_a_list_that_is_down_for_a_day_leaves_a_create_of_unknown_fate_to_a_person(bench: Workbench) -> None:
    bench.clock.sleeps = -3000
    bench.server.on("POST", "/v1/batches", reset())
    bench.server.on("GET", "/v1/batches", gateway(503))
    outcome = bench.run()
    assert (outcome.reason, outcome.exit_code, bench.server.creates) == ("parked", 75, 0)
    assert 24 * HOUR <= bench.clock.passed < 26 * HOUR


def test_what_may_be_out_is_not_sent_while_the_list_is_down_and_the_command_ends(bench: Workbench) -> None:
    bench.clock.sleeps = -3000
    plan = bench.run(detach=True)
    journal = plan.folder / "journal.jsonl"
    kept = journal.read_bytes().splitlines(keepends=True)
    planned = next(n for n, text in enumerate(kept) if json.loads(text)["kind"] == "planned")
    journal.write_bytes(b"".join(kept[: planned + 1]))
    bench.server.on("GET", "/v1/batches", gateway(503))
    (outcome,) = bench.watch()
    assert (outcome.reason, outcome.exit_code, bench.server.creates) == ("unread", 75, 1)
    assert 24 * HOUR <= bench.clock.passed < 26 * HOUR
    assert outcome.next_command == f"batchling watch {plan.plan_id}"
    assert any("does not list its batches" in text for text in outcome.details), outcome.details
    bench.server.on("GET", "/v1/batches", bench.server.normal)
    (again,) = bench.watch()
    assert (again.exit_code, again.states, bench.server.creates) == (0, {"ok": 3}, 1)
    assert bench.server.times_answered() == {1}
