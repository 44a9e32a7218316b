"""P13 and P17: what the provider hears while batches wait. The clock is moved by whoever sleeps, so an hour takes a moment."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import stand_in, workload
from bench.measure import Work
from bench.planning import _specs

HOUR = 3600.0


class _Clock:
    """Implements `batchling.clock.Clock`: sleeping is instant, and an hour after the first look Ctrl-C is pressed."""

    def __init__(self) -> None:
        import time

        self.started = self.moment = time.time()
        self.until: float | None = None
        self.looks = 0

    def now(self) -> float:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += seconds
        self.looks += 1
        if self.until is not None and self.moment >= self.until:
            raise KeyboardInterrupt

    def not_before(self, moment: float) -> None:
        self.moment = max(self.moment, moment)

    def mark(self) -> str | None:
        return repr(self.moment)

    def elapsed(self, mark: str) -> float | None:
        return self.moment - float(mark)


def wait_an_hour(folder: str, batches: int) -> Work:
    """Sends a plan of so many batches, then waits for an hour in which none of them ends."""
    from batchling.api import ownership
    from batchling.api.execution import advance
    from batchling.api.workspace import Workspace
    from batchling.errors import DetachedError
    from batchling.runner.planning import open_plan

    place = Path(folder)
    stand_in.install(place / "adapter")
    data = place / "rows.csv"
    workload.write_rows(data, batches)
    provider = stand_in.config(place / "provider") | {"limits": {"creations_per_hour": None}}
    experiment = workload.experiment(
        place / "experiment", data, provider=provider, limits={"max_requests": 1}, tokens="off"
    )
    specs, runs = _specs(str(experiment), [])
    clock = _Clock()
    workspace = Workspace(runs, clock=clock)
    opened = open_plan(
        workspace.disk,
        clock,
        runs,
        specs,
        command="bench",
        refresh_stale=workspace.refresh_stale,
        remember=ownership.remember,
    )
    (place / "provider").mkdir(parents=True, exist_ok=True)
    (place / "provider" / "waiting").touch()
    advance(workspace, opened.folder, detach=True)

    def work() -> dict[str, Any]:
        stand_in.calls.clear()
        clock.looks = 0
        clock.until = clock.now() + HOUR
        with suppress(DetachedError):
            advance(workspace, opened.folder)
        journal = opened.folder.journal.stat().st_size
        return {"calls": dict(stand_in.calls), "looks": clock.looks, "journal_bytes": journal}

    return work
