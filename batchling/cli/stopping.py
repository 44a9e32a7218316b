"""Ctrl-C and SIGTERM: from the first moment to the last they mean "stop watching", with exit code 130.

The first one unwinds the program, so that files and connections are closed. Another one ends it on the spot: everything
that matters is on disk already, as it is for a process that is killed.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130

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
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, NOW.handle):
                before[number] = signal.signal(number, NOW.handle)
    try:
        yield NOW
    finally:
        if not (NOW.asked and threading.current_thread() is threading.main_thread()):
            for number, handler in before.items():
                signal.signal(number, handler)


def arguments(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)
