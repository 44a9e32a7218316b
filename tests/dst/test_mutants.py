"""A harness that cannot see a removed safety is worthless: each of these must be caught by at least one seed."""

from __future__ import annotations

import pytest

from tests.dst.mutants import MUTANTS, Mutant, applied
from tests.dst.test_schedules import play

pytestmark = pytest.mark.dst

SEEDS = 400


def caught(mutant: Mutant) -> tuple[str, int, str] | None:
    """World, seed and problem of the first schedule that notices; None: the mutant survives."""
    with applied(mutant):
        for seed in (*mutant.first, *range(SEEDS)):
            for world in mutant.worlds:
                result = play(world, seed)
                for problem in result.problems:
                    if mutant.word in problem:
                        return world, seed, problem
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_removed_safety_is_noticed(mutant: Mutant) -> None:
    assert caught(mutant) is not None, f"{SEEDS} seeds in {mutant.worlds} and nothing was noticed: {mutant.name}"


def test_the_harness_itself_reports_nothing_when_nothing_is_removed() -> None:
    nothing = Mutant("nothing", lambda: lambda: None)
    with applied(nothing):
        assert not any(play(world, seed).problems for world in nothing.worlds for seed in range(20))


def test_there_are_at_least_nine() -> None:
    assert len(MUTANTS) >= 9
