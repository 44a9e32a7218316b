"""The client for Message Batches, over plain HTTP: the vendor's SDK repeats the create that spends.

Facts: docs of the Message Batches API and anthropic 2.13 (`resources/messages/batches.py`, `types/messages`), read on
2026-11-25. A batch has no name and no metadata, so a submission whose reply was lost is known by its custom_ids, which
its results repeat.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote

from batchling.dialects.reading import seconds, text_of, whole
from batchling.models import Batch, BatchError, ResultFile, Submission
from batchling.providers.listing import Query, listed
from batchling.providers.replies import Refusal
from batchling.providers.wire import PIECE, Wire
from batchling.spec import ProviderConfig

BATCHES = "/v1/messages/batches"
_FIRST, _LAST = b'{"requests":[', b"]}"
_COUNTS = ("processing", "succeeded", "errored", "canceled", "expired")
_LARGEST_PAGE = 1000


class AnthropicClient:
    """One connection to the Message Batches API. See `Client` for what the calls promise.

    Args:
        config: its facts; `headers` hold the pinned `anthropic-version`.
        base_url: where it is, e.g. `https://api.anthropic.com`.
        api_key: the key.
        environ: the variables of `headers_env`.
    """

    def __init__(self, config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]):
        self._facts = config
        self._wire = Wire(config, base_url, {"x-api-key": api_key} if api_key else {}, environ, said)

    @property
    def facts(self) -> ProviderConfig:
        return self._facts

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        # Nothing leaves: the requests go along with the create. The name is new at each attempt, as a file's id is.
        return f"{submission.filename().removesuffix('.jsonl')}-{secrets.token_hex(4)}"

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        content.seek(0, 2)
        size = content.tell()
        content.seek(0)
        length = len(_FIRST) + max(0, size - 1) + len(_LAST)  # the last line feed is left out, the others become commas
        headers = {"Content-Type": "application/json", "Content-Length": str(length)}
        return self._wire.create(BATCHES, read_batch, content=_array(content), headers=headers, large=True)

    def poll(self, batch_id: str) -> Batch:
        return self._wire.batch(f"batch {batch_id}", "GET", _path(batch_id), read_batch)

    def cancel(self, batch_id: str) -> Batch:
        return self._wire.batch(f"cancellation of batch {batch_id}", "POST", f"{_path(batch_id)}/cancel", read_batch)

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        first = {"limit": min(page_size, _LARGEST_PAGE)}
        return listed(
            self._wire,
            BATCHES,
            first,
            "data",
            read_batch,
            _following,
            since=since,
            limit_pages=limit_pages,
        )

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        # `results_url` is not followed: it may name another host, behind a gateway it does, and our key is for ours.
        what = f"download of the results of {file_id}"
        return self._wire.stream(what, f"{_path(file_id)}/results", sink, elsewhere=True)

    def file_bytes(self, file_id: str) -> int | None:
        return None

    def fence(self, file_id: str) -> bool:
        return False

    def fingerprint(self) -> str | None:
        return self._wire.fingerprint()


def _following(data: dict[str, Any], page: list[Batch], seen: int) -> Query | None:
    if not data["data"] or data.get("has_more") is False:
        return None
    after = text_of(data.get("last_id")) or (page[-1].id if page else None)
    return {} if after is None else {"after_id": after}


def read_batch(data: Any) -> Batch | None:
    """A `message_batch` object, or None when this is not one.

    All requests count as processing until the batch has ended, so counts say how large it is and nothing of its
    progress. Results are there when it has ended and has a `results_url`; once they are archived it has none.
    """
    if not isinstance(data, dict) or data.get("type") not in ("message_batch", None):
        return None
    batch_id = text_of(data.get("id"))
    if batch_id is None:
        return None
    status = text_of(data.get("processing_status")) or "unknown"
    said_counts = data.get("request_counts")
    counts = {name: whole(said_counts.get(name)) for name in _COUNTS} if isinstance(said_counts, dict) else {}
    known = [count for count in counts.values() if count is not None and count >= 0]
    total = sum(known) if len(known) == len(_COUNTS) else None
    ended = status == "ended"
    neutral = {"in_progress": "in_progress", "canceling": "cancelling"}.get(status, status)
    done = counts.get("succeeded")
    if ended:
        neutral = "completed"
        if total and not done and counts.get("canceled") == total:
            neutral = "cancelled"
        elif total and not done and counts.get("expired") == total:
            neutral = "expired"
    return Batch(
        id=batch_id,
        status=neutral,
        output_file_id=batch_id if ended and text_of(data.get("results_url")) else None,
        created_at=seconds(data.get("created_at")),
        total=total or None,
        completed=done if ended else None,
        failed=(total or 0) - (done or 0) if ended and total is not None else None,
    )


def said(body: Any) -> Refusal | None:
    """What `{"type": "error", "error": {"type", "message"}}` says; None for any other body."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    code, message = text_of(error.get("type")), text_of(error.get("message"))
    if code is None and message is None:
        return None
    return Refusal(code, message or code or "", True, _blamed(code, message))


def _blamed(code: str | None, message: str | None) -> tuple[BatchError, ...]:
    """The request that the words blame: `requests.3.params.max_tokens: Field required`, counted from 0."""
    head, _, rest = (message or "").partition(".")
    number = rest.partition(".")[0]
    if head.strip() != "requests" or not number.isascii() or not number.isdigit() or len(number) > 6:
        return ()
    return (BatchError(code, message, int(number) + 1),)


def _array(content: BinaryIO) -> Iterator[bytes]:
    """The create's body: the lines as the members of one array. No line holds a line feed but at its end."""
    yield _FIRST
    held = b""
    while piece := content.read(PIECE):
        yield held
        piece = piece.replace(b"\n", b",")
        piece, held = piece[:-1], piece[-1:]
        yield piece
    if held not in (b"", b","):
        raise ValueError("the requests do not end with a line feed")
    yield _LAST


def _path(batch_id: str) -> str:
    return f"{BATCHES}/{quote(batch_id, safe='')}"
