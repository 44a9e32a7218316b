"""What a caller may say about files and batches: checked once, refused in OpenAI's words."""

from __future__ import annotations

import re
from typing import Any

from batchling.local.options import SUPPORTED_ENDPOINTS
from batchling.local.replies import ApiError

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
DEFAULT_BATCH_FILE_SECONDS = 30 * 86_400
"""Files for batches are kept for 30 days unless the caller says otherwise (OpenAI's published schema, FileExpirationAfter)."""

_WINDOW = re.compile(r"([1-9]\d{0,3})([hd])")


def text(values: dict[str, Any], name: str) -> str:
    """A required string."""
    value = values.get(name)
    if value is None:
        raise ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    if not isinstance(value, str) or not value:
        raise ApiError(400, f"Invalid type for '{name}': expected a string.", param=name, code="invalid_type")
    return value


def one_of(values: dict[str, Any], name: str, options: tuple[str, ...]) -> str:
    value = text(values, name)
    if value not in options:
        shown = ", ".join(f"'{option}'" for option in options)
        raise ApiError(
            400, f"Invalid value: '{value[:100]}'. Supported values are: {shown}.", param=name, code="invalid_value"
        )
    return value


def endpoint(values: dict[str, Any]) -> str:
    return one_of(values, "endpoint", SUPPORTED_ENDPOINTS)


def window_seconds(values: dict[str, Any]) -> int:
    """Seconds of `completion_window`: `24h` as at OpenAI, and hours or days as other providers have them."""
    value = text(values, "completion_window")
    match = _WINDOW.fullmatch(value)
    if match is None:
        raise ApiError(
            400,
            f"Invalid value: '{value[:100]}'. Supported are hours and days, e.g. '24h' or '7d'.",
            param="completion_window",
            code="invalid_value",
        )
    return int(match[1]) * (3_600 if match[2] == "h" else 86_400)


def metadata(values: dict[str, Any]) -> dict[str, str] | None:
    """Up to 16 pairs; keys up to 64 characters, values up to 512 (OpenAI's published schema, Metadata)."""
    given = values.get("metadata")
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ApiError(400, "Invalid type for 'metadata': expected an object.", param="metadata", code="invalid_type")
    if len(given) > 16:
        raise ApiError(400, "'metadata' has more than 16 pairs.", param="metadata", code="object_above_max_properties")
    for key, value in given.items():
        if len(key) > 64:
            raise ApiError(
                400,
                "A key of 'metadata' has more than 64 characters.",
                param="metadata",
                code="string_above_max_length",
            )
        if not isinstance(value, str):
            raise ApiError(400, "Values of 'metadata' must be strings.", param=f"metadata.{key}", code="invalid_type")
        if len(value) > 512:
            raise ApiError(
                400,
                "A value of 'metadata' has more than 512 characters.",
                param=f"metadata.{key}",
                code="string_above_max_length",
            )
    return given


def expiry_seconds(given: Any, name: str) -> int | None:
    """Seconds of an `expires_after` object; None when it is absent."""
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("anchor") != "created_at":
        raise ApiError(400, f"'{name}' needs the anchor 'created_at'.", param=f"{name}.anchor", code="invalid_value")
    try:
        seconds = int(given.get("seconds", ""))
    except (TypeError, ValueError):
        seconds = -1
    if not 3_600 <= seconds <= 2_592_000:
        raise ApiError(
            400, f"'{name}' must lie between 3600 and 2592000 seconds.", param=f"{name}.seconds", code="invalid_value"
        )
    return seconds


def limit(given: str | None, default: int, most: int) -> int:
    """The `limit` of a list."""
    if given is None:
        return default
    if not given.isdecimal() or not 1 <= int(given[:9]) <= most:
        raise ApiError(400, f"'limit' must lie between 1 and {most}.", param="limit", code="invalid_value")
    return int(given)
