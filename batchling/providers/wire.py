"""One connection over plain HTTP, for every provider whose API is not OpenAI's.

Nothing is repeated, nothing is redirected by itself, and nothing of a reply is dropped. The key goes to its own origin
only: an address that a server hands out is fetched without it elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urljoin, urlsplit

import httpx2

from batchling import limits
from batchling.errors import CallAmbiguous, CallNotFound, CallRefused, CallStopped, CallUnavailable, ConfigError
from batchling.models import Batch
from batchling.providers.deadline import CONNECT_SECONDS, LATE, READ_SECONDS, UPLOAD_SECONDS, end_with
from batchling.providers.replies import (
    FOREIGN_404,
    HTTP_LIBRARIES,
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
from batchling.trust import Origin, is_loopback, shown

PIECE = 1 << 18
REDIRECTS = frozenset({301, 302, 303, 307, 308})

Read = Callable[[Any], Batch | None]
"""A batch in the provider's shape; None when it has no id."""

Said = Callable[[Any], Refusal | None]
"""What an error body says; None when it is not the provider's own."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply that is a success. `data` is its JSON value without secrets, None where it is none."""

    status: int
    headers: Mapping[str, str]
    data: Any


class Wire:
    """One origin, reached with one key.

    Args:
        config: the provider's facts: `headers` go along with every call.
        base_url: where it is.
        key: the headers that carry the key, in the provider's way.
        environ: the variables of `headers_env`.
        said: reads the provider's error bodies.
        read_seconds: how long a reply may be silent.
        call_seconds: how long a call may take in all.
    """

    def __init__(
        self,
        config: ProviderConfig,
        base_url: str,
        key: Mapping[str, str],
        environ: Mapping[str, str],
        said: Said,
        *,
        read_seconds: float = READ_SECONDS,
        call_seconds: float = limits.CONTROL_SECONDS,
    ):
        hidden = {header: environ[variable] for header, variable in config.headers_env.items()}
        self.provider = config.name
        self._base = base_url.rstrip("/")
        self._origin = Origin.of(self._base)
        self._own_headers = {**config.headers, **key, **hidden}
        self._secrets = tuple(value for value in (*key.values(), *hidden.values()) if value)
        self.scrubber = Scrubber(secret.removeprefix("Bearer ") for secret in self._secrets)
        self._said = said
        self._call_seconds = call_seconds
        self._read_seconds = read_seconds
        self._client = httpx2.Client(
            # Over plain http there is no certificate to check; this context trusts nobody, should one be needed after all.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self._origin.scheme == "http" else True,
            trust_env=not self._origin.loopback,  # a proxy must not get between us and a server on this machine
            follow_redirects=False,
            timeout=httpx2.Timeout(read_seconds, connect=CONNECT_SECONDS),
            headers={"Accept-Encoding": "gzip, deflate"},
        )
        self._calls = threading.local()
        end_with(self._client, self._left)
        self._elsewhere: httpx2.Client | None = None

    def fingerprint(self) -> str | None:
        """16 hexadecimal digits of what is secret; None where nothing is."""
        if not self._secrets:
            return None
        digest = hmac.new(b"batchling key fingerprint 1", "\0".join(self._secrets).encode(), hashlib.sha256)
        return digest.hexdigest()[:16]

    def root(self, path: str) -> str:
        """The address of a path from the origin's root, where the base URL has a path of its own."""
        return urljoin(self._base + "/", path)

    def call(
        self,
        what: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        json: Any = None,
        content: Iterable[bytes] | bytes | None = None,
        files: Any = None,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        upload: bool = False,
        by_body: bool = False,
    ) -> Reply:
        """A call that is free and may be repeated.

        Args:
            what: the call, for messages.
            path: below the base URL; or a whole URL, which gets the key only at our own origin.
            upload: it carries a file, which takes longer.
            by_body: a refusal that waiting cannot help is definite whatever status it came with.

        Raises:
            CallError: as `Client` says of the calls that are free.
        """
        with self._transport(what):
            sent = self._request(method, path, query, json, content, headers, files=files, data=data)
            reply = self._send(sent, UPLOAD_SECONDS if upload else 0.0)
        if reply.status_code >= 400:
            raise free_error(what, reply.status_code, reply.headers, self._refusal(reply), by_body=by_body)
        if reply.status_code >= 300:
            raise CallStopped(f"{what}: {self._redirect(reply)}", status=reply.status_code, code="redirected")
        return Reply(reply.status_code, reply.headers, self._json(reply.content))

    def object(self, what: str, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """`call`, of which the reply is a JSON object."""
        reply = self.call(what, method, path, **arguments)
        if not isinstance(reply.data, dict):
            message = f"{what}: the reply is not a JSON object ({shape(reply.data)})"
            raise CallUnavailable(message, status=reply.status, code="unreadable")
        return reply.data

    def batch(self, what: str, method: str, path: str, read: Read) -> Batch:
        """`object`, of which the reply is a batch."""
        data = self.object(what, method, path)
        batch = read(data)
        if batch is None:
            raise CallUnavailable(f"{what}: the reply is not a batch ({shape(data)})", status=200, code="unreadable")
        return batch

    def create(self, path: str, read: Read, **request: Any) -> Batch:
        """`spend`, of which the reply is a batch: one without an id may have been created all the same."""
        reply = self.spend(path, **request)
        batch = read(reply.data)
        if batch is None:
            raise CallAmbiguous(
                f"provider {self.provider!r} answered {reply.status} without a batch id ({shape(reply.data)}): "
                "a batch may have been created",
                status=reply.status,
            )
        return batch

    def spend(
        self,
        path: str,
        *,
        json: Any = None,
        content: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        large: bool = False,
    ) -> Reply:
        """The call that spends, sent once.

        Args:
            large: it carries the requests themselves, which takes longer.

        Raises:
            CallRefused: it did not happen.
            CallAmbiguous: it may have.
        """
        what = "creation of a batch"
        try:
            sent = self._request("POST", path, None, json, content, headers)
            reply = self._send(sent, UPLOAD_SECONDS if large else 0.0)
        except httpx2.ConnectError as error:
            if (why := bad_certificate(error)) is not None:  # found before anything of the request has left
                raise CallRefused(f"{what}: {why}", code="certificate_refused") from None
            raise CallAmbiguous(self.scrub(f"{what}: {reason(error)}")) from None
        except Exception as error:
            # Whatever went wrong here may have gone wrong after the request had left.
            raise CallAmbiguous(self.scrub(f"{what}: {reason(error)}")) from None
        status = reply.status_code
        if status in (302, 303):  # how a web server answers a POST that it has carried out: "see there"
            raise CallAmbiguous(f"{what}: {self._redirect(reply)}", status=status, code="redirected")
        if 300 <= status < 400:
            raise CallRefused(f"{what}: {self._redirect(reply)}", status=status, code="redirected")
        if status >= 400:
            raise spending_error(what, status, reply.headers, self._refusal(reply))
        return Reply(status, reply.headers, self._json(reply.content))

    def stream(self, what: str, path: str, sink: BinaryIO, *, elsewhere: bool = False) -> int:
        """Streams a file's bytes into a sink and returns how many they were.

        Args:
            path: as in `call`.
            elsewhere: this provider keeps its results with somebody else: one redirect to another origin is followed,
                without our key.

        Raises:
            CallError: as `Client.fetch` says.
        """
        target = self._target(path)
        for hop in (0, 1):
            self._calls.due = time.monotonic() + self._call_seconds
            with self._transport(what):
                reply = self._client_of(target).send(
                    self._client_of(target).build_request("GET", target, headers=self._headers_of(target)), stream=True
                )
            try:
                if reply.status_code in REDIRECTS and elsewhere and not hop:
                    target = self._handed_out(what, reply, target)
                    continue
                if reply.status_code >= 300:
                    with self._transport(what):
                        self._bound(reply, time.monotonic() + self._call_seconds)
                    if reply.status_code < 400:
                        code = "redirected"
                        raise CallStopped(f"{what}: {self._redirect(reply)}", status=reply.status_code, code=code)
                    raise free_error(what, reply.status_code, reply.headers, self._refusal(reply))
                return self._copy(what, reply, sink)
            finally:
                reply.close()
        raise CallStopped(f"{what}: a redirect after a redirect", code="redirected")

    def own(self, url: str) -> bool:
        """Whether an address is at the origin that our key belongs to."""
        try:
            return Origin.of(url.partition("?")[0]) == self._origin
        except ConfigError:
            return False

    def scrub(self, text: str) -> str:
        """A message without secrets, at most 2,000 characters."""
        return self.scrubber.text(text[: 4 * MAX_MESSAGE])[:MAX_MESSAGE]

    def _target(self, path: str) -> str:
        return path if "://" in path else f"{self._base}/{path.lstrip('/')}"

    def _headers_of(self, target: str) -> dict[str, str]:
        return dict(self._own_headers) if self.own(target) else {}

    def _client_of(self, target: str) -> httpx2.Client:
        if self.own(target) or urlsplit(target).scheme == "http":
            return self._client
        if self._elsewhere is None:  # our own context may be one for plain http, which trusts nobody
            self._elsewhere = httpx2.Client(
                follow_redirects=False,
                timeout=httpx2.Timeout(self._read_seconds, connect=CONNECT_SECONDS),
                headers={"Accept-Encoding": "gzip, deflate"},
            )
            end_with(self._elsewhere, self._left)
        return self._elsewhere

    def _left(self) -> float:
        """Seconds that this thread's call may still take."""
        due: float = getattr(self._calls, "due", math.inf)
        return due - time.monotonic()

    def _handed_out(self, what: str, reply: httpx2.Response, target: str) -> str:
        """Where a redirect leads, if it may be followed: over TLS, or from one server of this machine to another."""
        place = urljoin(target, reply.headers.get("location", ""))
        parts = urlsplit(place)
        here = self._origin.loopback and is_loopback(parts.hostname)
        if not parts.hostname or parts.username or parts.password or (parts.scheme != "https" and not here):
            raise CallStopped(f"{what}: {self._redirect(reply)}", status=reply.status_code, code="redirected")
        return place

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None,
        json: Any,
        content: Any,
        headers: Mapping[str, str] | None,
        **form: Any,
    ) -> httpx2.Request:
        target = self._target(path)
        return self._client_of(target).build_request(
            method,
            target,
            params=dict(query) if query else None,
            json=json,
            content=content,
            headers={**self._headers_of(target), **(headers or {})},
            **form,
        )

    def _send(self, request: httpx2.Request, more_seconds: float) -> httpx2.Response:
        """A whole reply within the limits. A large request keeps the server from answering for longer."""
        due = self._calls.due = time.monotonic() + self._call_seconds + more_seconds
        if more_seconds:  # a server that has 250 MB to look through is silent for a while, and that is no failure
            patience = {**request.extensions["timeout"], "read": max(self._read_seconds, more_seconds)}
            request.extensions = {**request.extensions, "timeout": patience}
        reply = self._client_of(str(request.url)).send(request, stream=True)
        try:
            self._bound(reply, due)
        finally:
            reply.close()
        return reply

    @staticmethod
    def _bound(reply: httpx2.Response, due: float) -> None:
        """Reads a reply that is no result, decoded as it arrives.

        Raises:
            BeyondLimit: it is larger, slower or otherwise packed than any reply that is read.
        """
        encoding = reply.headers.get("content-encoding", "").strip().lower()
        if encoding not in limits.ENCODINGS:
            raise limits.BeyondLimit(f"the reply is packed as {encoding[:80]!r}, which was not asked for")
        parts: list[bytes] = []
        size = 0
        for part in reply.iter_bytes():
            size += len(part)
            if size > limits.CONTROL_BYTES:
                raise limits.BeyondLimit(f"the reply has more than {limits.CONTROL_BYTES // 1_000_000} MB")
            if time.monotonic() > due:
                raise limits.BeyondLimit(LATE)
            parts.append(part)
        reply._content = b"".join(parts)  # what `read` would have kept

    def _copy(self, what: str, reply: httpx2.Response, sink: BinaryIO) -> int:
        due = self._calls.due = time.monotonic() + limits.RESULT_SECONDS
        announced = reply.headers.get("content-length", "")
        encoding = reply.headers.get("content-encoding", "").strip().lower()
        if encoding not in limits.ENCODINGS:
            raise CallUnavailable(
                f"{what}: it is packed as {encoding[:80]!r}, which was not asked for", code="unreadable"
            )
        count = 0
        chunks = reply.iter_bytes(PIECE)
        while True:
            with self._transport(what):
                chunk = next(chunks, None)
            if chunk is None:
                break
            if time.monotonic() > due:
                raise CallUnavailable(f"{what}: it had not ended after {limits.RESULT_SECONDS / 3600:.0f} hours")
            sink.write(chunk)  # outside: a full disk is not the provider's fault
            count += len(chunk)
        if announced.isdecimal() and encoding in ("", "identity") and int(announced) != count:
            raise CallUnavailable(f"{what}: {count:,} of {int(announced):,} bytes arrived", code="incomplete")
        return count

    @contextmanager
    def _transport(self, what: str) -> Iterator[None]:
        """Turns the transport's exceptions on a call that is free into ours."""
        try:
            yield
        except limits.BeyondLimit as error:
            raise CallUnavailable(f"{what}: {error}", code="too_large") from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in HTTP_LIBRARIES:
                raise  # a mistake of ours, or our own disk
            if (why := bad_certificate(error)) is not None:
                raise CallStopped(f"{what}: {why}", code="certificate_refused") from None
            raise CallUnavailable(self.scrub(f"{what}: {reason(error)}")) from None

    def _refusal(self, reply: httpx2.Response) -> Refusal:
        data = self._json(reply.content)
        said = self._said(data)
        if said is None:
            return Refusal(None, f"without the provider's error body ({shape(data)})", False)
        return Refusal(said.code, self.scrub(said.message), True, said.lines, said.retry_after)

    def _redirect(self, reply: httpx2.Response) -> str:
        """Where we were sent, without what may be secret in it."""
        target = reply.headers.get("location")
        place = f"to {shown(target)}" if target else "without saying where"
        return self.scrub(
            f"the server answered {reply.status_code} and sends us {place}, which is not an address that you configured"
        )

    def _json(self, content: bytes) -> Any:
        """The body's JSON value with the key blotted out; None when it is not JSON."""
        try:
            return self.scrubber.value(limits.loads(content))
        except ValueError:
            return None


def deleted(call: Callable[[], object]) -> bool:
    """Whether a deletion left nothing behind: a 404 in the provider's own words says so as well.

    Raises:
        CallUnavailable: a 404 that may be a gateway's.
    """
    try:
        call()
    except CallNotFound as error:
        if error.code == FOREIGN_404:
            raise CallUnavailable(error.message, status=404) from None
    return True
