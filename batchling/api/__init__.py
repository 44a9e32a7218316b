"""The Python API, which the command line is a thin shell over.

Nothing heavy is imported before a verb is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchling.api.verbs import cancel, plan, remove, resolve, run, status, statuses, watch

_VERBS = ("cancel", "plan", "plan_specs", "remove", "resolve", "run", "run_specs", "status", "statuses", "watch")

__all__ = ["cancel", "plan", "remove", "resolve", "run", "status", "statuses", "watch"]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        from batchling.api import verbs

        return getattr(verbs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
