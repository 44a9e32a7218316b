"""What a provider replies is bounded in size, in time and in how it is packed; a reply beyond it spends nothing twice."""

from __future__ import annotations

import gzip
import io
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from batchling import limits
from batchling.errors import CallAmbiguous, CallError, CallUnavailable
from batchling.models import Submission
from batchling.providers import Client
from batchling.providers.openai.client import OpenAIClient
from batchling.spec import Capabilities, ProviderConfig
from tests.servers.scripted import Scripted, Wire, drip, reply

Connect = Callable[..., Client]

LARGE = b'{"id": "batch_1", "status": "completed", "x": "' + b"a" * (limits.CONTROL_BYTES + 1) + b'"}'
BOMB = gzip.compress(LARGE)
DEEP = b'{"id": "batch_1", "status": "completed", "x": ' + b"[" * 600 + b"]" * 600 + b"}"
BEYOND = {
    "large": reply(LARGE),
    "gzip bomb": reply(BOMB, headers={"content-encoding": "gzip"}),
    "deflate bomb": reply(zlib.compress(LARGE), headers={"content-encoding": "deflate"}),
    "packed twice": reply(gzip.compress(BOMB), headers={"content-encoding": "gzip, gzip"}),
    "unknown packing": reply(BOMB, headers={"content-encoding": "br"}),
    "gzip that is none": reply(b"{}", headers={"content-encoding": "gzip"}),
    "deep": reply(DEEP),
    "large refusal": reply(LARGE, status=500),
}


@pytest.mark.parametrize("name", BEYOND)
def test_a_poll_beyond_the_limits_is_unavailable(name: str, server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches/batch_1", BEYOND[name])
    with pytest.raises(CallUnavailable):
        provider().poll("batch_1")


@pytest.mark.parametrize("name", BEYOND)
def test_a_creation_beyond_the_limits_may_have_happened_and_is_asked_once(
    name: str, server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/batches", BEYOND[name])
    with pytest.raises(CallAmbiguous):
        provider().create(submission, "file-1", io.BytesIO(), "24h")
    assert len(server.requests("POST", "/v1/batches")) == 1


@pytest.mark.parametrize("name", BEYOND)
def test_uploads_lists_and_files_beyond_the_limits_are_unavailable(
    name: str, server: Scripted, provider: Connect, submission: Submission
) -> None:
    server.on("POST", "/v1/files", BEYOND[name])
    server.on("GET", "/v1/batches", BEYOND[name])
    server.on("GET", "/v1/files/*", BEYOND[name])
    made = provider(list=True)
    for call in (
        lambda: made.upload(submission, io.BytesIO(b"{}")),
        lambda: list(made.find(0.0)),
        lambda: made.file_bytes("file-1"),
    ):
        with pytest.raises(CallError):
            call()


def test_an_honest_packed_reply_is_read(server: Scripted, provider: Connect) -> None:
    body = json.dumps({"id": "batch_1", "status": "completed"}).encode()
    server.on("GET", "/v1/batches/batch_1", reply(gzip.compress(body), headers={"content-encoding": "gzip"}))
    assert provider().poll("batch_1").status == "completed"


def test_a_result_is_no_control_reply(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/files/file-1/content", reply(BOMB, headers={"content-encoding": "gzip"}))
    sink = io.BytesIO()
    assert provider().fetch("file-1", sink) == len(LARGE)
    assert sink.getvalue() == LARGE


def test_a_reply_that_drips_ends_at_the_deadline(server: Scripted) -> None:
    server.on("GET", "/v1/batches/batch_1", lambda request: Wire(200, b'{"id": "b"}' + b" " * 4_000_000))
    config = ProviderConfig(name="mine", capabilities=Capabilities())
    slow = OpenAIClient(config, server.url, None, {}, call_seconds=0.0)
    with pytest.raises(CallUnavailable, match="did not end in time"):
        slow.poll("batch_1")


@pytest.mark.parametrize("start", [b"", b'{"id": "batch_1"'], ids=["headers", "body"])
@pytest.mark.parametrize("call", ["upload", "create", "poll", "find", "fetch", "cancel"])
def test_a_byte_a_second_does_not_keep_a_call_open(
    server: Scripted, submission: Submission, monkeypatch: pytest.MonkeyPatch, call: str, start: bytes
) -> None:
    """The HTTP library's time limit is of one read: a server that drips would never reach it."""
    monkeypatch.setattr("batchling.limits.RESULT_SECONDS", 1.5)
    monkeypatch.setattr("batchling.providers.openai.client.UPLOAD_SECONDS", 1.0)
    monkeypatch.setattr("tests.servers.scripted.DRIP_SECONDS", 0.1)
    stop = threading.Event()
    for method in ("GET", "POST"):
        server.on(method, "*", drip(stop, start))
    slow = OpenAIClient(
        ProviderConfig(name="mine", capabilities=Capabilities()), server.url, None, {}, call_seconds=1.5
    )
    calls: dict[str, Any] = {
        "upload": lambda: slow.upload(submission, io.BytesIO(b"{}\n")),
        "create": lambda: slow.create(submission, "file-1", io.BytesIO(), "24h"),
        "poll": lambda: slow.poll("batch_1"),
        "find": lambda: list(slow.find(0.0)),
        "fetch": lambda: slow.fetch("file-1", io.BytesIO()),
        "cancel": lambda: slow.cancel("batch_1"),
    }
    ended = CallAmbiguous if call == "create" else CallUnavailable
    try:
        with pytest.raises(ended, match=r"did not end in time|[Tt]imed out|timeout"):
            calls[call]()
    finally:
        stop.set()
    assert len(server.log) == 1


@pytest.mark.parametrize(
    "counts",
    [{"total": -1, "completed": 1e300, "failed": "9" * 19}, {"total": True, "completed": [], "failed": "x"}, 7, [1]],
)
def test_counts_that_are_none_are_unknown(counts: object, server: Scripted, provider: Connect) -> None:
    body = {
        "id": "batch_1",
        "status": "completed",
        "request_counts": counts,
        "created_at": 1e308,
        "errors": {"data": [{"message": "no", "line": 1e300}, {"message": "no", "line": -(2**62)}]},
        "usage": {"input_tokens": -3, "output_tokens": 10**18},
    }
    server.on("GET", "/v1/batches/batch_1", reply(body))
    batch = provider().poll("batch_1")
    assert (batch.total, batch.completed, batch.failed) == (None, None, None)
    assert [error.line for error in batch.errors] == [None, None]
    assert batch.usage.output_tokens is None


@pytest.mark.parametrize(
    "date", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1e400", "9" * 400, "-5", ""]
)
def test_dates_out_of_range_do_no_harm(date: str, server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches/batch_1", reply({"id": "batch_1", "status": "completed", "created_at": date}))
    assert provider().poll("batch_1").id == "batch_1"


def test_deadlines_are_of_one_call_each(server: Scripted, provider: Connect) -> None:
    """Calls on several threads do not share them."""
    server.on("GET", "/v1/batches/*", reply({"id": "batch_1", "status": "completed"}))
    made = provider()
    seen: list[str] = []
    threads = [threading.Thread(target=lambda: seen.append(made.poll("batch_1").status)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["completed"] * 4
