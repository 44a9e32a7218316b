"""Our statistics beside those of scipy and statsmodels, over random input and over the edges.

What ships computes them by itself, because a command line cannot wait for scipy's import.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batchling import comparison, metrics

np = pytest.importorskip("numpy", reason="the oracles come with the dev extra")
stats = pytest.importorskip("scipy.stats", reason="the oracles come with the dev extra")
sm = pytest.importorskip("statsmodels.api", reason="the oracles come with the dev extra")

from statsmodels.stats.contingency_tables import mcnemar  # noqa: E402
from statsmodels.stats.multitest import multipletests  # noqa: E402
from statsmodels.stats.proportion import proportion_confint  # noqa: E402
from statsmodels.stats.weightstats import DescrStatsW  # noqa: E402

CONFIDENCES = st.sampled_from([0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)
CLUSTERS = st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=5), min_size=2, max_size=30)
SHARES = st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=2, max_size=40)


NOTHING = 1e-280
"""Below it, scipy's binomial rounds to zero where ours still has digits."""


def clustered(values: Sequence[Sequence[float]]) -> Any:
    """The mean of values in clusters, by statsmodels: a regression on a constant with errors robust to the clusters."""
    flat = [float(value) for cluster in values for value in cluster]
    groups = [i for i, cluster in enumerate(values) for _ in cluster]
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # where every value is the same, it divides by zero for statistics that are not used here
        return sm.OLS(flat, np.ones(len(flat))).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)


def squares(values: Sequence[Sequence[float]], mean: float) -> float:
    return math.fsum((sum(cluster) - len(cluster) * mean) ** 2 for cluster in values)


# Quantiles -----------------------------------------------------------------------------------------------------


@given(st.floats(0.001, 0.999999))
def test_the_normal_quantile_is_scipys(confidence: float) -> None:
    assert metrics.z_quantile(confidence) == pytest.approx(stats.norm.ppf(0.5 + confidence / 2), rel=1e-9)


@given(st.one_of(st.integers(1, 60), st.integers(61, 10_000_000)), CONFIDENCES)
def test_the_t_quantile_is_scipys(df: int, confidence: float) -> None:
    assert metrics.t_quantile(df, confidence) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, df), rel=1e-8)


@pytest.mark.parametrize("df", [1, 2, 3, 999_999, 1_000_000, 1_000_001, 10**9, 10**12])
def test_the_t_quantile_is_scipys_at_the_edges(df: int) -> None:
    for confidence in (0.5, 0.95, 0.999999):
        assert metrics.t_quantile(df, confidence) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, df), rel=1e-8)


# Intervals of one run ------------------------------------------------------------------------------------------


@given(st.integers(1, 10**9), st.floats(0, 1), CONFIDENCES)
def test_wilsons_interval_is_scipys_and_statsmodels(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    ours = metrics.wilson(successes, n, confidence)
    theirs = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours == pytest.approx(proportion_confint(successes, n, 1 - confidence, "wilson"), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 10, 10_000])
def test_wilsons_interval_is_scipys_where_all_or_nothing_is_right(n: int) -> None:
    for successes in (0, n):
        theirs = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert metrics.wilson(successes, n) == pytest.approx((theirs.low, theirs.high), abs=1e-14)


@given(st.lists(NUMBERS, min_size=2, max_size=50), CONFIDENCES)
def test_the_interval_of_a_mean_is_statsmodels(values: list[float], confidence: float) -> None:
    mean = math.fsum(values) / len(values)
    ours = metrics.mean_interval(mean, len(values), len(values), math.fsum((v - mean) ** 2 for v in values), confidence)
    theirs = DescrStatsW(values).tconfint_mean(1 - confidence)
    assert ours == pytest.approx(theirs, rel=1e-7, abs=1e-9 * (1 + max(map(abs, values))))


@settings(max_examples=30)
@given(CLUSTERS)
def test_the_interval_of_a_mean_over_repeats_is_a_cluster_robust_regressions(values: list[list[int]]) -> None:
    n = sum(map(len, values))
    mean = sum(map(sum, values)) / n
    ours = metrics.mean_interval(mean, n, len(values), squares(values, mean))
    assert ours == pytest.approx(tuple(clustered(values).conf_int()[0]), rel=1e-7, abs=1e-9)


@settings(max_examples=30)
@given(SHARES)
def test_a_share_over_repeats_is_worth_as_many_rows_as_its_cluster_robust_error_says(values: list[list[bool]]) -> None:
    n = sum(map(len, values))
    share = sum(map(sum, values)) / n
    error = float(clustered(values).bse[0])
    assume(0 < share < 1 and error > 1e-9 and n > len(values))
    expected = min(float(n), max(1.0, share * (1 - share) / error**2))
    assert metrics.effective_n(n, len(values), share, squares(values, share)) == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=40))
def test_the_jackknife_of_a_mean_has_scipys_standard_error(values: list[int]) -> None:
    n, total = len(values), sum(values)
    found = metrics.jackknife_interval(total / n, [(total - v) / (n - 1) for v in values])
    assert found is not None
    half = stats.t.ppf(0.975, n - 1) * float(stats.sem(values))
    assert found == pytest.approx((total / n - half, total / n + half), rel=1e-7, abs=1e-7)


# Differences between two runs ----------------------------------------------------------------------------------


@given(st.integers(0, 5_000), st.integers(0, 5_000))
def test_mcnemars_p_is_scipys_and_statsmodels(gained: int, lost: int) -> None:
    ours = comparison.mcnemar(gained, lost)
    assume(gained + lost > 0)
    assert ours == pytest.approx(stats.binomtest(gained, gained + lost, 0.5).pvalue, rel=1e-8, abs=NOTHING)
    assert ours == pytest.approx(mcnemar([[7, gained], [lost, 7]], exact=True).pvalue, rel=1e-8, abs=NOTHING)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (0, 1), (1, 1), (0, 2_000), (10**6, 1), (500_500, 499_500)])
def test_mcnemars_p_is_scipys_at_the_edges(gained: int, lost: int) -> None:
    theirs = stats.binomtest(gained, gained + lost, 0.5).pvalue
    assert comparison.mcnemar(gained, lost) == pytest.approx(theirs, rel=1e-8, abs=1e-300)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 2_000), CONFIDENCES)
def test_the_interval_of_a_paired_share_is_walds_on_half_a_row_more_each(
    gained: int, lost: int, same: int, confidence: float
) -> None:
    n = gained + lost + same
    assume(n > 0)
    found = comparison.paired_share(n, gained, lost, confidence)
    # Agresti and Min (2005), Statistics in Medicine 24: a half to each of the four cells, two of which are "the same".
    weighted = DescrStatsW([1.0, -1.0, 0.0], weights=[gained + 0.5, lost + 0.5, same + 1.0])
    half = stats.norm.ppf(0.5 + confidence / 2) * math.sqrt(float(weighted.var) / (n + 2))
    low, high = max(-1.0, float(weighted.mean) - half), min(1.0, float(weighted.mean) + half)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)
    assert found.value is not None and found.low is not None and found.high is not None
    assert confidence < 0.9 or found.low <= found.value <= found.high


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n", [30, 400, 3 * comparison.GROUPS])
def test_the_bootstrap_gives_scipys_percentile_interval(n: int, seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.choice([rng.gauss(0.2, 1.0), rng.expovariate(1.0)]) for _ in range(n)]
    ours = comparison.paired_mean(values, random.Random(seed), resamples=4_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4_000, method="percentile", rng=np.random.default_rng(seed)
    )
    error = float(stats.sem(values))
    assert ours.value == pytest.approx(float(np.mean(values)))
    # Both draw at random: the bounds of 4,000 resamples are known to about 0.05 standard errors.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.25 * error)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.25 * error)


@pytest.mark.parametrize("shift", [-2.0, -1.0, 0.0, 0.5, 1.5, 2.5])
def test_the_bootstraps_p_is_near_the_paired_t_tests(shift: float) -> None:
    """400 normal differences whose mean is exactly `shift` standard errors from zero."""
    drawn = np.random.default_rng(5).normal(size=400)
    centred = (drawn - drawn.mean()) / stats.sem(drawn)
    values = [float(v) for v in centred + shift]
    theirs = float(stats.ttest_1samp(values, 0).pvalue)
    ours = comparison.paired_mean(values, random.Random(0), resamples=8_000).p
    assert ours == pytest.approx(theirs, abs=0.03)


@given(st.lists(NUMBERS, min_size=1, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], share: float) -> None:
    found = comparison._quantile(sorted(values), share)
    assert found == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5])
def test_rows_that_differ_by_the_same_have_a_mean_without_spread(value: float) -> None:
    found = comparison.paired_mean([value] * 20, random.Random(0))
    assert (found.value, found.low, found.high) == (value, value, value)
    assert found.p == (1.0 if value == 0 else None)


# Corrections ---------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.0, 0.05, 1.0])), max_size=30))
def test_holms_correction_is_statsmodels(values: list[float | None]) -> None:
    ours = comparison.holm(values)
    known = [p for p in values if p is not None]
    theirs = list(multipletests(known, method="holm")[1]) if known else []
    assert [p for p in ours if p is not None] == pytest.approx(theirs, rel=1e-12, abs=1e-300)
    assert [p is None for p in ours] == [p is None for p in values]
