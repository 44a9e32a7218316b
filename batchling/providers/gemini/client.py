"""The client for Gemini's batch jobs, over plain HTTP: the vendor's SDK drops why a job failed, its counts and its input file.

Facts: ai.google.dev/gemini-api/docs/batch-mode and /docs/files; google-genai 3.6 (`batches.py`, `_extra_utils.py` for the
resumable upload), read on 2026-11-25. Requests travel in files only: inlined answers come back out of order
(googleapis/python-genai#1909) and without their metadata (#1886).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

from batchling.dialects.reading import seconds, text_of, whole
from batchling.errors import CallStopped, CallUnavailable
from batchling.models import Batch, BatchError, ResultFile, Submission
from batchling.providers.gemini.envelope import named_status
from batchling.providers.listing import Query, listed
from batchling.providers.replies import MAX_RETRY_SECONDS, Refusal, shape
from batchling.providers.wire import PIECE, Wire, deleted
from batchling.spec import ProviderConfig
from batchling.trust import is_loopback, shown

MIME = "jsonl"
_STATES = {
    "PENDING": "validating",
    "QUEUED": "validating",
    "RUNNING": "in_progress",
    "SUCCEEDED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "EXPIRED": "expired",
}
_MARK = re.compile(r"batchling-([0-9a-z]{6})-([0-9]{4,})-([0-9]+)-([0-9a-f]{64})")
_DELAY = re.compile(r"([0-9]{1,20})(?:\.[0-9]+)?s")


class GeminiClient:
    """One connection to the Developer API. See `Client` for what the calls promise.

    Args:
        config: its facts.
        base_url: where it is, with the API's version: `https://generativelanguage.googleapis.com/v1beta`.
        api_key: the key.
        environ: the variables of `headers_env`.
    """

    def __init__(self, config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]):
        self._facts = config
        self._wire = Wire(config, base_url, {"x-goog-api-key": api_key} if api_key else {}, environ, said)
        self._version = urlsplit(base_url).path.strip("/")

    @property
    def facts(self) -> ProviderConfig:
        return self._facts

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        what = f"upload of {submission.filename()}"
        content.seek(0, 2)
        size = content.tell()
        begin = self._wire.call(
            what,
            "POST",
            self._wire.root(f"/upload/{self._version}/files"),
            json={"file": {"displayName": submission.filename(), "mimeType": MIME}},
            headers={
                "X-Goog-Upload-Protocol": "resumable",
                "X-Goog-Upload-Command": "start",
                "X-Goog-Upload-Header-Content-Length": str(size),
                "X-Goog-Upload-Header-Content-Type": MIME,
            },
            by_body=True,
        )
        target = begin.headers.get("x-goog-upload-url", "")
        place = urlsplit(target)
        if not target or not (place.scheme == "https" or is_loopback(place.hostname)):
            # Nothing but the address of the provider's own reply says where the rows would go.
            raise CallUnavailable(f"{what}: the reply does not say where to ({shown(target)})", status=begin.status)
        content.seek(0)
        sent = self._wire.object(
            what,
            "POST",
            target,
            content=_pieces(content),
            headers={
                "Content-Length": str(size),
                "X-Goog-Upload-Offset": "0",
                "X-Goog-Upload-Command": "upload, finalize",
            },
            upload=True,
            by_body=True,
        )
        file = sent.get("file")
        name = text_of(file.get("name")) if isinstance(file, dict) else None
        if name is None:  # googleapis/python-genai#1248
            raise CallUnavailable(f"{what}: the reply names no file ({shape(sent)})", status=200, code="unreadable")
        return name

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        batch = {"displayName": mark_of(submission), "inputConfig": {"fileName": file_id}}
        return self._wire.create(submission.endpoint, read_batch, json={"batch": batch})

    def poll(self, batch_id: str) -> Batch:
        return self._wire.batch(f"batch {batch_id}", "GET", _path(batch_id), read_batch)

    def cancel(self, batch_id: str) -> Batch:
        self._wire.object(f"cancellation of batch {batch_id}", "POST", f"{_path(batch_id)}:cancel")
        return self.poll(batch_id)

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        # The order of the list is not documented, so it is read to its end; a page may be empty and not the last.
        first = {"pageSize": page_size}
        return listed(
            self._wire,
            "/batches",
            first,
            "operations",
            read_batch,
            _following,
            empty=lambda page: page.keys() <= {"nextPageToken"},
            limit_pages=limit_pages,
        )

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        # Never asked about as a file: the name of an output is longer than the Files API allows (python-genai#1759).
        return self._wire.stream(f"download of {file_id}", f"{_path(file_id)}:download?alt=media", sink, elsewhere=True)

    def file_bytes(self, file_id: str) -> int | None:
        return None

    def fence(self, file_id: str) -> bool:
        return deleted(lambda: self._wire.call(f"deletion of {file_id}", "DELETE", _path(file_id)))

    def fingerprint(self) -> str | None:
        return self._wire.fingerprint()


def mark_of(submission: Submission) -> str:
    """A batch's display name, which says all that metadata would."""
    marks = submission.metadata()
    return "-".join(("batchling", *(marks[f"batchling_{part}"] for part in ("plan", "shard", "attempt", "sha256"))))


def _following(data: dict[str, Any], page: list[Batch], seen: int) -> Query | None:
    cursor = text_of(data.get("nextPageToken"))
    return None if cursor is None else {"pageToken": cursor}


def read_batch(data: Any) -> Batch | None:
    """A long-running operation whose metadata is a batch; None when it has no name. int64 come as texts."""
    if not isinstance(data, dict):
        return None
    batch_id = text_of(data.get("name"))
    if batch_id is None:
        return None
    about = data.get("metadata")
    about = about if isinstance(about, dict) else {}
    result = data.get("response")
    state = (text_of(about.get("state")) or "unknown").removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
    error = data.get("error")
    status = _STATES.get(state, state.lower())
    if data.get("done") is True and isinstance(error, dict) and status not in ("cancelled", "expired"):
        status = "failed"
    counts = about.get("batchStats")
    counts = counts if isinstance(counts, dict) else {}
    source = about.get("inputConfig")
    name = _MARK.fullmatch(text_of(about.get("displayName")) or "")
    parts = ("plan", "shard", "attempt", "sha256")
    return Batch(
        id=batch_id,
        status=status,
        input_file_id=text_of(source.get("fileName")) if isinstance(source, dict) else None,
        output_file_id=_output(about.get("output")) or _output(result),
        created_at=seconds(about.get("createTime")),
        metadata={f"batchling_{part}": value for part, value in zip(parts, name.groups(), strict=True)} if name else {},
        errors=_errors(error),
        total=whole(counts.get("requestCount")),
        completed=whole(counts.get("successfulRequestCount")),
        failed=whole(counts.get("failedRequestCount")),
    )


def said(body: Any) -> Refusal | None:
    """What `{"error": {"code", "message", "status", "details"}}` says, alone or in a list; None for any other body."""
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None
    name, message = named_status(error), text_of(error.get("message"))
    if name is None and message is None:
        return None
    code = "invalid_request_error" if name == "INVALID_ARGUMENT" else name and name.lower()
    return Refusal(code, message or name or "", True, retry_after=_delay(error.get("details")))


def _delay(details: Any) -> float | None:
    """RetryInfo's delay. 2⁶³ − 1 seconds have been seen (googleapis/python-genai#1172)."""
    for detail in details if isinstance(details, list) else ():
        found = _DELAY.fullmatch(str(detail.get("retryDelay"))) if isinstance(detail, dict) else None
        if found is not None:
            return min(float(found[1]), MAX_RETRY_SECONDS)
    return None


def _errors(error: Any) -> tuple[BatchError, ...]:
    if not isinstance(error, dict):
        return ()
    message = text_of(error.get("message"))
    name = named_status(error)
    return (BatchError(name and name.lower(), message and message[:2000]),) if name or message else ()


def _output(value: Any) -> str | None:
    return text_of(value.get("responsesFile")) if isinstance(value, dict) else None


def _pieces(content: BinaryIO) -> Iterator[bytes]:
    while piece := content.read(PIECE):
        yield piece


def _path(name: str) -> str:
    """`batches/…` and `files/…` are names and paths at once.

    Raises:
        CallStopped: it is no such name, and would lead elsewhere.
    """
    if not re.fullmatch(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*", name) or ".." in name:
        raise CallStopped(f"{shown(name)} is no name of a batch or a file", code="bad_name")
    return "/" + quote(name, safe="/")
