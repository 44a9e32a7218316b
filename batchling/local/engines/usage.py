"""Token usage as the three endpoints report it."""

from __future__ import annotations

from typing import Any

from batchling.dialects import reading
from batchling.models import Usage


def usage_of(body: Any) -> Usage:
    """The usage of an answer body of any of the three endpoints; what is no count of tokens is None."""
    return reading.usage_of(body.get("usage") if isinstance(body, dict) else None)
