"""The OpenAI-shaped providers that are a file of facts alone: their paths, lines and keys, on a server mounted where theirs is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batchling import shipped
from batchling.api import verbs
from batchling.config import compose, find_project
from batchling.providers.gate import Gate
from batchling.spec import ProviderConfig
from batchling.trust import Claims, Origin
from tests.servers.batches import BatchServer
from tests.servers.scripted import Behaviour, Request, Wire, refuse
from tests.workbench import KEY, Hands, Workbench, hands  # noqa: F401 (a fixture)

NAMES = (
    "dashscope",
    "deepinfra",
    "doubleword",
    "kimi",
    "litellm",
    "novita",
    "ovhcloud",
    "parasail",
    "siliconflow",
    "zhipu",
)
CHAT = {"zhipu": "/v4/chat/completions"}
"""What lines and batches say where it is not OpenAI's path."""

EMBEDDINGS = {"zhipu": "/v4/embeddings"}

EXPERIMENT = """\
defaults:
  - /base
  - override /model: custom
  - _self_

name: ask
data: {path: rows.jsonl, id: id}
model: {id: m-1, max_output_tokens: 50, price: {input: 1.0, output: 2.0}}
prompt:
  messages: [{role: user, content: "Which one is {text}?"}]
retry: {repair: false}
tokens: "off"
"""


def facts(name: str) -> ProviderConfig:
    extra = ["provider.base_url=https://proxy.example.com/v1"] if name == "litellm" else []
    return compose("ask", [f"provider={name}", *extra]).config.provider


def strict(server: BatchServer, endpoint: str) -> Behaviour:
    """A create as these providers take it: the batch and each line name the endpoint, and nothing but what is documented."""

    def create(request: Request) -> Wire:
        given: dict[str, Any] = request.json
        if given["endpoint"] != endpoint or not set(given) <= {
            "input_file_id",
            "endpoint",
            "completion_window",
            "metadata",
            "output_expires_after",
        }:
            return refuse(400, "invalid_request", f"unexpected: {given}")(request)
        if any(
            f'"url":"{endpoint}"'.encode() not in line for line in server.uploads[given["input_file_id"]].splitlines()
        ):
            return refuse(400, "url_mismatch", "a line names another endpoint")(request)
        return server.normal(request)

    return create


@pytest.fixture
def make(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:  # noqa: F811
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    made = Workbench(tmp_path, BatchServer(), hands)
    made.write({"experiments/ask/config.yaml": EXPERIMENT})
    made.rows(3)
    yield made


@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_round_where_the_provider_has_its_routes(
    make: Workbench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    provider = facts(name)
    assert provider.base_url is not None and provider.api_key_env is not None
    monkeypatch.setenv(provider.api_key_env, KEY)
    root = urlsplit(provider.base_url).path.rstrip("/")
    endpoint = CHAT.get(name, "/v1/chat/completions")
    with BatchServer(root) as server:
        server.on("POST", f"{root}/batches", strict(server, endpoint))
        origin = Origin.of(server.url)
        outcome = verbs.run(
            "ask",
            [f"provider={name}", f"provider.base_url={server.url}"],
            project=find_project(make.root),
            gate=Gate(hosts=[f"{origin.host}:{origin.port}"]),
        )
        assert (outcome.exit_code, make.states(outcome)) == (0, {"ok": 3})
        assert server.times_answered() == {1} and server.creates == 1
        assert all(request.path.startswith(f"{root}/") for request in server.log)
        assert {request.headers["authorization"] for request in server.log} == {f"Bearer {KEY}"}
        assert all(sent["url"] == endpoint and sent["body"]["model"] == "m-1" for sent in server.sent())
        limit = provider.max_tokens_param["chat"]
        assert all(sent["body"][limit] == 50 for sent in server.sent())


@pytest.mark.parametrize("name", ["zhipu", "dashscope", "deepinfra", "doubleword", "parasail"])
def test_embeddings_name_their_endpoint_too(make: Workbench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    provider = facts(name)
    assert provider.base_url is not None and provider.api_key_env is not None
    monkeypatch.setenv(provider.api_key_env, KEY)
    root = urlsplit(provider.base_url).path.rstrip("/")
    endpoint = EMBEDDINGS.get(name, "/v1/embeddings")
    with BatchServer(root) as server:
        server.on("POST", f"{root}/batches", strict(server, endpoint))
        origin = Origin.of(server.url)
        outcome = verbs.run(
            "ask",
            [
                f"provider={name}",
                f"provider.base_url={server.url}",
                "model.endpoint=embeddings",
                "model.max_output_tokens=null",
                "prompt.messages=[]",
                "prompt.input='{text}'",
            ],
            project=find_project(make.root),
            gate=Gate(hosts=[f"{origin.host}:{origin.port}"]),
        )
        assert outcome.exit_code == 0 and make.records(outcome)["r0"]["output"] == [0.25, -0.5]
        assert all(sent["url"] == endpoint for sent in server.sent())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_when_and_where_its_facts_were_found(make: Workbench, name: str) -> None:
    provider = facts(name)
    assert provider.name == name and provider.checked == "2026-11-25"
    assert provider.source and all(source.startswith("https://") for source in provider.source)
    assert provider.adapter == "openai" and (provider.limits.max_requests or provider.limits.max_bytes)
    assert provider.windows or name == "litellm"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "litellm"])
def test_its_key_belongs_to_its_origin_and_to_no_other_provider(make: Workbench, name: str) -> None:
    claims: Claims = shipped.claims()
    provider = facts(name)
    assert provider.base_url is not None and provider.api_key_env is not None
    assert claims.covers(provider.api_key_env, Origin.of(provider.base_url))
    for other in NAMES:
        if other not in (name, "litellm"):
            url = facts(other).base_url
            assert url is not None and not claims.covers(provider.api_key_env, Origin.of(url))


def test_a_proxys_key_goes_unasked_to_its_own_port_of_this_machine_alone() -> None:
    claims = shipped.claims()
    assert claims.covers("LITELLM_PROXY_API_KEY", Origin.of("http://localhost:4000/v1"))
    assert not claims.covers("LITELLM_PROXY_API_KEY", Origin.of("http://localhost:4001/v1"))
    assert not claims.covers("LITELLM_PROXY_API_KEY", Origin.of("https://proxy.example.com/v1"))
