"""Seeded fault schedules over the production code: nothing paid is lost, nothing is paid twice.

`pytest -m dst --schedules 10000` plays more of them; a failure names its seed, and
`pytest -m dst --seed slow:4711` plays that one again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal

import pytest

from tests.conftest import SUMMARY
from tests.dst.harness import WORLDS, Result, Schedule, run_schedule
from tests.dst.plans import run_house

pytestmark = pytest.mark.dst

SHARES = {
    "bounded": 0.13,
    "slow": 0.13,
    "hostile": 0.06,
    "sweep": 0.06,
    "hostile-default": 0.04,
    "unfenced": 0.04,
    "unmarked": 0.04,
    "clocks": 0.05,
    "gateway": 0.04,
    "lying-list": 0.08,
    "lying-batch": 0.08,
    "liar": 0.06,
    "forgetful": 0.04,
    "same-ids": 0.04,
    "plans": 0.05,
    "accounts": 0.03,
    "limits": 0.03,
}
"""Of all schedules, how many are played in each world."""

PLANS = "plans"

CHUNK = 50
POOL_FROM = 2000


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest) -> dict[str, list[Result]]:
    config = request.config
    chosen = config.getoption("--seed")
    if chosen:
        world, number = chosen.split(":")
        found = {world: [play(world, int(number))]}
    else:
        found = {}
        for world, result in _play(config.getoption("--schedules"), config.getoption("--workers")):
            found.setdefault(world, []).extend(result)
    config.stash[SUMMARY].extend(_table(found))
    return found


def play(world: str, seed: int) -> Result:
    """One schedule of a world; `plans` is the one in which a folder has several of them."""
    return run_house(seed) if world == PLANS else run_schedule(world, seed)


def run_many(world: str, seeds: range) -> list[Result]:
    """Several; what a worker process of the long lane does."""
    return [play(world, seed) for seed in seeds]


def _play(schedules: int, workers: int | None) -> Iterator[tuple[str, list[Result]]]:
    chunks = []
    for world, share in SHARES.items():
        count = max(1, round(schedules * share))
        chunks += [(world, range(first, min(first + CHUNK, count))) for first in range(0, count, CHUNK)]
    if workers is None:
        workers = (os.cpu_count() or 1) if schedules >= POOL_FROM else 1
    if workers == 1:
        for world, seeds in chunks:
            yield world, run_many(world, seeds)
        return
    with ProcessPoolExecutor(workers) as pool:
        running = [(world, pool.submit(run_many, world, seeds)) for world, seeds in chunks]
        for world, future in running:
            yield world, future.result()


def _table(found: dict[str, list[Result]]) -> list[str]:
    head = (
        f"{'world':<16}{'schedules':>10}{'rows':>9}{'requests':>10}{'faults':>9}{'kills':>8}{'parked':>8}"
        f"{'lost':>6}{'twice':>7}{'stuck':>7}  twice USD of spent"
    )
    lines = [head]
    for world, results in found.items():
        lost = sum("lost" in p for r in results for p in r.problems)
        stuck = sum("neither" in p for r in results for p in r.problems)
        spent = sum((r.spent_usd for r in results), Decimal(0))
        twice_usd = sum((r.twice_usd for r in results), Decimal(0))
        lines.append(
            f"{world:<16}{len(results):>10,}{sum(r.rows for r in results):>9,}{sum(r.requests for r in results):>10,}"
            f"{sum(r.faults.total() for r in results):>9,}{sum(r.kills for r in results):>8,}"
            f"{sum(bool(r.parked) for r in results):>8,}{lost:>6}{sum(r.twice for r in results):>7}{stuck:>7}"
            f"  {twice_usd:.2f} of {spent:.2f}"
        )
    return lines


def _problems(results: list[Result]) -> str:
    broken = [r for r in results if r.problems]
    shown = "\n".join(f"--seed {r.world}:{r.seed}  {r.problems[0]}" for r in broken[:10])
    return f"{len(broken)} of {len(results)} schedules broke a promise:\n{shown}" if broken else ""


@pytest.mark.parametrize("world", [*WORLDS, PLANS])
def test_every_schedule_keeps_the_promises_of_its_world(results: dict[str, list[Result]], world: str) -> None:
    if world not in results:
        pytest.skip("another world was chosen")
    assert not _problems(results[world])


def test_what_the_default_policy_risks_in_the_hostile_world_is_bounded(results: dict[str, list[Result]]) -> None:
    """A shard that is sent again because the clock said so costs at most `resubmit_usd` more, and the budget holds."""
    worlds = {"hostile-default": WORLDS["hostile-default"].resubmit_usd, "unfenced": Decimal(1)}
    if not worlds.keys() & results.keys():
        pytest.skip("another world was chosen")
    for world, most in worlds.items():
        for result in results.get(world, ()):
            assert result.twice_usd <= len(result.presumed) * most, result


def test_the_schedules_meet_every_kind_of_fault(
    results: dict[str, list[Result]], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--seed") or request.config.getoption("--schedules") < 200:
        pytest.skip("too few schedules to meet them all")
    seen: Counter[str] = Counter()
    for result in (r for each in results.values() for r in each):
        seen += result.faults
    wanted = {
        "404", "batch all_errors", "batch bad_lines", "batch cancelled", "batch expired", "batch failed",
        "batch throttled", "cancel lost", "create late", "create lost", "create refused", "create refused: key",
        "create twice", "create unheard", "delete lost", "delete unheard", "disk full", "download cut", "fsync fails",
        "list fails", "other people's batches", "read fails", "token limit at once", "upload lost", "upload refused",
        "upload unheard",
    }  # fmt: skip
    assert wanted <= set(seen), wanted - set(seen)
    assert any(r.kills for each in results.values() for r in each)


@pytest.mark.parametrize(
    ("world", "seed"), [("bounded", 3), ("slow", 5), ("hostile", 7), ("liar", 2), ("forgetful", 4), ("plans", 5)]
)
def test_a_seed_replays_its_schedule_exactly(world: str, seed: int) -> None:
    first = play(world, seed)
    again = play(world, seed)
    assert (first.trace, first.steps, first.faults) == (again.trace, again.steps, again.faults)
    assert play(world, seed + 1).trace != first.trace


def test_a_kill_at_any_single_step_of_a_quiet_life_loses_and_repeats_nothing() -> None:
    """No faults but one kill: at each of the steps in turn, with and without the power going too."""
    from batchling.testing import Faults

    quiet = Faults(row_invalid=0.3, row_retryable=0.2, run_seconds=(60.0, 600.0))
    steps = Schedule(WORLDS["bounded"], 1, faults=quiet, kill_at=()).run().steps
    broken = []
    for step in range(1, steps + 1):
        result = Schedule(WORLDS["bounded"], 1, faults=quiet, kill_at=(step,)).run()
        assert result.kills == 1
        if result.problems:
            broken.append((step, result.problems))
    assert steps > 100
    assert not broken
