"""The `http` engine: each request goes to an OpenAI-compatible synchronous endpoint (Ollama, vLLM, llama.cpp, LM Studio …).

It forwards to the one upstream it was given and never anywhere else: no redirect, no fallback.
The upstream's key is the value of the environment variable that the config names, once it passed the
gate, and is never written anywhere; should an upstream repeat it in an answer, it is blotted out.
"""

from __future__ import annotations

import http.client
import math
import os
import random
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from batchling.dialects.reading import whole
from batchling.errors import ConfigError, ProviderError
from batchling.local.engines import Answer, prompts
from batchling.local.engines.pacing import Admission, Pace
from batchling.local.engines.usage import usage_of
from batchling.local.jsonl import dump, load_tolerantly
from batchling.local.replies import error_body
from batchling.models import Usage
from batchling.providers.gate import Gate
from batchling.scrub import Scrubber
from batchling.spec import EngineConfig

RETRYABLE = frozenset({408, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 64_000_000
WATCH_SECONDS = 0.5
LONGEST_TOLD_SECONDS = 86_400.0
LONGEST_WAIT_SECONDS = 120.0
"""A longer Retry-After is cut to this: the upstream says it again if it means it."""


class _Closed(Exception):
    """The engine was closed while a request waited."""


class _NoAnswer(Exception):
    """The transport failed; the message is for the row's error."""


class HttpEngine:
    """Forwards requests, `config.concurrency` at a time, within `config.rpm` and `config.tpm`.

    Args:
        key: the upstream's, once it passed the gate; None: the gate is asked here, and can ask nobody.

    Raises:
        ConfigError: no upstream, not an http(s) URL, or the key's variable is not set.
        ProviderError: what the variable holds is no key.
        RefusedError: nobody confirmed that the key may go there.
    """

    name = "http"

    def __init__(self, config: EngineConfig, key: str | None = None):
        if not config.upstream:
            raise ConfigError(
                "the http engine needs the URL it forwards to",
                next_command="set provider.engine.upstream, e.g. http://127.0.0.1:11434/v1",
            )
        parts = urlsplit(config.upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError(f"the upstream must be an http(s) URL without a user name, got {config.upstream!r}")
        self.config = config
        self.parallel = config.concurrency
        self.pace = Pace(config.rpm, config.tpm)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        self._key = b""
        self._scrubber = Scrubber()
        if config.api_key_env:
            if key is None:
                if not os.environ.get(config.api_key_env, "").strip():
                    raise ConfigError(
                        f"the environment variable {config.api_key_env}, which holds the upstream's key, is not set",
                        next_command=f"export {config.api_key_env}=…",
                    )
                key = Gate().upstream(config)
            self._key = key.encode()
            self._scrubber = Scrubber([key])
        self._context = ssl.create_default_context() if self._secure else None
        self._closed = threading.Event()
        self._local = threading.local()
        self._connections: set[http.client.HTTPConnection] = set()
        self._due: dict[socket.socket, float] = {}  # of requests under way: monotonic seconds
        self._lock = threading.Lock()
        self._watch: threading.Thread | None = None

    def verify(self) -> None:
        """Shakes hands once, where that is encrypted: with whom it fails, every row would fail again and again.

        An upstream that cannot be reached is no reason to stop: it may be there in a moment.

        Raises:
            ProviderError: the upstream's certificate cannot be verified. Nothing was sent.
        """
        if self._context is None:
            return
        try:
            with (
                socket.create_connection((self._host, self._port or 443), timeout=CONNECT_SECONDS) as plain,
                self._context.wrap_socket(plain, server_hostname=self._host),
            ):
                pass
        except ssl.SSLCertVerificationError as error:
            raise ProviderError(
                f"the upstream {self._host} is not the one it should be: {error.verify_message}",
                next_command="correct provider.engine.upstream, or make this machine trust the authority that signed its certificate",
            ) from None
        except OSError:
            return

    def answer(self, endpoint: str, body: dict[str, Any], key: str = "") -> Answer:
        if body.get("stream"):
            return _failure(400, "Streaming is not supported here.", "unsupported_value", "invalid_request_error")
        data = dump(body)
        tokens = prompts.prompt_tokens(body) + _output_room(body)
        try:
            return self._answer(endpoint.removeprefix("/v1"), data, tokens)
        except _Closed:
            return _failure(503, "The server was stopped before the upstream answered.", "server_stopped")

    def _answer(self, path: str, data: bytes, tokens: int) -> Answer:
        attempt = 0
        while True:
            admission = self._admit(tokens)
            retry_after: float | None = None
            try:
                answer = self._call("POST", path, data)
                self.pace.settle(admission, _total(answer.usage))
                if answer.status not in RETRYABLE:
                    return answer
                retry_after = answer.retry_after
            except _NoAnswer as error:
                self._check_open()
                answer = _failure(503, f"The upstream did not answer: {error}", "upstream_unreachable")
            if attempt >= self.config.retries:
                return answer
            attempt += 1
            if retry_after is not None and answer.status in (429, 503):
                self.pace.hold(min(retry_after, LONGEST_WAIT_SECONDS))
            self._wait(_backoff(attempt) if retry_after is None else min(retry_after, LONGEST_WAIT_SECONDS))

    def models(self) -> list[str] | None:
        """The upstream's list; None when it has none to give."""
        try:
            answer = self._call("GET", "/models", None)
            listed = load_tolerantly(answer.body).get("data") if answer.status == 200 else None
        except (_NoAnswer, ValueError, AttributeError):
            return None
        if not isinstance(listed, list):
            return None
        return [model["id"] for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str)]

    def close(self) -> None:
        """Ends waiting requests and shuts down their sockets."""
        self._closed.set()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            if connection.sock is not None:
                with suppress(OSError):  # already gone
                    connection.sock.shutdown(socket.SHUT_RDWR)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise _Closed

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise _Closed

    def _admit(self, tokens: int) -> Admission:
        self._check_open()
        while isinstance(verdict := self.pace.admit(tokens), float):
            self._wait(verdict)
        return verdict

    def _call(self, method: str, path: str, data: bytes | None) -> Answer:
        """One HTTP exchange.

        Raises:
            _NoAnswer: connection refused or lost, timeout, or not HTTP.
        """
        headers = {"Accept": "application/json", "User-Agent": "batchling", "Connection": "keep-alive"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = "Bearer " + self._key.decode("latin-1")
        url = f"{self._prefix}{path}{self._query}"
        due = time.monotonic() + self.config.timeout_seconds
        connection, fresh = self._connection()
        reply: http.client.HTTPResponse | None = None
        try:
            try:
                reply = self._exchange(connection, due, method, url, data, headers)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # An idle connection that the upstream had closed: it never saw the request.
                self._drop(connection)
                if fresh or time.monotonic() >= due:
                    raise
                connection, _ = self._connection()
                reply = self._exchange(connection, due, method, url, data, headers)
            body = reply.read(MAX_ANSWER_BYTES + 1)
        except http.client.IncompleteRead as error:
            self._drop(connection)
            assert reply is not None
            self._check_open()
            body = error.partial
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._drop(connection)
            self._check_open()
            why = "timed out" if time.monotonic() >= due else _told(error)
            if _spoke(error) if reply is None else 200 <= reply.status < 300:
                return _not_understood(f"The upstream's answer cannot be read: {why}")
            raise _NoAnswer(why) from error
        finally:
            self._settled()
        if reply.will_close or len(body) > MAX_ANSWER_BYTES:
            self._drop(connection)
        if len(body) > MAX_ANSWER_BYTES:
            if 200 <= reply.status < 300:
                return _not_understood("The upstream's answer is too large.")
            return _failure(502, "The upstream's answer is too large.", "upstream_answer_too_large")
        return self._read(reply, body)

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        due: float,
        method: str,
        url: str,
        data: bytes | None,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.connect()
        self._watched(connection.sock, due)
        connection.request(method, url, body=data, headers=headers)
        return connection.getresponse()

    def _watched(self, sock: socket.socket, due: float) -> None:
        """Has the socket shut down when its time is over: an upstream that drips bytes keeps every single read short."""
        self._local.sock = sock
        with self._lock:
            self._due[sock] = due
            if self._watch is None:
                self._watch = threading.Thread(target=self._watch_sockets, name="upstream-deadlines", daemon=True)
                self._watch.start()

    def _settled(self) -> None:
        sock: socket.socket | None = getattr(self._local, "sock", None)
        self._local.sock = None
        if sock is not None:
            with self._lock:
                self._due.pop(sock, None)

    def _watch_sockets(self) -> None:
        while not self._closed.wait(WATCH_SECONDS):
            with self._lock:
                if not self._due:
                    self._watch = None
                    return
                now = time.monotonic()
                for sock in [sock for sock, due in self._due.items() if due <= now]:
                    with suppress(OSError):  # already gone
                        sock.shutdown(socket.SHUT_RDWR)

    def _read(self, reply: http.client.HTTPResponse, body: bytes) -> Answer:
        if self._scrubber.finds(body):
            body = self._scrubber.line(body)
        retry_after = _retry_after(reply.getheader("retry-after-ms"), reply.getheader("retry-after"))
        status = reply.status
        try:
            document = load_tolerantly(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            shown = body[:500].decode("utf-8", "replace")
            if 200 <= status < 300:
                return _not_understood(f"The upstream answered {status} without a JSON object: {shown}")
            if 300 <= status < 400:
                return _failure(
                    502, f"The upstream answered {status}, which is not an answer.", "upstream_not_an_answer"
                )
            document = error_body(
                f"The upstream answered {status}: {shown}", kind="server_error", code="upstream_error"
            )
        if 200 < status < 300:
            return _not_understood(f"The upstream answered {status}: {body[:500].decode('utf-8', 'replace')}")
        if 300 <= status < 400:
            return _failure(502, f"The upstream answered {status}, which is not an answer.", "upstream_not_an_answer")
        return Answer(status, dump(document), usage_of(document), retry_after)

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection, and whether it is a new one."""
        self._check_open()
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            return connection, False
        timeout = self.config.timeout_seconds
        if self._context is not None:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.response_class = _Reply
        self._local.connection = connection
        with self._lock:
            self._connections.add(connection)
        return connection, True

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None
        with self._lock:
            self._connections.discard(connection)


class _Reply(http.client.HTTPResponse):
    """A reply whose chunks have sizes: the library takes `-1` for one, and reads on to the end without a bound."""

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise ValueError("a chunk of a negative size")
        return size


def _failure(status: int, message: str, code: str, kind: str = "server_error") -> Answer:
    return Answer(status, dump(error_body(message, kind=kind, code=code)))


def _not_understood(message: str) -> Answer:
    """The upstream answered, and may have been paid for it: it is not asked again, and what it cost is not known."""
    return Answer(200, dump(error_body(message, kind="server_error", code="not_understood")))


def _spoke(error: Exception) -> bool:
    """Whether an answer had begun that is HTTP and breaks its bounds: too many headers, or too long ones."""
    return type(error) is http.client.HTTPException or isinstance(error, http.client.LineTooLong)


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _total(usage: Usage) -> int | None:
    if usage.input_tokens is None:
        return None
    return usage.input_tokens + (usage.output_tokens or 0)


def _output_room(body: dict[str, Any]) -> int:
    """Output tokens that the request may take, where it says so: what an upstream counts against its TPM."""
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        tokens = whole(body.get(name))
        if tokens is not None:
            return max(0, tokens)
    return 0


def _backoff(attempt: int) -> float:
    """Seconds before another attempt: doubling, with jitter, a minute at most."""
    return min(60.0, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(milliseconds: str | None, value: str | None) -> float | None:
    """Seconds that a Retry-After asks for: a number, or a date."""
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        else:
            seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value or "").timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, min(seconds, LONGEST_TOLD_SECONDS)) if math.isfinite(seconds) else None
