"""Models that take no schema in the request: it is said in words."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from batchling import schema
from batchling.errors import ConfigError
from batchling.request import RequestBuilder
from batchling.schema import OutputSchema
from batchling.spec import Spec
from tests.request.conftest import MakeSpec

FIELDS = {"label": {"enum": ["{text}", "{{ text }}", "{% raw %}", "ünder"]}}
USER = ("user", "Classify {text}")
JINJA = ("user", "Classify {{ text }}")


def compiled(spec: Spec) -> OutputSchema | None:
    return schema.compile(spec.config.output_schema, model=spec.config.model)


def body(spec: Spec) -> dict[str, Any]:
    builder = RequestBuilder(spec, ["text"], compiled(spec))
    one = builder.build(["a {b}"])
    many = builder.build_many([["a {b}"]], ["0"])
    assert (many.keys, many.body(0)) == ([one.key], one.body)
    sent: dict[str, Any] = orjson.loads(one.body)
    assert one.texts == [message["content"] for message in sent.get("messages") or sent["input"]]
    return sent


def asked(make_spec: MakeSpec, *messages: tuple[str, str], send: str = "auto", **sections: Any) -> dict[str, Any]:
    fields = {"fields": FIELDS, "send": send}
    return body(make_spec(messages=messages or (USER,), schema=fields, **sections))


@pytest.mark.parametrize("engine", ["format", "jinja"])
@pytest.mark.parametrize(
    "before", [(), (("system", "Be brief."),), (("system", "A"), ("user", "x"), ("developer", "B"))]
)
def test_the_words_end_the_last_system_message_and_nothing_in_them_is_a_placeholder(
    make_spec: MakeSpec, engine: str, before: tuple[tuple[str, str], ...]
) -> None:
    user = USER if engine == "format" else JINJA
    plain = asked(make_spec, *before, user, send="strict", prompt={"engine": engine})["messages"]
    said = asked(make_spec, *before, user, send="prompt", prompt={"engine": engine})["messages"]
    if not before:
        assert said[0]["role"] == "system"
        assert said[1:] == plain
        words = said[0]["content"]
    else:
        at = len(before) - 1
        assert said[:at] == plain[:at]
        assert said[at + 1 :] == plain[at + 1 :]
        start = plain[at]["content"] + "\n\n"
        assert said[at]["content"].startswith(start)
        words = said[at]["content"].removeprefix(start)
    assert words.startswith(schema.OPENING)
    assert json.loads(words.removeprefix(schema.OPENING))["properties"]["label"]["enum"] == FIELDS["label"]["enum"]


@pytest.mark.parametrize(
    ("facts", "send", "form", "words"),
    [
        ({}, "auto", "json_schema", False),
        ({"strict_schema": False}, "auto", None, True),
        ({"strict_schema": False, "json_mode": True}, "auto", "json_object", True),
        ({"json_mode": True}, "auto", "json_schema", False),
        ({"strict_schema": False}, "strict", "json_schema", False),
        ({}, "json_mode", "json_object", True),
        ({"json_mode": True}, "prompt", None, True),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_how_it_is_sent_follows_the_config_and_then_the_model(
    make_spec: MakeSpec, facts: dict[str, bool], send: str, form: str | None, words: bool, endpoint: str
) -> None:
    sent = asked(make_spec, send=send, model={"endpoint": endpoint, **facts})
    given = sent.get("response_format") if endpoint == "chat" else sent.get("text", {}).get("format")
    assert (given and given["type"]) == form
    assert (schema.OPENING in json.dumps(sent, ensure_ascii=False).replace("\\n", "\n")) is words


def test_strict_false_sends_nothing_unless_the_config_says_how(make_spec: MakeSpec) -> None:
    quiet = make_spec(messages=(USER,), schema={"fields": FIELDS, "strict": False}, model={"strict_schema": False})
    assert body(quiet) == body(make_spec(messages=(USER,)))
    told = make_spec(messages=(USER,), schema={"fields": FIELDS, "strict": False, "send": "prompt"})
    assert len(body(told)["messages"]) == 2


def test_json_mode_is_not_asked_of_answers_that_are_no_objects(make_spec: MakeSpec) -> None:
    spec = make_spec(messages=(USER,), model={"strict_schema": False, "json_mode": True})
    numbers = schema.compile(spec.config.output_schema, {"type": "array", "items": {}}, model=spec.config.model)
    sent = orjson.loads(RequestBuilder(spec, ["text"], numbers).build(["a"]).body)
    assert "response_format" not in sent
    assert sent["messages"][0]["content"].endswith('{"type":"array","items":{}}')


def test_a_format_of_ones_own_is_kept_beside_the_words(make_spec: MakeSpec) -> None:
    own = {"params": {"response_format": {"type": "text"}}}
    assert asked(make_spec, send="json_mode", model=own)["response_format"] == {"type": "text"}
    with pytest.raises(ConfigError, match="response_format"):
        asked(make_spec, send="strict", model=own)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_repair_repeats_the_format_where_the_request_says_it(make_spec: MakeSpec, endpoint: str) -> None:
    for send in ("prompt", "json_mode", "strict"):
        spec = make_spec(messages=(USER,), schema={"fields": FIELDS, "send": send}, model={"endpoint": endpoint})
        builder = RequestBuilder(spec, ["text"], compiled(spec))
        first = builder.build([schema.OPENING + "no schema of ours"])
        _, repaired = builder.repair(first.key, first.body, "nonsense", "expected value", 1)
        last = next(v for k, v in orjson.loads(repaired).items() if k in ("messages", "input"))[-1]["content"]
        if send == "strict":
            assert last.endswith("Answer again with the corrected JSON only.")
        else:
            assert last.endswith(first.texts[0])
