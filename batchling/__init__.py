"""batchling: declarative LLM batch workloads.

>>> import batchling
>>> results = batchling.run("experiments/intent", overrides=["data.limit=100"])   # doctest: +SKIP
>>> results.metrics["accuracy"].value, results.df()                               # doctest: +SKIP

Importing this module costs nothing: everything is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchling.api.outcome import Outcome, PlanReport, PlanStatus
    from batchling.errors import BatchlingError
    from batchling.experiments import cancel, load, plan, query, run, status, watch
    from batchling.manager import Experiment, ExperimentManager
    from batchling.project import Project
    from batchling.results import Results

__all__ = [
    "BatchlingError",
    "Experiment",
    "ExperimentManager",
    "Outcome",
    "PlanReport",
    "PlanStatus",
    "Project",
    "Results",
    "__version__",
    "cancel",
    "load",
    "plan",
    "query",
    "run",
    "status",
    "watch",
]

_WHERE = {
    "BatchlingError": "errors",
    "Experiment": "manager",
    "ExperimentManager": "manager",
    "Outcome": "api.outcome",
    "PlanReport": "api.outcome",
    "PlanStatus": "api.outcome",
    "Project": "project",
    "Results": "results",
    "cancel": "experiments",
    "load": "experiments",
    "plan": "experiments",
    "query": "experiments",
    "run": "experiments",
    "status": "experiments",
    "watch": "experiments",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("batchling")
    if name in _WHERE:
        return getattr(import_module(f"batchling.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
