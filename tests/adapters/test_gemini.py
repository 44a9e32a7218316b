"""Gemini's batch jobs: the contract behind a faulty gateway, the vendor's own client and types, and what was reported of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
import yaml

from batchling.cost import price_of
from batchling.dialects import GENERATE, NeutralRequest
from batchling.errors import CallRefused, CallStopped, CallUnavailable, ConfigError
from batchling.models import Batch, Outcome, Response, Submission, Usage
from batchling.providers import Client
from batchling.providers.gemini import ADAPTER
from batchling.providers.gemini.client import read_batch
from batchling.spec import ModelConfig
from batchling.testing.contract import ProviderContract
from tests.adapters import golden
from tests.adapters.shipped import CONF, facts_of
from tests.servers.emulated import Elsewhere
from tests.servers.gemini import KEY, GeminiServer, error

FACTS = facts_of("gemini")
PATH = "/models/gemini-3.8-flash:batchGenerateContent"


def connected(url: str) -> Client:
    return ADAPTER.connect(FACTS, url + "/v1beta", KEY, {})


class TestTheContract(ProviderContract):
    adapter = ADAPTER
    path = "/models/{model}:batchGenerateContent"
    body = b'{"contents":[{"role":"user","parts":[{"text":"row {n} {hard}"}]}]}'

    @pytest.fixture
    def upstream(self) -> Iterator[str]:
        with GeminiServer() as server:
            yield server.url + "/v1beta"

    def connect(self, base_url: str) -> Client:
        return ADAPTER.connect(FACTS, base_url, KEY, {})

    def submission(self, content: bytes, plan: str, requests: int = 3) -> Submission:
        return replace(super().submission(content, plan, requests), endpoint=PATH)


@pytest.fixture
def server() -> Iterator[GeminiServer]:
    with GeminiServer() as server:
        yield server


def sent(server: GeminiServer, *texts: str) -> tuple[Client, Batch, Submission]:
    client = connected(server.url)
    lines = []
    for n, text in enumerate(texts):
        body = {"contents": [GENERATE.turn("user", text)], "generationConfig": {"maxOutputTokens": 20}}
        lines.append(ADAPTER.envelope.encode(f"row-{n}", PATH, json.dumps(body).encode()))
    content = b"".join(lines)
    submission = Submission("abcdef", 1, 1, "0" * 64, PATH, len(texts))
    file_id = client.upload(submission, io.BytesIO(content))
    return client, client.create(submission, file_id, io.BytesIO(content), "48h"), submission


def results(client: Client, server: GeminiServer, batch: Batch) -> dict[str, Response]:
    server.end(batch.id)
    sink = io.BytesIO()
    output = client.poll(batch.id).output_file_id
    assert output is not None
    client.fetch(output, sink)
    found = [ADAPTER.envelope.decode(line) for line in sink.getvalue().split(b"\n") if line]
    return {line.custom_id: line for line in found if isinstance(line, Response)}


def request(*texts: tuple[str, str], **params: Any) -> NeutralRequest:
    return NeutralRequest("gemini-3.8-flash", texts or (("user", "x"),), params, 300, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"temperature": 0, "top_p": 0.5, "top_k": 4, "seed": 7},
            {"temperature": 0, "topP": 0.5, "topK": 4, "seed": 7},
        ),
        ({"stop": "END"}, {"stopSequences": ["END"]}),
        ({"logprobs": True, "top_logprobs": 3}, {"responseLogprobs": True, "logprobs": 3}),
        ({"frequency_penalty": 0.5, "presence_penalty": 1}, {"frequencyPenalty": 0.5, "presencePenalty": 1}),
        ({"reasoning_effort": "low"}, {"thinkingConfig": {"thinkingLevel": "LOW"}}),
        ({"reasoning_effort": "none"}, {"thinkingConfig": {"thinkingBudget": 0}}),
        (
            {"generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_LOW"}},
            {"mediaResolution": "MEDIA_RESOLUTION_LOW"},
        ),
        ({"n": 1, "logit_bias": None}, {}),
    ],
)
def test_parameters_are_said_in_its_words(given: dict[str, Any], said: dict[str, Any]) -> None:
    body = GENERATE.write(request(**given))
    assert body["generationConfig"] == {**said, "maxOutputTokens": 300}
    assert set(body) == {"generationConfig", "contents"} and list(body)[-1] == "contents"


def test_tools_are_said_in_its_words() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    body = GENERATE.write(request(tools=[{"type": "function", "function": function}], tool_choice="required"))
    declared = {"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}
    assert body["tools"] == [{"functionDeclarations": [declared]}]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}


@pytest.mark.parametrize(
    "given",
    [
        {"n": 2},
        {"user": "u"},
        {"logit_bias": {"1": 1}},
        {"max_tokens": 5},
        {"response_format": {}},
        {"generationConfig": {"maxOutputTokens": 5}},
        {"reasoning_effort": "colossal"},
        {"reasoning_effort": "low", "thinkingConfig": {"thinkingBudget": 5}},
        {"stop": "a", "stopSequences": ["b"]},
        {"tool_choice": 5},
        {"contents": []},
    ],
    ids=str,
)
def test_what_it_cannot_say_is_an_error_at_plan_time(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.params\."):
        GENERATE.write(request(**given))


def test_our_dialect_writes_the_golden_requests() -> None:
    assert GENERATE.write(golden.plain("m", temperature=0)) == golden.GENERATE["plain"]
    assert GENERATE.write(golden.structured("m", temperature=0)) == golden.GENERATE["structured"]


def test_each_kind_of_result_is_one_outcome(server: GeminiServer) -> None:
    words = ("plain", "FAIL", "OVERLOADED", "CUT", "THINK", "REFUSE", "FILTER", "MALFORMED")
    client, batch, _ = sent(server, *words)
    found = {words[int(name[4:])]: answer for name, answer in results(client, server, batch).items()}
    assert {word: answer.outcome for word, answer in found.items()} == {
        "plain": Outcome.OK,
        "FAIL": Outcome.ERROR,
        "OVERLOADED": Outcome.RETRYABLE,
        "CUT": Outcome.TRUNCATED,
        "THINK": Outcome.TRUNCATED,
        "REFUSE": Outcome.FILTERED,
        "FILTER": Outcome.FILTERED,
        "MALFORMED": Outcome.RETRYABLE,
    }
    assert found["plain"].text == "said: plain", "thoughts are not the answer"
    assert found["plain"].usage == Usage(127, 100, 8, 3), "thoughts are part of the output"
    assert found["THINK"].error_code == "reasoning"


def test_a_job_that_succeeded_and_failed_in_every_row_is_what_its_rows_are(server: GeminiServer) -> None:
    """googleapis/python-genai#2693, and #1422: the counts are read from the wire, where they are texts."""
    client, batch, _ = sent(server, "FAIL", "FAIL")
    found = results(client, server, batch)
    ended = client.poll(batch.id)
    assert ended.status == "completed" and (ended.total, ended.completed, ended.failed) == (2, None, 2)
    assert {answer.outcome for answer in found.values()} == {Outcome.ERROR}


def test_an_output_is_downloaded_and_never_asked_about(server: GeminiServer) -> None:
    """googleapis/python-genai#1759, js-genai#1227: its name is longer than the Files API allows."""
    client, batch, _ = sent(server, "x")
    assert len(results(client, server, batch)) == 1
    output = client.poll(batch.id).output_file_id
    assert output is not None and len(output) > 46 and client.file_bytes(output) is None
    assert not [call for call in server.calls if call.method == "GET" and call.path.endswith(output)]


def test_a_failed_job_says_why(server: GeminiServer) -> None:
    server.ends_as = "FAILED"
    client, batch, _ = sent(server, "x")
    server.end(batch.id)
    failed = client.poll(batch.id)
    assert failed.status == "failed" and failed.output_file_id is None
    assert [(e.code, "quota" in (e.message or "")) for e in failed.errors] == [("resource_exhausted", True)]


def test_an_expired_job_has_no_results(server: GeminiServer) -> None:
    server.ends_as = "EXPIRED"
    client, batch, _ = sent(server, "x")
    server.end(batch.id)
    assert (client.poll(batch.id).status, client.poll(batch.id).output_file_id) == ("expired", None)


@pytest.mark.parametrize(
    ("state", "status"),
    [("JOB_STATE_SUCCEEDED", "completed"), ("BATCH_STATE_RUNNING", "in_progress"), ("BATCH_STATE_PAUSED", "paused")],
)
def test_states_are_read_in_both_spellings_and_unknown_ones_are_not_the_end(state: str, status: str) -> None:
    batch = read_batch({"name": "batches/1", "metadata": {"state": state}})
    assert batch is not None and batch.status == status and batch.terminal == (status == "completed")


def test_a_batch_says_whose_it_is_by_its_file_and_by_its_name(server: GeminiServer) -> None:
    client, batch, submission = sent(server, "x")
    (listed,) = client.find(0.0)
    assert listed.metadata == submission.metadata() == batch.metadata
    assert listed.input_file_id == batch.input_file_id and listed.input_file_id in server.files


def test_an_upload_that_is_answered_without_a_file_is_repeated(server: GeminiServer) -> None:
    """googleapis/python-genai#1248."""
    server.nameless = 1
    with pytest.raises(CallUnavailable, match="names no file"):
        sent(server, "x")
    assert sent(server, "x")[1].id in server.batches


def test_an_upload_elsewhere_gets_the_rows_and_not_the_key(server: GeminiServer) -> None:
    with GeminiServer() as other:
        server.uploads_to = other.origin
        with pytest.raises(CallRefused):  # the other one knows nothing of the upload
            sent(server, "x")
        (call,) = other.calls
        assert call.path.startswith("/sessions/") and KEY not in str(dict(call.headers))
    server.uploads_to = "http://elsewhere.example"
    with pytest.raises(CallUnavailable, match="does not say where"):
        sent(server, "x")


def test_results_that_are_kept_elsewhere_are_fetched_without_the_key(server: GeminiServer) -> None:
    with Elsewhere() as elsewhere:
        client, batch, _ = sent(server, "x")
        server.keeps_elsewhere = elsewhere.url
        output = server.batches[batch.id]["output"]
        elsewhere.files[f"/{output}"] = server.files[output]
        assert len(results(client, server, batch)) == 1
        assert all(KEY not in str(dict(call.headers)) for call in elsewhere.calls) and elsewhere.calls


def test_a_wait_of_centuries_is_capped(server: GeminiServer) -> None:
    """googleapis/python-genai#1172: retryDelay was 2⁶³ − 1 seconds."""
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "9223372036854775807s"}
    server.once("POST", "batchGenerateContent", error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", **delay))
    with pytest.raises(CallRefused) as caught:
        sent(server, "x")
    assert caught.value.retry_after == 86_400.0


def test_a_wrong_key_is_refused_in_its_words_and_not_repeated(server: GeminiServer) -> None:
    client = ADAPTER.connect(FACTS, server.url + "/v1beta", "AIza-another-key-0123456789", {})
    with pytest.raises(CallRefused) as caught:
        client.poll("batches/b1")
    assert caught.value.code == "invalid_request_error" and "API key not valid" in caught.value.message


@pytest.mark.parametrize("name", ["../secrets", "batches/..%2f", "https://x.example/", "batches//b"])
def test_a_name_that_leads_elsewhere_is_not_followed(server: GeminiServer, name: str) -> None:
    with pytest.raises(CallStopped):
        connected(server.url).poll(name)
    assert server.calls == []


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "model").glob("gemini-*.yaml")))
def test_every_model_has_a_dated_batch_price(name: str) -> None:
    said = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    model = ModelConfig.model_validate({key: value for key, value in said.items() if key != "defaults"})
    price = price_of(model, FACTS, now=date(2026, 11, 25))
    assert price is not None and price.batch and "standard" not in price.source


# The vendor's client and types.


@pytest.fixture
def vendor(server: GeminiServer) -> Any:
    genai = pytest.importorskip("google.genai")
    return genai.Client(api_key=KEY, http_options={"base_url": server.url, "api_version": "v1beta"})


@pytest.mark.parametrize("name", golden.GENERATE)
def test_its_types_take_the_golden_requests_and_drop_nothing(name: str) -> None:
    types = pytest.importorskip("google.genai.types")
    body = golden.GENERATE[name]
    config = {**body["generationConfig"], "systemInstruction": body["systemInstruction"]}
    kept = types.GenerateContentConfig.model_validate(config).model_dump(mode="json", exclude_none=True, by_alias=True)
    assert kept == config
    contents = [types.Content.model_validate(content) for content in body["contents"]]
    assert [c.model_dump(mode="json", exclude_none=True, by_alias=True) for c in contents] == body["contents"]
    with pytest.raises(ValueError, match="Extra inputs"):
        types.GenerateContentConfig.model_validate({**config, "maxTokens": 5})


def test_the_vendors_client_and_ours_see_the_same_server(server: GeminiServer, vendor: Any, tmp_path: Any) -> None:
    line = {"key": "a", "request": golden.GENERATE["plain"]}
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(line) + "\n")
    file = vendor.files.upload(file=str(path), config={"display_name": "theirs", "mime_type": "jsonl"})
    made = vendor.batches.create(model="gemini-3.8-flash", src=file.name, config={"display_name": "theirs"})
    assert made.state.name == "JOB_STATE_PENDING" and made.display_name == "theirs"
    client, ours, _ = sent(server, "x")
    assert {job.name for job in vendor.batches.list(config={"page_size": 1})} == {made.name, ours.id}
    assert {batch.id for batch in client.find(0.0, page_size=1)} == {made.name, ours.id}
    server.end(made.name)
    done = vendor.batches.get(name=made.name)
    assert done.state.name == "JOB_STATE_SUCCEEDED" and done.dest.file_name
    assert json.loads(vendor.files.download(file=done.dest.file_name))["key"] == "a"
    theirs = client.poll(made.name)
    assert theirs.output_file_id == done.dest.file_name and theirs.metadata == {}
    vendor.batches.cancel(name=ours.id)
    assert vendor.batches.get(name=ours.id).state.name == "JOB_STATE_CANCELLED"
    vendor.files.delete(name=file.name)
    assert file.name not in server.files


def test_the_vendors_client_reads_its_refusals(server: GeminiServer, vendor: Any) -> None:
    from google.genai import errors

    with pytest.raises(errors.ClientError) as caught:
        vendor.batches.get(name="batches/nothing")
    assert caught.value.code == 404
    with pytest.raises(errors.ClientError) as caught:
        vendor.batches.create(model="no-such-model", src="files/x", config={"display_name": "d"})
    assert caught.value.status == "NOT_FOUND"
