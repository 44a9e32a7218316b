"""The statistics of a comparison, against values worked out by hand or published."""

from __future__ import annotations

import math
import random
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.comparison import GROUPS, holm, mcnemar, paired_mean, paired_share, pareto


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (8, 1, 20 / 512), (6, 0, 2 / 64), (0, 10, 2 / 1024), (15, 5, 43_400 / 2**20)],
)
def test_mcnemar_is_the_exact_binomial(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-12)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_agrees_with_whole_numbers(gained: int, lost: int) -> None:
    n, few = gained + lost, min(gained, lost)
    exact = min(1.0, 2 * sum(comb(n, k) for k in range(few + 1)) / 2**n)
    assert mcnemar(gained, lost) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_mcnemar_of_a_million_rows_is_near_the_normal() -> None:
    z = 1_000 / math.sqrt(1_000_000)  # 1.0
    assert mcnemar(500_500, 499_500) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=1e-3)


def test_the_interval_of_two_shares_on_the_same_rows() -> None:
    # 100 rows, 12 gained, 4 lost: (12.5 - 4.5) / 102 ± 1.959964 x sqrt((17/102 - (8/102)²) / 102)
    found = paired_share(100, 12, 4)
    assert (found.value, found.gained, found.lost, found.n) == (0.08, 12, 4, 100)
    assert found.low == pytest.approx(0.000680, abs=1e-6) and found.high == pytest.approx(0.156182, abs=1e-6)
    assert found.p == pytest.approx(2 * sum(comb(16, k) for k in range(5)) / 2**16)


def test_equal_answers_differ_by_nothing() -> None:
    found = paired_share(50, 0, 0)
    assert (found.value, found.p) == (0.0, 1.0)
    assert paired_mean([0.0] * 50, random.Random(1)).p == 1.0


def test_the_bootstrap_is_near_the_t_interval_and_the_same_for_the_same_seed() -> None:
    rng = random.Random(7)
    values = [rng.gauss(0.3, 1.0) for _ in range(400)]
    found = paired_mean(values, random.Random(0))
    mean = math.fsum(values) / 400
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 399 / 400)
    assert found.value == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.966 * error, abs=0.15 * error)
    assert found.high == pytest.approx(mean + 1.966 * error, abs=0.15 * error)
    assert found.p is not None and found.p < 0.001
    assert paired_mean(values, random.Random(0)) == found


@pytest.mark.parametrize("n", [7, 3 * GROUPS])
def test_the_order_of_the_rows_changes_no_figure(n: int) -> None:
    """A query gives them in any order, and the same comparison must show the same figures."""
    rng = random.Random(3)
    values = [rng.choice((-1.0, 0.0, 0.5, 1.0)) for _ in range(n)]
    found = paired_mean(values, random.Random(0))
    for _ in range(3):
        rng.shuffle(values)
        assert paired_mean(values, random.Random(0)) == found


def test_many_rows_are_drawn_in_groups_with_the_same_spread() -> None:
    rng = random.Random(3)
    values = [rng.gauss(0.0, 1.0) for _ in range(20 * GROUPS)]
    found = paired_mean(values, random.Random(0))
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(len(values)), rel=0.1)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_rows_have_no_interval(n: int) -> None:
    found = paired_mean([0.5] * n, random.Random(0))
    assert (found.n, found.low, found.p) == (n, None, None)


def test_holm_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.5, 0.9]) == [None, 1.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_pareto_keeps_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    def beaten(a: tuple[int, int]) -> bool:
        return any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points)

    assert pareto(points) == [not beaten(point) for point in points]
