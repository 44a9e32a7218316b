"""What the emulators of providers share: a real socket, a record of every call, and faults that are asked for."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Call:
    """One request that arrived. `parts` is its path, cut at the slashes."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.path.strip("/").split("/"))

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What goes back. `cut`: so many bytes of it, and then the line is dead."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None


Fault = Callable[[Call], Answer | None]
"""Answers a call in the server's place, or leaves it (None). Asked until it has answered once."""


class Emulator:
    """Use it as a context manager.

    Attributes:
        url: its base URL.
        calls: every request so far.
        faults: see `Fault`; the first that answers is used up.
    """

    base_path = ""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.faults: deque[Fault] = deque()
        self.guard = threading.RLock()
        emulator = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def serve(self) -> None:
                parts = urlsplit(self.path)
                body = self._body()
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                call = Call(self.command, parts.path, query, {k.lower(): v for k, v in self.headers.items()}, body)
                with emulator.guard:
                    emulator.calls.append(call)
                    answer = emulator.faulty(call) or emulator.answer(call)
                self._reply(answer)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                    return body
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _reply(self, answer: Answer) -> None:
                body = answer.body
                data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
                with contextlib.suppress(OSError):
                    self.send_response(answer.status)
                    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
                    for name, value in {"Content-Type": kind, **answer.headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data if answer.cut is None else data[: answer.cut])
                    if answer.cut is not None:
                        self.wfile.flush()
                        self.close_connection = True
                        self.connection.close()

            do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = serve

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._http.server_port}"
        self.url = self.origin + self.base_path

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, call: Call) -> Answer:
        raise NotImplementedError

    def faulty(self, call: Call) -> Answer | None:
        for fault in list(self.faults):
            if (answer := fault(call)) is not None:
                self.faults.remove(fault)
                return answer
        return None

    def once(self, method: str, ending: str, answer: Answer) -> None:
        """The next call of a method to a path with this ending is answered so."""
        self.faults.append(
            lambda call: answer if call.method == method and call.path.rstrip("/").endswith(ending) else None
        )

    def said(self, method: str, ending: str) -> list[Call]:
        return [call for call in self.calls if call.method == method and call.path.endswith(ending)]


class Elsewhere(Emulator):
    """Somebody else's server, which keeps files for a provider and must never see its key."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def answer(self, call: Call) -> Answer:
        data = self.files.get(call.path)
        return Answer(404, b"nothing here") if data is None else Answer(200, data)


def rfc3339(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def now() -> float:
    return time.time()


def spoken(text: str, stubborn: bool, schema: Any) -> str:
    """An answer to a prompt: what it says, or a value that fits the schema (a `STUBBORN` prompt does not at first)."""
    if schema is None:
        return f"said: {text}"
    return "no JSON at all" if stubborn else json.dumps(fitting(schema))


def fitting(schema: Any) -> Any:
    """Some value that fits a plain schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return fitting(schema["anyOf"][0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: fitting(inner) for name, inner in schema.get("properties", {}).items()}
    return {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}.get(kind)
