"""Statistics of a comparison: how sure a difference between two points is, and which points are worth their price.

Two points that answered the same rows are compared row by row, because rows differ in difficulty far more than points do:

========================================= ======================================================================
a yes or no for each row                  McNemar's exact test (binomial, two-sided) on the rows where they differ;
                                          Agresti and Min's interval (Wald's, half a row added to each cell)
a number, or the mean of several repeats  paired bootstrap over rows: percentile interval, and twice the smaller
                                          share of resamples on one side of zero
========================================= ======================================================================

Everything here is pure: randomness is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from batchling.metrics import CONFIDENCE, z_quantile

RESAMPLES = 2_000

GROUPS = 1_000
"""Rows, or random groups of rows, that the bootstrap draws from: the spread of groups tells that of rows, at any number of rows."""

MCNEMAR = "McNemar exact"
BOOTSTRAP = "paired bootstrap"


class Draws(Protocol):
    """Where randomness comes from: `random.Random(seed)` is one."""

    def choices(self, population: Sequence[int], *, k: int) -> list[int]: ...
    def shuffle(self, x: list[float]) -> None: ...


@dataclass(frozen=True, slots=True)
class Difference:
    """A point minus the baseline, over the rows that both have.

    Attributes:
        n: rows.
        low, high: 95 % interval; p: two-sided; None where there is too little to say.
        gained, lost: rows that only the point, only the baseline has right (McNemar).
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    method: str
    gained: int | None = None
    lost: int | None = None


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p of McNemar's exact test: how likely a split at least as uneven is when both are equally good.

    >>> round(mcnemar(8, 1), 6)
    0.039062
    """
    n, few = gained + lost, min(gained, lost)
    if 2 * few >= n:
        return 1.0
    # The binomial tail from its largest term downwards; terms below the smallest that matters are left out.
    term = math.exp(math.lgamma(n + 1) - math.lgamma(few + 1) - math.lgamma(n - few + 1) - n * math.log(2))
    total, k = 0.0, few
    while term > 0.0 and term > total * 1e-17:
        total += term
        if k == 0:
            break
        term *= k / (n - k + 1)
        k -= 1
    return min(1.0, 2 * total)


def paired_share(n: int, gained: int, lost: int, confidence: float = CONFIDENCE) -> Difference:
    """The difference of two shares over the same `n` rows.

    Args:
        gained: rows that only the point has right; lost: that only the baseline has right.
    """
    if n == 0:
        return Difference(None, None, None, None, 0, MCNEMAR, 0, 0)
    size = n + 2
    b, c = (gained + 0.5) / size, (lost + 0.5) / size
    half = z_quantile(confidence) * math.sqrt(max(0.0, b + c - (b - c) ** 2) / size)
    low, high = max(-1.0, b - c - half), min(1.0, b - c + half)
    return Difference((gained - lost) / n, low, high, mcnemar(gained, lost), n, MCNEMAR, gained, lost)


def paired_mean(
    differences: Sequence[float], draws: Draws, *, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Difference:
    """The mean of row-by-row differences, with a bootstrap over the rows. Their order does not matter.

    Args:
        differences: the point's value minus the baseline's, a row each.
        draws: the same seed gives the same figures.
    """
    n = len(differences)
    if n == 0:
        return Difference(None, None, None, None, 0, BOOTSTRAP)
    mean = math.fsum(differences) / n
    if n < 2:
        return Difference(mean, None, None, None, n, BOOTSTRAP)
    if min(differences) == max(differences):
        return Difference(mean, mean, mean, 1.0 if mean == 0 else None, n, BOOTSTRAP)
    sums, sizes = _grouped(sorted(differences), draws)  # a query may give the rows in any order
    places = range(len(sums))
    means = []
    for _ in range(resamples):
        chosen = draws.choices(places, k=len(sums))
        means.append(sum(map(sums.__getitem__, chosen)) / sum(map(sizes.__getitem__, chosen)))
    means.sort()
    tail = (1 - confidence) / 2
    below = sum(1 for value in means if value <= 0)
    above = sum(1 for value in means if value >= 0)
    p = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return Difference(mean, _quantile(means, tail), _quantile(means, 1 - tail), p, n, BOOTSTRAP)


def _grouped(differences: list[float], draws: Draws) -> tuple[list[float], list[int]]:
    if len(differences) <= GROUPS:
        return differences, [1] * len(differences)
    draws.shuffle(differences)
    groups = [differences[start::GROUPS] for start in range(GROUPS)]
    return [math.fsum(group) for group in groups], [len(group) for group in groups]


def _quantile(values: Sequence[float], share: float) -> float:
    """By linear interpolation between sorted values."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number, by Holm's step-down method. None stays None and does not count.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    found: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        found[i] = largest
    return found


def pareto(points: Sequence[Sequence[float] | None]) -> list[bool]:
    """Which points no other beats: none is as good in everything and better in something. Larger is better; None is never best.

    >>> pareto([(0.9, -2.0), (0.8, -1.0), (0.8, -3.0), None])
    [True, True, False, False]
    """
    distinct = sorted({tuple(point) for point in points if point is not None}, reverse=True)
    best: list[tuple[float, ...]] = []
    for point in distinct:  # whatever beats a point comes before it
        if not any(all(theirs >= ours for theirs, ours in zip(other, point, strict=True)) for other in best):
            best.append(point)
    kept = set(best)
    return [point is not None and tuple(point) in kept for point in points]
