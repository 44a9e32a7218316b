"""Text from strangers (answers, error messages, ids) made harmless on a terminal."""

from __future__ import annotations

import re

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile(r"[\t\n\x0b\x0c\r\x85\u2028\u2029]+")


def printable(text: str) -> str:
    """Escape sequences and other controls become visible (`\\x1b`); tab and line feed stay.

    >>> printable("\\x1b[31mred")
    '\\\\x1b[31mred'
    """
    return _CONTROLS.sub(lambda match: ascii(match.group())[1:-1], text)


def one_line(text: str, width: int | None = None) -> str:
    """Printable text on one line, cut to at most `width` characters.

    >>> one_line("a\\nlong story", 8)
    'a long …'
    """
    if width is not None:
        text = text[: 4 * width]  # an answer may be megabytes long
    flat = printable(_BREAKS.sub(" ", text)).strip()
    return flat if width is None or len(flat) <= width else flat[: width - 1] + "…"
