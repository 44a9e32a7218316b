"""What servers say when they say no, through the whole of batchling: each kind of no has one behaviour (CONFORMANCE 33 to 35)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchling.catalog.access import file_of
from tests.servers.batches import Ending, answered, fitting, line
from tests.servers.scripted import Request, Wire, gateway, refuse, reply
from tests.workbench import Workbench

CREATE = ("POST", "/v1/batches")
UPLOAD = ("POST", "/v1/files")


def failing(code: str | None, message: str, **more: Any) -> Ending:
    return Ending("failed", errors=({"code": code, "message": message, "line": None, **more},))


def requests_of(bench: Workbench, request: Request) -> list[dict[str, Any]]:
    content = bench.server.files[request.json["input_file_id"]]
    return [json.loads(text) for text in content.split(b"\n") if text]


def waiting(bench: Workbench) -> int:
    return sum(len(made.requests) for made in bench.server.made.values() if not made.over)


# A queue: hold back


@pytest.mark.parametrize("code", ["request_limit_exceeded", "token_limit_exceeded", None])
@pytest.mark.parametrize("when", ["at create", "after the fact"])
def test_33_a_limit_on_waiting_requests_holds_back_requests_and_uses_up_no_attempt(
    bench: Workbench, code: str | None, when: str
) -> None:
    words = "Enqueued request limit reached for m-1. Limit: 4 enqueued requests. Please try again later."

    def create(request: Request) -> Wire:
        if waiting(bench) + len(requests_of(bench, request)) <= 4:
            return bench.server.normal(request)
        if when == "at create":
            return refuse(429, code, words)(request)
        bench.server.endings.insert(0, failing(code, words))
        return bench.server.normal(request)

    bench.rows(12)
    bench.server.on(*CREATE, create)
    outcome = bench.run("limits.max_requests=2", "retry.attempts=1")
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (0, {"ok": 12}, {1})
    learned = bench.events(kind="learned")
    assert {(event["unit"], event["limit"]) for event in learned} == {("requests", 4)}


def test_33_a_limit_of_requests_is_kept_for_the_next_plan(bench: Workbench) -> None:
    words = "Limit: 4 enqueued requests."
    bench.rows(10)
    bench.server.on(*CREATE, refuse(429, "request_limit_exceeded", words), bench.server.normal)
    assert bench.run().exit_code == 0
    assert max(len(made.requests) for made in bench.server.made.values()) <= 4
    made = len(bench.server.made)
    bench.rows([{"id": f"s{n}", "text": f"another {n}"} for n in range(9)])
    assert bench.run().exit_code == 0
    assert [len(m.requests) for m in bench.server.made.values()][made:] == [4, 4, 1]


@pytest.mark.parametrize("words", ["30K", "1.5M", "2 million", "200.000.000", "100 000"])
def test_33_a_limit_is_read_as_the_provider_spells_it(bench: Workbench, words: str) -> None:
    number = {"30K": 30_000, "1.5M": 1_500_000, "2 million": 2_000_000, "200.000.000": 200_000_000, "100 000": 100_000}
    said = f"The number of enqueued tokens is above the configured limit of {words} for this deployment."
    bench.server.endings = [failing("token_limit_exceeded", said), Ending()]
    assert bench.run("retry.attempts=1").exit_code == 0
    (learned,) = bench.events(kind="learned")
    assert learned["limit"] == number[words]
    assert bench.server.creates == 2, "it is far above what waits: nothing is cut"


@pytest.mark.parametrize("number", ["Limit: 3 (per minute)", "Limit: 3 tokens", "the limit is 2026-11-25", "limit 30Q"])
def test_33_a_number_that_cannot_be_meant_is_not_believed(bench: Workbench, number: str) -> None:
    bench.rows(6)
    bench.server.endings = [failing("token_limit_exceeded", f"too many enqueued tokens. {number}"), Ending()]
    assert bench.run("limits.max_requests=3", "retry.attempts=1").exit_code == 0
    assert bench.events(kind="learned") == []
    assert bench.server.creates == 3


def test_33_a_number_below_what_ran_at_once_is_not_believed(bench: Workbench) -> None:
    bench.rows(16)
    said = failing("request_limit_exceeded", "Limit: 3 enqueued requests.")
    bench.server.endings = [Ending(), said, Ending()]
    assert bench.run("limits.max_requests=8", "limits.concurrent_batches=1", "retry.attempts=1").exit_code == 0
    assert bench.events(kind="learned") == [], "eight were there at once a moment ago"
    assert bench.server.creates == 3


# A rate: wait


@pytest.mark.parametrize(
    "no",
    [
        refuse(429, "rate_limit_exceeded", "Rate limit reached: 2 batches per hour"),
        refuse(500, "500", "litellm.RateLimitError: too many batches were created"),
        reply({"error": {"message": "Error code: 429 - {'error': …}", "type": "None", "code": "500"}}, 500),
    ],
    ids=["429", "500 of LiteLLM", "500 that wraps a 429"],
)
def test_34_a_rate_is_waited_for_whatever_status_it_comes_in(bench: Workbench, no: Any) -> None:
    bench.server.on(*CREATE, no, no, bench.server.normal)
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, bench.server.creates) == (0, 1)
    assert {event["about"] for event in bench.events(kind="rejected")} == {"rate"}
    assert not bench.events(kind="fenced"), "nothing was uncertain"


def test_34_a_429_that_wraps_a_500_may_have_happened(bench: Workbench) -> None:
    hidden = reply({"error": {"message": "Internal server error", "code": "internal_server_error"}}, 429)
    bench.server.on(*CREATE, bench.server.lost(hidden), bench.server.normal)
    assert bench.run().exit_code == 0
    assert (bench.server.creates, bench.server.times_answered()) == (1, {1})
    assert bench.events(kind="created")[0]["adopted"] is True


# The size: cut


@pytest.mark.parametrize("route", [UPLOAD, CREATE], ids=["upload", "create"])
@pytest.mark.parametrize("no", [gateway(413), refuse(413, None, "Request Entity Too Large")], ids=["page", "own"])
def test_34_a_413_cuts_the_batch_and_names_max_bytes(bench: Workbench, route: tuple[str, str], no: Any) -> None:
    def sized(request: Request) -> Wire:
        rows = request.body.count(b'"custom_id"') if route is UPLOAD else len(requests_of(bench, request))
        return no(request) if rows > 3 else bench.server.normal(request)

    bench.rows(10)
    bench.server.on(*route, sized)
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (0, {"ok": 10}, {1})
    assert max(len(made.requests) for made in bench.server.made.values()) <= 3
    assert all("limits.max_bytes" in event["why"] for event in bench.events(kind="rejected"))


def test_34_a_limit_of_requests_in_a_batch_cuts_to_that_limit(bench: Workbench) -> None:
    def create(request: Request) -> Wire:
        n = len(requests_of(bench, request))
        words = f"The batch file contains too many requests in the batch: {n}. The limit is 4 requests."
        return refuse(400, "invalid_request", words)(request) if n > 4 else bench.server.normal(request)

    bench.rows(9)
    bench.server.on(*CREATE, create)
    assert bench.run("retry.attempts=1").exit_code == 0
    assert sorted(len(made.requests) for made in bench.server.made.values()) == [1, 4, 4]


def test_34_a_failed_batch_that_was_too_large_is_cut_and_no_row_loses_an_attempt(bench: Workbench) -> None:
    bench.rows(6)
    bench.server.endings = [failing("too_many_tasks", "too many tasks in the batch"), Ending()]
    assert bench.run("retry.attempts=1").exit_code == 0
    assert [len(made.requests) for made in bench.server.made.values()] == [6, 3, 3]


def test_34_a_single_request_that_is_too_large_is_set_aside(bench: Workbench) -> None:
    def create(request: Request) -> Wire:
        if any("number 1?" in str(r["body"]) for r in requests_of(bench, request)):
            return refuse(413, None, "Payload Too Large")(request)
        return bench.server.normal(request)

    bench.rows(5)
    bench.server.on(*CREATE, create)
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (3, {"ok": 4, "error": 1}, {1})
    assert "Payload Too Large" in bench.records()["r1"]["error"]


# These lines: set them aside


def blaming(bench: Workbench, shape: str, bad: set[int]) -> Any:
    """Refuses a create because of the first line that is about one of these numbers."""

    def create(request: Request) -> Wire:
        for n, sent in enumerate(requests_of(bench, request)):
            if any(f"number {number}?" in str(sent["body"]) for number in bad):
                words = {
                    "line": f"Line {n + 1}: the request is too long for this model.",
                    "custom_id": f"Request {sent['custom_id']} is too long for this model.",
                    "index": f"requests[{n}].body.messages is too long.",
                }.get(shape, "the request is too long for this model")
                error: dict[str, Any] = {"message": words, "type": "invalid_request_error", "code": "invalid_request"}
                error |= {"a field": {"line": n + 1}, "a path": {"param": f"requests[{n}].body"}}.get(shape, {})
                if shape == "a list":
                    error["details"] = [{"index": n, "message": "too long"}]
                return reply({"error": error}, 422 if shape == "a list" else 400)(request)
        return bench.server.normal(request)

    return create


@pytest.mark.parametrize("shape", ["line", "custom_id", "index", "a field", "a path", "a list"])
def test_34_a_line_that_is_refused_at_create_holds_back_no_other(bench: Workbench, shape: str) -> None:
    bench.rows(6)
    bench.server.on(*CREATE, blaming(bench, shape, {2, 4}))
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (3, {"ok": 4, "error": 2}, {1})
    records = bench.records()
    assert {row for row, record in records.items() if record["state"] == "error"} == {"r2", "r4"}
    assert "too long" in records["r2"]["error"]
    assert any("r2" in text and "r4" in text and "too long" in text for text in outcome.details), outcome.details
    assert bench.run().created is False, "a refused request is final: nothing is asked again"
    bench.rows(5)
    again = bench.run()
    assert (again.reused, again.bought) == (5, 0)


def test_34_a_line_that_is_refused_at_upload_holds_back_no_other(bench: Workbench) -> None:
    def upload(request: Request) -> Wire:
        if b"number 1?" in request.body:
            return refuse(400, "invalid_request", "line 2: not JSON that we like")(request)
        return bench.server.normal(request)

    bench.server.on(*UPLOAD, upload)
    assert bench.run("retry.attempts=1").exit_code == 3
    assert bench.states() == {"ok": 2, "error": 1}


def test_34_lines_of_a_failed_batch_are_set_aside_and_the_others_lose_no_attempt(bench: Workbench) -> None:
    bench.rows(6)
    bench.server.endings = [
        Ending("failed", errors=({"code": "invalid_json_line", "message": "no", "line": 2},)),
        Ending("failed", errors=({"code": None, "message": "line 3: no", "line": None},)),
        Ending(),
    ]
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, bench.states(), bench.server.times_answered()) == (3, {"ok": 4, "error": 2}, {1})
    bench.rows(5)
    again = bench.run()
    assert (again.reused, again.bought) == (5, 0), "what was refused is found again, with the provider's words"


def test_34_a_server_that_blames_one_line_after_the_other_is_not_believed_for_ever(bench: Workbench) -> None:
    bench.rows(60)
    bench.server.on(*CREATE, refuse(400, "invalid_request", "Line 1: wrong"))
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reason) == (5, "refused")
    assert len(bench.events(kind="rejected")) < 40


# The account: stop


ACCOUNT = [
    (400, "billing_hard_limit_reached", "Billing hard limit has been reached"),
    (401, "invalid_api_key", "Incorrect API key provided"),
    (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details"),
    (403, "account_deactivated", "The account is deactivated"),
    (402, None, "Insufficient Balance"),
]


@pytest.mark.parametrize(("status", "code", "words"), ACCOUNT)
def test_34_an_accounts_refusal_in_rows_stops_the_plan_and_is_no_answer(
    bench: Workbench, status: int, code: str | None, words: str
) -> None:
    def unpaid(request: dict[str, Any]) -> Any:
        if "number 0?" in str(request["body"]):
            return fitting(request)
        return line(request, status, {"error": {"message": words, "code": code}})

    bench.rows(9)
    bench.server.row = unpaid
    outcome = bench.run("retry.attempts=1", "limits.max_requests=3", "limits.concurrent_batches=1")
    assert (outcome.exit_code, outcome.reason, bench.server.creates) == (5, "refused", 2)
    assert any(words in text for text in outcome.details)
    bench.server.row = fitting
    assert bench.run("retry.attempts=1").exit_code == 0
    assert (bench.states(), bench.server.times_answered()) == ({"ok": 9}, {1})


def test_34_a_batch_that_failed_because_of_the_bill_stays_open(bench: Workbench) -> None:
    bench.server.endings = [failing("billing_hard_limit_reached", "Billing hard limit has been reached"), Ending()]
    outcome = bench.run("retry.attempts=1")
    assert (outcome.exit_code, outcome.reason, outcome.states) == (5, "refused", {"pending": 3})
    again = bench.run("retry.attempts=1")
    assert (again.exit_code, again.plan_id, bench.states()) == (0, outcome.plan_id, {"ok": 3})


@pytest.mark.parametrize("route", [UPLOAD, CREATE], ids=["upload", "create"])
@pytest.mark.parametrize("status", [402, 429, 500])
def test_34_a_bill_stops_with_5_wherever_it_is_told(bench: Workbench, route: tuple[str, str], status: int) -> None:
    no = refuse(status, "insufficient_quota", "You exceeded your current quota, check your plan and billing details")
    bench.server.on(*route, no, bench.server.normal)
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reason, bench.server.creates) == (5, "refused", 0)
    assert bench.run().exit_code == 0


def test_34_what_an_older_version_took_for_an_answer_is_asked_again(bench: Workbench) -> None:
    """0.1.0 wrote a refusal for billing as the outcome `error`, which counts as an answer."""
    bench.server.row = lambda r: line(r, 400, {"error": {"message": "bad image", "code": "invalid_image"}})
    assert bench.run().exit_code == 3
    for name in ("decoded", "errors"):
        path = next((bench.plans[-1] / "responses").glob(f"0001.1.{name}.jsonl"))
        path.write_text(path.read_text().replace("invalid_image", "insufficient_quota"))
    file_of(bench.runs).unlink()
    bench.server.row = fitting
    outcome = bench.run()
    assert (outcome.exit_code, outcome.created, outcome.bought, bench.states()) == (0, True, 3, {"ok": 3})
    bench.rows(2)
    assert bench.run().reused == 2


# What is not understood


@pytest.mark.parametrize("shape", ["another API's", "no JSON", "nothing in it", "an own error's, beside a 200"])
def test_35_an_answer_that_is_not_understood_is_final_and_of_unknown_cost(bench: Workbench, shape: str) -> None:
    def strange(request: dict[str, Any]) -> Any:
        if "number 0?" in str(request["body"]):
            return answered(request, '{"label": "a"}')
        custom_id = request["custom_id"]
        return {
            "another API's": json.dumps({"custom_id": custom_id, "result": {"type": "succeeded"}}).encode() + b"\n",
            "no JSON": f'{{"custom_id": "{custom_id}", "response": {{]\n'.encode(),
            "nothing in it": json.dumps({"custom_id": custom_id, "response": None, "error": None}).encode() + b"\n",
            "an own error's, beside a 200": line(request, 200, {"candidates": [{"content": "hi"}]}),
        }[shape]

    bench.server.row = strange
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (3, {"ok": 1, "error": 2}, 1)
    records = bench.records()
    assert records["r1"]["cost_usd"] is None and "not_understood" in records["r1"]["error"]
    (closed,) = bench.events(kind="closed")
    assert closed["unpriced"] == 2
    assert bench.run().created is False
    bench.rows(2)
    again = bench.run()
    assert (again.bought, bench.server.creates) == (0, 1), "no later plan buys it again by itself"
