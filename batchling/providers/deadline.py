"""A call ends when its time is over, however often a byte of it arrives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from batchling import limits

CONNECT_SECONDS = 10.0
READ_SECONDS = 120.0
"""How long a reply may be silent."""
UPLOAD_SECONDS = 600.0
"""What a call that carries the requests gets on top."""

LATE = "the reply did not end in time"


def end_with(client: Any, left: Callable[[], float]) -> None:
    """Lets the reads and writes of an HTTP client end with the call that they belong to.

    Args:
        client: of httpx or httpx2, new.
        left: seconds that the call of this thread may still take.
    """
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if pool is not None:  # a mount of None: no proxy there
            pool._network_backend = _Network(pool._network_backend, left)


class _Network:
    """The HTTP library's network, whose reads and writes end with the call that they belong to.

    The library's own time limits are of one read each, and a server that drips bytes keeps every read short: the headers
    of a reply, a handshake with a proxy and a piece of a result would take as long as it likes.

    Args:
        inner: what connects, in the library's own version.
        left: seconds that the call of this thread may still take.
    """

    def __init__(self, inner: Any, left: Callable[[], float]):
        self._inner, self._left = inner, left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connect_tcp(self, *args: Any, **options: Any) -> Any:
        return _Stream(self._inner.connect_tcp(*args, **options), self._left)


class _Stream:
    """One connection of `_Network`."""

    def __init__(self, inner: Any, left: Callable[[], float]):
        self._inner, self._left = inner, left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def start_tls(self, *args: Any, **options: Any) -> Any:
        return _Stream(self._inner.start_tls(*args, **options), self._left)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data: bytes = self._inner.read(max_bytes, self._within(timeout))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._within(timeout))

    def _within(self, timeout: float | None) -> float | None:
        left = self._left()
        if left <= 0:
            raise limits.BeyondLimit(LATE)
        if math.isinf(left):
            return timeout
        return left if timeout is None else min(timeout, left)
