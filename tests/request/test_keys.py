"""A request's key names what the model sees, where, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from batchling.models import KEY_LENGTH
from batchling.providers.openai import ADAPTER
from batchling.request import RequestBuilder, custom_id, repair, repair_key


def key(spec: Any, values: tuple[Any, ...] = ("Where is my card?",), **kwargs: Any) -> str:
    return RequestBuilder(spec, ["text"]).build(values, **kwargs).key


def test_the_recipe_is_pinned(make_spec: Any) -> None:
    """Stored answers are found by these keys: when this fails, `k1-` must become `k2-`."""
    spec = make_spec(model={"id": "gpt-5-mini", "params": {"temperature": 0}, "max_output_tokens": 300})
    body = (
        b'{"model":"gpt-5-mini","temperature":0,"max_completion_tokens":300,"messages":['
        b'{"role":"system","content":"You sort tickets."},{"role":"user","content":"Ticket: Where is my card?"}]}'
    )
    fields = [b"k1", b'"openai"', b'"https://api.openai.com/v1"', b'"/v1/chat/completions"', b"{}", body, b"0"]
    built = RequestBuilder(spec, ["text"]).build(["Where is my card?"])
    assert built.body == body
    assert built.key == "k1-" + hashlib.sha256(b"\0".join(fields)).hexdigest()[:40]
    assert built.key == "k1-21cae223edb21248af412a70bb42c366e1ce3c31"
    assert len(built.key) == KEY_LENGTH


def test_headers_and_the_row_id_are_in_the_recipe_where_they_count(make_spec: Any) -> None:
    provider = {"name": "openai", "base_url": "https://api.openai.com/v1/", "headers": {"X-B": "2", "x-a": "1"}}
    spec = make_spec(provider=provider, dedupe=False)
    built = RequestBuilder(spec, ["text"]).build(["x"], repeat=12, row_id='t"1\u2028')
    fields = [
        b"k1",
        b'"openai"',
        b'"https://api.openai.com/v1"',
        b'"/v1/chat/completions"',
        b'{"x-a":"1","x-b":"2"}',
        built.body,
        b"12",
        b'"t\\"1\\u2028"',
    ]
    assert built.key == "k1-" + hashlib.sha256(b"\0".join(fields)).hexdigest()[:40]


def test_equal_requests_have_equal_keys_whatever_their_row(make_spec: Any) -> None:
    assert key(make_spec(), row_id="1") == key(make_spec(), row_id="2")


@pytest.mark.parametrize(
    "sections",
    [
        {"retry": {"attempts": 9}},
        {"limits": {"max_requests": 5}},
        {"budget": {"usd": 5.0}},
        {"data": {"path": "other.csv"}},
        {"metrics": {"n": "1"}},
        {"tokens": "off"},
        {"repeats": 3},
        {"name": "other"},
        {"provider": {"poll_seconds": 1, "completion_window": "7d", "api_key_env": "OTHER"}},
    ],
)
def test_waiting_packing_budget_and_retry_do_not_change_a_key(make_spec: Any, sections: Any) -> None:
    assert key(make_spec(**sections)) == key(make_spec())


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"id": "gpt-5"}},
        {"model": {"params": {"temperature": 1}}},
        {"model": {"max_output_tokens": 1}},
        {"model": {"endpoint": "responses"}},
        {"provider": {"name": "azure"}},
        {"provider": {"base_url": "https://eu.api.openai.com/v1"}},
        {"provider": {"headers": {"OpenAI-Beta": "x"}}},
        {"provider": {"endpoint_paths": {"chat": "/v4/chat/completions"}}},
        {"messages": (("user", "Ticket: {text}"),)},
    ],
)
def test_what_the_model_sees_and_where_changes_the_key(make_spec: Any, sections: Any) -> None:
    assert key(make_spec(**sections)) != key(make_spec())


def test_the_order_of_parameters_changes_the_key(make_spec: Any) -> None:
    one = make_spec(model={"params": {"seed": 1, "temperature": 0}})
    other = make_spec(model={"params": {"temperature": 0, "seed": 1}})
    assert key(one) != key(other)


def test_repeats_have_their_own_keys_and_the_same_body(make_spec: Any) -> None:
    builder = RequestBuilder(make_spec(), ["text"])
    built = [builder.build(["x"], repeat=n) for n in range(12)]
    assert len({b.key for b in built}) == 12
    assert len({b.body for b in built}) == 1


def test_without_dedupe_the_row_is_part_of_the_key_and_must_be_named(make_spec: Any) -> None:
    spec = make_spec(dedupe=False)
    assert key(spec, row_id="1") != key(spec, row_id="2")
    assert key(spec, row_id="1") == key(spec, row_id="1")
    with pytest.raises(ValueError, match="row's id"):
        key(spec)


def test_the_embedded_server_is_its_engine_not_its_port(make_spec: Any) -> None:
    def local(port: int, **engine: Any) -> str:
        return key(make_spec(provider={"name": "local", "base_url": f"http://127.0.0.1:{port}/v1", "engine": engine}))

    assert local(1, kind="simulated") == local(2, kind="simulated")
    assert local(1, kind="simulated") != local(1, kind="echo")
    assert local(1, kind="http", upstream="http://a/v1/") == local(2, kind="http", upstream="http://a/v1")
    assert local(1, kind="http", upstream="http://a/v1") != local(1, kind="http", upstream="http://b/v1")
    assert local(1, kind="echo", concurrency=1) == local(1, kind="echo", concurrency=9)


def test_an_engine_identity_takes_the_place_of_the_address(make_spec: Any) -> None:
    keys = {RequestBuilder(make_spec(), ["text"], engine_identity=i).build(["x"]).key for i in (None, "one", "two")}
    assert len(keys) == 3


def test_the_key_of_a_body_is_the_key_it_was_built_with(make_spec: Any) -> None:
    builder = RequestBuilder(make_spec(dedupe=False), ["text"])
    built = builder.build(["x é \u2028"], repeat=3, row_id="r")
    assert builder.key_of_body(built.body, repeat=3, row_id="r") == built.key
    with pytest.raises(ValueError, match="not built"):
        builder.key_of_body(b"{}", row_id="r")


def test_a_line_is_the_custom_id_the_endpoint_and_the_body_as_it_is(make_spec: Any) -> None:
    built = RequestBuilder(make_spec(), ["text"]).build(["x"])
    name = custom_id(built.key, "3f9ac1", 7)
    assert name == f"{built.key}-3f9ac1-0007"
    assert len(name) == 55
    data = ADAPTER.envelope.encode(name, "/v1/chat/completions", built.body)
    assert data.endswith(b"}\n")
    assert data.count(b"\n") == 1
    assert json.loads(data) == {
        "custom_id": name,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": json.loads(built.body),
    }
    assert built.body in data


def test_a_repair_shows_the_answer_and_its_errors(make_spec: Any) -> None:
    built = RequestBuilder(make_spec(), ["text"]).build(["x"])
    key_, body = repair(built.key, built.body, '{"label": "c"}\u2028', "label: 'c' is not one of a, b", 1)
    assert body.startswith(built.body[:-2])
    messages = json.loads(body)["messages"]
    assert messages[:2] == json.loads(built.body)["messages"]
    assert messages[2] == {"role": "assistant", "content": '{"label": "c"}\u2028'}
    assert messages[3]["role"] == "user"
    assert "'c' is not one of a, b" in messages[3]["content"]
    assert len(messages) == 4
    assert len(body.decode().splitlines()) == 1
    assert key_ == repair_key(built.key, 1)


def test_a_repair_of_a_repair_goes_on_with_the_conversation(make_spec: Any) -> None:
    spec = make_spec(model={"id": "m", "endpoint": "responses"})
    built = RequestBuilder(spec, ["text"]).build(["x"])
    first, body = repair(built.key, built.body, "one", "bad", 1)
    _, body = repair(first, body, "two", "still bad", 1)
    assert [m["role"] for m in json.loads(body)["input"]] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


def test_a_repairs_key_depends_on_parent_and_number_only(make_spec: Any) -> None:
    built = RequestBuilder(make_spec(), ["text"]).build(["x"])
    parent = built.key.encode()
    expected = "k1-" + hashlib.sha256(b"\0".join([b"k1", parent, b"repair", b"2"])).hexdigest()[:40]
    assert repair(built.key, built.body, "a", "pydantic 2.9 says so", 2)[0] == expected
    assert repair(built.key, built.body, "b", "pydantic 2.14 says otherwise", 2)[0] == expected
    assert repair_key(built.key, 1) != expected


def test_a_blank_or_broken_answer_can_be_repaired(make_spec: Any) -> None:
    built = RequestBuilder(make_spec(), ["text"]).build(["x"])
    assert [m["role"] for m in json.loads(repair(built.key, built.body, " ", "e", 1)[1])["messages"]] == [
        "system",
        "user",
        "user",
    ]
    assert json.loads(repair(built.key, built.body, "\ud800", "\ud800", 1)[1])["messages"][2]["content"] == "?"


def test_embeddings_cannot_be_repaired(make_spec: Any) -> None:
    built = RequestBuilder(make_spec(model={"id": "m", "endpoint": "embeddings"}, text_input="{text}"), ["text"]).build(
        ["x"]
    )
    with pytest.raises(ValueError, match="messages"):
        repair(built.key, built.body, "a", "b", 1)
