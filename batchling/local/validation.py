"""What makes OpenAI fail a whole batch before any of its requests runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from batchling import limits
from batchling.local.engines import prompts
from batchling.local.jsonl import BOM
from batchling.local.options import ServerOptions

MAX_ERRORS = 100
"""Errors that a failed batch lists; reading stops there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One entry of a failed batch's `errors.data`; `line` is 1-based."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def document(self) -> dict[str, Any]:
        return {"object": "error", "code": self.code, "message": self.message, "line": self.line, "param": self.param}


class InputCheck:
    """Reads an input file line by line and gathers what is wrong with it.

    Attributes:
        faults: what is wrong, in the file's order.
        total: lines read.
        tokens: estimated prompt tokens of all requests.
        model: the model that all requests name.
    """

    def __init__(self, endpoint: str, options: ServerOptions):
        self.endpoint = endpoint
        self.options = options
        self.faults: list[Fault] = []
        self.total = 0
        self.tokens = 0
        self.inputs = 0
        self.model: str | None = None
        self._seen: set[str] = set()

    def check_size(self, size: int) -> None:
        """Looks at the file as a whole."""
        if size == 0:
            self.faults.append(Fault("empty_file", "The input file is empty. It must hold at least one request."))
        elif size > self.options.max_file_bytes:
            limit = self.options.max_file_bytes
            self.faults.append(
                Fault(
                    "file_too_large",
                    f"The input file has {size:,} bytes; a batch's input file may have at most {limit:,}.",
                )
            )

    @property
    def done(self) -> bool:
        """Whether reading on would tell nothing new."""
        return len(self.faults) >= MAX_ERRORS or any(f.line is None for f in self.faults)

    def add(self, line: bytes | None) -> None:
        """Looks at the next line; None is a line that was too long to hold."""
        self.total += 1
        if self.total > self.options.max_requests:
            self.faults.append(
                Fault(
                    "too_many_tasks",
                    f"The input file has more than the {self.options.max_requests:,} requests a batch may have.",
                )
            )
        elif line is None:
            limit = self.options.max_line_bytes
            self._fault("line_too_large", f"This line has more than the {limit:,} bytes that a request may have.")
        elif self.total == 1 and line.startswith(BOM):
            self._fault(
                "invalid_json_line", "The file begins with a byte order mark, which is not JSON. Save it without one."
            )
        else:
            self._check(line)

    def _check(self, line: bytes) -> None:
        try:
            request = limits.loads(line)
        except limits.BeyondLimit as error:
            return self._fault("invalid_json_line", f"This line is {error}.")
        except ValueError:
            return self._fault("invalid_json_line", "This line is not parseable as valid JSON.")
        if not isinstance(request, dict):
            return self._fault("invalid_json_line", "This line is not a JSON object.")
        custom_id = request.get("custom_id")
        if custom_id is None:
            return self._missing("custom_id")
        if not isinstance(custom_id, str) or not custom_id:
            return self._fault("invalid_type", "The custom_id must be a non-empty string.", "custom_id")
        if custom_id in self._seen:
            return self._fault(
                "duplicate_custom_id",
                "The custom_id for this request is a duplicate of another request. It must be unique within a batch.",
                "custom_id",
            )
        self._seen.add(custom_id)
        for name in ("method", "url", "body"):
            if request.get(name) is None:
                return self._missing(name)
        if request["method"] != "POST":
            return self._fault("invalid_method", "The method of a request must be POST.", "method")
        if request["url"] != self.endpoint:
            return self._fault(
                "url_mismatch", f"The url of this request does not match the batch's endpoint {self.endpoint}.", "url"
            )
        body = request["body"]
        if not isinstance(body, dict):
            return self._fault("invalid_type", "The body of a request must be a JSON object.", "body")
        return self._check_body(body)

    def _check_body(self, body: dict[str, Any]) -> None:
        model = body.get("model")
        if model is None:
            return self._missing("body.model")
        if not isinstance(model, str) or not model:
            return self._fault("invalid_type", "The model must be a non-empty string.", "body.model")
        if self.model is None:
            self.model = model
        elif model != self.model:
            return self._fault(
                "mismatched_model",
                f"The model {model[:100]} of this request is not the model {self.model[:100]} of the first. "
                "All requests of a batch must name the same model.",
                "body.model",
            )
        if body.get("stream"):
            return self._fault("invalid_request", "A request in a batch can't be streamed.", "body.stream")
        self.tokens += prompts.prompt_tokens(body)
        if self.endpoint == "/v1/embeddings":
            self.inputs += len(prompts.embedding_inputs(body))
            if self.inputs > self.options.max_requests:
                limit = self.options.max_requests
                self.faults.append(
                    Fault(
                        "too_many_tasks",
                        f"The requests hold more than the {limit:,} embedding inputs a batch may have.",
                    )
                )
        return None

    def _missing(self, param: str) -> None:
        self._fault("missing_required_parameter", f"Missing required parameter: '{param}'.", param)

    def _fault(self, code: str, message: str, param: str | None = None) -> None:
        self.faults.append(Fault(code, message, self.total, param))


def token_limit_fault(model: str, limit: int) -> Fault:
    """The asynchronous refusal of a batch whose prompt tokens don't fit any more, in OpenAI's words (clients parse the number)."""
    return Fault(
        "token_limit_exceeded",
        f"Enqueued token limit reached for {model} in organization org-local. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed.",
    )
