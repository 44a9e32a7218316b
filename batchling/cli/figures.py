"""Numbers as a person reads them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

from batchling.cli.table import Number
from batchling.printable import printable


def usd(value: Decimal | None) -> Number:
    """USD with four decimals, more where that would show nothing; `?` when unknown.

    >>> usd(Decimal("1.5")), usd(Decimal("0.0000021")), usd(Decimal(0)), usd(None)
    ('1.5000', '0.0000021', '0', '?')
    """
    if value is None:
        return Number("?")
    if value == 0:
        return Number("0")
    if abs(value) < Decimal("0.001"):
        return Number(format(value.normalize(), "f"))
    return Number(f"{value.quantize(Decimal('0.0001'), rounding=ROUND_HALF_UP):,f}")


def reasons(unknown: Sequence[str]) -> str:
    """Why an amount beside is `?`, in parentheses; nothing where none is."""
    return f" (?: {printable('; '.join(unknown))})" if unknown else ""


def count(value: int | None) -> Number:
    """`12,345`; `?` when it was not counted."""
    return Number("?" if value is None else f"{value:,}")


def size(value: int) -> Number:
    """Bytes in decimal units: `12.3 MB`."""
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return Number(f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}")
        amount /= 1000
    return Number(f"{amount:,.1f} TB")


def duration(seconds: float) -> Number:
    """`12 s`, `3 min`, `5 h 20 min`, `2 d 3 h`."""
    total = max(0, round(seconds))
    if total < 120:
        return Number(f"{total} s")
    if total < 7200:
        return Number(f"{total // 60} min")
    if total < 172_800:
        return Number(f"{total // 3600} h {total % 3600 // 60} min")
    return Number(f"{total // 86_400} d {total % 86_400 // 3600} h")


def moment(seconds: float) -> str:
    """Unix seconds as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def plural(n: int, noun: str, many: str | None = None) -> str:
    """`1 batch`, `3 batches`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {many or noun + 's'}"
