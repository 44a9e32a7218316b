"""Every shape of an answer and of an error becomes one outcome (CONFORMANCE 18, 19, 22)."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.models import Garbage, Outcome, Response, Usage
from batchling.providers.openai.decode import _decode_object, _plain_answer, decode


def chat(content: Any = "yes", finish: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "gpt-x",
        "system_fingerprint": None,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def responses(*content: dict[str, Any], status: str = "completed", **rest: Any) -> dict[str, Any]:
    return {
        "object": "response",
        "status": status,
        "model": "gpt-x",
        "output": [{"type": "reasoning", "summary": []}, {"type": "message", "content": list(content)}],
        "usage": {
            "input_tokens": 12,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        **rest,
    }


def line(body: Any = None, status: Any = 200, **rest: Any) -> dict[str, Any]:
    return {"id": "r", "custom_id": "c", "response": {"status_code": status, "body": body}, "error": None, **rest}


def read(data: Any) -> Response:
    response = decode(json.dumps(data).encode())
    assert isinstance(response, Response)
    return response


TEXT = {"type": "output_text", "text": "yes"}
ANSWERS = {
    "chat": line(chat()),
    "chat with parts": line(chat([{"type": "text", "text": "y"}, {"type": "text", "text": "es"}])),
    "responses": line(responses(TEXT)),
    "responses in two items": line(
        responses({"type": "output_text", "text": "ye"}, {"type": "output_text", "text": "s"})
    ),
    "body as JSON text": line(json.dumps(chat())),
    "completion in response itself": {"custom_id": "c", "response": chat(), "error": None},
    "response as JSON text": {"custom_id": "c", "response": json.dumps(chat())},
    "status as text": line(chat(), "200"),
    "no status": {"custom_id": "c", "response": {"body": chat()}},
    "an empty error beside it": line(chat(), error={"code": None, "message": None}),
    "BOM": None,
}


@pytest.mark.parametrize("shape", ANSWERS)
def test_c18_an_answer_is_found_in_every_shape(shape: str) -> None:
    raw = json.dumps(ANSWERS[shape] or line(chat())).encode()
    response = decode((b"\xef\xbb\xbf" if shape == "BOM" else b"") + raw)
    assert isinstance(response, Response)
    assert (response.custom_id, response.outcome, response.text) == ("c", Outcome.OK, "yes")
    assert response.usage == Usage(12, 8, 5, 2)
    assert (response.model, response.error_message) == ("gpt-x", None)


def test_a_legacy_completion_and_tool_calls_are_answers() -> None:
    assert read(line({"choices": [{"text": "yes", "finish_reason": "stop"}]})).text == "yes"
    called = read(line(chat(None, "tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])))
    assert called.outcome is Outcome.OK
    assert called.text == '[{"function":{"name":"f","arguments":"{}"}}]'


def test_an_embedding_is_a_vector_as_numbers_or_as_base64() -> None:
    packed = base64.b64encode(struct.pack("<3f", 0.5, -1.0, 2.0)).decode()
    for vector in ([0.5, -1.0, 2.0], packed):
        response = read(
            line({"object": "list", "data": [{"index": 0, "embedding": vector}], "usage": {"prompt_tokens": 3}})
        )
        assert (response.outcome, response.embedding, response.text) == (Outcome.OK, [0.5, -1.0, 2.0], None)
        assert response.usage == Usage(3)


@pytest.mark.parametrize("vector", ["", "###", [], [1, None], ["a"], None, {}, base64.b64encode(b"abc").decode()])
def test_an_embedding_that_is_none_is_an_error(vector: Any) -> None:
    assert read(line({"data": [{"embedding": vector}]})).outcome is Outcome.ERROR


REASONED = {"prompt_tokens": 9, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 50}}


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (chat('{"label": "a', "length"), Outcome.TRUNCATED),
        (chat('{"label": "a"}', "length"), Outcome.TRUNCATED),  # whole by chance: still stopped by the limit
        (chat(None, "length"), Outcome.TRUNCATED),
        ({**chat(None, "stop"), "usage": REASONED}, Outcome.TRUNCATED),
        ({**chat("", "stop"), "usage": REASONED}, Outcome.TRUNCATED),
        (chat(None, "stop", reasoning_content="hmm"), Outcome.TRUNCATED),
        (chat(None, "stop", refusal="I can't"), Outcome.REFUSED),
        (chat([{"type": "refusal", "refusal": "I can't"}]), Outcome.REFUSED),
        (chat("", "content_filter"), Outcome.FILTERED),
        (chat("half an ans", "content_filter"), Outcome.FILTERED),
        (chat(None, "stop"), Outcome.ERROR),
        (chat("", "stop"), Outcome.OK),
        (responses({"type": "refusal", "refusal": "I can't"}), Outcome.REFUSED),
        (responses(TEXT, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), Outcome.TRUNCATED),
        (responses(status="incomplete", incomplete_details={"reason": "content_filter"}), Outcome.FILTERED),
        (responses(status="incomplete"), Outcome.TRUNCATED),
        (responses(status="failed", error={"code": "server_error", "message": "m"}), Outcome.ERROR),  # billed
        (responses(status="failed", error={"code": "server_error", "message": "m"}, usage=None), Outcome.RETRYABLE),
        (responses(status="failed", error={"code": "invalid_prompt", "message": "m"}), Outcome.ERROR),
        (responses(status="cancelled"), Outcome.CANCELLED),
        (responses(status="in_progress"), Outcome.ERROR),  # what it has made was billed
        (responses(status="in_progress", usage=None), Outcome.RETRYABLE),
        (responses(), Outcome.ERROR),
        ({"choices": []}, Outcome.ERROR),
        ({}, Outcome.ERROR),
    ],
)
def test_c19_how_an_answer_ended_is_decided_before_it_is_parsed(body: Any, outcome: Outcome) -> None:
    response = read(line(body))
    assert response.outcome is outcome
    assert (response.error_message is None) is (outcome is Outcome.OK)


def test_c19_what_was_truncated_keeps_its_text_and_its_cost() -> None:
    response = read(line(chat("half", "length")))
    assert (response.text, response.usage.output_tokens, response.finish_reason) == ("half", 5, "length")


INVALID = {"message": "Invalid value", "type": "invalid_request_error", "param": None, "code": "invalid_value"}


@pytest.mark.parametrize(
    ("data", "outcome", "code"),
    [
        (line({"error": INVALID}, 400), Outcome.ERROR, "invalid_value"),
        (
            line({"error": {"message": "slow down", "code": None, "type": "requests"}}, 429),
            Outcome.RETRYABLE,
            "requests",
        ),
        (line({"error": INVALID}, 500), Outcome.ERROR, "invalid_value"),
        (line({"error": INVALID}, "503"), Outcome.ERROR, "invalid_value"),
        (line({"error": {"message": "m"}}, 408), Outcome.RETRYABLE, None),
        (line({"error": {"message": "m"}}, 409), Outcome.RETRYABLE, None),
        (line({"error": {"message": "m"}}, 404), Outcome.ERROR, None),
        (line({"message": "m", "object": "error", "code": 422}, 422), Outcome.ERROR, None),
        (line({"object": "error", "message": "m", "code": 500}, None), Outcome.RETRYABLE, None),
        (line({}, 0), Outcome.RETRYABLE, None),
        (line(None, 0), Outcome.RETRYABLE, None),
        (line("upstream timed out", 504), Outcome.RETRYABLE, None),
        (line(json.dumps({"error": INVALID}), 400), Outcome.ERROR, "invalid_value"),
        (line("not json", 200), Outcome.ERROR, "not_understood"),
        (
            {"custom_id": "c", "response": None, "error": {"code": "batch_expired", "message": "m"}},
            Outcome.EXPIRED,
            "batch_expired",
        ),
        (
            {"custom_id": "c", "response": None, "error": {"code": "batch_cancelled"}},
            Outcome.CANCELLED,
            "batch_cancelled",
        ),
        ({"custom_id": "c", "error": {"code": "batch_expired", "message": "m"}}, Outcome.EXPIRED, "batch_expired"),
        ({"custom_id": "c", "error": {"code": "invalid_value", "message": "m"}}, Outcome.ERROR, "invalid_value"),
        ({"custom_id": "c", "error": {"code": "server_error", "message": "m"}}, Outcome.RETRYABLE, "server_error"),
        ({"custom_id": "c", "error": {"message": "m"}}, Outcome.RETRYABLE, None),
        ({"custom_id": "c", "error": "a bare text"}, Outcome.RETRYABLE, None),
        ({"custom_id": "c"}, Outcome.ERROR, "not_understood"),
        (
            line({"error": {"code": "content_filter", "message": "m", "status": 400}}, 400),
            Outcome.FILTERED,
            "content_filter",
        ),
        (
            line(
                {"error": {"code": None, "message": "m", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, 400
            ),
            Outcome.FILTERED,
            "ResponsibleAIPolicyViolation",
        ),
    ],
)
def test_c18_an_error_is_read_in_every_shape(data: Any, outcome: Outcome, code: str | None) -> None:
    response = read(data)
    assert (response.custom_id, response.outcome, response.error_code) == ("c", outcome, code)
    assert response.error_message
    assert response.text is None


def test_usage_is_read_from_nulls_texts_and_nonsense() -> None:
    def of(usage: Any) -> Usage:
        return read(line({**chat(), "usage": usage})).usage

    assert of(None) == Usage()
    assert of({"prompt_tokens": "12", "completion_tokens": 5.0, "prompt_tokens_details": None}) == Usage(12, None, 5)
    assert of({"prompt_tokens": -1, "completion_tokens": True, "completion_tokens_details": []}) == Usage()
    assert of({"prompt_tokens": 10**30, "completion_tokens": {}}) == Usage()


OPEN = b'{"custom_id":"c","response":{"status_code":200,"body":{"choices":[{"message":{"content":"'
CLOSE = b'"},"finish_reason":"stop"}]}}}'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a\\ud83d", "a\ufffd"),
        (b"a\xff\xfeb", "a\ufffd\ufffdb"),
        (b"a\x00b", "a\x00b"),
        (b"a\tb", "a\tb"),
    ],
)
def test_c22_an_answer_with_damaged_characters_is_kept_and_marked(content: bytes, text: str) -> None:
    response = decode(OPEN + content + CLOSE)
    assert isinstance(response, Response)
    assert (response.outcome, response.text, response.error_code) == (Outcome.OK, text, "damaged_line")
    orjson.dumps(response.text)


def test_c22_an_escaped_nul_and_a_megabyte_are_content() -> None:
    assert read(line(chat("a\x00b"))).text == "a\x00b"
    assert len(read(line(chat("x" * 1_000_000))).text or "") == 1_000_000


def test_c22_nan_is_no_number() -> None:
    raw = b'{"custom_id":"c","response":{"status_code":200,"body":{"data":[{"embedding":[1.0,NaN]}]}}}'
    response = decode(raw)
    assert isinstance(response, Response)
    assert (response.outcome, response.embedding) == (Outcome.ERROR, None)


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_c22_a_line_nested_too_deeply_is_its_requests_error(depth: int) -> None:
    response = decode(b'{"custom_id":"c","response":' + b"[" * depth + b"]" * depth + b"}")
    assert isinstance(response, Response)
    assert (response.custom_id, response.outcome) == ("c", Outcome.ERROR)
    assert isinstance(decode(b"[" * depth), Garbage)


def test_c22_a_body_in_a_body_does_not_exhaust_the_stack() -> None:
    body: Any = chat()
    for _ in range(12):
        body = json.dumps({"body": body})
    assert read(line(body)).outcome is Outcome.ERROR


def test_a_cut_line_is_final_for_the_request_that_it_names() -> None:
    raw = json.dumps(line(chat())).encode()[:-20]
    response = decode(raw)
    assert isinstance(response, Response)
    assert (response.custom_id, response.outcome, response.error_code) == ("c", Outcome.ERROR, "not_understood")
    assert isinstance(decode(b'{"custom_id":"a","x":{"custom_id":"b"},'), Garbage)  # two names: nobody's


@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"null",
        b"[]",
        b"{}",
        b'"c"',
        b'{"custom_id":null}',
        b'{"custom_id":7}',
        b'{"custom_id":""}',
        b"\xff",
        b"<html>",
    ],
)
def test_a_line_without_a_custom_id_is_garbage(raw: bytes) -> None:
    assert isinstance(decode(raw), Garbage)


def test_error_messages_are_bounded() -> None:
    assert len(read(line({"error": {"message": "x" * 9000, "code": "y" * 9000}}, 400)).error_message or "") == 2000
    assert len(read(line(chat(None, "stop", refusal="x" * 9000))).error_message or "") == 2000


PROPERTIES = [
    "custom_id",
    "response",
    "body",
    "choices",
    "message",
    "content",
    "error",
    "code",
    "status_code",
    "usage",
    "prompt_tokens",
    "output",
    "status",
    "data",
    "embedding",
    "text",
    "refusal",
    "finish_reason",
    "type",
    "model",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["stop", "length", "failed", "completed", "refusal"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(PROPERTIES),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_c22_no_value_makes_decode_raise(response: Any, error: Any) -> None:
    read({"custom_id": "c", "response": response, "error": error})
    decode(json.dumps(response).encode())


@given(st.binary(max_size=200))
def test_c22_no_bytes_make_decode_raise(raw: bytes) -> None:
    decode(raw)
    decode(OPEN + raw + CLOSE)


SMALL: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, 5, -1, "7", 2.0, True, 1 << 60, {}, "x", "", "stop", 200, "200"]
)


@given(st.lists(st.tuples(st.integers(0, 9), SMALL), max_size=3))
def test_the_short_way_says_what_the_tolerant_way_says(changes: list[tuple[int, Any]]) -> None:
    data = line(chat())
    body = data["response"]["body"]
    choice, usage = body["choices"][0], body["usage"]
    places = [
        (data, "custom_id"),
        (data["response"], "status_code"),
        (choice, "finish_reason"),
        (choice["message"], "content"),
        (choice["message"], "refusal"),
        (usage, "prompt_tokens"),
        (usage, "completion_tokens"),
        (usage["prompt_tokens_details"], "cached_tokens"),
        (usage["completion_tokens_details"], "reasoning_tokens"),
        (body, "model"),
    ]
    for place, value in changes:
        places[place][0][places[place][1]] = value
    short = _plain_answer(data)
    assert short is None or short == _decode_object(data)
    if not changes:
        assert short is not None


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (500, {"message": "litellm.RateLimitError: slow", "code": "500"}, Outcome.RETRYABLE),
        (429, {"message": "Internal server error", "code": "500"}, Outcome.RETRYABLE),
        (400, {"message": "slow down", "code": "rate_limit_exceeded"}, Outcome.RETRYABLE),
        (500, {"message": "litellm.BadRequestError: Error code: 400 - bad", "code": "500"}, Outcome.ERROR),
        (429, {"message": "Error code: 400 - {'error': …}", "code": "429"}, Outcome.ERROR),
        (500, {"message": "Error code: 400 - {'error': …}", "code": None}, Outcome.ERROR),
        (503, {"message": "try again", "type": "invalid_request_error", "code": "x"}, Outcome.RETRYABLE),
        (500, {"message": "This model's maximum context length is 8192 tokens"}, Outcome.ERROR),
        (None, {"message": "Error code: 429 - too many"}, Outcome.RETRYABLE),
    ],
)
def test_c34_a_status_that_wraps_another_is_read_by_the_body(
    status: int | None, error: dict[str, Any], outcome: Outcome
) -> None:
    assert read(line({"error": error}, status)).outcome is outcome


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"}),
        (401, {"code": "invalid_api_key", "message": "Incorrect API key provided"}),
        (401, {"message": "who are you"}),
        (402, {"message": "Insufficient Balance"}),
        (429, {"code": "insufficient_quota", "message": "You exceeded your current quota"}),
        (
            429,
            {"code": "429", "message": "You exceeded your current quota, please check your plan and billing details"},
        ),
        (403, {"code": "account_deactivated", "message": "m"}),
        (400, {"type": "budget_exceeded", "code": "400", "message": "Budget has been exceeded! Current cost: 2.0"}),
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API"}),
        (404, {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist"}),
        (500, {"code": "500", "message": "AuthenticationError: Error code: 401 - invalid key"}),
        (400, {"code": "Arrearage", "message": "Access denied, please make sure your account is in good standing"}),
    ],
)
def test_c34_what_is_about_the_account_is_no_answer(status: int, error: dict[str, Any]) -> None:
    assert read(line({"error": error}, status)).outcome is Outcome.ACCOUNT


@pytest.mark.parametrize(
    ("status", "error", "outcome"),
    [
        (400, {"code": "invalid_prompt", "message": "the text 'invalid api key' is not allowed"}, Outcome.ERROR),
        (429, {"code": "429", "message": "You exceeded your current quota. Please retry in 34.2s."}, Outcome.RETRYABLE),
        (403, {"message": "blocked by the firewall"}, Outcome.ERROR),
        (404, {"message": "m"}, Outcome.ERROR),
    ],
)
def test_c34_what_only_sounds_like_the_account_is_about_the_row(
    status: int, error: dict[str, Any], outcome: Outcome
) -> None:
    assert read(line({"error": error}, status)).outcome is outcome


@pytest.mark.parametrize(
    "data",
    [
        {"custom_id": "c", "result": {"type": "succeeded", "message": {"content": "hi"}}},
        {"custom_id": "c", "response": None, "error": None},
        {"custom_id": "c", "response": {"body": {"candidates": [{"content": "hi"}]}}},
        line({"message": {"role": "assistant", "content": "hi"}, "done": True}),
        line({"type": "message", "content": [{"type": "text", "text": "hi"}]}),
        line([1, 2]),
        line(None, 200),
    ],
)
def test_c35_an_answer_of_an_unknown_shape_is_final_and_says_what_came(data: Any) -> None:
    response = read(data)
    assert (response.outcome, response.error_code) == (Outcome.ERROR, "not_understood")
    assert response.usage == Usage()
    assert "not an answer that batchling understands" in (response.error_message or "")


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ("invalid_request_error: messages must not be empty", Outcome.ERROR),
        ("BadRequestError: prompt is too long", Outcome.ERROR),
        ("the backend timed out", Outcome.RETRYABLE),
        ("something", Outcome.RETRYABLE),
    ],
)
def test_c35_an_error_without_a_code_is_read_by_its_words_where_they_are_definite(
    message: str, outcome: Outcome
) -> None:
    assert read({"custom_id": "c", "response": None, "error": {"message": message}}).outcome is outcome
    assert read({"custom_id": "c", "error": message}).outcome is outcome
