"""Mistral's files and batch jobs as its published types have them, on a real socket.

Written from mistralai 3.7 (`client/models/batchjob.py`, `createbatchjobrequest.py`, `listbatchjobsresponse.py`, `fileschema.py`,
`chatcompletionrequest.py`). The vendor's own client is a second client in the tests; it takes strict replies only.

What the last message says decides what becomes of a row: FAIL (invalid), OVERLOADED, CUT, WINDOW (the model's length), STUBBORN
(its first answer does not fit the schema); else it is answered.
"""

from __future__ import annotations

import email
import email.policy
import json
from collections import Counter
from typing import Any

from tests.servers.emulated import Answer, Call, Emulator, now, spoken

KEY = "mistral-key-0123456789abcdefghij"
MODELS = frozenset({"mistral-small-2603", "mistral-large-4", "mistral-embed"})
CHAT = frozenset(
    {
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "random_seed",
        "metadata",
        "response_format",
        "tools",
    }
    | {"tool_choice", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "n", "prediction", "top_k"}
    | {"parallel_tool_calls", "reasoning_effort", "prompt_mode", "safe_prompt", "prompt_cache_key"}
)


class MistralServer(Emulator):
    """Use it as a context manager.

    Attributes:
        files: id → its bytes.
        batches: id → what it was made of.
        bought: custom_id → times that it was sent to the model.
        looks, unseen, unlisted: as at the other emulators.
        ends_as: what becomes of the next jobs.
    """

    def __init__(self, *, looks: int = 2, unseen: int = 0, unlisted: int = 0) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.bought: Counter[str] = Counter()
        self.looks, self.unseen, self.unlisted = looks, unseen, unlisted
        self.ends_as = "SUCCESS"
        self.serial = 0

    def answer(self, call: Call) -> Answer:
        if call.headers.get("authorization") != f"Bearer {KEY}":
            return Answer(401, {"detail": "Unauthorized"})
        match (call.method, *call.parts):
            case ("POST", "v1", "files"):
                return self._store(call)
            case (method, "v1", "files", name, *rest):
                if name not in self.files:
                    return error(404, f"No file matches the given query: {name}", "invalid_request_file")
                if method == "DELETE":
                    del self.files[name]
                    return Answer(200, {"id": name, "object": "file", "deleted": True})
                return Answer(200, self.files[name] if rest == ["content"] else self._file(name))
            case ("POST", "v1", "batch", "jobs"):
                return self._create(call)
            case ("GET", "v1", "batch", "jobs"):
                return self._list(call)
            case (method, "v1", "batch", "jobs", name, *rest):
                return self._job(method, name, rest)
        return Answer(404, {"detail": "Not Found"})

    def _store(self, call: Call) -> Answer:
        head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + call.body, policy=email.policy.HTTP)
        parts = {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}
        if "file" not in parts:
            return Answer(422, {"detail": [{"loc": ["body", "file"], "msg": "Field required", "type": "missing"}]})
        name = self._new("f")
        self.files[name] = parts["file"].get_payload(decode=True)
        self.names[name] = parts["file"].get_filename() or "x.jsonl"
        return Answer(200, self._file(name))

    def _new(self, kind: str) -> str:
        self.serial += 1
        return f"{kind}000000-0000-4000-8000-{self.serial:012d}"

    def _file(self, name: str) -> dict[str, Any]:
        size = len(self.files[name])
        about = {"id": name, "object": "file", "bytes": size, "size_bytes": size, "created_at": int(now())}
        kinds = {"purpose": "batch", "sample_type": "batch_request", "source": "upload", "num_lines": None}
        return {
            **about,
            "filename": self.names.get(name, "x"),
            **kinds,
            "deleted": False,
            "mimetype": "application/jsonl",
        }

    def _create(self, call: Call) -> Answer:
        job = call.json()
        known = {"endpoint", "input_files", "requests", "model", "agent_id", "metadata", "timeout_hours"}
        for name in job:
            if name not in known:
                return Answer(
                    422, {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted", "type": "extra"}]}
                )
        if not isinstance(job.get("timeout_hours", 24), int):
            loc = ["body", "timeout_hours"]
            return Answer(
                422, {"detail": [{"loc": loc, "msg": "Input should be a valid integer", "type": "int_parsing"}]}
            )
        for name in job["input_files"]:
            if name not in self.files:
                return error(404, f"No file matches the given query: {name}", "invalid_request_file")
        if job.get("model") not in MODELS:
            return error(400, f"Invalid model: {job.get('model')}", "invalid_model")
        rows = [
            json.loads(line) for name in job["input_files"] for line in self.files[name].split(b"\n") if line.strip()
        ]
        for row in rows:
            self.bought[row["custom_id"]] += 1
        made = self._new("b")
        lines = [_result(row, job["endpoint"], job["model"]) for row in reversed(rows)]
        bad = [line for line in lines if line["error"] or line["response"]["status_code"] != 200]
        self.batches[made] = {
            **{name: job.get(name) for name in ("endpoint", "input_files", "model", "metadata")},
            "id": made,
            "created_at": int(now()),
            "looks": 0,
            "lists": 0,
            "ends": self.ends_as,
            "good": self._written([line for line in lines if line not in bad]),
            "bad": self._written(bad),
            "counts": (len(rows), len(rows) - len(bad), len(bad)),
        }
        return Answer(200, self._view(made))

    def _written(self, lines: list[dict[str, Any]]) -> str | None:
        if not lines:
            return None
        name = self._new("f")
        self.files[name] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        return name

    def end(self, name: str) -> None:
        self.batches[name]["looks"] = self.looks

    def _job(self, method: str, name: str, rest: list[str]) -> Answer:
        if name not in self.batches:
            return error(404, f"No batch job matches the given query: {name}", "not_found")
        batch = self.batches[name]
        if method == "POST" and rest == ["cancel"]:
            if batch["looks"] < self.looks:
                batch["ends"] = "CANCELLED"
        else:
            batch["looks"] += 1
            if batch["looks"] <= self.unseen:
                return error(404, f"No batch job matches the given query: {name}", "not_found")
        return Answer(200, self._view(name))

    def _list(self, call: Call) -> Answer:
        names = sorted(self.batches, reverse=call.query.get("order_by") == "-created")
        for name in names:
            self.batches[name]["lists"] += 1
        names = [name for name in names if self.batches[name]["lists"] > self.unlisted]
        page, size = int(call.query.get("page", "0")), int(call.query.get("page_size", "100"))
        shown = names[page * size : (page + 1) * size]
        return Answer(200, {"object": "list", "data": [self._view(name) for name in shown], "total": len(names)})

    def _view(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        over = batch["looks"] >= self.looks
        total, good, bad = batch["counts"]
        running = "RUNNING" if batch["looks"] else "QUEUED"
        if batch["ends"] == "CANCELLED":
            running = "CANCELLATION_REQUESTED"
        shown = {key: batch[key] for key in ("id", "endpoint", "input_files", "model", "metadata", "created_at")}
        return {
            **shown,
            "object": "batch",
            "agent_id": None,
            "errors": [{"message": "some rows failed", "count": bad}] if over and bad else [],
            "status": batch["ends"] if over else running,
            "started_at": batch["created_at"] if batch["looks"] else None,
            "completed_at": int(now()) if over else None,
            "total_requests": total,
            "completed_requests": good + bad if over else 0,
            "succeeded_requests": good if over else 0,
            "failed_requests": bad if over else 0,
            "output_file": batch["good"] if over else None,
            "error_file": batch["bad"] if over else None,
            "outputs": None,
        }


def _result(row: dict[str, Any], endpoint: str, model: str) -> dict[str, Any]:
    body, line = row["body"], {"id": f"batch-{row['custom_id'][:12]}", "custom_id": row["custom_id"], "error": None}

    def refused(status: int, message: str, kind: str) -> dict[str, Any]:
        said = {"object": "error", "message": message, "type": kind, "param": None, "code": None}
        return {**line, "response": {"status_code": status, "body": said}}

    if body.get("model") != model:
        return refused(400, "the model of a request is the job's", "invalid_request_error")
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    if endpoint == "/v1/embeddings":
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, -0.25]}]
        made: dict[str, Any] = {"id": "e", "object": "list", "model": model, "data": data, "usage": usage}
        return {**line, "response": {"status_code": 200, "body": made}}
    for name in body:
        if name not in CHAT:
            return refused(422, f"body.{name}: Extra inputs are not permitted", "invalid_request_error")
    if any(message["role"] not in ("system", "user", "assistant", "tool") for message in body["messages"]):
        return refused(422, "messages: Input tag found using 'role' does not match", "invalid_request_error")
    asked = body["messages"][-1]["content"]
    if "FAIL" in asked:
        return refused(400, "this one cannot be said", "invalid_request_error")
    if "OVERLOADED" in asked:
        return refused(503, "Service unavailable.", "service_unavailable")
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    first = all(message["role"] != "assistant" for message in body["messages"])
    text = spoken(asked, "STUBBORN" in asked and first, schema)
    finish = "length" if "CUT" in asked else "model_length" if "WINDOW" in asked else "stop"
    message = {"role": "assistant", "content": text, "tool_calls": None, "prefix": False}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    done = {"id": "c", "object": "chat.completion", "created": 1, "model": model, "choices": choices, "usage": usage}
    return {**line, "response": {"status_code": 200, "body": done}}


def error(status: int, message: str, kind: str) -> Answer:
    return Answer(status, {"object": "error", "message": message, "type": kind, "param": None, "code": "3000"})
