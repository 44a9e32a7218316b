"""One point that cannot run stops neither the others nor the report, and is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchling.errors import ProviderError
from tests.servers.batches import BatchServer, Ending
from tests.servers.scripted import Request, Wire, refuse
from tests.sweep.conftest import Lab

KEY = "SWEEP_TEST_KEY"


@pytest.fixture
def provider(lab: Lab, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv(KEY, "sk-sweep-0123456789abcdefghijklmnop")
    with BatchServer() as server:
        yield server


def at(server: BatchServer, *overrides: str) -> list[str]:
    where = ["provider=compatible", f"provider.base_url={server.url}", f"provider.api_key_env={KEY}"]
    return [*where, *overrides]


def by_model(outcome):  # type: ignore[no-untyped-def]
    return {run.model: dict(run.states) for run in outcome.runs}


def test_a_model_that_is_refused_at_create_stops_no_other(lab: Lab, provider: BatchServer) -> None:
    def create(request: Request) -> Wire:
        content = provider.files[request.json["input_file_id"]]
        if b'"model":"gone"' in content:
            return refuse(404, "model_not_found", "The model `gone` does not exist")(request)
        return provider.normal(request)

    provider.on("POST", "/v1/batches", create)
    outcome = lab.run(*at(provider, "model.id=m-1,gone,m-2"))
    assert outcome.exit_code == 5
    assert by_model(outcome) == {"m-1": {"ok": 6}, "gone": {"pending": 6}, "m-2": {"ok": 6}}
    assert [text for text in outcome.details if "gone" in text and "model_not_found" in text]
    assert {m.name for run in outcome.runs for m in run.metrics} == {"right"}
    assert outcome.next_command and outcome.plan_id in outcome.next_command


def test_a_model_whose_batch_fails_stops_no_other(lab: Lab, provider: BatchServer) -> None:
    fault = {"code": "model_not_found", "message": "The model `gone` does not exist", "line": None, "param": None}
    provider.endings = [Ending(), Ending("failed", errors=(fault,)), Ending()]
    outcome = lab.run(*at(provider, "model.id=m-1,gone,m-2"))
    assert outcome.exit_code == 5
    states = by_model(outcome)
    assert states["m-1"] == states["m-2"] == {"ok": 6}
    assert states["gone"] == {"pending": 6}, "they are asked when a person has acted"
    assert [text for text in outcome.details if "gone" in text and "does not exist" in text], outcome.details


def test_a_wrong_key_for_one_provider_stops_no_other(lab: Lab, provider: BatchServer) -> None:
    wrong = refuse(401, "invalid_api_key", "Incorrect API key provided")
    provider.on("POST", "/v1/files", wrong)
    lab.write({"conf/provider/away.yaml": f"name: away\nbase_url: {provider.url}\napi_key_env: {KEY}\n"})
    outcome = lab.run("provider=local,away")
    assert outcome.exit_code == 5
    assert {run.provider: dict(run.states) for run in outcome.runs} == {"local": {"ok": 6}, "away": {"pending": 6}}
    assert [text for text in outcome.details if text.startswith("away m-1: ") and "invalid_api_key" in text]


def test_a_missing_key_is_refused_before_anything_is_spent(
    lab: Lab, provider: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY)
    with pytest.raises(ProviderError, match=KEY) as refused:
        lab.run(*at(provider), "model.id=m-1,m-2")
    assert refused.value.exit_code == 5
    assert provider.creates == 0
    assert not list(lab.runs.glob("*/plan.json")), "a plan that cannot be sent would hold its keys"


def test_the_refused_point_goes_on_when_it_is_put_right(lab: Lab, provider: BatchServer) -> None:
    provider.on("POST", "/v1/batches", refuse(404, "model_not_found", "no such model"))
    first = lab.run(*at(provider, "model.id=m-1,m-2"))
    assert first.exit_code == 5 and first.states == {"pending": 12}
    provider.on("POST", "/v1/batches", provider.normal)
    second = lab.run(*at(provider, "model.id=m-1,m-2"))
    assert (second.plan_id, second.exit_code, second.states) == (first.plan_id, 0, {"ok": 12})


def test_a_bad_point_is_named_before_anything_is_sent(lab: Lab) -> None:
    from batchling.errors import ConfigError

    with pytest.raises(ConfigError, match=r"model\.endpoint=embeddings"):
        lab.run("model.endpoint=chat,embeddings")
    assert not Path(lab.runs).exists() or not list(lab.runs.glob("*/plan.json"))
