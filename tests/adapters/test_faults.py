"""What an adapter may get wrong is said as its fault, before anything is sent; and a body's order is the dialect's to choose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchling import providers
from batchling.dialects import NeutralRequest
from batchling.errors import ConfigError
from batchling.models import Garbage, Outcome, Response
from batchling.providers import Adapter
from batchling.request import RequestBuilder
from batchling.runner.refusals import read_refused, refused_lines
from batchling.spec import ProviderConfig
from tests.adapters import inline
from tests.request.conftest import make_spec

__all__ = ["make_spec"]

Write = Callable[[NeutralRequest], dict[str, Any]]


class Dialect(inline.Messages):
    """Writes bodies as a test says."""

    def __init__(self, write: Write):
        self._write = write

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        return self._write(request)


def a_function(config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]) -> None:
    """What an adapter was in version 0.1."""


offered: dict[str, Any] = {}


def __getattr__(name: str) -> Any:
    """The entry points' objects: what a test offers."""
    try:
        return offered[name]
    except KeyError:
        raise AttributeError(name) from None


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], ProviderConfig]]:
    """Installs an object under the name of an adapter, and gives facts that name it."""

    def install(found: Any) -> ProviderConfig:
        offered["FOUND"] = found
        info = tmp_path / "packages" / "odd-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[batchling.providers]\nodd = {__name__}:FOUND\n")
        monkeypatch.syspath_prepend(str(info.parent))
        return ProviderConfig(name="odd", adapter="odd", base_url="https://odd.example/v1", endpoints=["chat"])

    yield install
    offered.clear()


def built(make_spec: Any, offer: Callable[[Any], ProviderConfig], write: Write) -> RequestBuilder:
    facts = offer(Adapter(inline.ADAPTER.envelope, {"chat": Dialect(write)}, a_function))  # type: ignore[arg-type]
    provider = facts.model_dump(exclude_unset=True)
    spec = make_spec(messages=MESSAGES, provider=provider, model={"max_output_tokens": 9})
    return RequestBuilder(spec, ["text", "n"], dialect=providers.dialect(spec.config.provider, "chat"))


MESSAGES = (("system", "about {n}"), ("user", "say {text}"))


def test_a_function_under_an_adapters_name_is_one_of_another_version(offer: Callable[[Any], ProviderConfig]) -> None:
    facts = offer(a_function)
    with pytest.raises(
        ConfigError, match=r"not a batchling\.providers\.Adapter .in version 0\.1 it was a function"
    ) as caught:
        providers.adapter(facts)
    assert "docs/howto/" in (caught.value.next_command or "")
    page = Path(__file__).parents[2] / (caught.value.next_command or "").split("; ")[1].split(" ")[0]
    assert page.exists(), f"the advice names {page.name}, which is there"


def test_an_endpoint_that_the_adapter_does_not_know_is_refused_by_name(offer: Callable[[Any], ProviderConfig]) -> None:
    facts = offer(inline.ADAPTER)
    with pytest.raises(ConfigError, match="`embeddings`, only for chat"):
        providers.dialect(facts, "embeddings")


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda r: {"system": r.texts[0][1], "model": r.model, "messages": []}, "wrote message 2 0 times"),
        (lambda r: {"title": r.texts[1][1], **inline.Messages().write(r)}, "wrote message 2 2 times"),
        (lambda r: {**inline.Messages().write(r), "stream": False}, "did not end a body with its messages"),
    ],
    ids=["dropped", "twice", "not last"],
)
def test_a_dialect_that_breaks_its_word_is_named(
    make_spec: Any, offer: Callable[[Any], ProviderConfig], write: Write, what: str
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        built(make_spec, offer, write)
    assert "`messages` of adapter `odd`" in str(caught.value)
    assert "not of your config" in str(caught.value)


def test_texts_may_stand_in_another_order_than_the_prompts(
    make_spec: Any, offer: Callable[[Any], ProviderConfig]
) -> None:
    """The system's words come after the user's here; each gap still gets its own row's text."""

    def write(request: NeutralRequest) -> dict[str, Any]:
        (_, system), (_, user) = request.texts
        return {"first": user, "messages": [{"role": "system", "content": system}]}

    builder = built(make_spec, offer, write)
    row = {"text": 'quo"te', "n": "é"}
    body = json.loads(builder.build([row[name] for name in builder.columns], repeat=0, row_id="r").body)
    assert body == {"first": 'say quo"te', "messages": [{"role": "system", "content": "about é"}]}


def test_a_path_that_names_the_model_is_part_of_the_key(make_spec: Any) -> None:
    def of(model: str) -> tuple[str, str]:
        spec = make_spec(
            messages=(("user", "{text}"),),
            model={"id": model},
            provider={"endpoint_paths": {"chat": "/models/{model}/generate"}},
        )
        return spec.endpoint_path, RequestBuilder(spec, ["text"]).build(["hello"], repeat=0, row_id="r").key

    (first, one), (second, two) = of("a/b c"), of("a")
    assert first == "/models/a%2Fb%20c/generate", "a model's name opens no other path"
    assert second == "/models/a/generate"
    assert one != two


@pytest.mark.parametrize(
    "line", [b"", b"null", b"[]", b"{", b'{"custom_id": "x"}', b'{"custom_id": "x", "error": null}']
)
def test_a_damaged_line_of_refused_requests_is_garbage_and_no_crash(line: bytes) -> None:
    assert isinstance(read_refused(line), Garbage)


def test_what_is_written_of_refused_requests_is_read_again() -> None:
    error = replace(_error(), code="Invalid_Value", message="messages[0]: too long")
    (line,) = refused_lines({"k1-" + "a" * 40: error}, "-abcdef-0001").splitlines()
    response = read_refused(line)
    assert isinstance(response, Response)
    assert response.custom_id == "k1-" + "a" * 40 + "-abcdef-0001"
    assert response.outcome is not Outcome.OK
    assert (response.error_code, response.error_message) == ("Invalid_Value", "messages[0]: too long")


def _error() -> Any:
    from batchling.models import BatchError

    return BatchError("x", "y", line=1)
