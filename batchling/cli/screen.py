"""What the streams are: a terminal of so many columns, or something else."""

from __future__ import annotations

import os
import shutil
import sys
from decimal import Decimal

SIMULATED = "[simulated: no model was asked]"
"""Stands wherever a person sees answers that were made up."""

PRETEND = "[simulated: no model was asked, nothing is paid: the prices are pretend]"
"""The same, where `provider.engine.pretend` gives made-up answers a price."""


def simulated(*amounts: Decimal | None) -> str:
    """What stands beside made-up answers. `amounts`: what they are said to cost; without pretend prices that is nothing."""
    return PRETEND if any(amounts) else SIMULATED


def width() -> int | None:
    """Columns of the terminal that stdout is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def interactive() -> bool:
    """Whether a person can be asked: questions go to stderr, answers come from stdin."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def live() -> bool:
    """Whether stderr can show a display that redraws itself."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
