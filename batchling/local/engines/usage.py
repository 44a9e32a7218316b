"""Token usage as the three endpoints report it."""

from __future__ import annotations

from typing import Any

from batchling.models import Usage


def usage_of(body: Any) -> Usage:
    """The usage of an answer body of any of the three endpoints."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        _whole(usage, "input_tokens", "prompt_tokens"),
        _detail(usage, "cached_tokens", "input_tokens_details", "prompt_tokens_details"),
        _whole(usage, "output_tokens", "completion_tokens"),
        _detail(usage, "reasoning_tokens", "output_tokens_details", "completion_tokens_details"),
    )


def _whole(usage: dict[str, Any], *names: str) -> int | None:
    for name in names:
        if isinstance(usage.get(name), int):
            return int(usage[name])
    return None


def _detail(usage: dict[str, Any], figure: str, *names: str) -> int | None:
    for name in names:
        if isinstance(usage.get(name), dict):
            return _whole(usage[name], figure)
    return None
