"""A complete adapter for a provider of another shape: jobs that take their requests in the call itself, and no files.

POST /jobs                {"name", "requests": [{"custom_id", "params"}]}  →  a job
GET  /jobs/{id}           {"id", "name", "state", "made_at", "counts"}
GET  /jobs?after=ID       {"jobs": [...], "more": bool}, newest first
GET  /jobs/{id}/results   a line for each request: {"custom_id", "result": {"message"} or {"error"}}
POST /jobs/{id}/stop
"""

from __future__ import annotations

import hashlib
import http.client
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import orjson

from batchling import limits
from batchling.collect import outcome_of_error
from batchling.dialects import NeutralRequest
from batchling.dialects.neutral import checked_params
from batchling.errors import CallAmbiguous, CallError, CallNotFound, CallRefused, CallUnavailable, ConfigError
from batchling.models import Batch, Garbage, Outcome, Response, ResultFile, Submission, Usage
from batchling.providers import Adapter
from batchling.spec import ProviderConfig

STATES = {"queued": "in_progress", "running": "in_progress", "done": "completed", "stopped": "cancelled"}


class Messages:
    """Bodies with the system's words apart, and a length limit that must be there."""

    name, turns = "messages", True

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        if request.max_output_tokens is None:
            raise ConfigError("model.max_output_tokens: this provider wants a limit")
        body = {"model": request.model, "max_tokens": request.max_output_tokens}
        body |= checked_params(request, frozenset({"model", "max_tokens", "system", "messages", "format"}))
        if request.schema is not None:
            body["format"] = {"type": "json_schema", "schema": request.schema.document}
        if system := [text for role, text in request.texts if role in ("system", "developer")]:
            body["system"] = "\n\n".join(system)
        body["messages"] = [self.turn(r, t) for r, t in request.texts if r in ("user", "assistant")]
        return body

    def turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    def instructions(self, body: dict[str, Any]) -> list[str]:
        return [body["system"]] if "system" in body else []

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        text, usage = body.get("text"), body.get("usage")
        if not isinstance(text, str) or not isinstance(usage, dict):
            return None
        tokens = [n if type(n) is int else None for n in (usage.get("in"), usage.get("out"))]
        outcome = Outcome.TRUNCATED if body.get("stopped_by") == "max_tokens" else Outcome.OK
        return Response(custom_id, outcome, status, text, usage=Usage(tokens[0], None, tokens[1], None))


class Envelope:
    """`{"custom_id": …, "params": {…}}`."""

    def encode(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b'{"custom_id":"%b","params":%b}\n' % (custom_id.encode(), body)

    def body_of(self, line: bytes) -> bytes:
        return line[line.index(b'"params":') + len(b'"params":') : line.rindex(b"}")]

    def decode(self, line: bytes) -> Response | Garbage:
        try:
            said = limits.loads(line)
            custom_id, result = said["custom_id"], said["result"]
            error, message = result.get("error"), result.get("message")
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            return Garbage(f"no result: {problem}")
        if not isinstance(custom_id, str):
            return Garbage("no custom_id")
        answer = MESSAGES.read(custom_id, None, message) if isinstance(message, dict) else None
        if answer is not None:
            return answer
        code, words = (
            (str(error.get(k)) for k in ("type", "message")) if isinstance(error, dict) else ("not_understood",) * 2
        )
        return Response(custom_id, outcome_of_error(None, [code], [], words), error_code=code, error_message=words)


class Stay(urllib.request.HTTPRedirectHandler):
    """A redirect is followed by nobody: the key belongs to the address that was confirmed."""

    def redirect_request(self, *_: Any) -> None:
        return None


class InlineClient:
    """One connection. See `batchling.providers.Client` for what each call promises."""

    def __init__(self, facts: ProviderConfig, base_url: str, key: str | None, environ: Mapping[str, str]):
        self.facts, self._url, self._key = facts, base_url.rstrip("/"), key or ""
        self._opener = urllib.request.build_opener(Stay, urllib.request.ProxyHandler({}))

    def _call(self, method: str, path: str, data: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=120) as reply:
                return bytes(reply.read())
        except urllib.error.HTTPError as error:
            try:
                said = limits.loads(error.read())["error"]
                code, message = str(said["type"]), str(said["message"])
            except (ValueError, TypeError, KeyError, OSError, http.client.HTTPException):
                raise CallUnavailable(f"{method} {path}: {error.code}", status=error.code) from None
            kind = {404: CallNotFound, 408: CallUnavailable, 409: CallUnavailable, 429: CallUnavailable}
            refused = CallRefused if error.code < 500 else CallUnavailable
            raise kind.get(error.code, refused)(message, status=error.code, code=code) from None
        except (OSError, http.client.HTTPException) as error:
            raise CallUnavailable(f"{method} {path}: {type(error).__name__}: {error}") from None

    def _job(self, data: bytes) -> Batch:
        try:
            job = limits.loads(data)
            counts, state = job["counts"], STATES.get(job["state"], str(job["state"]))
            results = str(job["id"]) if state in ("completed", "cancelled") else None
            return Batch(
                str(job["id"]), state, input_file_id=str(job["name"]), output_file_id=results,
                created_at=float(job["made_at"]), total=counts["all"], completed=counts["good"], failed=counts["bad"],
            )  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise CallUnavailable(f"the reply is no job: {error}") from None

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        return f"{submission.filename()}-{secrets.token_hex(4)}"  # nothing leaves: the job's name, new at each attempt

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        body = b'{"name":%b,"requests":[%b]}' % (orjson.dumps(file_id), content.read().strip().replace(b"\n", b","))
        try:
            return self._job(self._call("POST", "/jobs", body))
        except CallError as error:  # a refusal in the provider's own words, or nobody knows
            if isinstance(error, CallRefused | CallNotFound) or (error.code and error.status == 429):
                raise CallRefused(error.message, status=error.status, code=error.code) from None
            raise CallAmbiguous(error.message, status=error.status) from None

    def poll(self, batch_id: str) -> Batch:
        return self._job(self._call("GET", f"/jobs/{batch_id}"))

    def cancel(self, batch_id: str) -> Batch:
        return self._job(self._call("POST", f"/jobs/{batch_id}/stop"))

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        after, seen = "", set[str]()
        for _ in range(limit_pages):
            page = limits.loads(self._call("GET", f"/jobs?limit={page_size}&after={after}"))
            fresh = [b for b in (self._job(orjson.dumps(job)) for job in page["jobs"]) if b.id not in seen]
            yield from fresh
            seen.update(b.id for b in fresh)
            if not page["more"] or (fresh and (fresh[-1].created_at or 0) < since - 3600):
                return
            if not fresh:
                break
            after = fresh[-1].id
        raise CallUnavailable("the list has no end", code="list_incomplete")

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        return sink.write(self._call("GET", f"/jobs/{file_id}/results"))

    def file_bytes(self, file_id: str) -> int | None:
        return None

    def fence(self, file_id: str) -> bool:
        return False

    def fingerprint(self) -> str | None:
        return hashlib.sha256(self._key.encode()).hexdigest()[:16] if self._key else None


MESSAGES = Messages()
ADAPTER = Adapter(envelope=Envelope(), dialects={"chat": MESSAGES}, connect=InlineClient)
