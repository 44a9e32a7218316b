"""A provider with OpenAI's Files and Batches API and real state, on a real socket, that misbehaves when told to.

    with BatchServer() as server:
        server.row = lambda request: answered(request, '{"label": "yes"}')
        server.on("POST", "/v1/batches", server.lost(reset()), server.normal)  # made, but the answer is lost
        …
        assert server.times_answered() == {1}

A batch moves on by one status each time that somebody looks at it, so no test waits for a clock. Its rows
are answered, and counted in `answered`, when it reaches its end: that is the provider's bill.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.servers.scripted import Behaviour, Request, Scripted, Wire, refuse, reply

Line = dict[str, Any] | bytes | None
"""One line of an output file (or, when it has an error, of an error file); raw bytes as they are; None: no line."""

WORKING = ("validating", "in_progress", "finalizing")


def usage(body: dict[str, Any]) -> dict[str, int]:
    """Ten prompt tokens and five of completion for everything: easy to add up."""
    return {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def answered(request: dict[str, Any], text: str | None, *, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """An output line with a chat answer. Other properties of the message: `refusal=…`."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": request["body"].get("model"),
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None, **message},
                "finish_reason": finish,
                "logprobs": None,
            }
        ],
        "usage": usage(request["body"]),
    }
    return line(request, 200, body)


def line(request: dict[str, Any], status: int, body: Any) -> dict[str, Any]:
    """An output line with any body."""
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": response, "error": None}


def failed(request: dict[str, Any], code: str | None, message: str = "no", **changes: Any) -> dict[str, Any]:
    """A line of the error file."""
    error = {"code": code, "message": message}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": None, "error": error, **changes}


def fitting(request: dict[str, Any]) -> Line:
    """The default answer, by the endpoint: a text, or the first thing that fits a simple schema."""
    body = request["body"]
    if request["url"].endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
        counts = {"prompt_tokens": 4, "total_tokens": 4}
        return line(request, 200, {"object": "list", "data": data, "model": body["model"], "usage": counts})
    if request["url"].endswith("/responses"):
        content = [{"type": "output_text", "text": _text(body.get("text", {}).get("format", {})), "annotations": []}]
        reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
        message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
        answer = {
            "id": "resp_1",
            "object": "response",
            "model": body["model"],
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "output": [reasoning, message],
            "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
        }
        return line(request, 200, answer)
    return answered(request, _text((body.get("response_format") or {}).get("json_schema", {})))


def _text(form: dict[str, Any]) -> str:
    schema = form.get("schema")
    if schema is None:
        return "an answer"
    return json.dumps({name: _value(part) for name, part in schema["properties"].items()})


def _value(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    return {"string": "a", "integer": 1, "number": 0.5, "boolean": True, "array": []}.get(kind)


@dataclass
class Ending:
    """How a batch goes and ends.

    Attributes:
        statuses: what each look says before the end; status: the terminal one.
        errors: of a failed batch: code, message, line.
        answers: rows that are answered, from the first; None: all of them.
        explain: whether the rows of an expired or cancelled batch that were not answered get an error line.
    """

    status: str = "completed"
    statuses: tuple[str, ...] = WORKING
    errors: tuple[dict[str, Any], ...] = ()
    answers: int | None = None
    explain: bool = True


Files = tuple[bytes | None, bytes | None]


def as_files(output: list[bytes], errors: list[bytes]) -> Files:
    """Output and error file; none without lines."""
    return b"".join(output) or None, b"".join(errors) or None


@dataclass
class Made:
    """A batch as the server has it."""

    view: dict[str, Any]
    ending: Ending
    requests: list[dict[str, Any]]
    left: list[str] = field(default_factory=list)
    over: bool = False


class BatchServer(Scripted):
    """The server.

    Attributes:
        row: request line → what becomes of it.
        endings: one for each batch that is made, in order; the last one stays.
        arrange: (output lines, error lines) → the files' bytes.
        show: changes what is shown of a batch.
        answered: custom_id → times that it was answered (and billed).
        made: every batch, in order; uploads: every input file that arrived, by id.
        root: the path below which it has its routes.
    """

    def __init__(self, root: str = "/v1") -> None:
        super().__init__(root)
        self.row: Callable[[dict[str, Any]], Line] = fitting
        self.endings: list[Ending] = [Ending()]
        self.arrange: Callable[[list[bytes], list[bytes]], Files] = as_files
        self.show: Callable[[dict[str, Any]], dict[str, Any]] = lambda view: view
        self.answered: Counter[str] = Counter()
        self.made: dict[str, Made] = {}
        self.uploads: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        self.broken: list[Exception] = []
        self._state = threading.RLock()
        self.on("POST", f"{root}/files", self.normal)
        self.on("GET", f"{root}/files/*", self.normal)
        self.on("DELETE", f"{root}/files/*", self.normal)
        self.on("POST", f"{root}/batches", self.normal)
        self.on("GET", f"{root}/batches", self.normal)
        self.on("GET", f"{root}/batches/*", self.normal)
        self.on("POST", f"{root}/batches/*/cancel", self.normal)

    # What tests ask

    @property
    def keys(self) -> Counter[str]:
        """Request key → times that it was answered."""
        total: Counter[str] = Counter()
        for custom_id, n in self.answered.items():
            total[custom_id[:43]] += n
        return total

    def times_answered(self) -> set[int]:
        """{1} when every key that was answered was answered once."""
        return set(self.keys.values())

    @property
    def creates(self) -> int:
        """Batches that were made."""
        return len(self.made)

    def sent(self) -> list[dict[str, Any]]:
        """Every request line of every batch that was made, in order."""
        return [request for made in self.made.values() for request in made.requests]

    # Behaviours

    def normal(self, request: Request) -> Wire:
        """As a provider should."""
        with self._state:
            try:
                return self._serve(request)(request)
            except Exception as error:
                self.broken.append(error)
                raise

    def __exit__(self, *given: object) -> None:
        super().__exit__(*given)
        if self.broken:
            raise AssertionError("the server broke, not its client") from self.broken[0]

    def lost(self, behaviour: Behaviour) -> Behaviour:
        """It happens, and the caller hears something else."""

        def both(request: Request) -> Wire:
            self.normal(request)
            return behaviour(request)

        return both

    def late(self) -> tuple[Behaviour, Callable[[], Wire]]:
        """A behaviour that only remembers the request, and what makes it arrive after all."""
        kept: list[Request] = []

        def remember(request: Request) -> Wire:
            kept.append(request)
            return Wire(ending="reset-at-once")

        return remember, lambda: self.normal(kept[0])

    # The provider

    def _serve(self, request: Request) -> Behaviour:
        parts = request.path.removeprefix(f"{self.root}/").split("/")
        match (request.method, *parts):
            case ("POST", "files"):
                return self._upload(request)
            case ("GET", "files", file_id):
                if file_id in self.files:
                    return reply({"id": file_id, "object": "file", "bytes": len(self.files[file_id])})
            case ("GET", "files", file_id, "content"):
                if file_id in self.files:
                    return reply(self.files[file_id])
            case ("DELETE", "files", file_id):
                if self.files.pop(file_id, None) is not None:
                    return reply({"id": file_id, "object": "file", "deleted": True})
            case ("POST", "batches"):
                return self._create(request)
            case ("GET", "batches"):
                return self._list(request)
            case ("GET", "batches", batch_id):
                if batch_id in self.made:
                    self._look(self.made[batch_id])
                    return reply(self._view(batch_id))
            case ("POST", "batches", batch_id, "cancel"):
                if batch_id in self.made:
                    return self._cancel(batch_id)
        return refuse(404, None, f"No such object: {parts[-1]}")

    def _upload(self, request: Request) -> Behaviour:
        boundary = re.search(rb"boundary=([^;]+)", request.headers["content-type"].encode())
        assert boundary is not None
        for part in request.body.split(b"--" + boundary.group(1).strip(b'"')):
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                file_id = f"file-{len(self.uploads) + 1:04d}"
                self.files[file_id] = self.uploads[file_id] = content[:-2]
                return reply({"id": file_id, "object": "file", "bytes": len(content) - 2, "purpose": "batch"})
        return refuse(400, None, "no file")

    def _create(self, request: Request) -> Behaviour:
        given = request.json
        content = self.files.get(given["input_file_id"])
        if content is None:
            return refuse(400, "invalid_request", f"file {given['input_file_id']} does not exist")
        batch_id = f"batch_{len(self.made) + 1:04d}"
        ending = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
        requests = [json.loads(text) for text in content.split(b"\n") if text]
        view = {
            "id": batch_id,
            "object": "batch",
            "endpoint": given["endpoint"],
            "input_file_id": given["input_file_id"],
            "completion_window": given["completion_window"],
            "status": (*ending.statuses, ending.status)[0],
            "metadata": given.get("metadata"),
            "output_file_id": None,
            "error_file_id": None,
            "errors": None,
            "created_at": 1_790_000_000 + len(self.made),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.made[batch_id] = Made(view, ending, requests, list(ending.statuses))
        return reply(self._view(batch_id))

    def _list(self, request: Request) -> Behaviour:
        every = list(reversed(self.made))
        after = request.query.get("after")
        start = every.index(after) + 1 if after in every else 0
        page = every[start : start + int(request.query.get("limit", "20"))]
        for batch_id in page:
            self._look(self.made[batch_id])
        data = [self._view(batch_id) for batch_id in page]
        return reply({"object": "list", "data": data, "has_more": start + len(page) < len(every)})

    def _view(self, batch_id: str) -> dict[str, Any]:
        return self.show(dict(self.made[batch_id].view))

    def _look(self, made: Made) -> None:
        if made.over:
            return
        if made.left:
            made.view["status"] = made.left.pop(0)
        else:
            self._end(made)

    def _cancel(self, batch_id: str) -> Behaviour:
        made = self.made[batch_id]
        if made.over:
            return refuse(409, "batch_not_cancellable", "the batch has ended")
        answers = made.ending.answers
        made.ending = Ending("cancelled", answers=0 if answers is None else answers)
        made.left = ["cancelling"]
        made.view["status"] = "cancelling"
        return reply(self._view(batch_id))

    def _end(self, made: Made) -> None:
        ending, view = made.ending, made.view
        made.over = True
        view["status"] = ending.status
        if ending.errors:
            view["errors"] = {"object": "list", "data": list(ending.errors)}
        if ending.status == "failed" and ending.answers is None:
            return
        output: list[bytes] = []
        errors: list[bytes] = []
        done = len(made.requests) if ending.answers is None else ending.answers
        for number, request in enumerate(made.requests):
            found: Line = None
            if number < done:
                found = self.row(request)
            elif ending.explain and ending.status in ("expired", "cancelled"):
                found = failed(request, f"batch_{ending.status}", "not answered in time")
            if isinstance(found, bytes):
                self.answered[request["custom_id"]] += 1
                output.append(found)
            elif found is not None:
                raw = json.dumps(found).encode() + b"\n"
                response = found.get("response")
                good = isinstance(response, dict) and response.get("status_code") == 200
                if good:
                    self.answered[request["custom_id"]] += 1
                (output if good else errors).append(raw)
        view["request_counts"] = {
            "total": len(made.requests),
            "completed": len(output),
            "failed": len(made.requests) - len(output),
        }
        for name, content in zip(("output_file_id", "error_file_id"), self.arrange(output, errors), strict=True):
            if content is not None:
                file_id = f"file-{view['id']}-{name.split('_')[0]}"
                self.files[file_id] = content
                view[name] = file_id


def text_of(request: dict[str, Any]) -> str:
    """What the last message asks."""
    body = request["body"]
    return str((body.get("messages") or body.get("input"))[-1]["content"])


def lines_of(contents: Iterable[bytes]) -> list[dict[str, Any]]:
    """The JSON lines of several files."""
    return [json.loads(text) for content in contents for text in content.split(b"\n") if text]
