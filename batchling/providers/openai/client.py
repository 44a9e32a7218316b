"""The client for everything OpenAI-shaped: the real `openai` SDK over HTTP, one YAML of facts each.

The client's own retries are off: it would repeat `POST /batches` on a timeout or a 500 and so buy a
batch twice. Replies are read from their bytes, not through the client's models, because other
providers fill the same fields with nulls, bare lists and empty strings.

Works with openai 2.20 to 3: version 3 replaced `httpx` by `httpx2`, so neither is imported here.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import openai

from batchling import limits
from batchling.dialects.reading import text_of, whole
from batchling.errors import CallAmbiguous, CallError, CallNotFound, CallRefused, CallStopped, CallUnavailable
from batchling.models import Batch, ResultFile, Submission
from batchling.providers.deadline import CONNECT_SECONDS, LATE, READ_SECONDS, UPLOAD_SECONDS, end_with
from batchling.providers.openai.objects import read_batch, read_blamed, read_refusal
from batchling.providers.replies import (
    FOREIGN_404,
    HTTP_LIBRARIES,
    MARGIN_SECONDS,
    MAX_MESSAGE,
    Refusal,
    bad_certificate,
    free_error,
    reason,
    shape,
    spending_error,
)
from batchling.scrub import Scrubber
from batchling.spec import ProviderConfig
from batchling.trust import is_loopback, shown

FILES_EXPIRE_SECONDS = 14 * 86400
"""Life of an uploaded input file. Azure accepts 14 to 30 days, OpenAI 1 hour to 30 days."""
OUTPUT_EXPIRES_SECONDS = 30 * 86400
"""Life of an output file: OpenAI's maximum."""

_NO_KEY = "none"


class OpenAIClient:
    """One OpenAI-shaped provider. See `Client` for what the calls promise.

    Args:
        config: its facts.
        base_url: where it is, e.g. `https://api.openai.com/v1`.
        api_key: the key; None for a server that wants none.
        environ: the variables of `headers_env` are read from it, and, for OpenAI itself only, `OPENAI_ORG_ID` and
            `OPENAI_PROJECT_ID`; all of them passed the gate.
        read_seconds: how long a reply may be silent.
        call_seconds: how long a call may take in all.
    """

    def __init__(
        self,
        config: ProviderConfig,
        base_url: str,
        api_key: str | None,
        environ: Mapping[str, str],
        *,
        read_seconds: float = READ_SECONDS,
        call_seconds: float = limits.CONTROL_SECONDS,
    ):
        self._facts = config
        self._call_seconds = call_seconds
        self._key = api_key
        self._hidden = {header: environ[variable] for header, variable in config.headers_env.items()}
        self._scrubber = Scrubber(value for value in (api_key, *self._hidden.values()) if value)
        self._client = openai.OpenAI(
            api_key=api_key or _NO_KEY,
            base_url=base_url,
            max_retries=0,
            timeout=openai.Timeout(read_seconds, connect=CONNECT_SECONDS),
            http_client=openai.DefaultHttpxClient(
                # Over plain http there is no certificate to check: reading what the system trusts takes 25 ms for nothing.
                # This context trusts nobody, should a connection ask for it all the same.
                verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if urlsplit(base_url).scheme == "http" else True,
                # A proxy from the environment must not get between us and a server on this machine.
                trust_env=not is_loopback(urlsplit(base_url).hostname),
                # None of OpenAI's calls is answered with a redirect. Where one points to was not asked for: the rows
                # and our own headers would go along, and to the same host the key as well.
                follow_redirects=False,
                headers={"Accept-Encoding": "gzip, deflate"},
                event_hooks={"request": [self._begin], "response": [self._bound]},
            ),
        )
        self._calls = threading.local()
        end_with(self._client._client, self._left)
        # The client fills these from OPENAI_* variables by itself: another provider must not be told the
        # organisation, and headers that are in no config would change answers without a trace.
        own = config.name == "openai"
        self._client.organization = environ.get("OPENAI_ORG_ID") if own else None
        self._client.project = environ.get("OPENAI_PROJECT_ID") if own else None
        self._client._custom_headers = {**config.headers, **self._hidden}
        if hasattr(self._client, "admin_api_key"):
            self._client.admin_api_key = None
        self._upload_timeout = openai.Timeout(UPLOAD_SECONDS, connect=CONNECT_SECONDS)

    @property
    def facts(self) -> ProviderConfig:
        return self._facts

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        content.seek(0)
        extra: dict[str, Any] = {}
        if self._facts.capabilities.files_expire_after:
            extra["expires_after"] = {"anchor": "created_at", "seconds": FILES_EXPIRE_SECONDS}
        try:
            data = self._read(
                f"upload of {submission.filename()}",
                lambda: self._client.files.with_raw_response.create(
                    file=(submission.filename(), content, "application/jsonl"),
                    purpose="batch",
                    timeout=self._upload_timeout,
                    **extra,
                ),
                by_body=True,
            )
        except CallStopped as error:  # nothing is out yet: this provider is given up, and not the whole plan
            raise CallRefused(error.message, status=error.status, code=error.code) from None
        file_id = text_of(data.get("id"))
        if file_id is None:
            raise CallUnavailable(f"upload of {submission.filename()}: the reply has no file id ({shape(data)})")
        return file_id

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        capabilities = self._facts.capabilities
        extra: dict[str, Any] = {}
        if capabilities.metadata:
            extra["metadata"] = submission.metadata()
        if capabilities.output_expires_after:
            extra["output_expires_after"] = {"anchor": "created_at", "seconds": OUTPUT_EXPIRES_SECONDS}
        endpoint: Any = submission.endpoint
        completion_window: Any = window
        try:
            reply = self._client.batches.with_raw_response.create(
                input_file_id=file_id, endpoint=endpoint, completion_window=completion_window, **extra
            )
        except openai.APIStatusError as error:
            raise self._create_error(error) from None
        except Exception as error:
            if (why := bad_certificate(error)) is not None:  # found before anything of the request has left
                raise CallRefused(f"creation of a batch: {why}", code="certificate_refused") from None
            # Whatever went wrong here may have gone wrong after the request had left.
            raise CallAmbiguous(self._scrub(f"creation of a batch: {reason(error)}")) from None
        data = self._json(reply.content)
        batch = read_batch(data)
        if batch is None:
            raise CallAmbiguous(
                f"provider {self._facts.name!r} answered {reply.status_code} without a batch id ({shape(data)}): "
                "a batch may have been created, and this is not the OpenAI shape",
                status=reply.status_code,
            )
        return batch

    def poll(self, batch_id: str) -> Batch:
        return self._batch(f"batch {batch_id}", lambda: self._client.batches.with_raw_response.retrieve(batch_id))

    def cancel(self, batch_id: str) -> Batch:
        return self._batch(
            f"cancellation of batch {batch_id}", lambda: self._client.batches.with_raw_response.cancel(batch_id)
        )

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        capabilities = self._facts.capabilities
        if not capabilities.list:
            raise CallRefused(f"provider {self._facts.name!r} cannot list batches", code="list_unsupported")
        cutoff = since - MARGIN_SECONDS
        seen: set[str] = set()
        cursors: set[str] = set()
        query: dict[str, Any] = {}
        for _ in range(limit_pages):
            data = self._page(page_size, query)
            entries = data["data"]
            page = [batch for batch in map(read_batch, entries) if batch is not None]
            fresh = [batch for batch in page if batch.id not in seen]
            seen.update(batch.id for batch in page)
            yield from fresh
            if not entries or data.get("has_more") is False:
                return
            dated = [batch.created_at for batch in page if batch.created_at is not None]
            if capabilities.list_order == "newest" and dated and max(dated) < cutoff:
                return
            paging = data.get("paging")
            cursor = text_of(paging.get("next_cursor")) if isinstance(paging, dict) else None
            more = data.get("has_more") is True or cursor is not None
            moved = bool(fresh) and capabilities.paging != "none"
            if cursor is not None:
                moved = moved and cursor not in cursors
                cursors.add(cursor)
                query = {"cursor": cursor}
            elif capabilities.paging == "after":
                more = more or len(entries) >= page_size
                query = {"after": page[-1].id} if page else {}
            else:
                moved = False
            if not moved:
                if more:
                    break
                return
        raise CallUnavailable(
            f"provider {self._facts.name!r} listed {len(seen)} batches and said there are more, "
            "but its next page had no new ones",
            code="list_incomplete",
        )

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        what = f"download of file {file_id}"
        count = 0
        with self._transport(what):
            manager = self._client.files.with_streaming_response.content(file_id)
            reply = manager.__enter__()
        due = time.monotonic() + limits.RESULT_SECONDS
        try:
            announced = reply.headers.get("content-length", "")
            encoded = reply.headers.get("content-encoding", "identity") != "identity"
            chunks = reply.iter_bytes(1 << 18)
            while True:
                with self._transport(what):
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                if time.monotonic() > due:
                    raise CallUnavailable(f"{what}: it had not ended after {limits.RESULT_SECONDS / 3600:.0f} hours")
                sink.write(chunk)  # outside: a full disk is not the provider's fault
                count += len(chunk)
        finally:
            manager.__exit__(None, None, None)
        if announced.isdecimal() and not encoded and int(announced) != count:
            raise CallUnavailable(f"{what}: {count:,} of {int(announced):,} bytes arrived", code="incomplete")
        return count

    def file_bytes(self, file_id: str) -> int | None:
        data = self._read(f"file {file_id}", lambda: self._client.files.with_raw_response.retrieve(file_id))
        size = whole(data.get("bytes"))
        return size if size is not None and size >= 0 else None

    def fence(self, file_id: str) -> bool:
        if self._facts.capabilities.fence != "delete_file":
            return False
        what = f"deletion of file {file_id}"
        try:
            data = self._read(what, lambda: self._client.files.with_raw_response.delete(file_id))
        except CallNotFound as error:
            if error.code == FOREIGN_404:
                raise CallUnavailable(error.message, status=404) from None
            return True
        return data.get("deleted") is not False

    def fingerprint(self) -> str | None:
        if self._key is None:
            return None
        parts = (self._key, self._client.organization or "", self._client.project or "", *self._hidden.values())
        digest = hmac.new(b"batchling key fingerprint 1", "\0".join(parts).encode(), hashlib.sha256)
        return digest.hexdigest()[:16]

    def _page(self, page_size: int, query: dict[str, Any]) -> dict[str, Any]:
        data = self._read(
            "list of batches",
            lambda: self._client.batches.with_raw_response.list(limit=page_size, extra_query=query),
        )
        if not isinstance(data.get("data"), list):
            raise CallUnavailable(f"the list of batches has no data ({shape(data)})", code="unreadable")
        return data

    def _batch(self, what: str, call: Callable[[], Any]) -> Batch:
        data = self._read(what, call)
        batch = read_batch(data)
        if batch is None:
            raise CallUnavailable(f"{what}: the reply is not a batch ({shape(data)})", status=200, code="unreadable")
        return batch

    def _read(self, what: str, call: Callable[[], Any], *, by_body: bool = False) -> dict[str, Any]:
        """Performs a call that is free and returns its reply's JSON object."""
        with self._transport(what, by_body=by_body):
            reply = call()
        data = self._json(reply.content)
        if not isinstance(data, dict):
            message = f"{what}: the reply is not a JSON object ({shape(data)})"
            raise CallUnavailable(message, status=reply.status_code, code="unreadable")
        return data

    @contextmanager
    def _transport(self, what: str, *, by_body: bool = False) -> Iterator[None]:
        """Turns the client's and the transport's exceptions on a call that is free into ours."""
        try:
            yield
        except openai.APIStatusError as error:
            raise self._status_error(what, error, by_body=by_body) from None
        except limits.BeyondLimit as error:
            raise CallUnavailable(f"{what}: {error}", code="too_large") from None
        except Exception as error:
            # A stream that breaks off while it is read raises the HTTP library's own types: httpx before openai 3,
            # httpx2 since. Anything else is a mistake of ours and must be seen.
            known = isinstance(error, openai.APIConnectionError)
            if not known and type(error).__module__.partition(".")[0] not in HTTP_LIBRARIES:
                raise
            if (why := bad_certificate(error)) is not None:
                raise CallStopped(f"{what}: {why}", code="certificate_refused") from None
            # Without the exception itself: some repeat a header they could not send.
            raise CallUnavailable(self._scrub(f"{what}: {reason(error)}")) from None

    def _left(self) -> float:
        """Seconds that this thread's call may still take."""
        due: float = getattr(self._calls, "due", math.inf)
        return due - time.monotonic()

    def _begin(self, request: Any) -> None:
        """The HTTP library's hook: a call begins."""
        self._calls.due = time.monotonic() + (
            UPLOAD_SECONDS + self._call_seconds if request.url.path.endswith("/files") else self._call_seconds
        )

    def _bound(self, response: Any) -> None:
        """The HTTP library's hook: reads a reply that is no result within the limits, decoded as it arrives.

        The client would take in all of it, whatever size it grows to once it is unpacked and however slowly it comes.

        Raises:
            BeyondLimit: it is larger, slower or otherwise packed than any reply that is read.
        """
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in limits.ENCODINGS:
            raise limits.BeyondLimit(f"the reply is packed as {encoding[:80]!r}, which was not asked for")
        if response.request.headers.get("x-stainless-raw-response") == "stream" and response.status_code < 400:
            self._calls.due = time.monotonic() + limits.RESULT_SECONDS
            return
        parts: list[bytes] = []
        size = 0
        for part in response.iter_bytes():
            size += len(part)
            if size > limits.CONTROL_BYTES:
                raise limits.BeyondLimit(f"the reply has more than {limits.CONTROL_BYTES // 1_000_000} MB")
            if time.monotonic() > self._calls.due:
                raise limits.BeyondLimit(LATE)
            parts.append(part)
        response._content = b"".join(parts)  # what `read` would have kept

    def _status_error(self, what: str, error: openai.APIStatusError, *, by_body: bool = False) -> CallError:
        """What a status that is no success means on a call that is free.

        Args:
            by_body: a refusal that waiting cannot help is definite whatever status it came with.
        """
        status = error.status_code
        if status < 400:
            return CallStopped(f"{what}: {self._redirect(error)}", status=status, code="redirected")
        return free_error(what, status, error.response.headers, self._refusal(error), by_body=by_body)

    def _create_error(self, error: openai.APIStatusError) -> CallError:
        """What a status that is no success means on the call that spends. Where a gateway's status and body differ, the body counts."""
        status = error.status_code
        if status in (302, 303):  # how a web server answers a POST that it has carried out: "see there"
            return CallAmbiguous(f"creation of a batch: {self._redirect(error)}", status=status, code="redirected")
        if status < 400:
            return CallRefused(f"creation of a batch: {self._redirect(error)}", status=status, code="redirected")
        return spending_error("creation of a batch", status, error.response.headers, self._refusal(error))

    def _refusal(self, error: openai.APIStatusError) -> Refusal:
        """What the body of a reply that is no success says."""
        data = self._json(error.response.content)
        refusal = read_refusal(data)
        if refusal is None:
            return Refusal(None, f"without the provider's error body ({shape(data)})", False)
        code, message = refusal
        return Refusal(code, self._scrub(message), True, read_blamed(data))

    def _redirect(self, error: openai.APIStatusError) -> str:
        """Where we were sent, without what may be secret in it."""
        target = error.response.headers.get("location")
        place = f"to {shown(target)}" if target else "without saying where"
        return self._scrub(
            f"the server answered {error.status_code} and sends us {place}, which is not an address that you configured"
        )

    def _json(self, content: bytes) -> Any:
        """The body's JSON value with the key blotted out; None when it is not JSON."""
        try:
            return self._scrubber.value(limits.loads(content))
        except ValueError:
            return None

    def _scrub(self, text: str) -> str:
        return self._scrubber.text(text[: 4 * MAX_MESSAGE])[:MAX_MESSAGE]
