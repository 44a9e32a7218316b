"""What the embedded server is told: where it listens, what answers, and which limits it enforces."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from batchling.errors import ConfigError
from batchling.local.token import new_token
from batchling.spec import EngineConfig
from batchling.trust import is_loopback

SUPPORTED_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
"""URL paths that a batch can be made for, and that answer synchronously too."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything that `start_in_process` and `serve` need. The defaults are OpenAI's published limits.

    Attributes:
        state_dir: folder that holds files, batches and answers; one server at a time.
        engine: what answers the requests.
        host: address to listen on; anything but loopback needs `allow_remote`.
        port: 0 takes a free one.
        allow_remote: listen beyond loopback. Whoever reaches the port and has the token can use the server (and, with
            the `http` engine, spend the upstream's key).
        token: what clients have to send as their API key; by default a random one. None: none is wanted.
        max_requests: lines in a batch; more fail it with `too_many_tasks`. Also the embedding inputs in a batch.
        max_file_bytes: bytes of a batch's input file; more fail it with `file_too_large`.
        max_upload_bytes: bytes of one upload; more are refused with 413.
        max_line_bytes: bytes of one input line.
        idle_seconds: how long a client may send nothing in the middle of a body; then it is refused with 408.
        upload_seconds: how long a whole body may take.
        enqueued_tokens: estimated prompt tokens that may wait at once, for every model or by model id;
            a batch that does not fit fails with `token_limit_exceeded`.
        creations_per_hour: batches created in any 3,600 seconds; more are refused with 429.
        concurrent_batches: batches that are not over; more are refused with 429.
        row_seconds: how long a row takes with the engines that answer at once; `engine.concurrency` rows run side by side.
        window_seconds: overrides the batch's completion window.
        now: Unix seconds; tests hand in their own clock.
        upstream_key: what `engine.api_key_env` holds, once it passed the gate; None: the engine asks the gate itself.
    """

    state_dir: Path
    engine: EngineConfig = field(default_factory=EngineConfig)
    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    max_requests: int = 50_000
    max_file_bytes: int = 200_000_000
    max_upload_bytes: int = 512_000_000
    max_line_bytes: int = 32_000_000
    idle_seconds: float = 60.0
    upload_seconds: float = 3_600.0
    enqueued_tokens: int | Mapping[str, int] | None = None
    creations_per_hour: int | None = None
    concurrent_batches: int | None = None
    row_seconds: float = 0.0
    window_seconds: float | None = None
    now: Callable[[], float] = time.time
    upstream_key: str | None = field(default=None, repr=False)
    token: str | None = field(default_factory=new_token, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port {self.port} is not between 0 and 65535")
        if not self.allow_remote and not is_loopback(self.host):
            raise ConfigError(
                f"{self.host} is not a loopback address: anyone who reaches the port could use the server",
                next_command="listen on 127.0.0.1, or allow it with --allow-remote",
            )

    def token_limit(self, model: str) -> int | None:
        """Prompt tokens of one model that may wait at once; None: no limit."""
        if self.enqueued_tokens is None or isinstance(self.enqueued_tokens, int):
            return self.enqueued_tokens
        return self.enqueued_tokens.get(model)
