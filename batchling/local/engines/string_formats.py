"""Strings in the formats that JSON Schema names and structured outputs support."""

from __future__ import annotations

from collections.abc import Callable

from batchling.local.engines.draws import Draws


def _date(draws: Draws) -> str:
    return f"20{draws.below(30):02d}-{1 + draws.below(12):02d}-{1 + draws.below(28):02d}"


def _time(draws: Draws) -> str:
    return f"{draws.below(24):02d}:{draws.below(60):02d}:{draws.below(60):02d}Z"


def _uuid(draws: Draws) -> str:
    text = f"{draws.below(1 << 128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[draws.below(4)]}{text[17:20]}-{text[20:]}"


def _host(draws: Draws) -> str:
    return f"{draws.words(1)}-{draws.below(100)}.example.com"


FORMATS: dict[str, Callable[[Draws], str]] = {
    "date": _date,
    "time": _time,
    "date-time": lambda draws: f"{_date(draws)}T{_time(draws)}",
    "duration": lambda draws: f"P{1 + draws.below(30)}DT{draws.below(24)}H",
    "email": lambda draws: f"{draws.words(1)}{draws.below(100)}@example.com",
    "hostname": _host,
    "uri": lambda draws: f"https://{_host(draws)}/{draws.words(1)}",
    "ipv4": lambda draws: f"192.0.2.{1 + draws.below(254)}",
    "ipv6": lambda draws: f"2001:db8::{1 + draws.below(0xFFFE):x}",
    "uuid": _uuid,
}
"""Addresses lie in the ranges that are reserved for examples."""
