"""The bytes of a request: what is in them, in which order, and what a row can and cannot put there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchling import schema
from batchling.errors import ConfigError, DataError, PromptError
from batchling.request import RequestBuilder
from batchling.spec import SchemaConfig

FIELDS = SchemaConfig(fields={"label": {"enum": ["a", "b"]}}, name="intent")
SENT = {
    "type": "object",
    "properties": {"label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["label"],
    "additionalProperties": False,
}


def ordered(body: bytes) -> list[str]:
    return list(json.loads(body))


def test_a_chat_body_has_model_parameters_limit_schema_and_the_messages_last(make_spec: Any) -> None:
    spec = make_spec(model={"id": "gpt-5-mini", "params": {"temperature": 0, "seed": 7}, "max_output_tokens": 300})
    built = RequestBuilder(spec, ["text"], schema.compile(FIELDS)).build(["Where is my card?"])
    assert json.loads(built.body) == {
        "model": "gpt-5-mini",
        "temperature": 0,
        "seed": 7,
        "max_completion_tokens": 300,
        "response_format": {"type": "json_schema", "json_schema": {"name": "intent", "schema": SENT, "strict": True}},
        "messages": [
            {"role": "system", "content": "You sort tickets."},
            {"role": "user", "content": "Ticket: Where is my card?"},
        ],
    }
    assert ordered(built.body) == [
        "model",
        "temperature",
        "seed",
        "max_completion_tokens",
        "response_format",
        "messages",
    ]
    assert built.texts == ["You sort tickets.", "Ticket: Where is my card?"]


def test_a_responses_body_has_its_format_under_text_beside_what_the_parameters_say(make_spec: Any) -> None:
    model = {
        "id": "gpt-5-mini",
        "endpoint": "responses",
        "params": {"text": {"verbosity": "low"}},
        "max_output_tokens": 9,
    }
    built = RequestBuilder(make_spec(model=model), ["text"], schema.compile(FIELDS)).build(["x"])
    assert json.loads(built.body) == {
        "model": "gpt-5-mini",
        "max_output_tokens": 9,
        "text": {
            "verbosity": "low",
            "format": {"type": "json_schema", "name": "intent", "schema": SENT, "strict": True},
        },
        "input": [{"role": "system", "content": "You sort tickets."}, {"role": "user", "content": "Ticket: x"}],
    }
    assert ordered(built.body)[-1] == "input"


def test_an_embeddings_body_has_the_text_and_the_parameters(make_spec: Any) -> None:
    model = {
        "id": "text-embedding-3-small",
        "endpoint": "embeddings",
        "params": {"dimensions": 256},
        "max_output_tokens": 5,
    }
    built = RequestBuilder(make_spec(model=model, text_input="passage: {text}"), ["text"]).build(["hello"])
    assert json.loads(built.body) == {"model": "text-embedding-3-small", "dimensions": 256, "input": "passage: hello"}
    assert built.texts == ["passage: hello"]


def test_a_provider_without_strict_mode_gets_the_schema_without_the_promise(make_spec: Any) -> None:
    spec = make_spec(provider={"name": "other", "base_url": "http://x", "strict_schema": False})
    body = json.loads(RequestBuilder(spec, ["text"], schema.compile(FIELDS)).build(["x"]).body)
    assert body["response_format"]["json_schema"]["strict"] is False


def test_a_schema_that_only_checks_is_not_sent(make_spec: Any) -> None:
    spec = make_spec(model={"id": "m", "params": {"response_format": {"type": "json_object"}}})
    output = schema.compile(SchemaConfig(fields={"label": "string"}, strict=False))
    body = json.loads(RequestBuilder(spec, ["text"], output).build(["x"]).body)
    assert body["response_format"] == {"type": "json_object"}


def test_the_provider_names_the_limit(make_spec: Any) -> None:
    spec = make_spec(
        model={"id": "m", "max_output_tokens": 5},
        provider={"name": "other", "base_url": "http://x", "max_tokens_param": {"chat": "max_tokens"}},
    )
    assert json.loads(RequestBuilder(spec, ["text"]).build(["x"]).body)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("endpoint", "name", "value"),
    [
        ("chat", "model", "other"),
        ("chat", "messages", []),
        ("chat", "stream", True),
        ("chat", "stream_options", {}),
        ("chat", "response_format", {"type": "json_object"}),
        ("chat", "max_tokens", 5),
        ("chat", "max_completion_tokens", 5),
        ("chat", "n", 2),
        ("responses", "input", "x"),
        ("responses", "background", True),
        ("responses", "text", {"format": {"type": "text"}}),
        ("responses", "max_output_tokens", 5),
    ],
)
def test_parameters_cannot_override_what_is_built(make_spec: Any, endpoint: str, name: str, value: Any) -> None:
    spec = make_spec(model={"id": "m", "endpoint": endpoint, "params": {name: value}, "max_output_tokens": 300})
    with pytest.raises(ConfigError, match=f"model.params.{name}"):
        RequestBuilder(spec, ["text"], schema.compile(FIELDS))


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"model": {"id": "m", "endpoint": "embeddings"}}, "prompt.input"),
        ({"messages": ()}, "prompt.messages"),
        ({"provider": {"name": "azure", "endpoints": ["responses"]}}, "model.endpoint"),
        (
            {"provider": {"name": "x", "max_tokens_param": {}}, "model": {"id": "m", "max_output_tokens": 5}},
            "max_tokens_param",
        ),
        ({"model": {"id": "m", "params": {"temperature": float("nan")}}}, "model.params"),
    ],
)
def test_a_config_that_makes_no_body_is_an_error_that_names_the_key(make_spec: Any, sections: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        RequestBuilder(make_spec(**sections), ["text"])


def test_embeddings_have_no_schema(make_spec: Any) -> None:
    spec = make_spec(model={"id": "m", "endpoint": "embeddings"}, text_input="{text}")
    with pytest.raises(ConfigError, match="schema"):
        RequestBuilder(spec, ["text"], schema.compile(FIELDS))


def test_an_unknown_column_is_a_prompt_error(make_spec: Any) -> None:
    with pytest.raises(PromptError, match="`text`"):
        RequestBuilder(make_spec(), ["other"])


@given(text=st.text(), other=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_arrives_as_it_was_and_on_one_line(make_spec: Any, text: str, other: str) -> None:
    builder = RequestBuilder(make_spec((("system", "{other}\u2028"), ("user", "<{text}|{other}>"))), ["text", "other"])
    built = builder.build([{"text": text, "other": other}[c] for c in builder.columns])
    contents = [m["content"] for m in json.loads(built.body)["messages"]]
    assert contents == built.texts == [other + "\u2028", f"<{text}|{other}>"]
    assert len(built.body.decode("utf-8").splitlines()) == 1


def test_line_separators_are_escaped_everywhere_and_other_characters_are_not(make_spec: Any) -> None:
    spec = make_spec((("system", "a\u2028"), ("user", "{text}")), model={"id": "m", "params": {"user": "x\u0085"}})
    body = RequestBuilder(spec, ["text"]).build(["“é” \u2029\x00"]).body
    assert rb"a\u2028" in body
    assert rb"x\u0085" in body
    assert "“é” \\u2029\\u0000".encode() in body


@pytest.mark.parametrize("value", ["bad \ud800", "\udfff"])
def test_a_lone_surrogate_is_an_error_that_names_row_and_column(make_spec: Any, value: str) -> None:
    builder = RequestBuilder(make_spec((("user", "{name} {text}"),)), ["name", "text"])
    with pytest.raises(DataError, match=r"`text`.*surrogate") as caught:
        builder.build(["fine", value], row_id="t-17")
    assert "row t-17" in str(caught.value)


def test_a_value_without_text_is_an_error_that_names_row_and_column(make_spec: Any) -> None:
    with pytest.raises(DataError, match=r"`text`.*binary") as caught:
        RequestBuilder(make_spec(), ["text"]).build([b"\xff"], row_id="t-17")
    assert "row t-17" in str(caught.value)


def test_a_jinja_error_names_the_row(make_spec: Any) -> None:
    builder = RequestBuilder(make_spec((("user", "{{ text.missing }}"),), prompt={"engine": "jinja"}), ["text"])
    with pytest.raises(DataError) as caught:
        builder.build(["x"], row_id="t-17")
    assert "row t-17" in str(caught.value)


def test_jinja_bodies_hold_the_rendered_texts(make_spec: Any) -> None:
    messages = (("system", "fixed"), ("user", "{% if text %}{{ text|upper }}{% endif %}"))
    builder = RequestBuilder(make_spec(messages, prompt={"engine": "jinja"}), ["text"])
    built = builder.build(["a\u2028\n"])
    assert [m["content"] for m in json.loads(built.body)["messages"]] == built.texts == ["fixed", "A\u2028\n"]


@pytest.mark.parametrize("value", ["", "  \n\u00a0", None])
@pytest.mark.parametrize("engine", ["format", "jinja"])
def test_a_prompt_with_nothing_from_the_user_is_an_error_that_names_the_row(
    make_spec: Any, engine: str, value: Any
) -> None:
    template = "{text}" if engine == "format" else "{{ text }}"
    builder = RequestBuilder(make_spec((("system", "Sort."), ("user", template)), prompt={"engine": engine}), ["text"])
    with pytest.raises(DataError, match="empty") as caught:
        builder.build([value], row_id="t-17")
    assert "row t-17" in str(caught.value)


def test_a_blank_value_in_a_prompt_that_says_more_is_sent(make_spec: Any) -> None:
    assert RequestBuilder(make_spec(), ["text"]).build([""]).texts[1] == "Ticket: "


def test_a_prompt_without_placeholders_is_the_same_for_every_row(make_spec: Any) -> None:
    builder = RequestBuilder(make_spec((("user", "Invent a ticket."),)), ["text"])
    assert builder.columns == ()
    assert builder.build([]) == builder.build([])
    assert json.loads(builder.build([]).body)["messages"] == [{"role": "user", "content": "Invent a ticket."}]


def test_building_requests_loads_no_library_that_it_does_not_use() -> None:
    code = "import sys, batchling.request, batchling.schema; print([m for m in ('jinja2', 'jsonschema_rs', 'openai', 'duckdb', 'hydra', 'tiktoken') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
