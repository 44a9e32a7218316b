"""A wait without progress is told after a minute, and then after growing pauses."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from batchling import disk
from batchling.cli.progress import Lines
from batchling.errors import WaitingWarning
from batchling.runner.session import Session
from batchling.waiting import Wait
from tests.servers.batches import Ending
from tests.servers.scripted import refuse
from tests.workbench import Workbench

SLOW = Ending(statuses=("in_progress",) * 150)


def test_32_an_observer_hears_of_it_after_a_minute_and_then_more_and_more_rarely(bench: Workbench) -> None:
    told: list[tuple[float, str]] = []

    class Watching(Lines):
        def waiting(self, session: Session, found: Sequence[Wait]) -> None:
            told.extend((bench.clock.passed, wait.text(session.clock.now())) for wait in found)

    bench.server.endings = [SLOW]
    assert bench.run(observer=Watching(write=lambda text: None)).exit_code == 0
    moments = [moment for moment, _ in told]
    gaps = [after - before for before, after in pairwise(moments)]
    assert moments[0] >= 60 and len(told) >= 4
    assert all(later >= 1.5 * sooner for sooner, later in pairwise(gaps))
    assert "batch batch_0001 (shard 1)" in told[0][1] and "batchling cancel" in told[0][1]


def test_32_plain_lines_say_it(bench: Workbench) -> None:
    lines: list[str] = []
    bench.server.endings = [SLOW]
    bench.run(observer=Lines(write=lines.append))
    assert any("waiting for batch batch_0001" in line and "Ctrl-C stops watching" in line for line in lines)


def test_32_a_program_without_an_observer_is_warned(bench: Workbench) -> None:
    bench.server.endings = [SLOW]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bench.run()
    heard: list[Any] = [w.message for w in caught if w.category is WaitingWarning]
    assert heard and "batch_0001" in str(heard[0])


def test_32_what_goes_quickly_is_not_told(bench: Workbench) -> None:
    lines: list[str] = []
    bench.run(observer=Lines(write=lines.append))
    assert not [line for line in lines if "waiting for" in line]


def test_32_the_same_trouble_is_told_now_and_then_and_not_at_every_look(bench: Workbench) -> None:
    lines: list[str] = []
    bench.server.on("GET", "/v1/batches/*", refuse(404, None, "No batch found"))
    bench.run(observer=Lines(write=lines.append, monotonic=lambda: bench.clock.passed))
    told = [line for line in lines if line.startswith("the provider answered 404")]
    assert len(bench.server.requests("GET", "/v1/batches/*")) > 12
    assert 2 <= len(told) <= 8
    waiting = [line for line in lines if "waiting for batch batch_0001" in line]
    assert any("at most" in line for line in waiting) and not any("no end set" in line for line in waiting[1:])


class Clock:
    """The machine's time; whoever waits long enough sees the other process end."""

    def __init__(self, ends: Any) -> None:
        self.passed, self.ends = 0.0, ends

    def monotonic(self) -> float:
        return self.passed

    def strftime(self, form: str) -> str:
        return form

    def sleep(self, seconds: float) -> None:
        self.passed += max(seconds, 5.0)
        if self.passed > 1000:
            self.ends()


def test_32_a_wait_for_another_process_that_makes_a_plan_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = disk.RealDisk().lock(tmp_path / "lock")
    monkeypatch.setattr(disk, "time", Clock(held.release))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        disk.RealDisk().lock(tmp_path / "lock", wait=True).release()
    heard = [str(w.message) for w in caught if w.category is WaitingWarning]
    assert 3 <= len(heard) <= 6
    assert "process" in heard[0] and str(tmp_path / "lock") in heard[0]
