"""Time that money depends on cannot be shortened by setting a clock."""

from __future__ import annotations

import time

import pytest

from batchling import clock
from batchling.clock import RealClock


def test_a_clock_that_was_set_back_starts_at_the_journals_last_event() -> None:
    real = RealClock()
    tomorrow = real.now() + 86_400.0
    real.not_before(tomorrow)
    assert real.now() >= tomorrow
    real.not_before(0.0)
    assert real.now() >= tomorrow


def test_setting_the_wall_clock_while_a_process_runs_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = RealClock()
    before = real.now()
    monkeypatch.setattr(time, "time", lambda: before + 1_000_000.0)
    assert real.now() - before < 1000.0


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system cannot tell")
def test_a_mark_is_measured_by_another_process_whatever_its_wall_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = RealClock().mark()
    assert mark is not None
    monkeypatch.setattr(time, "time", lambda: 5_000_000_000.0)
    elapsed = RealClock().elapsed(mark)
    assert elapsed is not None
    assert 0.0 <= elapsed < 60.0


def test_a_mark_of_before_the_machine_was_started_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_machine_start", lambda: "now")
    assert RealClock().elapsed("then/100.0") is None
