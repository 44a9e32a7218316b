"""Anthropic's Message Batches: the contract behind a faulty gateway, what is said and read, and what was reported of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import httpx2
import pytest
import yaml

from batchling.api import verbs
from batchling.cost import price_of
from batchling.dialects import MESSAGES, NeutralRequest, StrictSchema
from batchling.errors import CallAmbiguous, CallNotFound, CallRefused, CallStopped, CallUnavailable, ConfigError
from batchling.models import Batch, Garbage, Outcome, Response, Submission, Usage
from batchling.providers import Client
from batchling.providers.anthropic import ADAPTER
from batchling.providers.anthropic.client import read_batch
from batchling.spec import ModelConfig, ProviderConfig
from batchling.testing.contract import ProviderContract
from tests.adapters.shipped import CONF, facts_of
from tests.servers.anthropic import KEY, AnthropicServer
from tests.servers.emulated import Answer, Elsewhere
from tests.workbench import Workbench

FACTS = facts_of("anthropic")
BODY = b'{"model":"claude-haiku-4-5","max_tokens":20,"messages":[{"role":"user","content":"row {n} {hard}"}]}'


def connected(url: str, facts: ProviderConfig = FACTS) -> Client:
    return ADAPTER.connect(facts, url, KEY, {})


class TestTheContract(ProviderContract):
    adapter = ADAPTER
    path = "/v1/messages"
    body = BODY
    refuses_unknown_files = False

    @pytest.fixture
    def upstream(self) -> Iterator[str]:
        with AnthropicServer() as server:
            yield server.url

    def connect(self, base_url: str) -> Client:
        return connected(base_url)


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


def sent(server: AnthropicServer, *texts: str, **params: Any) -> tuple[Client, Batch, bytes]:
    """A batch of these prompts."""
    client = connected(server.url)
    lines = []
    for n, text in enumerate(texts):
        body = {"model": "claude-haiku-4-5", "max_tokens": 20, **params, "messages": [MESSAGES.turn("user", text)]}
        lines.append(ADAPTER.envelope.encode(f"row-{n}", "/v1/messages", json.dumps(body).encode()))
    content = b"".join(lines)
    submission = Submission("abcdef", 1, 1, "0" * 64, "/v1/messages", len(texts))
    file_id = client.upload(submission, io.BytesIO(content))
    return client, client.create(submission, file_id, io.BytesIO(content), "24h"), content


def results(client: Client, server: AnthropicServer, batch: Batch) -> dict[str, Response]:
    server.end(batch.id)
    sink = io.BytesIO()
    output = client.poll(batch.id).output_file_id
    assert output is not None
    client.fetch(output, sink)
    found = [ADAPTER.envelope.decode(line) for line in sink.getvalue().splitlines()]
    return {line.custom_id: line for line in found if isinstance(line, Response)}


# What is said.


def request(*texts: tuple[str, str], **given: Any) -> NeutralRequest:
    given.setdefault("max_output_tokens", 300)
    return NeutralRequest("claude-haiku-4-5", texts or (("user", "x"),), **given)


def test_instructions_stand_apart_and_are_joined_in_order() -> None:
    body = MESSAGES.write(request(("system", "one"), ("developer", "two"), ("user", "x"), ("assistant", "y")))
    assert body["system"] == "one\n\ntwo"
    assert [message["role"] for message in body["messages"]] == ["user", "assistant"]
    assert list(body)[-1] == "messages"


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ((("user", "x"), ("system", "late")), "stands after the first turn"),
        ((("system", "alone"),), "wants a message from the user"),
    ],
)
def test_a_prompt_that_cannot_be_said_is_an_error(texts: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MESSAGES.write(request(*texts))


def test_a_limit_is_needed_before_anything_is_planned() -> None:
    with pytest.raises(ConfigError, match=r"model\.max_output_tokens"):
        MESSAGES.write(request(max_output_tokens=None))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop_sequences": ["a"]}, {"stop_sequences": ["a"]}),
        ({"user": "u1"}, {"metadata": {"user_id": "u1"}}),
        ({"reasoning_effort": "low"}, {"output_config": {"effort": "low"}}),
        ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"temperature": 0, "top_k": 3}, {"temperature": 0, "top_k": 3}),
        ({"tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": {"type": "tool", "name": "f"}},
        ),
        ({"tool_choice": {"type": "tool", "name": "f"}}, {"tool_choice": {"type": "tool", "name": "f"}}),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
                    }
                ]
            },
            {"tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]},
        ),
        ({"tools": [{"name": "f", "input_schema": {}}]}, {"tools": [{"name": "f", "input_schema": {}}]}),
        ({"logprobs": False, "frequency_penalty": 0, "seed": None, "n": 1}, {}),
    ],
)
def test_parameters_are_said_in_its_words(given: dict[str, Any], said: dict[str, Any]) -> None:
    body = MESSAGES.write(request(params=given))
    rest = {name: value for name, value in body.items() if name not in ("model", "max_tokens", "messages", "n")}
    assert rest == said


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 1},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"logit_bias": {"1": 2}},
        {"n": 2},
        {"stream": True},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"system": "x"},
        {"response_format": {"type": "json_object"}},
        {"stop": "a", "stop_sequences": ["b"]},
        {"reasoning_effort": "low", "output_config": {"effort": "high"}},
        {"tools": "no list"},
    ],
    ids=str,
)
def test_what_it_cannot_say_is_an_error_at_plan_time(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.params\."):
        MESSAGES.write(request(params=given))


def test_a_schema_says_in_its_description_what_the_api_does_not_take() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1, "description": "how many"}, "t": {"$ref": "#/$defs/t"}},
        "required": ["n", "t"],
        "additionalProperties": False,
        "$defs": {"t": {"type": "string", "pattern": "^a", "format": "date"}},
    }
    body = MESSAGES.write(request(schema=StrictSchema("output", schema), params={"reasoning_effort": "low"}))
    told = body["output_config"]["format"]
    assert body["output_config"]["effort"] == "low"
    assert told["type"] == "json_schema" and set(told) == {"type", "schema"}
    assert told["schema"]["properties"]["n"] == {"type": "integer", "description": "how many\n\n{minimum: 1}"}
    assert told["schema"]["$defs"]["t"] == {"type": "string", "format": "date", "description": '{pattern: "^a"}'}
    assert schema["properties"]["n"]["minimum"] == 1, "the caller's schema is its own"  # type: ignore[index]


# What is read.


def test_each_kind_of_result_is_one_outcome(server: AnthropicServer) -> None:
    words = ("plain", "FAIL", "OVERLOADED", "EXPIRED", "CANCELED", "CUT", "THINK", "REFUSE", "PAUSE")
    client, batch, _ = sent(server, *words)
    found = {words[int(name[4:])]: answer for name, answer in results(client, server, batch).items()}
    assert {word: answer.outcome for word, answer in found.items()} == {
        "plain": Outcome.OK,
        "FAIL": Outcome.ERROR,
        "OVERLOADED": Outcome.RETRYABLE,
        "EXPIRED": Outcome.EXPIRED,
        "CANCELED": Outcome.CANCELLED,
        "CUT": Outcome.TRUNCATED,
        "THINK": Outcome.TRUNCATED,
        "REFUSE": Outcome.REFUSED,
        "PAUSE": Outcome.ERROR,
    }
    assert found["plain"].text == "said: plain"
    assert found["plain"].usage == Usage(127, 100, 5, 0, 20), (
        "read from the cache and written to it are part of the input"
    )
    assert "cyber" in (found["REFUSE"].error_message or "")


def test_thinking_that_uses_up_the_limit_says_so(server: AnthropicServer) -> None:
    """evalcore 2.4.3: max_tokens includes thinking, and nothing is left for the answer."""
    client, batch, _ = sent(server, "THINK")
    (answer,) = results(client, server, batch).values()
    assert answer.error_code == "reasoning" and answer.usage.reasoning_tokens == 20


def test_a_row_s_error_is_read_where_it_is_nested(server: AnthropicServer) -> None:
    """crmne/ruby_llm#928: type and message stand in the error's error."""
    client, batch, _ = sent(server, "FAIL")
    (answer,) = results(client, server, batch).values()
    assert (answer.error_code, answer.error_message) == (
        "invalid_request_error",
        "messages.0: this one cannot be said",
    )


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("invalid_request_error", Outcome.ERROR),
        ("not_found_error", Outcome.ERROR),
        ("request_too_large", Outcome.ERROR),
        ("authentication_error", Outcome.ACCOUNT),
        ("billing_error", Outcome.ACCOUNT),
        ("permission_error", Outcome.ACCOUNT),
        ("rate_limit_error", Outcome.RETRYABLE),
        ("timeout_error", Outcome.RETRYABLE),
        ("api_error", Outcome.RETRYABLE),
        ("overloaded_error", Outcome.RETRYABLE),
    ],
)
def test_an_error_s_type_says_whether_it_may_pass(kind: str, outcome: Outcome) -> None:
    error = {"type": "error", "error": {"type": kind, "message": "words"}, "request_id": None}
    line = {"custom_id": "k", "result": {"type": "errored", "error": error}}
    decoded = ADAPTER.envelope.decode(json.dumps(line).encode())
    assert isinstance(decoded, Response) and decoded.outcome is outcome


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id":"k","result":{"type":"succeeded","message":{}}}',
        b'{"custom_id":"k","result":{"type":"succeeded","message":null}}',
        b'{"custom_id":"k","result":{"type":"something new"}}',
        b'{"custom_id":"k","result":null}',
        b'{"custom_id":"k","result":{"type":"succeeded","message":{"type":"message","content":[{"type":"te',
    ],
)
def test_what_cannot_be_read_is_final_because_it_may_have_been_paid(line: bytes) -> None:
    decoded = ADAPTER.envelope.decode(line)
    assert isinstance(decoded, Response) and decoded.outcome is Outcome.ERROR and decoded.error_code == "not_understood"


def test_a_batch_is_read_tolerantly() -> None:
    assert read_batch({"error": {}}) is None and read_batch([]) is None
    bare = read_batch({"id": "msgbatch_1", "processing_status": "reticulating", "request_counts": {"processing": "3"}})
    assert bare is not None and not bare.terminal and bare.status == "reticulating" and bare.total is None
    counts = {"processing": "0", "succeeded": "2", "errored": 1, "canceled": 0, "expired": 0}
    ended = read_batch(
        {
            "id": "msgbatch_1",
            "type": "message_batch",
            "processing_status": "ended",
            "request_counts": counts,
            "created_at": "2026-11-25T08:00:00.5Z",
            "results_url": "https://elsewhere.example/x",
        }
    )
    assert ended is not None and ended.terminal
    assert (ended.total, ended.completed, ended.failed, ended.output_file_id) == (3, 2, 1, "msgbatch_1")
    assert ended.created_at == 1795593600.5


# How it travels.


def test_the_version_is_pinned_and_part_of_the_key(server: AnthropicServer) -> None:
    client, batch, _ = sent(server, "x")
    client.poll(batch.id)
    assert {call.headers["anthropic-version"] for call in server.calls} == {"2023-06-01"}
    assert FACTS.headers == {"anthropic-version": "2023-06-01"}, "request keys are made from provider.headers"


def test_the_requests_arrive_as_they_are(server: AnthropicServer) -> None:
    _, _, content = sent(server, "one", 'hard " \\ \n \u2028', "x" * 600_000)
    (call,) = server.said("POST", "/batches")
    assert call.body == b'{"requests":[' + content.rstrip(b"\n").replace(b"\n", b",") + b"]}"
    assert call.headers["content-length"] == str(len(call.body)), "streamed with its length, not in chunks"


def test_results_are_fetched_from_our_origin_whatever_the_batch_says(server: AnthropicServer) -> None:
    with Elsewhere() as elsewhere:
        server.results_host = elsewhere.origin
        client, batch, _ = sent(server, "x")
        assert len(results(client, server, batch)) == 1
        assert elsewhere.calls == []


def test_results_that_are_kept_elsewhere_are_fetched_without_the_key(server: AnthropicServer) -> None:
    with Elsewhere() as elsewhere:
        client, batch, _ = sent(server, "x")
        server.keeps_elsewhere = elsewhere.url
        elsewhere.files[f"/{batch.id}"] = server.results_of(batch.id)
        assert len(results(client, server, batch)) == 1
        (call,) = elsewhere.calls
        assert KEY not in str(dict(call.headers)) and "x-api-key" not in call.headers


def test_a_second_redirect_and_one_of_another_call_are_refused(server: AnthropicServer) -> None:
    with Elsewhere() as elsewhere:
        client, batch, _ = sent(server, "x")
        server.end(batch.id)
        away = Answer(307, None, {"Location": f"{elsewhere.url}/x"})
        server.once("GET", batch.id, away)
        with pytest.raises(CallStopped, match="not an address that you configured"):
            client.poll(batch.id)
        server.keeps_elsewhere = elsewhere.url
        elsewhere.faults.append(lambda call: Answer(302, None, {"Location": "https://third.example/"}))
        with pytest.raises(CallStopped):
            client.fetch(batch.id, io.BytesIO())
        assert all(KEY not in str(dict(call.headers)) for call in elsewhere.calls)


def test_results_are_not_there_before_the_end(server: AnthropicServer) -> None:
    client, batch, _ = sent(server, "x")
    assert batch.output_file_id is None and not batch.terminal
    with pytest.raises(CallNotFound):
        client.fetch(batch.id, io.BytesIO())


def test_a_batch_that_is_not_visible_yet_is_not_found(server: AnthropicServer) -> None:
    server.unseen = 1
    client, batch, _ = sent(server, "x")
    with pytest.raises(CallNotFound):
        client.poll(batch.id)
    assert client.poll(batch.id).id == batch.id


def test_the_list_is_read_to_its_end_and_no_further(server: AnthropicServer) -> None:
    for n in range(5):
        server.make([{"custom_id": f"c{n}", "params": {}}], at=1e9 + n * 10_000)
    client = connected(server.url)
    assert len(list(client.find(0.0, page_size=2))) == 5
    assert len(list(client.find(1e9 + 39_000, page_size=1))) == 2, "an hour of margin, and the page that shows the end"


def test_a_list_whose_cursor_leads_nowhere_is_no_list(server: AnthropicServer) -> None:
    for n in range(3):
        server.make([{"custom_id": f"c{n}", "params": {}}])
    client = connected(server.url)
    page = {"data": [{"id": "msgbatch_9", "processing_status": "ended"}], "has_more": True, "last_id": "msgbatch_9"}
    server.once("GET", "/batches", Answer(200, page))
    server.once("GET", "/batches", Answer(200, page))
    with pytest.raises(CallUnavailable, match="no new ones") as caught:
        list(client.find(0.0))
    assert caught.value.code == "list_incomplete"


@pytest.mark.parametrize(
    ("status", "kind", "words", "error"),
    [
        (413, "request_too_large", "Request exceeds the maximum allowed number of bytes.", CallRefused),
        (400, "invalid_request_error", "requests: List should have at most 100000 items after validation", CallRefused),
        (429, "rate_limit_error", "This request would exceed your rate limit", CallRefused),
        (403, "billing_error", "Your credit balance is too low", CallRefused),
        (401, "authentication_error", "invalid x-api-key", CallRefused),
        (529, "overloaded_error", "Overloaded", CallAmbiguous),
        (500, "api_error", "Internal server error", CallAmbiguous),
        (504, "timeout_error", "Request timed out", CallAmbiguous),
    ],
)
def test_what_a_refusal_of_a_create_means(
    server: AnthropicServer, status: int, kind: str, words: str, error: type[Exception]
) -> None:
    body = {"type": "error", "error": {"type": kind, "message": words}, "request_id": "req_1"}
    server.once("POST", "/batches", Answer(status, body, {"retry-after": "7"}))
    with pytest.raises(error) as caught:
        sent(server, "x")
    assert words in str(caught.value)
    assert len(server.said("POST", "/batches")) == 1 and not server.batches


def test_a_refusal_names_the_row_that_it_blames(server: AnthropicServer) -> None:
    """A create that refuses single rows (stdapi#240): they are left out, the others are sent."""
    body = {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "requests.1.params.max_tokens: Field required"},
    }
    server.once("POST", "/batches", Answer(400, body))
    with pytest.raises(CallRefused) as caught:
        sent(server, "x", "y")
    assert [error.line for error in caught.value.lines] == [2]


def test_an_error_that_is_not_its_own_says_nothing_about_a_create(server: AnthropicServer) -> None:
    server.once("POST", "/batches", Answer(400, b"<html>Bad Request</html>"))
    with pytest.raises(CallAmbiguous):
        sent(server, "x")


def test_the_key_is_in_no_message(server: AnthropicServer) -> None:
    body = {"type": "error", "error": {"type": "authentication_error", "message": f"invalid x-api-key {KEY}"}}
    server.once("GET", "/b", Answer(401, body))
    with pytest.raises(CallRefused) as caught:
        connected(server.url).poll("b")
    assert KEY not in str(caught.value) and KEY[-8:] not in str(caught.value)


def test_garbage_is_garbage() -> None:
    assert isinstance(ADAPTER.envelope.decode(b'{"result": {}}'), Garbage)


# What its models refuse, before anything is spent.


@pytest.mark.parametrize(
    ("model", "params", "where"),
    [
        ("claude-opus-5-5", "{temperature: 0}", "model.params.temperature"),
        ("claude-haiku-5-5", "{top_p: 0.9}", "model.params.top_p"),
        ("claude-sonnet-5-5", "{top_k: 5}", "model.params.top_k"),
        ("claude-haiku-4-5", "{temperature: 0, top_p: 0.9}", "model.params.top_p"),
        ("claude-sonnet-4-6", "{temperature: 0, top_p: 0.9}", "model.params.top_p"),
    ],
)
def test_sampling_that_a_model_refuses_is_an_error_at_plan_time(
    bench: Workbench, model: str, params: str, where: str
) -> None:
    """litellm#26444, ComfyUI#13923, open-webui/functions#9: in a batch the refusal comes hours later, once for each row."""
    with pytest.raises(ConfigError, match=where.replace(".", r"\.")):
        verbs.plan("ask", [f"model={model}", "provider=anthropic", f"model.params={params}"], project=bench.project)
    assert not bench.plans


def test_sampling_that_a_model_takes_is_planned(bench: Workbench) -> None:
    for params in ("{temperature: 0}", "{temperature: 1, top_p: 1}"):
        verbs.plan(
            "ask",
            ["model=claude-haiku-4-5", "provider=anthropic", f"model.params={params}", "tokens=off"],
            project=bench.project,
        )


def test_an_answer_that_is_begun_is_refused_where_the_model_refuses_it(bench: Workbench) -> None:
    turns = "prompt.messages=[{role: user, content: 'x {text}'}, {role: assistant, content: 'It is'}]"
    with pytest.raises(ConfigError, match="does not continue"):
        verbs.plan("ask", ["model=claude-sonnet-5-5", "provider=anthropic", turns], project=bench.project)
    verbs.plan("ask", ["model=claude-haiku-4-5", "provider=anthropic", turns, "tokens=off"], project=bench.project)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "model").glob("claude-*.yaml")))
def test_every_model_has_a_dated_batch_price(name: str) -> None:
    model = ModelConfig.model_validate(
        {k: v for k, v in yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text()).items() if k != "defaults"}
    )
    price = price_of(model, FACTS, now=date(2026, 11, 25))
    assert price is not None and price.batch and "standard" not in price.source
    assert price.written is not None and price.written > price.input > (price.cached or 0)


def test_a_create_is_waited_for_longer_than_a_look(server: AnthropicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It carries up to 250 MB, and a create that is given up too early is a submission of unknown fate."""
    patience: dict[str, float] = {}
    send = httpx2.Client.send

    def sending(self: httpx2.Client, request: httpx2.Request, **options: Any) -> httpx2.Response:
        patience[request.method] = request.extensions["timeout"]["read"]
        return send(self, request, **options)

    monkeypatch.setattr(httpx2.Client, "send", sending)
    client, batch, _ = sent(server, "x")
    client.poll(batch.id)
    assert patience == {"POST": 600.0, "GET": 120.0}
