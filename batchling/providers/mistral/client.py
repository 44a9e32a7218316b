"""The client for Mistral's batch jobs, over plain HTTP.

Facts: docs.mistral.ai/capabilities/batch and mistralai 3.7 (`CreateBatchJobRequest`, `BatchJob`, `ListBatchJobsResponse`), read
on 2026-11-25. Both files of a job are fetched in every final state: live-tested adapters do (langchain4j#5750,
instructor#2672).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, BinaryIO
from urllib.parse import quote

from batchling import limits
from batchling.dialects.reading import seconds, text_of, whole
from batchling.errors import CallRefused, CallUnavailable
from batchling.models import Batch, BatchError, ResultFile, Submission
from batchling.providers.listing import Query, listed
from batchling.providers.openai.objects import read_blamed, read_refusal
from batchling.providers.replies import Refusal, shape
from batchling.providers.wire import Wire, deleted
from batchling.spec import ProviderConfig

JOBS = "/v1/batch/jobs"
FILES = "/v1/files"
_STATES = {
    "QUEUED": "validating",
    "RUNNING": "in_progress",
    "SUCCESS": "completed",
    "FAILED": "failed",
    "TIMEOUT_EXCEEDED": "expired",
    "CANCELLATION_REQUESTED": "cancelling",
    "CANCELLED": "cancelled",
}
_WINDOW = re.compile(r"([0-9]{1,4})\s*([hd])")


class MistralClient:
    """One connection to Mistral's API. See `Client` for what the calls promise.

    Args:
        config: its facts.
        base_url: where it is, without the API's version: `https://api.mistral.ai`.
        api_key: the key.
        environ: the variables of `headers_env`.
    """

    def __init__(self, config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]):
        self._facts = config
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._wire = Wire(config, base_url, key, environ, said)

    @property
    def facts(self) -> ProviderConfig:
        return self._facts

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        what = f"upload of {submission.filename()}"
        content.seek(0)
        data = self._wire.object(
            what,
            "POST",
            FILES,
            data={"purpose": "batch"},
            files={"file": (submission.filename(), content, "application/jsonl")},
            upload=True,
            by_body=True,
        )
        file_id = text_of(data.get("id"))
        if file_id is None:
            raise CallUnavailable(f"{what}: the reply has no file id ({shape(data)})", status=200, code="unreadable")
        return file_id

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        job = {
            "endpoint": submission.endpoint,
            "input_files": [file_id],
            "model": _model(content),
            "metadata": submission.metadata(),
            "timeout_hours": hours(window),
        }
        return self._wire.create(JOBS, read_batch, json=job)

    def poll(self, batch_id: str) -> Batch:
        return self._wire.batch(f"batch {batch_id}", "GET", f"{JOBS}/{_part(batch_id)}", read_batch)

    def cancel(self, batch_id: str) -> Batch:
        path = f"{JOBS}/{_part(batch_id)}/cancel"
        return self._wire.batch(f"cancellation of batch {batch_id}", "POST", path, read_batch)

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        first: Query = {"page": 0, "page_size": page_size, "order_by": "-created"}
        pages = count(1)

        def following(data: dict[str, Any], page: list[Batch], seen: int) -> Query | None:
            total = whole(data.get("total"))
            if (seen >= total) if total is not None else not data.get("data"):
                return None
            return {"page": next(pages)} if data.get("data") else {}

        return listed(
            self._wire,
            JOBS,
            first,
            "data",
            read_batch,
            following,
            since=since,
            empty=lambda page: whole(page.get("total")) == 0,
            limit_pages=limit_pages,
        )

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        return self._wire.stream(f"download of file {file_id}", f"{FILES}/{_part(file_id)}/content", sink)

    def file_bytes(self, file_id: str) -> int | None:
        data = self._wire.object(f"file {file_id}", "GET", f"{FILES}/{_part(file_id)}")
        size = whole(data.get("size_bytes", data.get("bytes")))
        return size if size is not None and size >= 0 else None

    def fence(self, file_id: str) -> bool:
        return deleted(lambda: self._wire.call(f"deletion of file {file_id}", "DELETE", f"{FILES}/{_part(file_id)}"))

    def fingerprint(self) -> str | None:
        return self._wire.fingerprint()


def hours(window: str) -> int:
    """`24h` or `7d` as a number of hours.

    Raises:
        CallRefused: it is neither, so nothing was sent.
    """
    found = _WINDOW.fullmatch(window.strip())
    if found is None or int(found[1]) == 0:
        raise CallRefused(
            f"provider.completion_window: expected hours or days (24h, 3d), got {window!r}", code="window"
        )
    return int(found[1]) * (24 if found[2] == "d" else 1)


def read_batch(data: Any) -> Batch | None:
    """A job, or None when it has no id. `completed_requests` counts failures too, so `succeeded_requests` is what was answered."""
    if not isinstance(data, dict):
        return None
    batch_id = text_of(data.get("id"))
    if batch_id is None:
        return None
    state = text_of(data.get("status")) or "unknown"
    metadata = data.get("metadata")
    sources = data.get("input_files")
    source = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
    errors = [error for error in data.get("errors") or () if isinstance(error, dict)]
    return Batch(
        id=batch_id,
        status=_STATES.get(state, state.lower()),
        input_file_id=text_of(source),
        output_file_id=text_of(data.get("output_file")),
        error_file_id=text_of(data.get("error_file")),
        created_at=seconds(data.get("created_at")),
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
        errors=tuple(BatchError(text_of(e.get("code")), (text_of(e.get("message")) or "")[:2000]) for e in errors),
        total=whole(data.get("total_requests")) or None,
        completed=whole(data.get("succeeded_requests")),
        failed=whole(data.get("failed_requests")),
    )


def said(body: Any) -> Refusal | None:
    """What an error body says: `{"object": "error", …}`, or the validation's `{"detail": [{"loc", "msg", "type"}]}`."""
    if (refusal := read_refusal(body)) is not None:
        return Refusal(refusal[0], refusal[1], True, read_blamed(body))
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, str) and detail:
        return Refusal(None, detail, True)
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        words = [
            f"{'.'.join(map(str, entry.get('loc') or ()))}: {entry.get('msg')}"
            for entry in detail
            if isinstance(entry, dict)
        ]
        return Refusal("invalid_request_error", "; ".join(words), True)
    return None


def _model(content: BinaryIO) -> str | None:
    """The model that the requests name: a job has one for all of them."""
    content.seek(0)
    try:
        model = limits.loads(content.readline())["body"]["model"]
    except (ValueError, KeyError, TypeError):
        return None
    return model if isinstance(model, str) else None


def _part(name: str) -> str:
    return quote(name, safe="")
