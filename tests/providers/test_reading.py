"""Poll, list, fetch, fence and cancel: reads tell unknown from gone, and part from whole (CONFORMANCE 4, 11, 17, 21)."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from batchling.errors import CallError, CallNotFound, CallRefused, CallUnavailable
from batchling.models import BatchError, Usage
from batchling.providers import Client, connect
from batchling.providers.openai.objects import read_batch
from batchling.spec import ProviderConfig
from tests.servers.scripted import (
    Behaviour,
    Request,
    Scripted,
    Wire,
    cut,
    gateway,
    hang_up,
    refuse,
    reply,
    reset,
    unmeasured,
)

Connect = Callable[..., Client]


def test_c4_a_404_on_a_batch_is_unknown_and_the_next_poll_works(server: Scripted, provider: Connect) -> None:
    lost = refuse(404, None, "No batch found")
    server.on("GET", "/v1/batches/b", lost, lost, gateway(404), reply({"id": "b", "status": "in_progress"}))
    client = provider()
    for _ in range(3):
        with pytest.raises(CallNotFound):
            client.poll("b")
    assert client.poll("b").status == "in_progress"


@pytest.mark.parametrize(
    "behaviour",
    [
        gateway(503),
        gateway(200),
        gateway(400),
        reset(),
        hang_up(),
        cut({"id": "b"}, 4),
        refuse(429, "x", "y"),
        reply({}),
    ],
)
def test_c1_a_read_that_fails_for_now_is_unavailable_and_not_retried_inside(
    behaviour: Behaviour, server: Scripted, provider: Connect
) -> None:
    server.on("GET", "/v1/batches/b", behaviour)
    with pytest.raises(CallUnavailable):
        provider().poll("b")
    assert len(server.requests("GET")) == 1


def test_c7_a_revoked_key_is_refused_on_a_read(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches/b", refuse(401, "invalid_api_key", "Incorrect API key provided"))
    with pytest.raises(CallRefused) as caught:
        provider().poll("b")
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Scripted() as gone:
        client = connect(ProviderConfig(name="x"), base_url=gone.url, environ={})
    with pytest.raises(CallUnavailable):
        client.poll("b")


@pytest.mark.parametrize(
    ("status", "neutral", "terminal"),
    [
        ("completed", "completed", True),
        ("COMPLETED", "completed", True),
        ("canceled", "cancelled", True),
        ("finalizing", "finalizing", False),
        ("scheduling", "scheduling", False),
        ("in_queue", "in_queue", False),
        (None, "unknown", False),
    ],
)
def test_c21_an_unknown_status_is_not_terminal(status: str | None, neutral: str, terminal: bool) -> None:
    batch = read_batch({"id": "b", "status": status})
    assert batch is not None
    assert (batch.status, batch.terminal) == (neutral, terminal)


def test_c21_null_counts_and_opaque_ids_are_fine() -> None:
    batch = read_batch(
        {
            "id": "0b54e1c0-7a43-4e2f-9f5a-3a6a7a0d9a51",
            "status": "completed",
            "endpoint": None,
            "request_counts": {"total": None, "completed": "2", "failed": None},
            "metadata": None,
            "created_at": "2026-11-23T20:00:00Z",
            "usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": "7"},
        }
    )
    assert batch is not None
    assert (batch.id, batch.total, batch.completed) == ("0b54e1c0-7a43-4e2f-9f5a-3a6a7a0d9a51", None, 2)
    assert batch.created_at == 1795464000.0
    assert batch.usage == Usage(5, 2, 7, None)


def test_c11_absent_file_ids_are_none_whatever_they_look_like() -> None:
    batch = read_batch({"id": "b", "status": "completed", "output_file_id": None, "error_file_id": ""})
    assert batch is not None
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


@pytest.mark.parametrize(
    "errors",
    [
        {"object": "list", "data": [{"code": "c", "message": "m", "line": 3, "param": None}]},
        [{"code": "c", "message": "m", "line": "3"}],
        {"code": "c", "message": "m", "line": 3},
    ],
)
def test_errors_are_read_as_an_object_and_as_a_bare_list(errors: Any) -> None:
    batch = read_batch({"id": "b", "status": "failed", "errors": errors})
    assert batch is not None
    assert batch.errors == (BatchError("c", "m", 3),)


@pytest.mark.parametrize("hostile", [None, [], "x", 3, {"id": {}}, {"id": True}, {"status": "completed"}])
def test_what_is_no_batch_is_none(hostile: Any) -> None:
    assert read_batch(hostile) is None


def _items(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"batch_{n}", "status": "completed", "created_at": 1_000_000 - 1000 * n} for n in numbers]


def _pages(size: int, total: int) -> Behaviour:
    """A correct list: newest first, `after`, `has_more`."""

    def answer(request: Request) -> Wire:
        start = int(request.query["after"].removeprefix("batch_")) + 1 if "after" in request.query else 0
        numbers = range(start, min(start + size, total))
        return reply({"data": _items(*numbers), "has_more": start + size < total})(request)

    return answer


def test_every_page_is_read_newest_first(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", _pages(3, 8))
    assert [b.id for b in provider().find(0)] == [f"batch_{n}" for n in range(8)]


def test_the_list_is_read_back_past_since_and_not_to_its_end(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", _pages(3, 100))
    found = [b.id for b in provider().find(1_000_000)]  # and an hour more for clocks that differ: 3 or 4 batches
    assert "batch_3" in found
    assert len(server.requests("GET")) <= 3


def test_a_list_in_unknown_order_is_read_to_its_end(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", _pages(3, 10))
    assert len(list(provider(list_order="unknown").find(1_000_000))) == 10


def test_c21_a_list_that_ignores_its_cursor_ends(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", reply({"data": _items(0, 1, 2)}))
    assert len(list(provider().find(0))) == 3
    assert len(server.requests("GET")) == 2


def test_c21_a_list_that_ignores_its_cursor_but_has_more_is_never_taken_for_an_absence(
    server: Scripted, provider: Connect
) -> None:
    server.on("GET", "/v1/batches", reply({"data": _items(0, 1, 2), "has_more": True}))
    found = provider().find(0)
    assert [next(found).id for _ in range(3)] == ["batch_0", "batch_1", "batch_2"]
    with pytest.raises(CallUnavailable, match="no new ones"):
        next(found)
    assert len(server.requests("GET")) == 2


def test_a_list_without_an_end_is_given_up_loudly(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", _pages(2, 1000))
    with pytest.raises(CallUnavailable):
        list(provider(list_order="unknown").find(0, limit_pages=4))
    assert len(server.requests("GET")) == 4


def test_groqs_cursor_is_followed(server: Scripted, provider: Connect) -> None:
    def answer(request: Request) -> Wire:
        page = {None: (_items(0, 1), "c1"), "c1": (_items(2), None)}[request.query.get("cursor")]
        return reply({"data": page[0], "paging": {"next_cursor": page[1]}})(request)

    server.on("GET", "/v1/batches", answer)
    assert [b.id for b in provider(name="groq", paging="cursor").find(0)] == ["batch_0", "batch_1", "batch_2"]
    assert [r.query.get("cursor") for r in server.requests("GET")] == [None, "c1"]


def test_a_cursor_that_does_not_move_ends(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", reply({"data": _items(0), "paging": {"next_cursor": "c1"}}))
    with pytest.raises(CallUnavailable):
        list(provider(paging="cursor").find(0))
    assert len(server.requests("GET")) == 2


def test_an_empty_list_is_empty(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", reply({"data": [], "has_more": True}))
    assert list(provider().find(0)) == []


@pytest.mark.parametrize("behaviour", [gateway(502), gateway(200), reply({"object": "list"}), reset()])
def test_a_list_that_cannot_be_read_is_unavailable(behaviour: Behaviour, server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/batches", behaviour)
    with pytest.raises(CallUnavailable):
        list(provider().find(0))


CONTENT = '{"a":"\u2028"}\n{"b":1}\n'.encode() * 5000


def test_a_file_arrives_byte_for_byte(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/files/f/content", reply(CONTENT))
    sink = io.BytesIO()
    assert provider().fetch("f", sink) == len(CONTENT)
    assert sink.getvalue() == CONTENT


def test_c11_a_file_of_no_bytes_is_no_error(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/files/f/content", reply(b""))
    assert provider().fetch("f", io.BytesIO()) == 0


def test_c17_a_download_that_ends_early_is_unavailable(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/files/f/content", cut(CONTENT, 70_000), reply(CONTENT))
    with pytest.raises(CallUnavailable):
        provider().fetch("f", io.BytesIO())
    assert provider().fetch("f", io.BytesIO()) == len(CONTENT)


def test_c17_a_download_without_a_length_is_told_by_the_files_size(server: Scripted, provider: Connect) -> None:
    server.on("GET", "/v1/files/f/content", unmeasured(CONTENT, 70_000))
    server.on("GET", "/v1/files/f", reply({"id": "f", "bytes": len(CONTENT)}))
    assert provider().fetch("f", io.BytesIO()) == 70_000
    assert provider().file_bytes("f") == len(CONTENT)


@pytest.mark.parametrize(("stated", "size"), [(12, 12), ("12", 12), (None, None), (-1, None), ("many", None), (0, 0)])
def test_a_files_size_is_what_the_provider_states(
    stated: Any, size: int | None, server: Scripted, provider: Connect
) -> None:
    server.on("GET", "/v1/files/f", reply({"id": "f", "bytes": stated}))
    assert provider().file_bytes("f") == size


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (gateway(502), CallUnavailable),
        (reset(), CallUnavailable),
        (refuse(404, None, "No such File object"), CallNotFound),
        (refuse(401, "invalid_api_key", "Incorrect API key"), CallRefused),
    ],
)
def test_a_download_that_fails_says_how(
    behaviour: Behaviour, error: type[CallError], server: Scripted, provider: Connect
) -> None:
    server.on("GET", "/v1/files/f/content", behaviour)
    with pytest.raises(error):
        provider().fetch("f", io.BytesIO())


def test_a_full_disk_is_not_the_providers_fault(server: Scripted, provider: Connect) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    server.on("GET", "/v1/files/f/content", reply(CONTENT))
    with pytest.raises(OSError, match="No space left"):
        provider().fetch("f", Full())


def test_a_fence_holds_when_the_provider_says_the_file_is_gone(server: Scripted, provider: Connect) -> None:
    server.on("DELETE", "/v1/files/f", reply({"id": "f", "deleted": True}), refuse(404, None, "No such File object"))
    client = provider()
    assert client.fence("f")
    assert client.fence("f")


@pytest.mark.parametrize(
    "behaviour", [gateway(404), reply({"detail": "Not Found"}, 404), gateway(200), gateway(502), reset()]
)
def test_a_fence_is_not_taken_from_anybody_elses_word(
    behaviour: Behaviour, server: Scripted, provider: Connect
) -> None:
    server.on("DELETE", "/v1/files/f", behaviour)
    with pytest.raises(CallUnavailable):
        provider().fence("f")


def test_a_file_that_was_not_deleted_is_no_fence(server: Scripted, provider: Connect) -> None:
    server.on("DELETE", "/v1/files/f", reply({"id": "f", "deleted": False}))
    assert not provider().fence("f")
    assert not provider(fence="none").fence("f")
    assert len(server.requests("DELETE")) == 1


def test_cancel_returns_the_batch_as_it_is_now(server: Scripted, provider: Connect) -> None:
    server.on("POST", "/v1/batches/b/cancel", reply({"id": "b", "status": "cancelling"}))
    assert provider().cancel("b").status == "cancelling"
