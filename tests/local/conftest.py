"""A server for each test, the real OpenAI client, a clock that only tests move, and an upstream on a real socket."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from openai import OpenAI
from openai.types import Batch

from batchling.local.options import ServerOptions
from batchling.local.server import LocalServer, start_in_process
from batchling.spec import EngineConfig

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
DEADLINE_SECONDS = 30.0


class Clock:
    """Unix seconds that stand still until a test moves them."""

    def __init__(self, start: float = 1_790_000_000.0):
        self.time = start

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


class Lab:
    """Starts servers on one state folder and talks to them as any OpenAI program would."""

    def __init__(self, state_dir: Path):
        self.state_dir = state_dir
        self.servers: list[LocalServer] = []
        self.server: LocalServer
        self.client: OpenAI

    def start(self, **options: Any) -> OpenAI:
        self.server = start_in_process(ServerOptions(state_dir=self.state_dir, **options))
        self.servers.append(self.server)
        self.client = OpenAI(base_url=self.server.base_url, api_key=self.server.options.token or "none", max_retries=0)
        return self.client

    def upload(self, data: bytes, name: str = "input.jsonl") -> str:
        return self.client.files.create(file=(name, io.BytesIO(data)), purpose="batch").id

    def submit(self, data: bytes, endpoint: str = CHAT, **more: Any) -> Batch:
        return self.client.batches.create(
            input_file_id=self.upload(data),
            endpoint=endpoint,  # type: ignore[arg-type]
            completion_window="24h",
            **more,
        )

    def until(self, batch: Batch, reached: Callable[[Batch], bool]) -> Batch:
        """The batch once it is as wanted; asks the server over and over."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not reached(batch):
            assert time.monotonic() < deadline, f"still {batch.status}: {batch.request_counts}"
            batch = self.client.batches.retrieve(batch.id)
        return batch

    def ended(self, batch: Batch) -> Batch:
        return self.until(batch, lambda b: b.status in ("completed", "failed", "expired", "cancelled"))

    def run(self, data: bytes, endpoint: str = CHAT, **more: Any) -> Batch:
        return self.ended(self.submit(data, endpoint, **more))

    def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        content = self.client.files.content(file_id).read()
        assert content.endswith(b"\n")
        return [orjson.loads(line) for line in content[:-1].split(b"\n")]

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def chat_line(custom_id: str, text: str = "hello", **body: Any) -> bytes:
    """One request line."""
    made = {"model": "m", "messages": [{"role": "user", "content": text}], **body}
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": made}) + b"\n"


def chat_lines(count: int) -> bytes:
    return b"".join(chat_line(f"row-{i}", f"text {i}") for i in range(count))


@pytest.fixture(autouse=True)
def _no_power_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power, and a killed process leaves what it wrote: syncing would only wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "state")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One server with the echo engine for the tests of a module that need nothing special."""
    made = Lab(tmp_path_factory.mktemp("echo") / "state")
    made.start(engine=EngineConfig(kind="echo"))
    yield made
    made.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Upstream:
    """A synchronous endpoint that answers with a plain function of the request.

    Attributes:
        seen: path, headers and body of every request, in order of arrival.
        most: the most requests that were under way at once.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.reply: Callable[[int, Any], tuple[int, dict[str, str], Any]] = lambda _, body: (200, {}, completion(body))
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65_536
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.answer(body)

            def do_GET(self) -> None:
                self.answer(None)

            def answer(self, body: Any) -> None:
                with upstream._lock:
                    upstream._now += 1
                    upstream.most = max(upstream.most, upstream._now)
                    upstream.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                    number = len(upstream.seen)
                status, headers, reply = upstream.reply(number, body)
                with upstream._lock:
                    upstream._now -= 1
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(body: Any, text: str = "from upstream") -> dict[str, Any]:
    """A chat completion as a synchronous endpoint gives it."""
    return {
        "id": "chatcmpl-up",
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()
