"""`--json`: one document on stdout, whatever the command. Money is text, so that no reader rounds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

from batchling.cli.shell import Shell


def plain(value: Any) -> Any:
    """A value of the API as JSON values: dataclasses as objects, decimals and paths as text, NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        shown = (f for f in fields(value) if not f.name.startswith("_") and f.metadata.get("printed", True))
        return {f.name: plain(getattr(value, f.name)) for f in shown}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def write(shell: Shell, value: Any) -> None:
    """Writes the command's one document."""
    import json

    shell.answered = True
    shell.out(json.dumps(plain(value), indent=2))
