"""The batch is the truth and the list is a hint (CONFORMANCE 27 to 29, 35, 36): servers whose lists, counts, sizes and words are wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from batchling.cli.progress import Lines
from batchling.errors import ProviderError
from tests.servers.batches import Ending
from tests.servers.scripted import Request, Wire, gateway, refuse, reply
from tests.workbench import Workbench

Change = Callable[[dict[str, Any]], dict[str, Any] | None]


def listed(bench: Workbench, change: Change) -> None:
    """Each row of the list is changed before it is shown; None leaves it out."""
    normal = bench.server.normal

    def show(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        rows = [changed for row in document["data"] if (changed := change(dict(row))) is not None]
        return reply({**document, "data": rows})(request)

    bench.server.on("GET", "/v1/batches", show)


def gets(bench: Workbench) -> int:
    return len(bench.server.requests("GET", "/v1/batches/*"))


def cancels(bench: Workbench) -> int:
    return len(bench.server.requests("POST", "*/cancel"))


LIES: dict[str, Change] = {
    "validating for ever": lambda row: {**row, "status": "validating", "output_file_id": None},
    "failed for ever": lambda row: {**row, "status": "failed", "errors": None, "output_file_id": None},
    "expired without files": lambda row: {**row, "status": "expired", "output_file_id": None, "request_counts": None},
    "cancelled": lambda row: {**row, "status": "cancelled", "output_file_id": None},
    "completed at once, a foreign file": lambda row: {**row, "status": "completed", "output_file_id": "file-foreign"},
    "nothing of ours": lambda row: None,
    "another input file": lambda row: {**row, "input_file_id": "raw-" + str(row["input_file_id"])},
    "somebody else's metadata": lambda row: {**row, "metadata": {"batchling_plan": "f00f00"}},
}


@pytest.mark.parametrize("lie", LIES)
def test_27_nothing_that_a_list_says_ends_fails_or_cancels_a_batch(bench: Workbench, lie: str) -> None:
    bench.server.endings = [Ending(statuses=("in_progress",) * 4)] * 3
    listed(bench, LIES[lie])
    outcome = bench.run("limits.max_requests=1")
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 3})
    assert (bench.server.creates, cancels(bench)) == (3, 0)
    assert bench.server.times_answered() == {1}


def aliased(bench: Workbench) -> None:
    """The gateway of BerriAI/litellm#19040: the list has the upstream's ids, and a GET takes both."""
    normal = bench.server.normal

    def by_id(request: Request) -> Wire:
        name = request.path.rsplit("/", 1)[-1]
        known = Request(**{**vars(request), "path": request.path.replace("raw-", "")})
        document = json.loads(normal(known).body)
        return reply({**document, "id": name})(request)

    bench.server.on("GET", "/v1/batches/*", by_id)
    listed(bench, lambda row: {**row, "id": "raw-" + row["id"]})


def test_27_another_name_for_a_batch_is_remembered_and_never_cancelled(bench: Workbench) -> None:
    bench.server.endings = [Ending(statuses=("in_progress",) * 6)] * 3
    aliased(bench)
    outcome = bench.run("limits.max_requests=1")
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 3})
    assert (bench.server.creates, cancels(bench)) == (3, 0)
    named = Counter(event["batch_id"] for event in bench.events(kind="alias"))
    assert len(named) == 3 and set(named.values()) == {1}
    assert not bench.events(kind="duplicate")


def test_27_a_get_that_is_about_another_batch_ends_nothing(bench: Workbench) -> None:
    """A server that lost its state and counts from 1 again."""
    normal = bench.server.normal
    bench.server.endings = [Ending(statuses=("in_progress",))]

    def foreign(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        theirs = {"batchling_plan": "f00f00", "batchling_sha256": "0" * 64}
        return reply({**document, "status": "failed", "input_file_id": "file-9", "metadata": theirs})(request)

    bench.server.on("GET", "/v1/batches/*", foreign, foreign, foreign, normal)
    outcome = bench.run()
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 3})
    assert bench.server.creates == 1


@pytest.mark.parametrize("size", [0, 1, 10**9])
def test_29_a_stated_size_is_no_reason_to_wait_when_each_row_has_a_line(bench: Workbench, size: int) -> None:
    normal = bench.server.normal

    def stated(request: Request) -> Wire:
        answer = normal(request)
        if request.path.endswith("/content"):
            return answer
        return reply({**json.loads(answer.body), "bytes": size})(request)

    bench.server.on("GET", "/v1/files/*", stated)
    bench.server.on("GET", "/v1/files/*/content", normal)
    assert bench.run().states == {"ok": 3}
    assert bench.clock.passed < 300


@pytest.mark.parametrize("status", [400, 403, 404, 410, 500])
def test_29_an_error_file_that_is_not_there_keeps_no_paid_answer_waiting(bench: Workbench, status: int) -> None:
    bench.server.show = lambda view: {**view, "error_file_id": "file-none"} if view["status"] == "completed" else view
    bench.server.on("GET", "/v1/files/file-none*", refuse(status, None, "No such File object"))
    bench.server.on("GET", "/v1/files/file-none/content", refuse(status, None, "No such File object"))
    assert bench.run().states == {"ok": 3}
    assert bench.clock.passed < 300


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_28_fewer_answers_than_announced_are_fetched_again(bench: Workbench, lines: int) -> None:
    normal = bench.server.normal

    def filling(request: Request) -> Wire:
        answer = normal(request)
        return Wire(**{**vars(answer), "body": b"".join(answer.body.splitlines(True)[:lines])})

    bench.server.on("GET", "/v1/files/*/content", filling, filling, filling, normal)
    outcome = bench.run()
    assert (outcome.states, bench.server.creates) == ({"ok": 3}, 1)


@pytest.mark.parametrize(("status", "exit_code"), [(400, 3), (410, 3), (403, 5)])
def test_29_a_refused_download_ends_in_a_bounded_time(bench: Workbench, status: int, exit_code: int) -> None:
    bench.server.on("GET", "/v1/files/*/content", refuse(status, "file_deleted", "The results file was deleted."))
    if exit_code == 5:
        with pytest.raises(ProviderError, match="refuses to hand out file"):
            bench.run()
    else:
        outcome = bench.run()
        assert (outcome.exit_code, outcome.states) == (exit_code, {"missing": 3})
    assert bench.clock.passed < 2 * 3600
    assert bench.server.creates == 1


@pytest.mark.parametrize("status", [400, 403, 410, 451])
def test_29_a_batch_that_the_provider_refuses_to_show_ends_in_a_bounded_time(bench: Workbench, status: int) -> None:
    bench.server.on("GET", "/v1/batches/*", refuse(status, "gone", "The batch is not shown any longer."))
    with pytest.raises(ProviderError, match="refuses to show our batches") as caught:
        bench.run()
    assert bench.clock.passed < 2 * 3600
    assert (bench.server.creates, cancels(bench)) == (1, 0)
    word = "key" if status == 403 else "--drop --shard 1 --force"
    assert caught.value.next_command is not None and word in caught.value.next_command


def test_32_a_batch_that_has_ended_without_its_files_is_given_up_and_not_cancelled(bench: Workbench) -> None:
    bench.server.show = lambda view: {**view, "output_file_id": None}
    lines: list[str] = []
    outcome = bench.run(observer=Lines(write=lines.append))
    assert (outcome.states, bench.server.creates) == ({"missing": 3}, 1)
    ended = [line for line in lines if "which has ended" in line]
    assert ended and all("--drop --shard 1 --force" in line and "cancel" not in line for line in ended)
    assert not [line for line in lines if "cannot be reached" in line]


@pytest.mark.parametrize("word", ["complete", "done", "succeeded", "Finished"])
def test_36_a_batch_that_is_over_in_other_words_is_read_after_a_while(bench: Workbench, word: str) -> None:
    bench.server.show = lambda view: {**view, "status": word} if view["status"] == "completed" else view
    assert bench.run().states == {"ok": 3}
    assert 60 < bench.clock.passed < 3600


def test_p13_a_hundred_batches_that_wait_an_hour_cost_a_list_a_minute_and_four_gets_each(bench: Workbench) -> None:
    bench.rows(100)
    bench.server.endings = [Ending(statuses=("in_progress",) * 100_000)] * 100
    bench.run("limits.max_requests=1", detach=True)
    before = gets(bench), len(bench.server.requests("GET", "/v1/batches"))
    start = bench.clock.passed

    class Enough(Exception):
        pass

    sleep = bench.clock.sleep

    def until(seconds: float) -> None:
        bench.clock.sleeps = 0
        sleep(seconds)
        if bench.clock.passed - start > 3600:
            raise Enough

    bench.clock.sleep = until  # type: ignore[method-assign]
    with pytest.raises(Enough):
        bench.watch()
    lists = len(bench.server.requests("GET", "/v1/batches")) - before[1]
    assert lists <= 60 + 4, "an audit before anything else, after an hour, and the first look are lists too"
    assert 100 <= gets(bench) - before[0] <= 400


def test_a_list_that_can_never_be_read_keeps_no_plan_open_of_which_everything_is_collected(bench: Workbench) -> None:
    """The last look is for batches made twice; behind a gateway that only says 503 to it a run did not end."""
    bench.server.on("GET", "/v1/batches", gateway(503))
    outcome = bench.run()
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 3})
    assert bench.clock.passed < 2 * 3600 + 600
    bench.run()
    assert bench.server.creates == 1
