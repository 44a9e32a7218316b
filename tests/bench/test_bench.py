"""The benchmarks still run; what they measure is measured elsewhere, by hand, on a machine that has nothing else to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import measure
from bench.__main__ import row, vocabulary_at_hand
from bench.figures import FIGURES, TINY, Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), TINY, vocabulary_at_hand())


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_can_be_measured(
    figure: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(measure, "FRESH", False)
    lines = FIGURES[figure](bench)
    assert lines
    for line in lines:
        assert row(line).startswith(f"| {figure} | ")
        assert line.measured
