"""Ctrl-C and SIGTERM: from the first moment to the last they mean "stop watching", with exit code 130.

The first one unwinds the program, so that files and connections are closed. Another one ends it on the spot: everything
that matters is on disk already, as it is for a process that is killed.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from batchling import duck

INTERRUPTED = 130

INTERRUPT_SECONDS = 0.1
"""Pause before statements are interrupted once more: one may have begun right after the last time."""

INTERRUPTS_AT_MOST = 50
"""Times that the statements of one signal are interrupted."""

MESSAGE = "stopped watching; nothing is cancelled at the provider"


class Stopping:
    """What this process was told.

    Attributes:
        asked: a signal came. Whatever error comes out of the program after that is its consequence: libraries turn an
            interruption into errors of their own (DuckDB: `RuntimeError: Query interrupted`).
        told: the person has read which command resumes.
        again: that command, as long as nothing better is known.
    """

    def __init__(self) -> None:
        self.begin("batchling watch")

    def begin(self, again: str) -> None:
        self.asked = False
        self.told = False
        self.again = again

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            self.end()
        self.asked = True
        raise KeyboardInterrupt

    def end(self) -> None:
        """Ends the process at once, with the line that resumes as the last one."""
        if not self.told:
            cursor = "\x1b[?25h" if os.isatty(2) else ""  # the live display hides it
            with suppress(OSError):
                os.write(2, f"{cursor}error: {MESSAGE}\n  next: {self.again}\n".encode("utf-8", "backslashreplace"))
        os._exit(INTERRUPTED)


NOW = Stopping()
"""Of the command that runs now."""


@contextmanager
def listening(args: Sequence[str]) -> Iterator[Stopping]:
    """Handles both signals while the block runs. SIGINT stays ignored where it is (a shell's background job)."""
    NOW.begin(shlex.join(["batchling", *args]))
    before = {}
    wake = None
    if threading.current_thread() is threading.main_thread():
        wake = _Wake()
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, NOW.handle):
                before[number] = signal.signal(number, NOW.handle)
    try:
        yield NOW
    finally:
        if wake is not None:
            wake.close()
        if not (NOW.asked and threading.current_thread() is threading.main_thread()):
            for number, handler in before.items():
                signal.signal(number, handler)


class _Wake:
    """Reaches a main thread that is inside DuckDB: a thread of its own hears of each signal and interrupts the statement.

    Only the connections of that moment are interrupted: what the program opens on its way out is left alone.
    """

    def __init__(self) -> None:
        self.heard, self.told = socket.socketpair()
        self.told.setblocking(False)
        self.before = signal.set_wakeup_fd(self.told.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()

    def _listen(self) -> None:
        with self.heard, suppress(OSError):
            while numbers := self.heard.recv(64):
                if {signal.SIGINT, signal.SIGTERM} & set(numbers):
                    opened = duck.connections()
                    for _ in range(INTERRUPTS_AT_MOST if opened else 0):
                        time.sleep(INTERRUPT_SECONDS)
                        duck.interrupt(opened)

    def close(self) -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(self.before)
        self.told.close()


def arguments(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)
