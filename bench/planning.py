"""P1, P2, P3, P7 and P9: from rows to requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.loops import compile_rows
from bench.measure import Work


def _specs(experiment: str, overrides: list[str], multirun: bool = False) -> tuple[Any, Path]:
    from batchling.api.verbs import specs_of
    from batchling.config import find_project

    folder = Path(experiment)
    specs, _ = specs_of(folder, overrides, multirun=multirun, project=find_project(folder))
    return specs, folder / "runs"


def warm() -> None:
    """What a process does once, whatever it plans: imports and the vocabulary. Left out on both sides."""
    import duckdb  # noqa: F401
    import genai_prices  # noqa: F401

    from batchling.tokens import vocabulary

    vocabulary.encoding("o200k_base")


def loop(data: str, tokens: bool, target: str | None = None) -> Work:
    """The plain loop; with `target` it writes."""
    return compile_rows(data, tokens=tokens, target=target)  # type: ignore[no-any-return]


def plan(experiment: str, overrides: list[str]) -> Work:
    """`batchling plan`: snapshot, render, hash, count, price, pack; nothing is written."""
    from batchling.api.verbs import plan_specs

    warm()
    specs, runs = _specs(experiment, overrides)

    def work() -> dict[str, Any]:
        report = plan_specs(specs, runs)
        lane = report.lanes[0]
        return {"requests": report.requests, "cached": report.cached, "tokens": lane.input_tokens, "by": lane.tokens_by}

    return work


def compile_plan(experiment: str, overrides: list[str]) -> Work:
    """What `batchling run` does before it sends: the same, and request files, index, manifest and journal, fsynced."""
    from batchling.api.workspace import Workspace
    from batchling.runner.planning import open_plan

    warm()
    specs, runs = _specs(experiment, overrides)
    workspace = Workspace(runs)

    def work() -> dict[str, Any]:
        opened = open_plan(
            workspace.disk,
            workspace.clock,
            runs,
            specs,
            command="bench",
            fresh=True,
            refresh_stale=workspace.refresh_stale,
        )
        assert opened.totals is not None
        return {"requests": opened.totals.requests, "folder": str(opened.folder.path)}

    return work


def sweep(experiment: str, prompts: int, temperatures: int) -> Work:
    """P9: the points of a sweep, composed and planned; the points read the same rows, and equal requests are bought once."""
    from batchling.api.verbs import plan_specs, specs_of
    from batchling.config import find_project

    folder = Path(experiment)

    def work() -> dict[str, int]:
        grid = {
            "model.params.seed": list(range(prompts)),
            "model.max_output_tokens": list(range(300, 300 + temperatures)),
            "limits.poll_seconds": [30, 60],  # no part of a request: half of the points ask nothing new
        }
        specs, runs = specs_of(folder, [], sweep={"grid": grid}, project=find_project(folder))
        report = plan_specs(specs, runs)
        return {"points": report.runs, "rows": report.rows, "requests": report.requests, "twice": report.duplicates}

    return work
