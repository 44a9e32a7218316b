"""Gemini's batch jobs (Developer API) as its published types and its SDK's requests have them, on a real socket.

Written from google-genai 3.6 (`batches.py`, `files.py`, `_extra_utils.py`, `types.py`) and ai.google.dev/gemini-api/docs. The
vendor's own client is a second client in the tests.

What the last turn says decides what becomes of a row: FAIL (invalid), OVERLOADED, CUT, THINK (it thought until the limit), REFUSE
(the prompt is blocked), FILTER (the answer is), MALFORMED, STUBBORN (its first answer does not fit); else it is answered.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from urllib.parse import unquote

from tests.servers.emulated import Answer, Call, Emulator, now, rfc3339, spoken

KEY = "AIzaSy-gemini-0123456789abcdefghijklmno"
VERSIONS = ("v1", "v1beta")
MODELS = frozenset({"gemini-2.5-flash", "gemini-3.8-flash", "gemini-4-argon"})
REQUEST = frozenset(
    {
        "contents",
        "systemInstruction",
        "generationConfig",
        "safetySettings",
        "tools",
        "toolConfig",
        "cachedContent",
        "labels",
    }
)
GENERATION = frozenset(
    {
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "stopSequences",
        "responseLogprobs",
        "logprobs",
    }
    | {"presencePenalty", "frequencyPenalty", "seed", "responseMimeType", "responseSchema", "responseJsonSchema"}
    | {"responseModalities", "mediaResolution", "thinkingConfig"}
)


class GeminiServer(Emulator):
    """Use it as a context manager.

    Attributes:
        files: name → its bytes.
        batches: name → what it was made of.
        bought: key → times that it was sent to the model.
        looks, unseen, unlisted: as at the other emulators.
        nameless: uploads that are answered without `file`.
        uploads_to: what the upload's URL names in place of this server.
        ends_as: what becomes of the next batches: SUCCEEDED, FAILED, EXPIRED or CANCELLED.
    """

    def __init__(self, *, looks: int = 2, unseen: int = 0, unlisted: int = 0) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self.begun: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.bought: Counter[str] = Counter()
        self.looks, self.unseen, self.unlisted = looks, unseen, unlisted
        self.nameless = 0
        self.uploads_to: str | None = None
        self.keeps_elsewhere: str | None = None
        self.ends_as = "SUCCEEDED"
        self.serial = 0

    def answer(self, call: Call) -> Answer:
        parts = tuple(unquote(part) for part in call.parts)
        if parts[0] == "sessions":  # the address that an upload was given: it is the permission
            return self._receive(parts[1], call)
        if call.headers.get("x-goog-api-key") != KEY:
            return error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
        if parts[0] == "upload":
            return self._begin(call)
        if parts[0] not in VERSIONS:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        match (call.method, *parts[1:]):
            case ("POST", "models", what) if what.endswith(":batchGenerateContent"):
                return self._create(what.partition(":")[0], call)
            case ("GET", "batches"):
                return self._list(call)
            case ("GET", "batches", name):
                return self._with(f"batches/{name}", self._look)
            case ("POST", "batches", name) if name.endswith(":cancel"):
                return self._with(f"batches/{name.removesuffix(':cancel')}", self._cancel)
            case ("DELETE", "batches", name):
                return self._with(f"batches/{name}", self._delete)
            case ("GET", "files", name) if name.endswith(":download"):
                return self._download(f"files/{name.removesuffix(':download')}", call)
            case ("GET", "files", name):
                if len(name) > 40:
                    return error(
                        400, "INVALID_ARGUMENT", "* GetFileRequest.name: the name must have at most 40 characters"
                    )
                return self._about(f"files/{name}")
            case ("DELETE", "files", name):
                if self.files.pop(f"files/{name}", None) is None:
                    return error(404, "NOT_FOUND", "Requested entity was not found.")
                return Answer(200, {})
        return error(404, "NOT_FOUND", "Requested entity was not found.")

    # Files.

    def _begin(self, call: Call) -> Answer:
        if call.headers.get("x-goog-upload-protocol") != "resumable":
            return error(400, "INVALID_ARGUMENT", "Unsupported upload protocol")
        self.serial += 1
        session = f"s{self.serial}"
        self.begun[session] = {**call.json().get("file", {}), "host": call.headers["host"]}
        self.begun[session]["length"] = int(call.headers["x-goog-upload-header-content-length"])
        host = self.uploads_to or f"http://{call.headers['host']}"
        return Answer(200, {}, {"X-Goog-Upload-URL": f"{host}/sessions/{session}?upload_id=abc"})

    def _receive(self, session: str, call: Call) -> Answer:
        begun = self.begun.get(session)
        if begun is None or "finalize" not in call.headers.get("x-goog-upload-command", ""):
            return error(400, "INVALID_ARGUMENT", "Unknown upload")
        if len(call.body) != begun["length"]:
            return error(400, "INVALID_ARGUMENT", "Upload size mismatch")
        if self.nameless:
            self.nameless -= 1
            return Answer(200, {}, {"X-Goog-Upload-Status": "final"})
        name = f"files/in{session}"
        self.files[name] = call.body
        self.names[name] = begun.get("displayName") or begun.get("display_name") or ""
        return Answer(200, {"file": self._file(name)}, {"X-Goog-Upload-Status": "final"})

    def _file(self, name: str) -> dict[str, Any]:
        return {
            "name": name,
            "displayName": self.names.get(name, ""),
            "mimeType": "jsonl",
            "sizeBytes": str(len(self.files[name])),
            "createTime": rfc3339(now()),
            "expirationTime": rfc3339(now() + 48 * 3600),
            "uri": f"{self.origin}/v1beta/{name}",
            "state": "ACTIVE",
            "source": "UPLOADED",
        }

    def _about(self, name: str) -> Answer:
        if name not in self.files:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        return Answer(200, self._file(name))

    def _download(self, name: str, call: Call) -> Answer:
        if name not in self.files:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        if call.query.get("alt") != "media":
            return error(400, "INVALID_ARGUMENT", "alt=media is needed")
        if self.keeps_elsewhere is not None:
            return Answer(302, None, {"Location": f"{self.keeps_elsewhere}/{name}"})
        return Answer(200, self.files[name])

    # Batches.

    def _create(self, model: str, call: Call) -> Answer:
        if model not in MODELS:
            return error(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta")
        batch = call.json().get("batch", {})
        if not batch.get("displayName"):
            return error(400, "INVALID_ARGUMENT", "batch.display_name is required")
        name = batch.get("inputConfig", {}).get("fileName")
        if name is None or set(batch) != {"displayName", "inputConfig"}:
            return error(400, "INVALID_ARGUMENT", "Provide batch.input_config.file_name")
        if name not in self.files:
            return error(404, "NOT_FOUND", f"File {name} not found.")
        lines = [json.loads(line) for line in self.files[name].split(b"\n") if line.strip()]
        for line in lines:
            self.bought[line["key"]] += 1
        self.serial += 1
        made = f"batches/b{self.serial:06d}"
        output = f"files/batch-{'o' * 40}{self.serial:06d}"
        results = [_result(line, model) for line in reversed(lines)]
        self.batches[made] = {
            "name": made,
            "model": f"models/{model}",
            "batch": batch,
            "created": now(),
            "looks": 0,
            "lists": 0,
            "ends": self.ends_as,
            "results": results,
            "output": output,
        }
        if self.ends_as == "SUCCEEDED":
            self.files[output] = b"".join(json.dumps(line).encode() + b"\n" for line in results)
        return Answer(200, self._view(made))

    def end(self, name: str) -> None:
        self.batches[name]["looks"] = self.looks

    def _with(self, name: str, do: Any) -> Answer:
        if name not in self.batches:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        answer: Answer = do(name)
        return answer

    def _look(self, name: str) -> Answer:
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["looks"] <= self.unseen:
            return error(404, "NOT_FOUND", "Requested entity was not found.")
        return Answer(200, self._view(name))

    def _list(self, call: Call) -> Answer:
        names = sorted(self.batches, reverse=True)
        for name in names:
            self.batches[name]["lists"] += 1
        names = [name for name in names if self.batches[name]["lists"] > self.unlisted]
        start, size = int(call.query.get("pageToken", "0")), int(call.query.get("pageSize", "10"))
        page: dict[str, Any] = {}
        if operations := [self._view(name) for name in names[start : start + size]]:
            page["operations"] = operations  # as every empty field, an empty list is left out
        if start + size < len(names):
            page["nextPageToken"] = str(start + size)
        return Answer(200, page)

    def _cancel(self, name: str) -> Answer:
        batch = self.batches[name]
        if batch["looks"] < self.looks:
            batch["ends"] = "CANCELLED"
            self.files.pop(batch["output"], None)
            self.end(name)
        return Answer(200, {})

    def _delete(self, name: str) -> Answer:
        del self.batches[name]
        return Answer(200, {})

    def _view(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        over = batch["looks"] >= self.looks
        state = batch["ends"] if over else "RUNNING" if batch["looks"] else "PENDING"
        rows = batch["results"]
        stats = {"requestCount": str(len(rows))}
        if over and state == "SUCCEEDED":
            good = sum("response" in row for row in rows)
            stats |= {
                k: str(v) for k, v in (("successfulRequestCount", good), ("failedRequestCount", len(rows) - good)) if v
            }
        else:
            stats["pendingRequestCount"] = str(len(rows))
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "model": batch["model"],
            **batch["batch"],
            "name": name,
            "state": f"BATCH_STATE_{state}",
            "createTime": rfc3339(batch["created"]),
            "updateTime": rfc3339(now()),
            "batchStats": stats,
        }
        operation: dict[str, Any] = {"name": name, "metadata": metadata}
        if over:
            metadata["endTime"] = rfc3339(now())
            operation["done"] = True
            if state == "SUCCEEDED":
                metadata["output"] = {"responsesFile": batch["output"]}
                kind = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch.Output"
                operation["response"] = {"@type": kind, "responsesFile": batch["output"]}
            elif state == "FAILED":
                operation["error"] = {"code": 8, "message": "Batch enqueued tokens quota exceeded for this model."}
        return operation


def _result(line: dict[str, Any], model: str) -> dict[str, Any]:
    request = line["request"]
    wrong = wrong_with(request)
    if wrong is not None:
        return {"key": line["key"], "error": {"code": 3, "message": wrong}}
    asked = "".join(part.get("text", "") for part in request["contents"][-1]["parts"])
    if "FAIL" in asked:
        return {
            "key": line["key"],
            "error": {"code": 3, "message": "this one cannot be said", "status": "INVALID_ARGUMENT"},
        }
    if "OVERLOADED" in asked:
        return {"key": line["key"], "error": {"code": 14, "message": "The model is overloaded."}}
    usage = {"promptTokenCount": 127, "cachedContentTokenCount": 100, "totalTokenCount": 132}
    reply: dict[str, Any] = {"modelVersion": model, "responseId": "r1"}
    if "REFUSE" in asked:
        return {
            "key": line["key"],
            "response": {**reply, "promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage},
        }
    config = request.get("generationConfig", {})
    text = spoken(asked, "STUBBORN" in asked and len(request["contents"]) == 1, config.get("responseJsonSchema"))
    finish, thoughts = "STOP", 3
    parts: list[dict[str, Any]] = [{"text": "let me think", "thought": True}, {"text": text}]
    if "CUT" in asked:
        finish = "MAX_TOKENS"
    elif "THINK" in asked:
        finish, parts, thoughts = "MAX_TOKENS", [], config["maxOutputTokens"]
    elif "FILTER" in asked:
        finish, parts = "SAFETY", []
    elif "MALFORMED" in asked:
        finish, parts, thoughts = "MALFORMED_FUNCTION_CALL", [], 0
    usage |= {"thoughtsTokenCount": thoughts} if thoughts else {}
    usage |= {"candidatesTokenCount": 5} if parts else {}
    content = {"role": "model", **({"parts": parts} if parts else {})}
    candidate = {"content": content, "finishReason": finish, "index": 0}
    return {"key": line["key"], "response": {**reply, "candidates": [candidate], "usageMetadata": usage}}


def wrong_with(request: dict[str, Any]) -> str | None:
    """What the API refuses in a row."""
    for name in request:
        if name not in REQUEST:
            return f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    for name in request.get("generationConfig", {}):
        if name not in GENERATION:
            return f'Invalid JSON payload received. Unknown name "{name}" at "generation_config": Cannot find field.'
    if not request.get("contents"):
        return "* GenerateContentRequest.contents: contents is not specified"
    for content in request["contents"]:
        if content.get("role") not in ("user", "model"):
            return "Please use a valid role: user, model."
    return None


def error(status: int, name: str, message: str, **details: Any) -> Answer:
    body: dict[str, Any] = {"code": status, "message": message, "status": name}
    if details:
        body["details"] = [details]
    return Answer(status, {"error": body})
