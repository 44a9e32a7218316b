"""Upload and create: what spends is sent once, and a doubt is never taken for a no (CONFORMANCE 1 to 10)."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest

from batchling.collect import FailureKind, why_refused
from batchling.errors import CallAmbiguous, CallError, CallRefused, CallUnavailable
from batchling.models import Submission
from batchling.providers import Client
from batchling.providers.openai import ADAPTER
from batchling.providers.openai.client import OpenAIClient
from batchling.spec import ProviderConfig
from tests.providers.conftest import KEY
from tests.servers.scripted import Behaviour, Scripted, cut, gateway, hang_up, refuse, reply, reset, stall

Connect = Callable[..., Client]
BATCH = {"id": "batch_1", "object": "batch", "status": "validating", "input_file_id": "file-1"}


def test_a_created_batch_carries_the_submission_in_its_metadata(
    server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/batches", reply(BATCH))
    batch = provider(output_expires_after=True).create(submission, "file-1", io.BytesIO(), "7d")
    assert (batch.id, batch.status, batch.input_file_id) == ("batch_1", "validating", "file-1")
    assert server.requests("POST")[0].json == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "7d",
        "metadata": submission.metadata(),
        "output_expires_after": {"anchor": "created_at", "seconds": 2592000},
    }


def test_metadata_is_left_out_where_the_provider_has_none(
    server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/batches", reply(BATCH))
    provider(metadata=False).create(submission, "file-1", io.BytesIO(), "24h")
    assert set(server.requests("POST")[0].json) == {"input_file_id", "endpoint", "completion_window"}


LOST: dict[str, Behaviour] = {
    "reset": reset(),
    "closed without a byte": hang_up(),
    "cut body": cut(BATCH, 20),
    "500 of a gateway": gateway(500),
    "500 of the provider": refuse(500, "server_error", "The server had an error"),
    "503": gateway(503),
    "408": refuse(408, "timeout", "Request timed out"),
    "409": refuse(409, "conflict", "Conflict"),
    "403 of a gateway": gateway(403),
    "429 of a gateway": gateway(429),
    "404 of a framework": reply({"detail": "Not Found"}, 404),
    "200 that is HTML": gateway(200),
    "200 that is a list": reply([BATCH]),
    "200 without an id": reply({**BATCH, "id": None}),
    "200 with an empty id": reply({**BATCH, "id": ""}),
    "200 that is cut JSON": reply(json.dumps(BATCH).encode()[:-9]),
}


@pytest.mark.parametrize("case", LOST)
def test_c3_an_unclear_answer_to_create_is_ambiguous_and_is_sent_once(
    case: str, server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/batches", LOST[case], reply(BATCH))
    with pytest.raises(CallAmbiguous):
        provider().create(submission, "file-1", io.BytesIO(), "24h")
    assert len(server.requests("POST", "/v1/batches")) == 1


def test_c3_a_timeout_of_create_is_ambiguous_and_is_sent_once(server: Scripted, submission: Submission) -> None:
    over = threading.Event()
    server.on("POST", "/v1/batches", stall(over))
    impatient = OpenAIClient(ProviderConfig(name="x"), server.url, None, {}, read_seconds=0.1)
    try:
        with pytest.raises(CallAmbiguous, match="Timeout"):
            impatient.create(submission, "file-1", io.BytesIO(), "24h")
    finally:
        over.set()
    assert len(server.requests("POST", "/v1/batches")) == 1


def test_an_id_hidden_in_another_shape_is_ambiguous_and_says_what_came(
    server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/batches", reply({"job": {"id": "b-1", "status": "VALIDATING"}, "warning": ""}))
    with pytest.raises(CallAmbiguous, match=r"properties: job, warning.*not the OpenAI shape"):
        provider().create(submission, "file-1", io.BytesIO(), "24h")


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "token_limit_exceeded", "Enqueued token limit. Limit: 90,000 enqueued tokens.", FailureKind.THROTTLED),
        (400, None, "token_limit_exceeded: too many enqueued tokens", FailureKind.THROTTLED),
        (429, "rate_limit_exceeded", "Too many batches this hour", FailureKind.THROTTLED),
        (429, "insufficient_quota", "You exceeded your current quota", FailureKind.FATAL),
        (401, "invalid_api_key", "Incorrect API key provided", FailureKind.FATAL),
        (403, None, "You do not have access", FailureKind.FATAL),
        (404, "model_not_found", "The model does not exist", FailureKind.FATAL),
        (400, "invalid_request", "file file-1 is not ready", FailureKind.NOT_READY),
        (400, "invalid_request", "wrong endpoint", FailureKind.OTHER),
    ],
)
def test_a_no_in_the_providers_own_words_is_a_refusal(
    status: int,
    code: str | None,
    message: str,
    kind: FailureKind,
    server: Scripted,
    provider: Connect,
    submission: Submission,
) -> None:
    server.on("POST", "/v1/batches", refuse(status, code, message, {"retry-after": "7"}))
    with pytest.raises(CallRefused) as caught:
        provider().create(submission, "file-1", io.BytesIO(), "24h")
    error = caught.value
    assert (error.status, error.code or None, error.retry_after) == (status, code or "invalid_request_error", 7.0)
    assert message in error.message
    assert why_refused(error).kind is kind
    assert why_refused(error).fatal is (kind is FailureKind.FATAL)


def test_c5_the_number_of_a_fail_fast_limit_is_read() -> None:
    refusal = CallRefused("Limit: 5,000,000,000 enqueued tokens", status=400, code="token_limit_exceeded")
    assert why_refused(refusal).limit == 5_000_000_000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"date": "Mon, 23 Nov 2026 20:00:00 GMT", "retry-after": "Mon, 23 Nov 2026 20:00:30 GMT"}, 30.0),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(
    headers: dict[str, str], seconds: float | None, server: Scripted, provider: Connect
) -> None:
    server.on("GET", "/v1/batches/b", refuse(429, "rate_limit_exceeded", "slow down", headers))
    with pytest.raises(CallUnavailable) as caught:
        provider().poll("b")
    assert caught.value.retry_after == seconds


def test_an_upload_sends_the_files_bytes_under_the_submissions_name(
    server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/files", reply({"id": "file-9", "object": "file"}))
    content = io.BytesIO(b'{"custom_id":"a"}\n')
    content.seek(5)  # a second try starts from the beginning again
    assert provider(files_expire_after=True).upload(submission, content) == "file-9"
    body = server.requests("POST")[0].body
    assert b'\r\n\r\n{"custom_id":"a"}\n\r\n' in body
    assert f'filename="{submission.filename()}"'.encode() in body
    assert b'name="purpose"\r\n\r\nbatch' in body
    assert b'name="expires_after[seconds]"\r\n\r\n1209600' in body


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (gateway(502), CallUnavailable),
        (reset(), CallUnavailable),
        (refuse(429, "rate_limit_exceeded", "slow down"), CallUnavailable),
        (reply({"object": "file"}), CallUnavailable),
        (refuse(400, "invalid_file", "File is too large"), CallRefused),
        (gateway(413), CallRefused),
        (refuse(401, "invalid_api_key", "Incorrect API key"), CallRefused),
    ],
)
def test_a_failed_upload_says_whether_repeating_it_helps(
    behaviour: Behaviour, error: type[CallError], server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/files", behaviour)
    with pytest.raises(error):
        provider().upload(submission, io.BytesIO(b"{}\n"))


def test_c7_the_fingerprint_changes_with_key_and_project_and_is_not_the_key(provider: Connect) -> None:
    first = provider().fingerprint()
    assert first == provider().fingerprint()
    assert first is not None and KEY not in first and len(first) == 16
    assert provider(environ={"TEST_KEY": KEY + "x"}).fingerprint() != first
    assert provider(environ={"OPENAI_PROJECT_ID": "proj_2"}).fingerprint() != first


def test_the_key_appears_in_no_error_even_when_the_server_echoes_it(
    server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/batches", refuse(401, "invalid_api_key", f"Incorrect API key provided: {KEY}"))
    server.on("GET", "/v1/batches/*", reply({"id": "b", "status": "failed", "errors": [{"message": KEY}]}))
    with pytest.raises(CallRefused) as caught:
        provider().create(submission, "file-1", io.BytesIO(), "24h")
    assert KEY not in str(caught.value)
    assert KEY not in str(provider().poll("b"))


def test_another_provider_is_told_neither_organisation_nor_ambient_headers(
    server: Scripted, provider: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "of-openai")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-ambient: of-openai")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.on("GET", "/v1/batches/b", reply(BATCH))
    provider(name="groq").poll("b")
    headers = server.requests("GET")[0].headers
    assert "of-openai" not in headers.values()
    assert headers["authorization"] == f"Bearer {KEY}"


def test_configured_headers_are_sent(server: Scripted) -> None:
    server.on("GET", "/v1/batches/b", reply(BATCH))
    config = ProviderConfig(name="x", headers={"x-region": "eu"})
    OpenAIClient(config, server.url, None, {}).poll("b")
    assert server.requests("GET")[0].headers["x-region"] == "eu"


def test_a_line_has_the_openai_form() -> None:
    line = ADAPTER.envelope.encode("k1-0-a", "/v1/embeddings", b'{"model":"m"}')
    assert line.endswith(b"\n")
    want: Any = {"custom_id": "k1-0-a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}
    assert json.loads(line) == want


def test_the_sdk_in_use_is_one_that_is_supported() -> None:
    major, minor = map(int, openai.__version__.split(".")[:2])
    assert (2, 20) <= (major, minor) < (4, 0)
