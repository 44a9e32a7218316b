"""Anthropic's Message Batches as its published types and docs have them, on a real socket.

Written from anthropic 2.13: `types/messages/message_batch*.py`, `types/message.py`, `types/usage.py`, `types/*_error.py`,
`resources/messages/batches.py`. The vendor's own client is a second client in the tests.

What the last message says decides what becomes of a row: FAIL (invalid), OVERLOADED, EXPIRED, CANCELED, CUT (at the limit),
THINK (it thought until the limit), REFUSE, PAUSE, STUBBORN (its first answer does not fit the schema); else it is answered.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from typing import Any

from tests.servers.emulated import Answer, Call, Emulator, now, rfc3339, spoken

KEY = "sk-ant-api03-0123456789abcdefghij"
VERSIONS = ("2023-06-01", "2026-10-21")
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NO_SAMPLING = re.compile(r"claude-(?:opus-4-[78]|(?:opus|sonnet|haiku|fable|mythos)-5)")
MODELS = re.compile(r"claude-(?:opus|sonnet|haiku|fable|mythos)-\d")


class AnthropicServer(Emulator):
    """Use it as a context manager.

    Attributes:
        batches: id → what it was made of.
        bought: custom_id → times that it was sent to the model.
        looks: looks at a batch until it has ended.
        unseen: looks at a new batch that are answered 404.
        unlisted: lists in which a new batch is not shown yet.
        results_host: what `results_url` names in place of this server.
        keeps_elsewhere: results are handed out by a redirect to this base URL.
    """

    def __init__(self, *, looks: int = 2, unseen: int = 0, unlisted: int = 0) -> None:
        super().__init__()
        self.batches: dict[str, dict[str, Any]] = {}
        self.bought: Counter[str] = Counter()
        self.looks, self.unseen, self.unlisted = looks, unseen, unlisted
        self.results_host: str | None = None
        self.keeps_elsewhere: str | None = None
        self.most_requests = 100_000
        self.most_bytes = 256_000_000

    def answer(self, call: Call) -> Answer:
        key = call.headers.get("x-api-key") or call.headers.get("authorization", "").removeprefix("Bearer ")
        if key != KEY:
            return error(401, "authentication_error", "invalid x-api-key")
        version = call.headers.get("anthropic-version")
        if version not in VERSIONS:
            return error(400, "invalid_request_error", "anthropic-version: header is required")
        match (call.method, *call.parts):
            case ("POST", "v1", "messages", "batches"):
                return self._create(call, version)
            case ("GET", "v1", "messages", "batches"):
                return self._list(call)
            case ("GET", "v1", "messages", "batches", name):
                return self._with(name, lambda batch: self._look(batch, call))
            case ("POST", "v1", "messages", "batches", name, "cancel"):
                return self._with(name, lambda batch: self._cancel(batch, call))
            case ("DELETE", "v1", "messages", "batches", name):
                return self._with(name, self._delete)
            case ("GET", "v1", "messages", "batches", name, "results"):
                return self._with(name, self._results)
        return error(404, "not_found_error", f"Not found: {call.path}")

    def make(self, requests: list[dict[str, Any]], *, at: float | None = None, version: str = VERSIONS[0]) -> str:
        """A batch, as a create makes it; also somebody else's in the same workspace."""
        name = f"msgbatch_{len(self.batches):03d}{random.Random(len(self.batches)).getrandbits(64):016x}"
        for request in requests:
            self.bought[request["custom_id"]] += 1
        self.batches[name] = {
            "id": name,
            "requests": requests,
            "results": [self._result(request, version) for request in reversed(requests)],
            "created": now() if at is None else at,
            "looks": 0,
            "lists": 0,
            "canceled": None,
        }
        return name

    def end(self, name: str) -> None:
        self.batches[name]["looks"] = self.looks

    def _create(self, call: Call, version: str) -> Answer:
        if len(call.body) > self.most_bytes:
            return error(413, "request_too_large", "Request exceeds the maximum allowed number of bytes.")
        try:
            requests = call.json()["requests"]
        except (ValueError, TypeError, KeyError):
            return error(400, "invalid_request_error", "requests: Field required")
        if not requests:
            return error(
                400, "invalid_request_error", "requests: List should have at least 1 item after validation, not 0"
            )
        if len(requests) > self.most_requests:
            words = (
                f"requests: List should have at most {self.most_requests} items after validation, not {len(requests)}"
            )
            return error(400, "invalid_request_error", words)
        seen: set[str] = set()
        for place, request in enumerate(requests):
            if set(request) != {"custom_id", "params"}:
                return error(400, "invalid_request_error", f"requests.{place}: Extra inputs are not permitted")
            custom_id = request["custom_id"]
            if not CUSTOM_ID.fullmatch(custom_id):
                words = f"requests.{place}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
                return error(400, "invalid_request_error", words)
            if custom_id in seen:
                return error(
                    400, "invalid_request_error", f"requests.{place}.custom_id: Duplicate custom_id {custom_id}"
                )
            seen.add(custom_id)
        name = self.make(requests, version=version)
        return Answer(200, self._view(self.batches[name], call))

    def _with(self, name: str, do: Any) -> Answer:
        batch = self.batches.get(name)
        if batch is None:
            return error(404, "not_found_error", f"Batch {name} not found.")
        answer: Answer = do(batch)
        return answer

    def _look(self, batch: dict[str, Any], call: Call) -> Answer:
        batch["looks"] += 1
        if batch["looks"] <= self.unseen:
            return error(404, "not_found_error", f"Batch {batch['id']} not found.")
        return Answer(200, self._view(batch, call))

    def _list(self, call: Call) -> Answer:
        names = [n for n in sorted(self.batches, reverse=True) if self._listed(self.batches[n])]
        after, before = call.query.get("after_id"), call.query.get("before_id")
        if after is not None:
            names = names[names.index(after) + 1 :] if after in names else []
        if before is not None:
            names = names[: names.index(before)] if before in names else []
        limit = int(call.query.get("limit", 20))
        if not 1 <= limit <= 1000:
            return error(400, "invalid_request_error", "limit: Input should be between 1 and 1000")
        page = names[:limit]
        data = [self._view(self.batches[name], call) for name in page]
        ids = {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return Answer(200, {"data": data, "has_more": len(names) > limit, **ids})

    def _listed(self, batch: dict[str, Any]) -> bool:
        batch["lists"] += 1
        return bool(batch["lists"] > self.unlisted)

    def _cancel(self, batch: dict[str, Any], call: Call) -> Answer:
        if not self._ended(batch) and batch["canceled"] is None:
            batch["canceled"] = now()
            batch["results"] = [
                {"custom_id": request["custom_id"], "result": {"type": "canceled"}} for request in batch["requests"]
            ]
        return Answer(200, self._view(batch, call))

    def _delete(self, batch: dict[str, Any]) -> Answer:
        if not self._ended(batch):
            return error(
                400, "invalid_request_error", f"Batch {batch['id']} cannot be deleted while it is in progress."
            )
        del self.batches[batch["id"]]
        return Answer(200, {"id": batch["id"], "type": "message_batch_deleted"})

    def _results(self, batch: dict[str, Any]) -> Answer:
        if not self._ended(batch):
            return error(404, "not_found_error", f"Batch {batch['id']} has no results yet.")
        if self.keeps_elsewhere is not None:
            return Answer(302, None, {"Location": f"{self.keeps_elsewhere}/{batch['id']}?X-Signature=abc"})
        return Answer(200, self.results_of(batch["id"]), {"Content-Type": "application/x-jsonl"})

    def results_of(self, name: str) -> bytes:
        return b"".join(json.dumps(line).encode() + b"\n" for line in self.batches[name]["results"])

    def _ended(self, batch: dict[str, Any]) -> bool:
        return bool(batch["looks"] >= self.looks)

    def _view(self, batch: dict[str, Any], call: Call) -> dict[str, Any]:
        ended = self._ended(batch)
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if ended:
            for line in batch["results"]:
                counts[line["result"]["type"]] += 1
        else:
            counts["processing"] = len(batch["requests"])
        host = self.results_host or f"http://{call.headers['host']}"
        made = batch["created"]
        return {
            "id": batch["id"],
            "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if batch["canceled"] else "in_progress",
            "request_counts": counts,
            "created_at": rfc3339(made),
            "expires_at": rfc3339(made + 86_400),
            "ended_at": rfc3339(now()) if ended else None,
            "archived_at": None,
            "cancel_initiated_at": rfc3339(batch["canceled"]),
            "results_url": f"{host}/v1/messages/batches/{batch['id']}/results" if ended else None,
        }

    def _result(self, request: dict[str, Any], version: str) -> dict[str, Any]:
        params = request["params"]
        wrong = wrong_with(params, version)
        if wrong is not None:
            return {"custom_id": request["custom_id"], "result": errored(*wrong)}
        return {"custom_id": request["custom_id"], "result": answered(params)}


def wrong_with(params: dict[str, Any], version: str) -> tuple[str, str] | None:
    """Type and message of what the API refuses in a row; it is checked after the create."""
    invalid = "invalid_request_error"
    if not isinstance(params.get("max_tokens"), int) or params["max_tokens"] < 1:
        return invalid, "max_tokens: Field required"
    if params.get("stream"):
        return invalid, "stream: Input should be False"
    model = params.get("model")
    if not isinstance(model, str) or not MODELS.match(model):
        return "not_found_error", f"model: {model}"
    sampling = [name for name in ("temperature", "top_p", "top_k") if name in params]
    if sampling and version == "2026-10-21":
        return invalid, f"{sampling[0]}: Extra inputs are not permitted"
    if sampling and NO_SAMPLING.match(model) and params[sampling[0]] != 1:
        return invalid, f"`{sampling[0]}` is deprecated for this model."
    if {"temperature", "top_p"} <= set(sampling):
        return invalid, "`temperature` and `top_p` cannot both be specified for this model."
    known = {"model", "max_tokens", "messages", "system", "stop_sequences", "output_config", "thinking", "metadata"}
    known |= {"tools", "tool_choice", "temperature", "top_p", "top_k", "cache_control", "service_tier", "container"}
    for name in params:
        if name not in known:
            return invalid, f"{name}: Extra inputs are not permitted"
    messages = params.get("messages")
    if not isinstance(messages, list) or not messages:
        return invalid, "messages: at least one message is required"
    for place, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant"):
            return invalid, f"messages.{place}.role: Input should be 'user' or 'assistant'"
        for block in message["content"] if isinstance(message["content"], list) else []:
            if block.get("type") not in ("text", "image", "tool_use", "tool_result", "document"):
                return (
                    invalid,
                    f"messages.{place}.content: Input tag {block.get('type')!r} found using 'type' is not known",
                )
    if said_in(messages[0]["content"]).strip() == "":
        return invalid, "messages: text content blocks must be non-empty"
    return None


def errored(kind: str, message: str) -> dict[str, Any]:
    inner = {"type": kind, "message": message}
    return {"type": "errored", "error": {"type": "error", "error": inner, "request_id": "req_011CQ"}}


def answered(params: dict[str, Any]) -> dict[str, Any]:
    messages = params["messages"]
    asked = said_in(messages[-1]["content"])
    if "FAIL" in asked:
        return errored("invalid_request_error", "messages.0: this one cannot be said")
    if "OVERLOADED" in asked:
        return errored("overloaded_error", "Overloaded")
    if "EXPIRED" in asked or "CANCELED" in asked:
        return {"type": "expired" if "EXPIRED" in asked else "canceled"}
    schema = params.get("output_config", {}).get("format", {}).get("schema")
    text = spoken(asked, "STUBBORN" in asked and len(messages) == 1, schema)
    content: list[dict[str, Any]] = [{"type": "text", "text": text, "citations": None}]
    stop, details, thought = "end_turn", None, 0
    if "CUT" in asked:
        stop = "max_tokens"
    elif "THINK" in asked:
        stop, thought = "max_tokens", params["max_tokens"]
        content = [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]
    elif "REFUSE" in asked:
        stop, content = "refusal", []
        details = {"type": "refusal", "category": "cyber", "explanation": "no"}
    elif "PAUSE" in asked:
        stop = "pause_turn"
    usage = {
        "input_tokens": 7,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 100,
        "output_tokens": thought or 5,
        "output_tokens_details": {"thinking_tokens": thought},
        "service_tier": "batch",
    }
    message = {
        "id": "msg_013Zva2CMHLNnXjNJJKqJ2EF",
        "type": "message",
        "role": "assistant",
        "model": params["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "stop_details": details,
        "usage": usage,
    }
    return {"type": "succeeded", "message": message}


def said_in(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(block.get("text", "") for block in content)


def error(status: int, kind: str, message: str) -> Answer:
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011CSHoEeqs5C35K2UUqR7Fy"}
    return Answer(status, body, {"request-id": "req_011CSHoEeqs5C35K2UUqR7Fy"})
