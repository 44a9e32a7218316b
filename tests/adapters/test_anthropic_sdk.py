"""The vendor's own client and types judge what we write, and the emulator that our adapter is tested against."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

anthropic = pytest.importorskip("anthropic", minversion="2.0")

from anthropic.lib._parse._transform import transform_schema  # noqa: E402
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse  # noqa: E402
from anthropic.types.messages.batch_create_params import BatchCreateParams  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402

from batchling.dialects import MESSAGES, NeutralRequest, StrictSchema  # noqa: E402
from batchling.dialects.messages import sayable  # noqa: E402
from batchling.schema.strict import strict  # noqa: E402
from tests.adapters import golden  # noqa: E402
from tests.adapters.test_anthropic import results, sent  # noqa: E402
from tests.servers.anthropic import KEY, AnthropicServer  # noqa: E402

CREATE = TypeAdapter(BatchCreateParams)


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def vendor(server: AnthropicServer) -> Any:
    return anthropic.Anthropic(api_key=KEY, base_url=server.url, max_retries=0)


def judged(body: Any) -> Any:
    """What the vendor's type keeps of a request."""
    given = {"requests": [{"custom_id": "a", "params": body}]}
    kept = json.loads(CREATE.dump_json(CREATE.validate_python(given)))
    return kept["requests"][0]["params"]


@pytest.mark.parametrize("name", golden.MESSAGES)
def test_its_type_takes_the_golden_requests_and_drops_nothing(name: str) -> None:
    assert judged(golden.MESSAGES[name]) == golden.MESSAGES[name]


def test_our_dialect_writes_the_golden_requests() -> None:
    assert MESSAGES.write(golden.plain("claude-haiku-4-5")) == golden.MESSAGES["plain"]
    assert MESSAGES.write(golden.structured("claude-haiku-4-5")) == golden.MESSAGES["structured"]


@pytest.mark.parametrize(
    "params",
    [
        {"stop": ["a"]},
        {"reasoning_effort": "high"},
        {"reasoning_effort": "none"},
        {"user": "u"},
        {
            "tool_choice": "required",
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        },
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    ],
    ids=str,
)
def test_its_type_drops_none_of_our_words(params: dict[str, Any]) -> None:
    body = MESSAGES.write(golden.plain("claude-haiku-4-5", **params))
    assert judged(body) == body


def test_the_judge_sees_what_it_does_not_know() -> None:
    """A judge that drops silently would pass everything: sampling is gone from these types (API version 2026-10-21)."""
    body = MESSAGES.write(golden.plain("claude-haiku-4-5", temperature=0))
    assert "temperature" in body and "temperature" not in judged(body)
    with pytest.raises(ValueError, match="max_tokens"):
        judged({"model": "m", "messages": []})


SCHEMAS: list[dict[str, Any]] = [
    golden.SCHEMA,
    {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 1, "maximum": 5, "description": "how many"},
            "when": {"type": "string", "format": "date"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "inner": {"$ref": "#/$defs/inner"},
        },
        "required": ["n", "when", "tags", "maybe", "inner"],
        "$defs": {"inner": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["plain", "rich"])
def test_a_strict_schema_is_what_the_vendor_would_make_of_it(schema: dict[str, Any]) -> None:
    """Both forms allow the same: only `type` beside `enum`, and how a description is worded, may differ."""

    def meaning(node: Any) -> Any:
        if isinstance(node, list):
            return [meaning(item) for item in node]
        if not isinstance(node, dict):
            return node
        dropped = {"description", *(["type"] if "enum" in node else [])}
        return {name: meaning(value) for name, value in node.items() if name not in dropped}

    ours = sayable(strict(schema).schema)
    assert meaning(transform_schema(ours)) == meaning(ours), "the vendor has nothing left to change"
    assert meaning(transform_schema(strict(schema).schema)) == meaning(ours)


def test_it_takes_a_schema_that_our_compiler_made() -> None:
    schema = StrictSchema("output", strict(SCHEMAS[1]).schema)
    body = MESSAGES.write(NeutralRequest("claude-haiku-4-5", golden.TEXTS, {}, 300, None, schema))
    assert judged(body) == body


def test_the_vendors_client_and_ours_see_the_same_server(server: AnthropicServer, vendor: Any) -> None:
    made = vendor.messages.batches.create(
        requests=[{"custom_id": f"c{n}", "params": golden.MESSAGES["plain"]} for n in range(3)]
    )
    assert made.processing_status == "in_progress" and made.request_counts.processing == 3
    _, ours, _ = sent(server, "plain", "FAIL", "EXPIRED")
    assert [batch.id for batch in vendor.messages.batches.list(limit=1)] == [ours.id, made.id], (
        "two pages, newest first"
    )
    server.end(made.id)
    answers = {line.custom_id: line.result for line in vendor.messages.batches.results(made.id)}
    assert {answer.type for answer in answers.values()} == {"succeeded"} and sorted(answers) == ["c0", "c1", "c2"]
    server.end(ours.id)
    theirs = {line.custom_id: line.result.type for line in vendor.messages.batches.results(ours.id)}
    assert theirs == {"row-0": "succeeded", "row-1": "errored", "row-2": "expired"}


def test_the_vendors_client_cancels_and_deletes(server: AnthropicServer, vendor: Any) -> None:
    made = vendor.messages.batches.create(requests=[{"custom_id": "c", "params": golden.MESSAGES["plain"]}])
    assert vendor.messages.batches.cancel(made.id).processing_status == "canceling"
    with pytest.raises(anthropic.BadRequestError):
        vendor.messages.batches.delete(made.id)
    server.end(made.id)
    assert next(iter(vendor.messages.batches.results(made.id))).result.type == "canceled"
    assert vendor.messages.batches.delete(made.id).id == made.id
    with pytest.raises(anthropic.NotFoundError):
        vendor.messages.batches.retrieve(made.id)


def test_the_vendors_client_reads_its_refusals(server: AnthropicServer, vendor: Any) -> None:
    request = {"custom_id": "c", "params": golden.MESSAGES["plain"]}
    with pytest.raises(anthropic.BadRequestError, match="Duplicate"):
        vendor.messages.batches.create(requests=[request, request])
    server.most_bytes = 10
    with pytest.raises(anthropic.APIStatusError) as caught:
        vendor.messages.batches.create(requests=[request])
    assert caught.value.status_code == 413
    stranger = anthropic.Anthropic(api_key="sk-ant-none", base_url=server.url, max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.batches.retrieve("x")


def test_what_the_emulator_says_fits_the_vendors_types_strictly(server: AnthropicServer) -> None:
    words = ("plain", "FAIL", "OVERLOADED", "EXPIRED", "CANCELED", "CUT", "THINK", "REFUSE", "PAUSE")
    client, batch, _ = sent(server, *words)
    assert len(results(client, server, batch)) == len(words)
    for line in server.results_of(batch.id).splitlines():
        TypeAdapter(MessageBatchIndividualResponse).validate_json(line, strict=True)
    shown = server.answer(server.calls[-2]).body
    TypeAdapter(MessageBatch).validate_json(json.dumps(shown), strict=True)


def test_instructions_inside_the_conversation_fail_in_every_row(server: AnthropicServer) -> None:
    """A recorded batch had all its 36 rows refused for a `system` role; our dialect writes none."""
    body = {
        **golden.MESSAGES["plain"],
        "messages": [{"role": "system", "content": "x"}, *golden.MESSAGES["plain"]["messages"]],
    }
    name = server.make([{"custom_id": "c", "params": body}])
    server.end(name)
    assert json.loads(server.results_of(name))["result"]["type"] == "errored"
    written = MESSAGES.write(golden.plain("claude-haiku-4-5"))
    assert {message["role"] for message in written["messages"]} == {"user"}
