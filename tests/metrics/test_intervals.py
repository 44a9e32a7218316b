"""Intervals against published tables and values worked out by hand."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from batchling import metrics


@pytest.mark.parametrize(
    ("df", "quantile"),
    [
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (5, 2.57058),
        (10, 2.22814),
        (19, 2.09302),
        (30, 2.04227),
        (120, 1.97993),
    ],
)
def test_t_quantiles_are_those_of_the_tables(df: int, quantile: float) -> None:
    assert metrics.t_quantile(df) == pytest.approx(quantile, abs=6e-6 if df > 1 else 6e-5)


def test_t_quantiles_approach_the_normal_distributions() -> None:
    assert metrics.t_quantile(1_000_000) == pytest.approx(1.959966, abs=1e-5)
    assert metrics.t_quantile(10_000_000) == pytest.approx(1.959964, abs=1e-6)
    assert metrics.t_quantile(10, 0.99) == pytest.approx(3.16927, abs=1e-5)
    assert metrics.z_quantile() == pytest.approx(1.959964, abs=1e-6)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four: Newcombe 1998, Statistics in Medicine 17, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (8, 10, 0.4902, 0.9433),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_intervals_are_those_published(successes: int, n: int, low: float, high: float) -> None:
    assert metrics.wilson(successes, n) == pytest.approx((low, high), abs=5.1e-5)


def test_wilson_of_nothing_is_everything() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_mean_interval_is_students() -> None:
    # 1..5: mean 3, s = sqrt(2.5), 2.776445 * s / sqrt(5) = 1.963243
    assert metrics.mean_interval(3.0, 5, 5, 10.0) == pytest.approx((1.036757, 4.963243), abs=1e-5)
    assert metrics.mean_interval(3.0, 1, 1, 0.0) is None
    assert metrics.mean_interval(3.0, 4, 1, 0.0) is None


def test_repeats_that_agree_are_worth_one_row_each() -> None:
    # Ten rows asked five times, always the same answer, half of them right: sum of (5 - 2.5)^2 over 10 rows.
    worth = metrics.effective_n(50, 10, 0.5, 10 * 2.5**2)
    assert worth == pytest.approx(9.0)
    assert metrics.effective_n(50, 10, 1.0, 0.0) == 10


def test_repeats_that_say_nothing_about_each_other_are_worth_themselves() -> None:
    rng = random.Random(7)
    rows = [[rng.random() < 0.5 for _ in range(5)] for _ in range(4000)]
    n, p = 20_000, sum(map(sum, rows)) / 20_000
    worth = metrics.effective_n(n, 4000, p, sum((sum(row) - 5 * p) ** 2 for row in rows))
    assert worth == pytest.approx(n, rel=0.05)


def test_one_value_a_row_is_the_plain_interval() -> None:
    assert metrics.effective_n(50, 50, 0.5, 12.5) == 50


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    mean = sum(values) / 8
    squares = sum((v - mean) ** 2 for v in values)
    left_out = [(sum(values) - v) / 7 for v in values]
    assert metrics.jackknife_interval(mean, left_out) == pytest.approx(metrics.mean_interval(mean, 8, 8, squares))
    assert metrics.jackknife_interval(mean, [1.0]) is None
    assert metrics.jackknife_interval(mean, [1.0, math.nan]) is None


def test_wilson_covers_what_it_says() -> None:
    """Exact coverage at 95 %, summed over the binomial distribution: near what is promised for any share."""
    for n in (30, 200):
        for p in (0.1, 0.5, 0.93):
            covered = sum(
                math.comb(n, k) * p**k * (1 - p) ** (n - k)
                for k in range(n + 1)
                if metrics.wilson(k, n)[0] <= p <= metrics.wilson(k, n)[1]
            )
            assert 0.92 < covered < 0.985, (n, p)


def test_the_normal_quantile_is_the_standard_librarys() -> None:
    assert metrics.z_quantile(0.9) == NormalDist().inv_cdf(0.95)
