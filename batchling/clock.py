"""Time, as the ledger sees it.

`now` never goes back: it starts at the later of the wall clock and the journal's last event and
then follows the monotonic clock, so a clock that is set while a process waits changes nothing.
Between two processes the wall clock may have been set forward, and a time that money depends on would seem
to be over; so such a time is measured with `mark` and `elapsed`, by the clock that counts from the machine's start.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Unix seconds, and a way to let them pass."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    def not_before(self, moment: float) -> None: ...
    def mark(self) -> str | None: ...
    def elapsed(self, mark: str) -> float | None: ...


class RealClock:
    """The machine's clock."""

    def __init__(self) -> None:
        self._base = time.time()
        self._start = time.monotonic()

    def now(self) -> float:
        return self._base + (time.monotonic() - self._start)

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    def not_before(self, moment: float) -> None:
        """Moves the clock on to `moment` when it is behind."""
        behind = moment - self.now()
        if behind > 0:
            self._base += behind

    def mark(self) -> str | None:
        """This moment, for another process's `elapsed`; None where the machine cannot tell."""
        started = _machine_start()
        return None if started is None else f"{started}/{time.clock_gettime(time.CLOCK_BOOTTIME):.3f}"

    def elapsed(self, mark: str) -> float | None:
        """Seconds since a mark, whatever was done to the wall clock; None when the machine was started since."""
        started, _, moment = mark.rpartition("/")
        if started != _machine_start():
            return None
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - float(moment))


def _machine_start() -> str | None:
    """What names this start of the machine (Linux); None elsewhere."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        with suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    return None
