"""Requests and tokens per minute, kept strictly: never more than the limit in any 60 seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Admission:
    """One request that was let through; `tokens` is put right when its usage is known."""

    moment: float
    tokens: int


class Pace:
    """Lets requests through as the limits allow. Shared by all threads of an engine.

    Args:
        rpm: requests in any 60 seconds; None: no limit.
        tpm: tokens in any 60 seconds; None: no limit. A request over the limit goes alone.
        now: monotonic seconds.
    """

    def __init__(self, rpm: int | None, tpm: int | None, now: Callable[[], float] = time.monotonic):
        self.rpm = rpm
        self.tpm = tpm
        self.now = now
        self._lock = threading.Lock()
        self._recent: deque[Admission] = deque()
        self._closed_until = 0.0

    def admit(self, tokens: int) -> Admission | float:
        """An admission, or the seconds after which asking again makes sense."""
        with self._lock:
            now = self.now()
            if now < self._closed_until:
                return self._closed_until - now
            while self._recent and self._recent[0].moment <= now - WINDOW_SECONDS:
                self._recent.popleft()
            wait = max(self._wait_for_request(now), self._wait_for_tokens(now, tokens))
            if wait > 0:
                return wait
            admission = Admission(now, tokens)
            if self.rpm is not None or self.tpm is not None:
                self._recent.append(admission)
            return admission

    def _wait_for_request(self, now: float) -> float:
        if self.rpm is None or len(self._recent) < self.rpm:
            return 0.0
        return self._recent[len(self._recent) - self.rpm].moment + WINDOW_SECONDS - now

    def _wait_for_tokens(self, now: float, tokens: int) -> float:
        if self.tpm is None:
            return 0.0
        used = sum(admission.tokens for admission in self._recent)
        for admission in self._recent:
            if used + tokens <= self.tpm:
                return 0.0
            used -= admission.tokens
            if used + tokens <= self.tpm or used <= 0:
                return admission.moment + WINDOW_SECONDS - now
        return 0.0

    def settle(self, admission: Admission, tokens: int | None) -> None:
        """Puts the tokens right that a request really took."""
        if tokens is not None:
            with self._lock:
                admission.tokens = tokens

    def hold(self, seconds: float) -> None:
        """Lets nothing through for a while: the upstream asked for it."""
        with self._lock:
            self._closed_until = max(self._closed_until, self.now() + seconds)
