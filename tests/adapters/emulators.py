"""The emulated providers as the tests that try all of them need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.servers import anthropic, gemini, mistral
from tests.servers.emulated import Answer, Call


@dataclass(frozen=True)
class Emulated:
    """One provider.

    Attributes:
        name: of its shipped facts.
        start: makes its server.
        model: an id that it knows.
        base_path: what follows the server's address in `provider.base_url`.
        creates, downloads: whether a call makes a batch, or fetches results.
        refusal: its refusal of a create with 413 (too large) or 429.
    """

    name: str
    start: Callable[[], Any]
    key: str
    model: str
    creates: Callable[[Call], bool]
    downloads: Callable[[Call], bool]
    refusal: Callable[[int], Answer]
    base_path: str = ""

    @property
    def variable(self) -> str:
        return f"EMULATED_{self.name.upper()}_KEY"


EMULATORS = (
    Emulated(
        "anthropic",
        anthropic.AnthropicServer,
        anthropic.KEY,
        "claude-haiku-4-5",
        creates=lambda call: call.method == "POST" and call.path.endswith("/batches"),
        downloads=lambda call: call.path.endswith("/results"),
        refusal=lambda status: anthropic.error(
            status,
            *{
                413: ("request_too_large", "Request exceeds the maximum allowed number of bytes."),
                429: ("rate_limit_error", "Number of requests has exceeded your rate limit"),
            }[status],
        ),
    ),
    Emulated(
        "gemini",
        gemini.GeminiServer,
        gemini.KEY,
        "gemini-3.8-flash",
        creates=lambda call: call.path.endswith("batchGenerateContent"),
        downloads=lambda call: call.path.endswith(":download"),
        refusal=lambda status: gemini.error(
            status,
            *{
                413: ("INVALID_ARGUMENT", "Request payload size exceeds the limit: the batch file is too large."),
                429: ("RESOURCE_EXHAUSTED", "You have too many requests. Please slow down."),
            }[status],
        ),
        base_path="/v1beta",
    ),
    Emulated(
        "mistral",
        mistral.MistralServer,
        mistral.KEY,
        "mistral-small-2603",
        creates=lambda call: call.method == "POST" and call.path.endswith("/batch/jobs"),
        downloads=lambda call: call.path.endswith("/content"),
        refusal=lambda status: mistral.error(
            status,
            *{
                413: ("The batch file is too large", "invalid_request_file"),
                429: ("Requests rate limit exceeded", "rate_limited"),
            }[status],
        ),
    ),
)
