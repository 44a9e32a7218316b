"""An HTTP proxy between an adapter and its server that loses, cuts and repeats what it is told to.

It stands at the socket, so it does the same to every client library: what an adapter makes of a lost reply is
seen, and how often it really asked is counted.
"""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

SECONDS = 60.0
"""How long the upstream server may take for one reply."""

_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "trailer", "upgrade", "host"}
)


class Fault(Enum):
    """What happens to one request."""

    LOST = "never arrives; the connection is reset"
    UNHEARD = "arrives and is done; the connection is reset before the reply"
    CUT = "arrives and is done; half of the reply's body comes"
    ERROR_500 = "500 with a page that is not the provider's; nothing is done"
    ERROR_502 = "arrives and is done; the reply is a 502 page"
    TIMEOUT_408 = "408; nothing is done"
    CONFLICT_409 = "409; nothing is done"


_ANSWERED_HERE = {Fault.ERROR_500: 500, Fault.TIMEOUT_408: 408, Fault.CONFLICT_409: 409}


@dataclass(frozen=True, slots=True)
class Passed:
    """One request as it reached the gateway; `path` without the query."""

    method: str
    path: str
    fault: Fault | None


class Gateway:
    """A proxy on a free loopback port. Use it as a context manager.

    Args:
        upstream: base URL of the server behind it, e.g. `http://127.0.0.1:8080/v1`.

    Attributes:
        url: the same base URL through the gateway.
        log: every request that reached it, in order.
    """

    def __init__(self, upstream: str):
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"a gateway stands before a plain http:// server, not {upstream}")
        self.log: list[Passed] = []
        self._faults: deque[tuple[Callable[[str, str], bool], Fault]] = deque()
        self._guard = threading.Lock()
        gateway, host, port = self, parts.hostname, parts.port or 80

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes: 40 ms a reply without it

            def handle_one(self) -> None:
                gateway._pass_on(self, host, port)

            do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_one

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}{parts.path}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="gateway", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def inject(self, fault: Fault, *, method: str | None = None, path: str = "") -> None:
        """Lets `fault` happen to the next request of this method (None: any) whose path contains `path`."""
        with self._guard:
            self._faults.append((lambda m, p: method in (None, m) and path in p, fault))

    def clear(self) -> None:
        """Forgets the faults that have not happened and empties the log."""
        with self._guard:
            self._faults.clear()
            self.log.clear()

    def _meet(self, method: str, path: str) -> Fault | None:
        with self._guard:
            found = next((entry for entry in self._faults if entry[0](method, path)), None)
            if found is not None:
                self._faults.remove(found)
            fault = found[1] if found else None
            self.log.append(Passed(method, path, fault))
            return fault

    def _pass_on(self, handler: BaseHTTPRequestHandler, host: str, port: int) -> None:
        body = _body(handler)
        fault = self._meet(handler.command, urlsplit(handler.path).path)
        if fault is Fault.LOST:
            return _reset(handler)
        if fault in _ANSWERED_HERE:
            return _page(handler, _ANSWERED_HERE[fault])
        upstream = http.client.HTTPConnection(host, port, timeout=SECONDS)
        try:
            headers = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP}
            upstream.request(handler.command, handler.path, body, {**headers, "Host": f"{host}:{port}"})
            reply = upstream.getresponse()
            content = reply.read()
        finally:
            upstream.close()
        if fault is Fault.UNHEARD:
            return _reset(handler)
        if fault is Fault.ERROR_502:
            return _page(handler, 502)
        handler.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in _HOP:
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if fault is Fault.CUT else content)
        if fault is Fault.CUT:
            handler.wfile.flush()
            handler.close_connection = True
        return None


def _body(handler: BaseHTTPRequestHandler) -> bytes | None:
    if "chunked" in (handler.headers.get("Transfer-Encoding") or "").lower():
        parts = []
        while size := int(handler.rfile.readline().split(b";")[0], 16):
            parts.append(handler.rfile.read(size))
            handler.rfile.readline()
        handler.rfile.readline()
        return b"".join(parts)
    length = handler.headers.get("Content-Length")
    return handler.rfile.read(int(length)) if length else None


def _page(handler: BaseHTTPRequestHandler, status: int) -> None:
    """What something on the way answers: not JSON, and not the provider."""
    content = f"<html><h1>{status}</h1></html>".encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """RST instead of a reply."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()
