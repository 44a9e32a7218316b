"""What the streams are: a terminal of so many columns, or something else."""

from __future__ import annotations

import os
import shutil
import sys

SIMULATED = "[simulated: no model was asked]"
"""Stands wherever a person sees answers that were made up."""


def width() -> int | None:
    """Columns of the terminal that stdout is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def interactive() -> bool:
    """Whether a person can be asked: questions go to stderr, answers come from stdin."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def live() -> bool:
    """Whether stderr can show a display that redraws itself."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
