"""What goes wrong while results are read, through the whole of batchling. Every paid row is kept, every row has one state."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batchling import plan_document
from batchling.catalog import ensure
from tests.servers.batches import Ending, Line, answered, failed, fitting, line, text_of
from tests.servers.scripted import Request, Wire, reply, reset, unmeasured
from tests.workbench import Workbench

GOOD = '{"label": "a"}'


def only(label: str) -> str:
    return json.dumps({"label": label})


def number(request: dict[str, Any]) -> int:
    """Which row asks: rows say `number N`."""
    found = re.search(r"number (\d+)", text_of(request))
    assert found is not None
    return int(found.group(1))


def test_11_completed_without_an_output_file_and_only_an_error_file(bench: Workbench) -> None:
    bench.server.row = lambda request: line(request, 400, {"error": {"message": "bad image", "code": "invalid_image"}})
    outcome = bench.run()
    assert (outcome.exit_code, bench.states()) == (3, {"error": 3})
    assert "bad image" in bench.records()["r0"]["error"]
    assert bench.run().created is False, "a final error is an answer: nothing is asked again"


@pytest.mark.parametrize("absent", ["", None])
def test_11_an_error_file_id_that_is_empty_means_no_file(bench: Workbench, absent: str | None) -> None:
    bench.server.show = lambda view: {**view, "error_file_id": view["error_file_id"] or absent}
    assert bench.run().exit_code == 0


def test_11_an_error_file_that_is_there_but_empty(bench: Workbench) -> None:
    bench.server.arrange = lambda output, errors: (b"".join(output), b"")
    assert (bench.run().exit_code, bench.states()) == (0, {"ok": 3})


def test_12_output_and_error_file_are_both_read_and_add_up(bench: Workbench) -> None:
    bench.rows(9)
    bench.server.row = lambda r: failed(r, "invalid_prompt") if number(r) % 3 == 0 else answered(r, GOOD)
    assert (bench.run().exit_code, bench.states()) == (3, {"ok": 6, "error": 3})
    (closed,) = bench.events(kind="closed")
    assert sum(closed["counts"].values()) == 9


@pytest.mark.parametrize("explain", [True, False], ids=["error lines", "no lines"])
def test_13_expired_with_partial_output_keeps_what_was_paid_and_asks_the_rest_again(
    bench: Workbench, explain: bool
) -> None:
    bench.rows(10)
    bench.server.endings = [Ending("expired", answers=6, explain=explain), Ending()]
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (0, {"ok": 10}, {1})
    assert [len(made.requests) for made in bench.server.made.values()] == [10, 4]


def test_13_cancelled_with_partial_output_keeps_what_was_paid_and_leaves_the_rest_open(bench: Workbench) -> None:
    """Somebody cancelled the batch at the provider: its rows are not asked again unless the person runs it again."""
    bench.rows(10)
    bench.server.endings = [Ending("cancelled", answers=6), Ending()]
    outcome = bench.run()
    assert (outcome.exit_code, bench.states()) == (3, {"ok": 6, "cancelled": 4})
    again = bench.run()
    assert (again.exit_code, again.created, bench.states(again)) == (0, True, {"ok": 10})
    assert bench.server.times_answered() == {1}


def test_13_failed_with_partial_output_keeps_what_was_paid(bench: Workbench) -> None:
    bench.rows(10)
    broken = ({"code": "server_error", "message": "The batch failed half way.", "line": None},)
    bench.server.endings = [Ending("failed", answers=6, errors=broken), Ending()]
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (0, {"ok": 10}, {1})


def test_14_a_request_in_no_file_is_missing_and_never_waited_for(bench: Workbench) -> None:
    bench.rows(5)
    bench.server.row = lambda r: None if number(r) == 2 else answered(r, only("ab"[number(r) % 2]))
    outcome = bench.run("retry.attempts=2")
    assert (outcome.exit_code, bench.states()) == (3, {"ok": 4, "missing": 1})
    assert bench.records()["r2"]["state"] == "missing"
    assert {n: bench.records()[f"r{n}"]["output"]["label"] for n in (0, 1, 3, 4)} == {0: "a", 1: "b", 3: "b", 4: "a"}


def test_14_a_line_of_nobody_is_set_aside_with_a_warning(bench: Workbench) -> None:
    def arrange(output: list[bytes], errors: list[bytes]) -> tuple[bytes, None]:
        foreign = answered({"custom_id": "request-17", "body": {}}, GOOD)
        other_plan = answered({"custom_id": json.loads(output[0])["custom_id"][:43] + "-ffffff-0001", "body": {}}, GOOD)
        return b"".join([json.dumps(x).encode() + b"\n" for x in (foreign, other_plan)] + output), None

    bench.server.arrange = arrange
    outcome = bench.run()
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 3})
    assert any("2 lines" in text for text in outcome.warnings), outcome.warnings
    strays = [
        json.loads(text) for text in (bench.plans[-1] / "responses/0001.1.strays.jsonl").read_bytes().splitlines()
    ]
    assert [stray["kind"] for stray in strays] == ["foreign", "foreign"]
    raw = (bench.plans[-1] / "responses/0001.1.output.jsonl").read_bytes()
    assert b"request-17" in raw[strays[0]["offset"] :][: strays[0]["length"]]


def test_14_of_two_lines_for_one_request_the_first_wins_and_the_other_is_flagged(bench: Workbench) -> None:
    def arrange(output: list[bytes], errors: list[bytes]) -> tuple[bytes, None]:
        second = output[0].replace(b'\\"a\\"', b'\\"b\\"')
        assert second != output[0]
        return b"".join([*output, second]), None

    bench.server.arrange = arrange
    outcome = bench.run()
    assert (outcome.exit_code, bench.records()["r0"]["output"]) == (0, {"label": "a"})
    assert any("1 line" in text for text in outcome.warnings), outcome.warnings


def test_15_the_order_of_output_lines_means_nothing(bench: Workbench) -> None:
    bench.rows(6)
    bench.server.row = lambda r: answered(r, only("ab"[number(r) % 2]))
    bench.server.arrange = lambda output, errors: (b"".join(reversed(output)), None)
    assert bench.run().exit_code == 0
    assert [bench.records()[f"r{n}"]["output"]["label"] for n in range(6)] == list("ababab")


SEPARATORS = "one\u2028two\u2029three\u0085four\x0cfive"


@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "as they are"])
def test_16_only_a_line_feed_ends_a_line(bench: Workbench, escaped: bool) -> None:
    bench.rows([{"id": f"r{n}", "text": f"number {n} {SEPARATORS}"} for n in range(3)])

    def row(request: dict[str, Any]) -> Line:
        found = answered(request, text_of(request))
        return json.dumps(found, ensure_ascii=escaped).encode() + b"\n"

    bench.server.row = row
    outcome = bench.run("schema.fields=null")
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 3})
    assert bench.records()["r1"]["text"] == f"Which one is number 1 {SEPARATORS}?"
    for content in bench.server.uploads.values():
        text = content.decode()
        assert len(text.splitlines()) == 3, "what we write is safe for readers that get it wrong"
        assert not set(text) & set("\u2028\u2029\u0085\x0c")


def test_17_a_download_that_ends_early_without_an_error_is_fetched_again(bench: Workbench) -> None:
    def short(request: Request) -> Wire:
        whole = bench.server.normal(request).body
        return unmeasured(whole, len(whole) // 2)(request)

    def lines_missing(request: Request) -> Wire:
        whole = bench.server.normal(request).body
        return unmeasured(whole, whole.index(b"\n") + 1)(request)

    bench.server.on("GET", "/v1/files/*/content", short, lines_missing, bench.server.normal)
    assert (bench.run().exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 1)
    assert len(bench.server.requests("GET", "/v1/files/*/content")) == 3


def test_17_a_file_that_never_arrives_whole_is_not_bought_again(bench: Workbench) -> None:
    """Its rows may have been paid: they are missing, and asked again only by a later run of the person's."""

    def lines_missing(request: Request) -> Wire:
        whole = bench.server.normal(request).body
        return unmeasured(whole, whole.index(b"\n") + 1)(request)

    bench.server.on("GET", "/v1/files/*/content", lines_missing)
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (3, {"ok": 1, "missing": 2}, 1)


def body_text(request: dict[str, Any]) -> dict[str, Any]:
    found = answered(request, GOOD)
    found["response"]["body"] = json.dumps(found["response"]["body"])
    return found


SHAPES: dict[str, tuple[Any, str]] = {
    "error in the body": (lambda r: line(r, 400, {"error": {"message": "no", "code": "bad"}}), "error"),
    "response null": (lambda r: failed(r, "bad_request"), "error"),
    "no response": (
        lambda r: {"custom_id": r["custom_id"], "error": {"code": "bad_request", "message": "no"}},
        "error",
    ),
    "no code": (lambda r: {"custom_id": r["custom_id"], "response": None, "error": {"message": "no"}}, "error"),
    "error is text": (lambda r: {"custom_id": r["custom_id"], "response": None, "error": "no"}, "error"),
    "status 0": (lambda r: line(r, 0, {}), "error"),
    "body as text": (body_text, "ok"),
    "body is a text": (lambda r: line(r, 500, "upstream failed"), "error"),
    "null where the schema has none": (answered, "ok"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_18_every_known_shape_of_a_row_has_a_state(bench: Workbench, shape: str) -> None:
    make, state = SHAPES[shape]
    bench.server.row = lambda r: (make(r, GOOD) if make is answered else make(r)) if number(r) == 1 else fitting(r)
    bench.run("retry.attempts=1")
    assert bench.states() == Counter({"ok": 2}) + Counter({state: 1})
    assert bench.records()["r1"]["state"] == state


def test_18_retryable_errors_are_asked_again_and_final_ones_are_not(bench: Workbench) -> None:
    bench.rows(4)
    asked: Counter[int] = Counter()

    def row(request: dict[str, Any]) -> Line:
        n = number(request)
        asked[n] += 1
        if n == 1 and asked[n] < 3:
            return line(request, 429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}})
        if n == 2:
            return line(request, 400, {"error": {"message": "no", "code": "invalid_value"}})
        return answered(request, GOOD)

    bench.server.row = row
    bench.run()
    assert bench.states() == {"ok": 3, "error": 1}
    assert dict(asked) == {0: 1, 1: 3, 2: 1, 3: 1}
    assert bench.records()["r1"]["attempts"] == 3


ENDINGS: dict[str, tuple[Any, str]] = {
    "length": (lambda r: answered(r, '{"label": "a', finish="length"), "truncated"),
    "length, valid": (lambda r: answered(r, GOOD, finish="length"), "truncated"),
    "reasoning used it up": (lambda r: answered(r, None, finish="length"), "truncated"),
    "refusal": (lambda r: answered(r, None, refusal="I can't help with that."), "refused"),
    "content filter": (lambda r: answered(r, "", finish="content_filter"), "filtered"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_19_truncated_refused_and_filtered_are_not_ok_and_not_retried_unasked(bench: Workbench, name: str) -> None:
    make, state = ENDINGS[name]
    bench.server.row = lambda r: make(r) if number(r) == 1 else fitting(r)
    assert bench.run("retry.repair=true").exit_code == 3
    assert bench.states() == {"ok": 2, state: 1}
    assert bench.run("retry.repair=true").created is False
    assert bench.server.creates == 1
    bench.server.row = fitting
    again = bench.run("retry.repair=true", retry=(state,))
    assert (again.exit_code, bench.states(again), bench.server.creates) == (0, {"ok": 3}, 2)


def test_20_the_raw_answer_survives_a_failed_validation_and_can_be_read_again(bench: Workbench) -> None:
    bench.server.row = lambda r: answered(r, '{"label": "zebra"}')
    assert (bench.run().exit_code, bench.states()) == (3, {"invalid": 3})
    plan = bench.plans[-1]
    assert b"zebra" in (plan / "responses/0001.1.output.jsonl").read_bytes()
    assert bench.records()["r0"]["text"] == '{"label": "zebra"}'
    before = len(bench.server.log)
    (plan / "responses/0001.1.decoded.jsonl").unlink()
    rebuilt = bench.cli("doctor", "--rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert bench.states() == {"invalid": 3}
    assert len(bench.server.log) == before, "reading again is free"


def test_20_an_invalid_answer_is_repaired_in_a_request_of_its_own(bench: Workbench) -> None:
    bench.server.row = lambda r: answered(r, GOOD if len(r["body"]["messages"]) > 1 else '{"label": "zebra"}')
    outcome = bench.run("retry.repair=true")
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 2)
    repair = list(bench.server.made.values())[1].requests[0]
    assert "zebra" in json.dumps(repair["body"]["messages"])
    assert bench.server.times_answered() == {1}, "a repair has a key of its own"


@pytest.mark.parametrize(("repair", "attempts", "rounds"), [("true", 3, 2), ("2", 3, 3), ("2", 2, 2), ("0", 3, 1)])
def test_20_an_answer_is_repaired_as_often_as_the_config_says(
    bench: Workbench, repair: str, attempts: int, rounds: int
) -> None:
    bench.server.row = lambda r: answered(r, '{"label": "zebra"}')
    outcome = bench.run(f"retry.repair={repair}", f"retry.attempts={attempts}")
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (3, {"invalid": 3}, rounds)
    assert bench.server.times_answered() == {1}


def test_20_a_cost_that_is_not_known_says_why(bench: Workbench) -> None:
    why = "no price is known for m-1 at compatible: set model.price"
    outcome = bench.run("model.price=null", confirm=lambda what, worst: True)
    assert (outcome.actual_usd, outcome.unknown_usd) == (None, (why,))
    shown = bench.cli("status", outcome.plan_id).stdout
    assert f"money: ? USD (?: {why})" in shown
    assert f"? USD in total (?: {why})" in bench.cli("run", *bench.arguments("model.price=null"), "--yes").stdout


@pytest.mark.parametrize(("now", "rounds"), [((), 2), (("retry.repair=2",), 3), (("retry.repair=false",), 1)])
def test_20_the_command_that_resumes_a_plan_says_how_often_answers_are_repaired(
    bench: Workbench, now: tuple[str, ...], rounds: int
) -> None:
    bench.server.row = lambda r: answered(r, '{"label": "zebra"}')
    bench.run("retry.repair=true", detach=True)
    assert (bench.run("retry.repair=true", *now).exit_code, bench.server.creates) == (3, rounds)
    assert len(bench.plans) == 1


def test_20_true_in_a_plan_of_an_earlier_version_means_as_often_as_attempts_allow(bench: Workbench) -> None:
    bench.run("retry.repair=true", "retry.attempts=3", detach=True)
    written = json.loads((bench.plans[0] / "plan.json").read_bytes())
    new = plan_document.read(json.dumps(written).encode())
    assert written["runs"][0].pop("repairs_once")
    old = plan_document.read(json.dumps(written).encode())
    assert [plan.repairs(0, allowed) for plan in (old, new) for allowed in (None, True, 2, False)] == [
        3,
        3,
        2,
        0,
        1,
        1,
        2,
        0,
    ]


def test_20_a_retry_and_a_repair_of_one_round_share_a_batch(bench: Workbench) -> None:
    """Row 0 fails once and then does not fit; row 1 does not fit, and its repair fails once; row 2 never fits."""
    asked: dict[int, int] = {}

    def row(request: dict[str, Any]) -> Any:
        which = number({"body": {"messages": request["body"]["messages"][:1]}})
        asked[which] = asked.get(which, 0) + 1
        if (which, asked[which]) in ((0, 1), (1, 2)):
            return failed(request, "server_error")
        if which < 2 and asked[which] == 3:
            return answered(request, GOOD)
        return answered(request, '{"label": "zebra"}')

    bench.server.row = row
    outcome = bench.run("retry.repair=true")
    assert (outcome.exit_code, bench.states()) == (3, {"ok": 2, "invalid": 1})
    assert [len(made.requests) for made in bench.server.made.values()] == [3, 3, 2]
    assert asked == {0: 3, 1: 3, 2: 2}
    tries = bench.records()
    assert [tries[f"r{i}"]["attempts"] for i in range(3)] == [3, 3, 2]


def test_21_an_unknown_status_is_not_the_end(bench: Workbench) -> None:
    bench.server.endings = [Ending(statuses=("scheduling", "in_queue", "paused", "in_progress"))]
    bench.server.show = lambda view: {**view, "request_counts": None}
    assert (bench.run().exit_code, bench.states()) == (0, {"ok": 3})


def test_21_ids_are_opaque_and_counts_may_be_null(bench: Workbench) -> None:
    bench.server.show = lambda view: {
        **view,
        "request_counts": {"total": None, "completed": None, "failed": None},
        "metadata": None,
        "errors": None,
        "usage": None,
    }
    assert (bench.run().exit_code, bench.states()) == (0, {"ok": 3})


def test_21_a_list_that_ignores_its_cursor_does_not_loop_for_ever(bench: Workbench) -> None:
    bench.rows(8)

    def first_page_for_ever(request: Request) -> Wire:
        data = json.loads(bench.server.normal(Request("GET", "/v1/batches", {}, {}, b"")).body)
        return reply({**data, "has_more": True})(request)

    bench.server.on("GET", "/v1/batches", first_page_for_ever)
    outcome = bench.run("limits.max_requests=2")
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 8}, 4)


def hostile(content: str) -> Any:
    """A line whose `content` is these characters of JSON, unquoted."""

    def make(request: dict[str, Any]) -> bytes:
        found = json.dumps(answered(request, "@@"))
        return found.replace('"@@"', content).encode("utf-8", "surrogatepass") + b"\n"

    return make


HOSTILE: dict[str, Any] = {
    "lone surrogate": hostile('"\\ud800 and on"'),
    "NUL": hostile('"a\\u0000b"'),
    "NaN": lambda r: json.dumps({**answered(r, GOOD), "score": float("nan")}).encode() + b"\n",
    "BOM in front": lambda r: b"\xef\xbb\xbf" + json.dumps(answered(r, GOOD)).encode() + b"\n",
    "invalid UTF-8": lambda r: json.dumps(answered(r, "@@")).encode().replace(b"@@", b"\xff\xfe\xc3") + b"\n",
    "1 MB": lambda r: json.dumps(answered(r, json.dumps({"label": "x" * 1_000_000}))).encode() + b"\n",
    "deep JSON": lambda r: json.dumps(answered(r, "[" * 50_000 + "]" * 50_000)).encode() + b"\n",
    "deep body": lambda r: (
        b'{"custom_id": "' + r["custom_id"].encode() + b'", "response": ' + b"[" * 20_000 + b"]" * 20_000 + b"}\n"
    ),
    "an integer of 200 digits": hostile('"{\\"label\\": ' + "9" * 200 + '}"'),
    "not JSON": lambda r: b'{"custom_id": "' + r["custom_id"].encode() + b'", "resp' + b"\n",
    "terminal escapes": hostile('"\\u001b[31m\\u001b]0;owned\\u0007"'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_22_hostile_answers_are_a_state_of_their_row_and_the_raw_bytes_are_kept(bench: Workbench, name: str) -> None:
    make = HOSTILE[name]
    sent: list[bytes] = []

    def row(request: dict[str, Any]) -> Line:
        if number(request) != 1:
            return fitting(request)
        sent.append(make(request))
        return sent[-1]

    bench.server.row = row
    outcome = bench.run("retry.attempts=1")
    assert outcome.exit_code in (0, 3)
    states = bench.states()
    assert states.total() == 3 and states["ok"] >= 2, states
    raw = (bench.plans[-1] / "responses/0001.1.output.jsonl").read_bytes()
    assert sent[0] in raw
    ensure(bench.runs)
    shown = bench.cli("results", bench.plans[-1].name, "--format", "jsonl")
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr
    assert len(list(Path(bench.plans[-1] / "responses").glob("*.decoded.jsonl"))) == 1


def test_21_a_list_that_breaks_off_proves_no_absence(bench: Workbench) -> None:
    """A create whose answer was lost, and a list that never shows its end: a person decides."""
    bench.server.on("POST", "/v1/batches", bench.server.lost(reset()), bench.server.normal)
    other = {"id": "batch_other", "status": "completed", "created_at": 1_890_000_000}
    bench.server.on("GET", "/v1/batches", reply({"object": "list", "data": [other], "has_more": True}))
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reason, bench.server.creates) == (75, "parked", 1)
