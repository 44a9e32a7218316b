"""How long a provider may take: what a person asked for, and what the provider accepts."""

from __future__ import annotations

import re
from collections.abc import Sequence

_HOURS = {"h": 1, "d": 24}
_WINDOW = re.compile(r"([1-9][0-9]{0,5})([hd])")


def hours(window: str) -> int | None:
    """A window in hours; None for one that is spelt in another way.

    >>> hours("24h"), hours("7d"), hours("soon")
    (24, 168, None)
    """
    found = _WINDOW.fullmatch(window)
    return int(found[1]) * _HOURS[found[2]] if found else None


def accepted(window: str, windows: Sequence[str]) -> bool:
    """Whether one of the windows that a provider accepts is this one, or a range that has it.

    >>> accepted("48h", ["24h"]), accepted("3d", ["24h..7d"]), accepted("24h", [])
    (False, True, True)
    >>> accepted("1d", ["24h"]), accepted("3d", ["24h..336h"])  # a unit that the provider need not understand
    (False, False)
    """
    if not windows:
        return True
    asked = hours(window)
    for offered in windows:
        first, dots, last = offered.partition("..")
        shortest, longest = hours(first), hours(last if dots else first)
        if offered == window:
            return True
        if not dots or asked is None or shortest is None or longest is None:
            continue
        if shortest <= asked <= longest and window[-1] in {first[-1], last[-1]}:
            return True
    return False
