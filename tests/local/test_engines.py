from __future__ import annotations

import base64
import math
import struct
from collections import Counter
from typing import Any

import jsonschema
import openai
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchling.local.engines.draws import Draws
from batchling.local.engines.schema_sample import CannotSample, sample
from batchling.local.engines.simulated import SimulatedEngine
from batchling.spec import EngineConfig

from .conftest import CHAT, Lab

OBJECT = {"type": "object", "additionalProperties": False}
SCHEMAS: dict[str, dict[str, Any]] = {
    "enum": {"enum": ["a", 1, None, {"b": []}]},
    "const": {"const": {"x": 1}},
    "nested": {
        **OBJECT,
        "properties": {
            "label": {"type": "string", "enum": [f"l{i}" for i in range(77)]},
            "inner": {**OBJECT, "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 5}}, "required": ["n"]},
            "list": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "minItems": 2, "maxItems": 4},
        },
        "required": ["label", "inner", "list"],
    },
    "nullable": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    "type list": {"type": ["boolean", "null"]},
    "all of": {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "boolean"}}, "required": ["b"]}]},
    "definitions": {"$ref": "#/$defs/step", "$defs": {"step": {**OBJECT, "properties": {"why": {"type": "string", "minLength": 200, "maxLength": 210}}, "required": ["why"]}}},
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                **OBJECT,
                "properties": {"value": {"type": "integer"}, "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "required": ["value", "left", "children"],
            }
        },
    },
    "recursive root": {**OBJECT, "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
    "negative bounds": {"type": "integer", "maximum": -5},
    "multiples": {"type": "integer", "multipleOf": 7, "minimum": 8, "exclusiveMaximum": 28},
    "fractions": {"type": "number", "multipleOf": 0.5, "minimum": 1, "maximum": 2},
    "tight": {"type": "number", "minimum": 0.25, "maximum": 0.25},
    "unique": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "uniqueItems": True},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "pattern": {"type": "string", "pattern": r"^(?:[A-Z]{2,3}|x)-\d{4}(\.[^a-z\d]+)?$"},
    "empty": {},
    **{name: {"type": "string", "format": name} for name in ("date", "time", "date-time", "email", "hostname", "ipv4", "ipv6", "uuid", "duration")},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_sample_satisfies_its_schema(name: str) -> None:
    checker = jsonschema.Draft202012Validator(
        SCHEMAS[name], format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for seed in range(200):
        checker.validate(sample(SCHEMAS[name], Draws(b"%d" % seed)))


LOOPS = {
    "a circle of references": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "endless recursion": {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    "a billion items": {"type": "array", "minItems": 10**9},
    "a billion characters": {"type": "string", "minLength": 10**9},
    "wide and deep": {"type": "array", "minItems": 20, "items": {"$ref": "#"}},
    "an empty enum": {"enum": []},
    "crossed bounds": {"type": "integer", "minimum": 5, "maximum": 4},
    "a reference to nowhere": {"$ref": "#/$defs/missing"},
    "a reference to elsewhere": {"$ref": "https://example.com/schema"},
    "not a schema": 7,
    "an unknown type": {"type": "colour"},
}


@pytest.mark.parametrize("schema", LOOPS.values(), ids=LOOPS.keys())
def test_what_cannot_be_sampled_is_a_row_error_and_never_hangs(schema: Any) -> None:
    with pytest.raises(CannotSample):
        sample(schema, Draws(b"0"))
    answer = SimulatedEngine().answer(
        CHAT,
        {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        },
    )
    assert answer.status == 400
    assert orjson.loads(answer.body)["error"]["code"] == "invalid_json_schema"


@pytest.mark.parametrize(
    "pattern", ["(" * 40 + "){9}" * 40, "(?=a)b", "[", "a{5}{6}", "(a", r"\p{L}", "x{99999999}", "*", ""]
)
def test_a_strange_pattern_is_met_with_a_plain_string(pattern: str) -> None:
    assert isinstance(sample({"type": "string", "pattern": pattern}, Draws(b"0")), str)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "anyOf",
                    "enum",
                    "$ref",
                    "minimum",
                    "maximum",
                    "required",
                    "pattern",
                    "format",
                    "minItems",
                    "minLength",
                    "allOf",
                    "messages",
                    "input",
                    "role",
                    "content",
                    "model",
                    "response_format",
                    "json_schema",
                    "schema",
                    "text",
                    "dimensions",
                    "n",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([CHAT, "/v1/responses", "/v1/embeddings"]),
    st.dictionaries(st.text(max_size=5), json_values),
    json_values,
)
def test_no_body_makes_the_engine_raise(endpoint: str, body: dict[str, Any], schema: Any) -> None:
    good = {"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    shaped = {**good, **body, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}
    for hostile in (body, shaped):
        answer = SimulatedEngine().answer(endpoint, hostile)
        assert isinstance(orjson.loads(answer.body), dict)
        assert answer.status in (200, 400)


def classify(text: str, labels: list[str]) -> dict[str, Any]:
    schema = {**OBJECT, "properties": {"label": {"type": "string", "enum": labels}}, "required": ["label"]}
    return {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}},
    }


def test_answers_depend_on_the_request_only_and_vary_over_the_labels() -> None:
    labels = [f"label-{i}" for i in range(10)]

    def ask(text: str) -> str:
        body = orjson.loads(SimulatedEngine().answer(CHAT, classify(text, labels)).body)
        return str(orjson.loads(body["choices"][0]["message"]["content"])["label"])

    first = [ask(f"row {i}") for i in range(1_000)]
    assert first[:50] == [ask(f"row {i}") for i in range(50)]
    counts = Counter(first)
    assert set(counts) == set(labels)
    assert max(counts.values()) < 150  # 100 expected; 5 standard deviations are 47


WORDED = {
    "type": "object",
    "properties": {"label": {"enum": ["a", "b"]}, "n": {"type": "integer"}},
    "required": ["label", "n"],
}


@pytest.mark.parametrize("mode", [{}, {"response_format": {"type": "json_object"}}])
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_schema_that_the_system_message_names_is_met(role: str, mode: dict[str, Any]) -> None:
    said = "Be brief.\n\nThe JSON must fit this JSON Schema:\n" + orjson.dumps(WORDED).decode() + "\nNo {other} text."
    messages = [{"role": role, "content": said}, {"role": "user", "content": 'JSON Schema: {"type": "integer"}'}]
    answer = SimulatedEngine().answer("/v1/chat/completions", {"model": "m", "messages": messages, **mode})
    jsonschema.validate(orjson.loads(orjson.loads(answer.body)["choices"][0]["message"]["content"]), WORDED)
    request = {"model": "m", "instructions": said, "input": "hi"}
    told = orjson.loads(SimulatedEngine().answer("/v1/responses", request).body)["output"][-1]["content"][0]["text"]
    jsonschema.validate(orjson.loads(told), WORDED)


@pytest.mark.parametrize(
    ("said", "mode", "met"),
    [
        ('Explain this JSON Schema: {"type": "integer"}', {}, False),
        ('Answer by this JSON schema: {"type": "object", "required": ["a"]}', {"type": "json_object"}, True),
        ('A JSON Schema: {"type": "nonsense"}', {"type": "json_object"}, False),
        ('JSON Schema {"a": ' * 2_000, {"type": "json_object"}, False),
    ],
)
def test_what_a_row_says_of_schemas_counts_in_json_mode_only_and_never_fails(
    said: str, mode: dict[str, Any], met: bool
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": said}]}
    answer = SimulatedEngine().answer("/v1/chat/completions", body | ({"response_format": mode} if mode else {}))
    assert answer.status == 200
    text = orjson.loads(answer.body)["choices"][0]["message"]["content"]
    assert ("a" in orjson.loads(text)) is met if mode else text.startswith("Simulated answer")


def test_simulated_answers_are_marked(lab: Lab) -> None:
    client = lab.start()
    chat = client.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}], n=2)
    assert chat.system_fingerprint == "simulated"
    assert chat.id.startswith("chatcmpl-sim-")
    assert chat.model == "gpt-5-mini"
    assert len({choice.message.content for choice in chat.choices}) == 2
    response = client.responses.create(model="gpt-5-mini", input="hi", instructions="be short")
    assert response.metadata == {"engine": "simulated"}
    assert response.output_text.startswith("Simulated answer: ")
    assert response.usage is not None and response.usage.output_tokens > 0


def test_responses_follow_text_format(lab: Lab) -> None:
    client = lab.start()
    schema = {**OBJECT, "properties": {"n": {"type": "integer", "minimum": 4, "maximum": 4}}, "required": ["n"]}
    response = client.responses.create(
        model="m", input="x", text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    )
    assert orjson.loads(response.output_text) == {"n": 4}


def test_a_limit_of_output_tokens_cuts_the_answer_as_a_model_would(lab: Lab) -> None:
    client = lab.start(engine=EngineConfig(kind="echo"))
    long = "word " * 100
    chat = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": long}], max_completion_tokens=16
    )
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage is not None and chat.usage.completion_tokens == 16
    response = client.responses.create(model="m", input=long, max_output_tokens=16)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None and response.incomplete_details.reason == "max_output_tokens"


def test_echo_repeats_the_last_user_message(lab: Lab) -> None:
    client = lab.start(engine=EngineConfig(kind="echo"))
    chat = client.chat.completions.create(
        model="m",
        messages=[
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "between"},
            {"role": "user", "content": [{"type": "text", "text": "second"}]},
        ],
    )
    assert chat.choices[0].message.content == "second"


def test_embeddings_are_unit_vectors_of_the_asked_dimensions(lab: Lab) -> None:
    client = lab.start()
    plain = client.embeddings.create(model="e", input=["a", "b", "a"], dimensions=64, encoding_format="float")
    vectors = [item.embedding for item in plain.data]
    assert [len(v) for v in vectors] == [64] * 3
    assert all(math.isclose(sum(x * x for x in v), 1.0, abs_tol=1e-5) for v in vectors)
    assert vectors[0] == vectors[2] != vectors[1]
    raw = client.post(
        "/embeddings", cast_to=object, body={"model": "e", "input": "a", "dimensions": 64, "encoding_format": "base64"}
    )
    packed = base64.b64decode(raw["data"][0]["embedding"])  # type: ignore[index]
    assert struct.unpack("<64f", packed) == pytest.approx(vectors[0], abs=1e-6)
    default = client.embeddings.create(model="text-embedding-3-large", input=[[1, 2, 3]])
    assert len(default.data[0].embedding) == 3072


def test_models_can_be_listed_and_any_name_is_answered(lab: Lab) -> None:
    client = lab.start()
    assert [m.id for m in client.models.list()] == ["simulated"]
    assert client.models.retrieve("org/some-model").id == "org/some-model"


def test_a_bad_synchronous_request_is_refused_in_openais_shape(lab: Lab) -> None:
    client = lab.start()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[])
    assert (caught.value.param, caught.value.type) == ("messages", "invalid_request_error")
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
