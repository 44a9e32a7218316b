"""A plan's name: "the newest" goes by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchling.disk import RealDisk
from batchling.packing import plan_id
from batchling.runner.folder import moment_after

NOW = 1_790_000_000.25


def name(moment: float) -> str:
    return plan_id("x", moment, "identity", b"nonce")


@pytest.mark.parametrize(
    ("others", "after"),
    [
        ([], NOW),
        ([-3600.0, -1.0], NOW),
        ([0.0], NOW),
        ([0.0, 1.0, 2.0], NOW + 2.0),
        ([-5.0, 30.0], NOW + 30.0),
        ([7200.0], NOW),
    ],
)
def test_a_new_plan_s_name_sorts_behind_those_of_the_same_minute(
    tmp_path: Path, others: list[float], after: float
) -> None:
    for offset in others:
        (tmp_path / name(NOW + offset)).mkdir()
    (tmp_path / "catalog.duckdb").touch()
    moment = moment_after(NOW, RealDisk(), tmp_path)
    near = [name(NOW + offset) for offset in others if offset <= 60.0]
    assert all(name(moment) > other for other in near)
    assert after <= moment <= after + 1.0


def test_what_only_looks_like_a_plan_s_name_is_left_alone(tmp_path: Path) -> None:
    stamp = name(NOW)[:13]
    (tmp_path / f"{stamp}99-not-a-moment").mkdir()
    assert moment_after(NOW, RealDisk(), tmp_path) == NOW
