"""The server that `inline.py` is an adapter of: jobs in memory, on a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "job-key-0123456789abcdefghij"


class JobServer:
    """Use it as a context manager.

    Attributes:
        url: its base URL.
        answered: custom_id → times that it was answered.
        jobs: name → what it was made of.
    """

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.jobs: dict[str, dict[str, Any]] = {}
        self._guard = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes: 40 ms a reply without it

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                status, reply = server.answer(self.command, self.path, self.rfile.read(length), self.headers)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = serve

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, method: str, target: str, body: bytes, headers: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != f"Bearer {KEY}":
            return 401, _error("authentication_error", "no such key")
        parts = urlsplit(target)
        with self._guard:
            match (method, *parts.path.removeprefix("/v1/").split("/")):
                case ("POST", "jobs"):
                    return self._make(json.loads(body))
                case ("GET", "jobs"):
                    return self._list({k: v[0] for k, v in parse_qs(parts.query).items()})
                case ("GET", "jobs", job) if job in self.jobs:
                    return 200, self._view(job)
                case ("GET", "jobs", job, "results") if job in self.jobs:
                    return 200, self.jobs[job]["results"]
                case ("POST", "jobs", job, "stop") if job in self.jobs:
                    return 200, self._view(job)
        return 404, _error("not_found_error", f"nothing is at {parts.path}")

    def _make(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        requests = wanted["requests"]
        if not requests:
            return 400, _error("invalid_request_error", "a job without requests")
        for request in requests:
            roles = [message["role"] for message in request["params"]["messages"]]
            if "max_tokens" not in request["params"] or not roles or set(roles) - {"user", "assistant"}:
                return 400, _error("invalid_request_error", f"{request['custom_id']}: not the shape of a request")
        name = f"job_{len(self.jobs):04d}"
        lines = [self._line(request) for request in reversed(requests)]
        self.jobs[name] = {
            "name": wanted["name"],
            "requests": requests,
            "results": b"".join(json.dumps(line).encode() + b"\n" for line in lines),
            "bad": sum("error" in line["result"] for line in lines),
            "made_at": time.time(),
            "looks": 0,
        }
        return 200, self._view(name)

    def _line(self, request: dict[str, Any]) -> dict[str, Any]:
        self.answered[request["custom_id"]] += 1
        messages, schema = request["params"]["messages"], request["params"].get("format")
        asked = messages[-1]["content"]
        if "FAIL" in asked:
            result: dict[str, Any] = {"error": {"type": "invalid_request_error", "message": "this one cannot be said"}}
        else:
            text = asked
            if schema is not None:
                # The first try of a row that says so does not fit; a repair has a turn more.
                fits = "STUBBORN" not in asked or len(messages) > 1
                text = json.dumps({"label": "a"}) if fits else "no JSON at all"
            result = {"message": {"text": text, "usage": {"in": 10, "out": 2}, "stopped_by": "end"}}
        return {"custom_id": request["custom_id"], "result": result}

    def _view(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        job["looks"] += 1
        count = len(job["requests"])
        over = job["looks"] > 2
        return {
            "id": name,
            "name": job["name"],
            "state": "done" if over else "running",
            "made_at": job["made_at"],
            "counts": {"all": count, "good": count - job["bad"] if over else 0, "bad": job["bad"] if over else 0},
        }

    def _list(self, query: dict[str, str]) -> tuple[int, Any]:
        names = sorted(self.jobs, reverse=True)
        start = names.index(query["after"]) + 1 if query.get("after") else 0
        limit = int(query["limit"])
        page = names[start : start + limit]
        return 200, {"jobs": [self._view(name) for name in page], "more": start + limit < len(names)}


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}
