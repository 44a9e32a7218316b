"""Mistral's batch jobs: the contract behind a faulty gateway, the vendor's own client and types, and what was reported of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
import yaml

from batchling.cost import price_of
from batchling.dialects import EMBEDDINGS, NeutralRequest
from batchling.errors import CallRefused, CallUnavailable, ConfigError
from batchling.models import Batch, Outcome, Response, Submission
from batchling.providers import Client
from batchling.providers.mistral import ADAPTER, MISTRAL_CHAT
from batchling.providers.mistral.client import hours, read_batch
from batchling.spec import ModelConfig
from batchling.testing.contract import ProviderContract
from tests.adapters import golden
from tests.adapters.shipped import CONF, facts_of
from tests.servers.emulated import Answer
from tests.servers.mistral import KEY, MistralServer

FACTS = facts_of("mistral")
PATH = "/v1/chat/completions"


def connected(url: str) -> Client:
    return ADAPTER.connect(FACTS, url, KEY, {})


class TestTheContract(ProviderContract):
    adapter = ADAPTER
    body = b'{"model":"mistral-small-2603","max_tokens":20,"messages":[{"role":"user","content":"row {n} {hard}"}]}'

    @pytest.fixture
    def upstream(self) -> Iterator[str]:
        with MistralServer() as server:
            yield server.url

    def connect(self, base_url: str) -> Client:
        return connected(base_url)


@pytest.fixture
def server() -> Iterator[MistralServer]:
    with MistralServer() as server:
        yield server


def sent(server: MistralServer, *texts: str, window: str = "24h", **params: Any) -> tuple[Client, Batch]:
    client = connected(server.url)
    lines = []
    for n, text in enumerate(texts):
        body = {
            "model": "mistral-small-2603",
            "max_tokens": 20,
            **params,
            "messages": [MISTRAL_CHAT.turn("user", text)],
        }
        lines.append(ADAPTER.envelope.encode(f"row-{n}", PATH, json.dumps(body).encode()))
    content = b"".join(lines)
    submission = Submission("abcdef", 1, 1, "0" * 64, PATH, len(texts))
    file_id = client.upload(submission, io.BytesIO(content))
    return client, client.create(submission, file_id, io.BytesIO(content), window)


def results(client: Client, server: MistralServer, batch: Batch) -> dict[str, Response]:
    server.end(batch.id)
    ended = client.poll(batch.id)
    found = {}
    for name in filter(None, (ended.output_file_id, ended.error_file_id)):
        sink = io.BytesIO()
        client.fetch(name, sink)
        assert client.file_bytes(name) == len(sink.getvalue())
        for line in filter(None, sink.getvalue().split(b"\n")):
            decoded = ADAPTER.envelope.decode(line)
            assert isinstance(decoded, Response)
            found[decoded.custom_id] = decoded
    return found


def request(*texts: tuple[str, str], **params: Any) -> NeutralRequest:
    return NeutralRequest("mistral-small-2603", texts or (("user", "x"),), params, 300, "max_tokens")


def test_the_seed_has_another_name_and_developers_are_the_system() -> None:
    body = MISTRAL_CHAT.write(request(("developer", "d"), ("user", "x"), seed=7, stop=["a"]))
    assert body["random_seed"] == 7 and "seed" not in body and body["max_tokens"] == 300
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    "given",
    [
        {"logit_bias": {"1": 1}},
        {"user": "u"},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"n": 2},
        {"stream": True},
        {"seed": 1, "random_seed": 2},
    ],
    ids=str,
)
def test_what_it_cannot_say_is_an_error_at_plan_time(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.params\."):
        MISTRAL_CHAT.write(request(**given))


def test_each_kind_of_result_is_one_outcome_and_both_files_are_read(server: MistralServer) -> None:
    """langchain4j#5750, instructor#2672."""
    words = ("plain", "FAIL", "OVERLOADED", "CUT", "WINDOW")
    client, batch = sent(server, *words)
    found = {words[int(name[4:])]: answer for name, answer in results(client, server, batch).items()}
    assert {word: answer.outcome for word, answer in found.items()} == {
        "plain": Outcome.OK,
        "FAIL": Outcome.ERROR,
        "OVERLOADED": Outcome.RETRYABLE,
        "CUT": Outcome.TRUNCATED,
        "WINDOW": Outcome.TRUNCATED,
    }


def test_what_was_answered_is_what_succeeded(server: MistralServer) -> None:
    """`completed_requests` counts failures too."""
    client, batch = sent(server, "x", "FAIL", "y")
    server.end(batch.id)
    ended = client.poll(batch.id)
    assert (ended.total, ended.completed, ended.failed) == (3, 2, 1)


@pytest.mark.parametrize(
    ("state", "status", "terminal"),
    [
        ("SUCCESS", "completed", True),
        ("TIMEOUT_EXCEEDED", "expired", True),
        ("FAILED", "failed", True),
        ("CANCELLED", "cancelled", True),
        ("CANCELLATION_REQUESTED", "cancelling", False),
        ("SOMETHING_NEW", "something_new", False),
    ],
)
def test_states(state: str, status: str, terminal: bool) -> None:
    batch = read_batch({"id": "b", "status": state, "output_file": "", "error_file": None, "errors": None})
    assert batch is not None and (batch.status, batch.terminal) == (status, terminal)
    assert batch.output_file_id is None, "litellm#40484: an empty id is no file"


def test_a_job_that_timed_out_keeps_what_it_has(server: MistralServer) -> None:
    server.ends_as = "TIMEOUT_EXCEEDED"
    client, batch = sent(server, "x")
    assert len(results(client, server, batch)) == 1 and client.poll(batch.id).status == "expired"


def test_the_job_says_its_model_and_its_window_in_hours(server: MistralServer) -> None:
    sent(server, "x", window="3d")
    (call,) = server.said("POST", "/jobs")
    assert call.json()["model"] == "mistral-small-2603" and call.json()["timeout_hours"] == 72
    assert (hours("24h"), hours("7d")) == (24, 168)
    for wrong in ("", "soon", "0h", "24"):
        with pytest.raises(CallRefused):
            hours(wrong)


def test_a_refusal_of_the_validation_is_its_own(server: MistralServer) -> None:
    """FastAPI's `detail` is the provider's own body: else each 422 would be a submission of unknown fate."""
    detail = [{"loc": ["body", "endpoint"], "msg": "Input should be '/v1/chat/completions'", "type": "enum"}]
    server.once("POST", "/jobs", Answer(422, {"detail": detail}))
    with pytest.raises(CallRefused, match=r"body\.endpoint"):
        sent(server, "x")
    assert not server.batches


def test_the_list_is_read_to_its_total(server: MistralServer) -> None:
    client, first = sent(server, "x")
    for _ in range(4):
        sent(server, "x")
    assert len(list(client.find(0.0, page_size=2))) == 5
    page = {"object": "list", "data": [{"id": first.id, "status": "QUEUED"}], "total": 9}
    server.once("GET", "/jobs", Answer(200, page))
    server.once("GET", "/jobs", Answer(200, page))
    with pytest.raises(CallUnavailable, match="no new ones"):
        list(client.find(0.0))


def test_embeddings_are_read(server: MistralServer) -> None:
    client = connected(server.url)
    body = EMBEDDINGS.write(NeutralRequest("mistral-embed", (("input", "x"),)))
    content = ADAPTER.envelope.encode("row-0", "/v1/embeddings", json.dumps(body).encode())
    submission = Submission("abcdef", 1, 1, "0" * 64, "/v1/embeddings", 1)
    file_id = client.upload(submission, io.BytesIO(content))
    batch = client.create(submission, file_id, io.BytesIO(content), "24h")
    assert results(client, server, batch)["row-0"].embedding == [0.5, -0.25]


@pytest.mark.parametrize(
    "name", sorted(p.stem for p in (CONF / "model").glob("*.yaml") if "stral" in p.stem and "ovh" not in p.stem)
)
def test_every_model_has_a_dated_batch_price(name: str) -> None:
    said = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    model = ModelConfig.model_validate({key: value for key, value in said.items() if key != "defaults"})
    price = price_of(model, FACTS, now=date(2026, 11, 25))
    assert price is not None and price.batch and "standard" not in price.source


# The vendor's client and types.


@pytest.fixture
def vendor(server: MistralServer) -> Any:
    client = pytest.importorskip("mistralai.client")
    return client.Mistral(api_key=KEY, server_url=server.url)


@pytest.mark.parametrize("form", ["plain", "structured"])
def test_its_type_takes_the_golden_requests_and_drops_nothing(form: str) -> None:
    models = pytest.importorskip("mistralai.client.models")
    make = {"plain": golden.plain, "structured": golden.structured}[form]
    body = MISTRAL_CHAT.write(make("mistral-small-2603", temperature=0, seed=1, reasoning_effort="low"))
    kept = models.ChatCompletionRequest.model_validate(body).model_dump(mode="json", exclude_unset=True, by_alias=True)
    for message in kept["messages"]:
        assert message.pop("role") in ("system", "user")
    wanted = {**body, "messages": [{"content": message["content"]} for message in body["messages"]]}
    assert {name: kept.get(name) for name in wanted} == wanted
    strange = models.ChatCompletionRequest.model_validate({**body, "seed": 5}).model_dump(exclude_unset=True)
    assert "seed" not in strange, "this judge drops in silence, so the output is compared"


def test_the_vendors_client_and_ours_see_the_same_server(server: MistralServer, vendor: Any) -> None:
    body = MISTRAL_CHAT.write(golden.plain("mistral-small-2603"))
    line = ADAPTER.envelope.encode("a", PATH, json.dumps(body).encode())
    file = vendor.files.upload(file={"file_name": "in.jsonl", "content": line}, purpose="batch")
    made = vendor.batch.jobs.create(
        input_files=[file.id], model="mistral-small-2603", endpoint=PATH, metadata={"job": "theirs"}
    )
    assert made.status == "QUEUED" and made.total_requests == 1
    client, ours = sent(server, "x", "FAIL")
    listed = vendor.batch.jobs.list(page=0, page_size=10, order_by="-created")
    assert [job.id for job in listed.data] == [ours.id, made.id] and listed.total == 2
    assert [batch.id for batch in client.find(0.0, page_size=1)] == [ours.id, made.id]
    server.end(made.id)
    done = vendor.batch.jobs.get(job_id=made.id)
    assert done.status == "SUCCESS" and done.succeeded_requests == 1 and done.output_file
    assert json.loads(vendor.files.download(file_id=done.output_file).read())["custom_id"] == "a"
    assert client.poll(made.id).output_file_id == done.output_file
    assert vendor.batch.jobs.cancel(job_id=ours.id).status == "CANCELLATION_REQUESTED"
    assert vendor.files.delete(file_id=file.id).deleted


def test_the_vendors_client_reads_its_refusals(server: MistralServer, vendor: Any) -> None:
    with pytest.raises(Exception, match="404"):
        vendor.batch.jobs.get(job_id="00000000-0000-4000-8000-000000000000")
