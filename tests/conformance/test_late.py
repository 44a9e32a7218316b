"""What the provider says too late, or not at all: answers that may be there are waited for, never bought again."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.servers.batches import Ending, failed, fitting, text_of
from tests.servers.scripted import Request, Wire, gateway, refuse, reply, reset, unmeasured
from tests.workbench import Workbench


def late(bench: Workbench, counts: Any, *, looks: int = 2, also_errors: bool = True) -> None:
    """The batch is over, and its files are named only `looks` looks later; until then it has these counts."""
    seen: Counter[str] = Counter()

    def show(view: dict[str, Any]) -> dict[str, Any]:
        if view["status"] not in ("completed", "expired", "cancelled"):
            return view
        seen[view["id"]] += 1
        if seen[view["id"]] > looks:
            return view
        hidden = {"output_file_id": None, "error_file_id": None} if also_errors else {"output_file_id": None}
        return {**view, **hidden, **({} if counts == "kept" else {"request_counts": counts})}

    bench.server.show = show


def bought(bench: Workbench) -> set[int]:
    """How often the rows were answered."""
    return set(bench.server.keys.values())


@pytest.mark.parametrize(
    "counts", [None, {"total": 0, "completed": 0, "failed": 0}, "kept"], ids=["no", "zero", "right"]
)
def test_11_files_that_are_named_late_are_waited_for_whatever_the_counts_say(bench: Workbench, counts: Any) -> None:
    late(bench, counts)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bought(bench) == {1}


def test_13_the_answers_of_an_expired_batch_are_waited_for_without_counts(bench: Workbench) -> None:
    bench.rows(6)
    bench.server.endings = [Ending("expired", answers=4, explain=False), Ending()]
    late(bench, None)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 2 and bought(bench) == {1}


def test_21_an_output_file_that_comes_after_the_error_file_is_waited_for(bench: Workbench) -> None:
    def row(request: dict[str, Any]) -> Any:
        return failed(request, "invalid_prompt") if text_of(request).endswith("0?") else fitting(request)

    bench.rows(6)
    bench.server.row = row
    late(bench, None, also_errors=False)
    assert bench.run().exit_code == 3
    assert bench.states() == {"ok": 5, "error": 1}
    assert bench.server.creates == 1 and bought(bench) == {1}


@pytest.mark.parametrize("kind", ["one line less", "one line twice", "one line for nobody"])
def test_14_a_row_that_the_counts_say_was_answered_is_not_asked_again(bench: Workbench, kind: str) -> None:
    def arrange(out: list[bytes], errors: list[bytes]) -> tuple[bytes, None]:
        if kind == "one line less":
            return b"".join(out[:-1]), None
        if kind == "one line twice":
            return b"".join([out[0], out[0], *out[2:]]), None
        nobody = {**json.loads(out[1]), "custom_id": None}
        return b"".join([out[0], json.dumps(nobody).encode() + b"\n", *out[2:]]), None

    bench.server.arrange = arrange
    assert bench.run().exit_code == 3
    # A line that names nobody may be this row's answer, which was not understood.
    assert bench.states() == {"ok": 2, "error" if kind == "one line for nobody" else "missing": 1}
    assert bench.server.creates == 1 and bought(bench) == {1}


@pytest.mark.parametrize("kind", ["a page", "nothing", "the first line"])
def test_17_a_file_that_is_wrong_for_minutes_is_not_taken_for_what_there_is(bench: Workbench, kind: str) -> None:
    def first_line(request: Request) -> Wire:
        return reply(bench.server.normal(request).body.split(b"\n")[0] + b"\n")(request)

    wrong = {"a page": gateway(200), "nothing": reply(b""), "the first line": first_line}[kind]
    bench.server.on("GET", "/v1/files/*/content", *[wrong] * 8, bench.server.normal)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bought(bench) == {1}


@pytest.mark.parametrize("results", [True, False], ids=["its results say whose it is", "its results cannot be read"])
def test_03_a_listed_batch_that_nobody_can_be_told_from_proves_no_absence(bench: Workbench, results: bool) -> None:
    normal = bench.server.normal

    def nameless(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        for entry in document["data"]:
            entry["input_file_id"] = entry["metadata"] = None
        return reply(document)(request)

    def bare(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        document["input_file_id"] = document["metadata"] = None
        return reply(document)(request)

    bench.server.on("GET", "/v1/batches", nameless)
    bench.server.on("GET", "/v1/batches/*", bare)
    bench.server.on("POST", "/v1/batches", bench.server.lost(reset()), normal)
    if not results:
        bench.server.on("GET", "/v1/files/*/content", gateway(200))
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reason) == ((0, "finished") if results else (75, "parked"))
    assert bench.server.creates == 1 and bought(bench) == {1}


def test_27_a_listed_batch_without_marks_is_asked_for_by_its_id(bench: Workbench) -> None:
    normal = bench.server.normal

    def nameless(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        for entry in document["data"]:
            entry["input_file_id"] = entry["metadata"] = None
        return reply(document)(request)

    bench.server.on("GET", "/v1/batches", nameless)
    bench.server.on("POST", "/v1/batches", bench.server.lost(reset()), normal)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bought(bench) == {1}


NO_ROUTE = {
    "a gateway's 405": gateway(405),
    "a framework's 405": reply({"detail": "Method Not Allowed"}, 405),
    "a framework's 404": reply({"detail": "Not Found"}, 404),
    "its own 405": refuse(405, None, "no"),
    "a 501": reply({"detail": "x"}, 501),
}


@pytest.mark.parametrize("answer", [*NO_ROUTE, "a bare list"])
def test_10_a_list_that_there_is_not_does_not_keep_a_plan_open(bench: Workbench, answer: str) -> None:
    bench.server.on("GET", "/v1/batches", NO_ROUTE.get(answer) or reply([]))
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bench.clock.passed < 900


@pytest.mark.parametrize("answer", NO_ROUTE)
def test_05_a_file_that_cannot_be_deleted_leaves_the_question_to_a_person(bench: Workbench, answer: str) -> None:
    bench.server.on("POST", "/v1/batches", reset(), bench.server.normal)
    bench.server.on("DELETE", "/v1/files/*", NO_ROUTE[answer])
    outcome = bench.run("model.price={input: 1.0, output: 20000.0}")
    assert (outcome.exit_code, outcome.reason) == (75, "parked")
    assert outcome.next_command is not None and "resolve" in outcome.next_command
    assert bench.server.creates == 0


@pytest.mark.parametrize("answer", NO_ROUTE)
def test_05_below_a_dollar_a_list_that_works_is_enough(bench: Workbench, answer: str) -> None:
    bench.server.on("POST", "/v1/batches", reset(), bench.server.normal)
    bench.server.on("DELETE", "/v1/files/*", NO_ROUTE[answer])
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bench.clock.passed > 900


@pytest.mark.parametrize("answer", NO_ROUTE)
def test_17_a_size_that_cannot_be_asked_for_does_not_keep_a_plan_open(bench: Workbench, answer: str) -> None:
    bench.server.on("GET", "/v1/files/*", NO_ROUTE[answer])
    bench.server.on("GET", "/v1/files/*/content", bench.server.normal)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bought(bench) == {1}


def test_05_a_deletion_that_always_fails_is_given_up_after_the_grace_time(bench: Workbench) -> None:
    bench.server.on("POST", "/v1/batches", reset(), bench.server.normal)
    bench.server.on("DELETE", "/v1/files/*", refuse(500, None, "internal error"))
    assert bench.run().exit_code == 0
    (fenced,) = bench.events(kind="fenced")
    assert fenced["deleted"] is False
    assert bench.server.creates == 1 and 3600 < bench.clock.passed < 4 * 3600


def test_28_an_error_file_beside_a_lost_output_file_is_read_to_its_end(bench: Workbench) -> None:
    """The output never arrives; the error file, cut again and again, must not be taken with half a line."""
    bench.rows(4)
    bench.server.row = lambda request: (
        fitting(request) if text_of(request).endswith("0?") else failed(request, "invalid_prompt", "no " * 30)
    )
    broken = iter(range(30, 300, 9))

    def content(request: Request) -> Wire:
        if "output" in request.path:
            return refuse(404, None, "No such file")(request)
        whole = bench.server.normal(request)
        at = next(broken, None)
        return whole if at is None else unmeasured(whole.body, at)(request)

    bench.server.on("GET", "/v1/files/*/content", content)
    outcome = bench.run()
    assert bench.states(outcome) == {"missing": 1, "error": 3}
    assert all("no no" in r["error"] for r in bench.records(outcome).values() if r["state"] == "error")
    assert sum(doubt.rows for doubt in outcome.not_received) == 1


def test_17_an_error_file_that_arrives_empty_once_is_fetched_again_where_nothing_says_how_long_it_is(
    bench: Workbench,
) -> None:
    def show(view: dict[str, Any]) -> dict[str, Any]:
        return {**view, "request_counts": None}

    bench.server.show = show
    bench.server.row = lambda request: failed(request, "invalid_prompt")
    bench.server.on("GET", "/v1/files/*/content", *[unmeasured(b"")] * 3, bench.server.normal)
    bench.server.on("GET", "/v1/files/*", gateway(500))
    bench.server.on("GET", "/v1/files/*/content", *[unmeasured(b"")] * 3, bench.server.normal)
    outcome = bench.run()
    assert bench.states(outcome) == {"error": 3} and not outcome.not_received


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_13_a_batch_that_stopped_by_itself_and_says_that_it_answered_nothing_is_looked_at_again(
    bench: Workbench, status: str
) -> None:
    """Files and counts both come later than the status."""
    bench.rows(6)
    bench.server.endings = [Ending(status, answers=4, explain=False), Ending()]
    late(bench, {"total": 6, "completed": 0, "failed": 0})
    outcome = bench.run()
    assert bench.states(outcome)["ok"] >= 4 and bought(bench) == {1}


def test_13_a_batch_that_expired_without_an_answer_is_asked_again_after_minutes(bench: Workbench) -> None:
    bench.server.endings = [Ending("expired", answers=0, explain=False), Ending()]
    nothing = {"total": 3, "completed": 0, "failed": 0}
    bench.server.show = lambda view: {**view, "request_counts": nothing} if view["status"] == "expired" else view
    outcome = bench.run()
    assert (outcome.exit_code, bench.server.creates) == (0, 2)
    assert bench.clock.passed < 3600


@pytest.mark.parametrize("counts", ["too low", "right"])
def test_17_a_file_that_is_cut_between_two_lines_once_is_fetched_again_where_nothing_says_how_long_it_is(
    bench: Workbench, counts: str
) -> None:
    """No Content-Length, no size, and counts that fit what arrived."""

    def show(view: dict[str, Any]) -> dict[str, Any]:
        low = {"total": 3, "completed": 2, "failed": 0}
        return {**view, "request_counts": low} if counts == "too low" and view["status"] == "completed" else view

    def first_two(request: Request) -> Wire:
        whole = bench.server.normal(request).body
        return unmeasured(b"".join(whole.splitlines(keepends=True)[:2]))(request)

    bench.server.show = show
    bench.server.on("GET", "/v1/files/*", gateway(500))
    bench.server.on("GET", "/v1/files/*/content", first_two, first_two, bench.server.normal)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bought(bench) == {1}


@pytest.mark.parametrize("beside", ["nobody's line", "a line twice"])
def test_14_lines_are_no_answers(bench: Workbench, beside: str) -> None:
    """As many lines as rows, of the stated size; one of them is no row's answer, and the file still fills."""

    def arrange(out: list[bytes], errors: list[bytes]) -> tuple[bytes, None]:
        nobody = json.dumps({**json.loads(out[0]), "custom_id": "k1-" + "0" * 40 + "-000000-0001"}).encode() + b"\n"
        return b"".join([out[0], out[1], nobody if beside == "nobody's line" else out[0], out[2]]), None

    def three(request: Request) -> Wire:
        return reply(b"".join(bench.server.normal(request).body.splitlines(keepends=True)[:3]))(request)

    def size_of_three(request: Request) -> Wire:
        content = bench.server.files[request.path.rsplit("/", 1)[-1]]
        size = sum(len(line) for line in content.splitlines(keepends=True)[:3])
        return reply({"id": "file", "object": "file", "bytes": size})(request)

    bench.server.arrange = arrange
    bench.server.on("GET", "/v1/files/*", size_of_three, size_of_three, bench.server.normal)
    bench.server.on("GET", "/v1/files/*/content", three, three, bench.server.normal)
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1 and bought(bench) == {1}
