"""An HTTP server that does exactly what a test tells it to, on a real socket.

    with Scripted() as server:
        server.on("POST", "/v1/batches", reset(), reply({"id": "batch_1", "status": "validating"}))
        …                            # the first create loses its connection, later ones are answered
        assert len(server.requests("POST", "/v1/batches")) == 1

A route is a method and a path pattern (`fnmatch`: `*` crosses slashes) with behaviours that are used up
in order; the last one stays. A behaviour is a function of the request that says what goes over the wire,
so a plain function can serve as a stateful server. The newest route wins; no route: 404 with OpenAI's body.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Wire:
    """What goes out.

    `announce` is the Content-Length header where it should differ from the truth (None: no header, and the
    connection is closed at the end); `ending` what happens after the bytes.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announce: int | None = -1
    ending: str = "keep"  # keep | close | reset | reset-at-once | close-at-once
    wait: threading.Event | None = None
    drip: threading.Event | None = None
    """Before the end of the headers, or of the body where there is one: a byte a second until this is set."""


Behaviour = Callable[[Request], Wire]

DRIP_SECONDS = 1.0


def reply(body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> Behaviour:
    """Answers with JSON, or with bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    return lambda request: Wire(status, raw, {"content-type": kind, **(headers or {})})


def refuse(status: int, code: str | None, message: str, headers: dict[str, str] | None = None) -> Behaviour:
    """Answers with the provider's own error body."""
    error = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return reply(error, status, headers)


def gateway(status: int) -> Behaviour:
    """Answers as something between us and the provider does: HTML."""
    page = f"<html><head><title>{status}</title></head><body><h1>{status}</h1><hr>gateway</body></html>".encode()
    return lambda request: Wire(status, page, {"content-type": "text/html"})


def reset() -> Behaviour:
    """Resets the connection instead of answering; the request was read in full."""
    return lambda request: Wire(ending="reset-at-once")


def hang_up() -> Behaviour:
    """Closes the connection without a byte."""
    return lambda request: Wire(ending="close-at-once")


def cut(body: Any, at: int) -> Behaviour:
    """Announces the whole body, sends `at` bytes of it and closes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda request: Wire(200, raw[:at], {"content-type": "application/json"}, announce=len(raw), ending="close")


def unmeasured(body: bytes, at: int | None = None) -> Behaviour:
    """Sends the body without Content-Length and closes: a body cut here looks complete."""
    return lambda request: Wire(200, body[:at], {}, announce=None, ending="close")


def stall(until: threading.Event) -> Behaviour:
    """Does not answer before `until` is set."""
    return lambda request: Wire(wait=until, ending="close-at-once")


def drip(until: threading.Event, start: bytes = b"") -> Behaviour:
    """Sends its headers a byte a second, or, where there is a `start` of the body, what follows that."""
    return lambda request: Wire(200, start, {}, announce=100_000, drip=until, ending="close")


class Scripted:
    """The server. `url` is its base URL, with `root` as its path."""

    def __init__(self, root: str = "/v1") -> None:
        self.root = root
        self._routes: list[tuple[str, str, list[Behaviour]]] = []
        self._lock = threading.Lock()
        self.log: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes: 40 ms a reply without it

            def handle_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length) if length else self._chunked()
                split = urlsplit(self.path)
                request = Request(
                    self.command,
                    split.path,
                    {name: values[-1] for name, values in parse_qs(split.query).items()},
                    {name.lower(): value for name, value in self.headers.items()},
                    body,
                )
                self.send(outer.answer(request))

            do_GET = do_POST = do_DELETE = do_PUT = handle_any

            def _chunked(self) -> bytes:
                if self.headers.get("transfer-encoding", "").lower() != "chunked":
                    return b""
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def send(self, wire: Wire) -> None:
                if wire.wait is not None:
                    wire.wait.wait()
                if not wire.ending.endswith("at-once"):
                    self.send_response_only(wire.status)
                    for name, value in wire.headers.items():
                        self.send_header(name, value)
                    if wire.announce is not None:
                        self.send_header("content-length", str(len(wire.body) if wire.announce < 0 else wire.announce))
                    if wire.ending != "keep":
                        self.send_header("connection", "close")
                    if wire.drip is not None and not wire.body:
                        self.flush_headers()
                        self.wfile.write(b"X-Slow: ")
                        self.drip(wire.drip)
                        return
                    self.end_headers()
                    self.wfile.write(wire.body)
                    if wire.drip is not None:
                        self.drip(wire.drip)
                if wire.ending != "keep":
                    self.wfile.flush()
                    self.close_connection = True
                if wire.ending.startswith("reset"):
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()

            def drip(self, until: threading.Event) -> None:
                with contextlib.suppress(OSError):
                    while not until.wait(DRIP_SECONDS):
                        self.wfile.write(b" ")
                self.close_connection = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away

            def shutdown_request(self, request: Any) -> None:
                with contextlib.suppress(OSError):
                    super().shutdown_request(request)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.root}"

    def on(self, method: str, pattern: str, *behaviours: Behaviour) -> None:
        """Scripts a route; it takes the place of an earlier one with the same pattern."""
        with self._lock:
            self._routes.insert(0, (method, pattern, list(behaviours)))

    def requests(self, method: str, pattern: str = "*") -> list[Request]:
        """What arrived on a route, in order."""
        with self._lock:
            return [r for r in self.log if r.method == method and fnmatchcase(r.path, pattern)]

    def answer(self, request: Request) -> Wire:
        with self._lock:
            self.log.append(request)
            for method, pattern, behaviours in self._routes:
                if method == request.method and fnmatchcase(request.path, pattern):
                    behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
                    break
            else:
                behaviour = refuse(404, None, f"Invalid URL ({request.method} {request.path})")
        return behaviour(request)

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
