"""`batchling compare`: the points of one or several plans side by side, and how sure their differences are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from batchling import catalog, metrics
from batchling.api.execution import reports_of
from batchling.api.outcome import MetricValue, RunReport
from batchling.api.workspace import Workspace
from batchling.catalog import plan_files
from batchling.comparison import RESAMPLES, Difference, holm, paired_mean, paired_share, pareto
from batchling.errors import UsageError
from batchling.metrics import Kind
from batchling.plan_document import PlanRun
from batchling.runner.folder import PlanFolder


@dataclass(frozen=True, slots=True)
class PointReport:
    """One point: a run, or with `by` all runs that agree in these keys.

    Attributes:
        name: its overrides that not every point has, or the values it is grouped by.
        records: rows x repeats over its runs; ok_share: the share of them that are ok.
        cost_usd: of its answers, whenever they were bought; None when a price is unknown.
        seconds: from the plan's making to the end of the last batch that its requests were in (batches are shared with
            other points of the same provider and model); None when everything was answered before.
        best: no other point is at least as good in every metric that counts and in cost, and better in one.
    """

    name: str
    run_ids: tuple[str, ...]
    values: Mapping[str, str]
    providers: tuple[str, ...]
    models: tuple[str, ...]
    records: int
    states: Mapping[str, int]
    ok_share: float
    metrics: tuple[MetricValue, ...]
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    usd_per_1000: Decimal | None
    seconds: float | None
    best: bool = False
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class PairReport:
    """A point against the baseline, in one metric. `p_holm`: p corrected for the number of points compared."""

    metric: str
    point: str
    baseline: str
    difference: Difference
    p_holm: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Points, best first in the first metric that counts; and each against the baseline.

    Attributes:
        higher: metrics in which more is better; lower: in which less is. Cost counts too, where it is known.
        notes: how the figures came about, a sentence each.
    """

    plans: tuple[str, ...]
    by: tuple[str, ...]
    points: tuple[PointReport, ...]
    pairs: tuple[PairReport, ...]
    higher: tuple[str, ...]
    lower: tuple[str, ...]
    simulated: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a plan: what its plan.json says, and its summary."""

    folder: PlanFolder
    run: PlanRun
    report: RunReport
    seconds: float | None
    simulated: bool


Cells = dict[Any, tuple[float, int]]
"""Row → (sum of its values, how many there are)."""


def compare(
    plans: Sequence[str] = (),
    *,
    runs: Path,
    by: Sequence[str] = (),
    baseline: str | None = None,
    higher: Sequence[str] | None = None,
    lower: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Compares the points of plans, as far as their answers are there.

    Args:
        plans: plans, runs or experiments' names; none: the newest plan.
        by: override keys (`model`, `prompt`, `model.params.temperature`); runs that agree in them are one point.
        baseline: a run, which every other point is compared with; None: the first point.
        higher, lower: metrics that count for being best; None: higher is better in every yes-or-no metric.
        seed: of the bootstrap.

    Raises:
        UsageError: no such plan, key, metric or baseline, or nothing to compare yet.
    """
    found = _runs(Workspace(runs), plans)
    groups = _grouped(found, by)
    kinds, cells = _cells(found)
    known = list(dict.fromkeys(m.name for run in found for m in run.report.metrics))
    up, down = _directions(known, kinds, higher, lower)
    points = [_point(name, values, members, kinds, cells) for name, values, members in groups]
    points = _marked(points, up, down, _base(groups, baseline))
    order = [*up, *down]
    pairs = _pairs(
        points, {p.name: members for p, (_, _, members) in zip(points, groups, strict=True)}, kinds, cells, seed
    )
    if order:
        points.sort(key=lambda point: _rank(point, order[0], less=order[0] in down))
    return Comparison(
        plans=tuple(dict.fromkeys(run.folder.plan_id for run in found)),
        by=tuple(by),
        points=tuple(points),
        pairs=tuple(pairs),
        higher=tuple(up),
        lower=tuple(down),
        simulated=any(run.simulated for run in found),
        notes=tuple(_notes(points, pairs, kinds, up, down)),
    )


def _runs(workspace: Workspace, references: Sequence[str]) -> list[_Run]:
    found: dict[tuple[str, str], _Run] = {}
    for reference in references or [workspace.find(None).plan_id]:
        named = catalog.resolve(workspace.runs, reference)
        folder = PlanFolder(named.plan_dir)
        summary = catalog.read_summary(folder.path)
        if summary is None or summary.stale or not plan_files.has_records(folder.path):
            workspace.refresh(folder)
        document = folder.load(workspace.disk)
        reports = {report.run_id: report for report in reports_of(folder.path)}
        seconds = _seconds(workspace, folder)
        for run in document.runs:
            if named.run_id in (None, run.run_id) and run.run_id in reports:
                one = _Run(folder, run, reports[run.run_id], seconds.get(run.lane), document.simulated)
                found.setdefault((folder.plan_id, run.run_id), one)
    if not found:
        raise UsageError("there is nothing to compare yet", next_command="batchling status")
    return list(found.values())


def _seconds(workspace: Workspace, folder: PlanFolder) -> dict[int, float]:
    """Lane → seconds from the plan's making to the end of its last batch."""
    state = workspace.state(folder)
    found: dict[int, float] = {}
    for shard, attempt in state.attempts():
        if attempt.ended_at is not None:
            found[shard.lane] = max(found.get(shard.lane, 0.0), attempt.ended_at - state.created_ts)
    return found


# -- what a point is


def _grouped(runs: Sequence[_Run], by: Sequence[str]) -> list[tuple[str, dict[str, str], list[_Run]]]:
    """Points in the order of their first runs: name, values of the keys, runs."""
    several = len({run.folder.plan_id for run in runs}) > 1
    common = set.intersection(*(set(run.run.overrides) for run in runs)) if len(runs) > 1 else set()
    groups: dict[str, tuple[dict[str, str], list[_Run]]] = {}
    for run in runs:
        values = {key: _value(run.run, key, runs) for key in by}
        name = ", ".join(f"{key}={value}" for key, value in values.items())
        if not by:
            own = " ".join(text for text in run.run.overrides if text not in common)
            name = own or run.report.run_id
            if (several or name in groups) and own:
                name = f"{run.report.run_id} {own}"
        groups.setdefault(name, (values, []))[1].append(run)
    return [(name, values, members) for name, (values, members) in groups.items()]


def _value(run: PlanRun, key: str, runs: Sequence[_Run]) -> str:
    """What a run has for an override key: as it was overridden, else as its config says."""
    given = run.overridden(key)
    if given is not None:
        return given
    if key in ("model", "provider"):
        return run.model if key == "model" else run.provider
    try:
        found = run.configured(key)
    except KeyError:
        if any(each.run.overridden(key) is not None for each in runs):
            return "(not set)"
        keys = sorted({text.lstrip("+~").partition("=")[0] for each in runs for text in each.run.overrides})
        raise UsageError(f"--by {key}: no run has it; overridden are: {', '.join(keys) or 'none'}") from None
    return "(as in the experiment)" if isinstance(found, Mapping) else str(found)


def _base(groups: Sequence[tuple[str, dict[str, str], list[_Run]]], baseline: str | None) -> int:
    if baseline is None:
        return 0
    for number, (name, _, members) in enumerate(groups):
        if baseline == name or any(run.report.run_id == baseline for run in members):
            return number
    words = set(baseline.split())
    close = {
        n
        for n, (name, _, members) in enumerate(groups)
        for run in members
        if run.report.run_id.startswith(baseline) or words <= {*name.split(), *run.run.overrides}
    }
    if len(close) == 1:
        return close.pop()
    found = "no such point" if not close else f"{len(close)} points"
    raise UsageError(f"--baseline {baseline}: {found} here; there are {', '.join(name for name, _, _ in groups[:8])}")


def _point(
    name: str,
    values: dict[str, str],
    runs: Sequence[_Run],
    kinds: Mapping[str, Kind],
    cells: Mapping[tuple[str, str], Cells],
) -> PointReport:
    reports = [run.report for run in runs]
    states: dict[str, int] = {}
    for report in reports:
        for state, n in report.states.items():
            states[state] = states.get(state, 0) + n
    records = sum(states.values())
    cost = _sum([report.cost_usd for report in reports], Decimal(0))
    times = [run.seconds for run in runs if run.seconds is not None]
    return PointReport(
        name=name,
        run_ids=tuple(report.run_id for report in reports),
        values=values,
        providers=tuple(dict.fromkeys(report.provider for report in reports)),
        models=tuple(dict.fromkeys(report.model for report in reports)),
        records=records,
        states=states,
        ok_share=states.get("ok", 0) / records if records else 0.0,
        metrics=reports[0].metrics if len(reports) == 1 else _pooled(reports, kinds, cells),
        input_tokens=_sum([report.input_tokens for report in reports], 0),
        output_tokens=_sum([report.output_tokens for report in reports], 0),
        cost_usd=cost,
        usd_per_1000=None if cost is None or not records else 1000 * cost / records,
        seconds=max(times) if times else None,
    )


def _sum(values: Sequence[Any], zero: Any) -> Any:
    """None where one of them is not known."""
    return None if any(value is None for value in values) else sum(values, zero)


# -- metrics, row by row


def _cells(runs: Sequence[_Run]) -> tuple[dict[str, Kind], dict[tuple[str, str], Cells]]:
    """Kind of each metric, and (metric, run) → its values by row.

    Rows of one data set are told apart by their place; where there are several, by id and content.
    """
    several = len({run.run.data_sha256 for run in runs}) > 1
    kinds: dict[str, Kind] = {}
    cells: dict[tuple[str, str], Cells] = {}
    by_plan: dict[Path, list[_Run]] = {}
    for run in runs:
        by_plan.setdefault(run.folder.path, []).append(run)
    for path, members in by_plan.items():
        files = plan_files.load(path)
        if not plan_files.has_records(path):
            continue
        marks: dict[str, dict[int, str]] = {}
        if several:
            by_data = {run.run.data_sha256: run.report.run_id for run in members}
            with plan_files.reading_records(path):
                read = {data: catalog.row_marks(files, run_id) for data, run_id in by_data.items()}
            marks = {run.report.run_id: read[run.run.data_sha256] for run in members}
        with plan_files.reading_records(path):
            values = catalog.row_values(files, [run.report.run_id for run in members])
        for metric in values:
            if kinds.setdefault(metric.name, metric.kind) is not metric.kind:
                continue  # another plan means something else by this name
            for run_id, found in metric.runs.items():
                places: Sequence[Any] = found.rows
                if several:
                    names = marks[run_id]
                    places = [names[row] for row in found.rows]
                cells[metric.name, run_id] = dict(
                    zip(places, zip(found.totals, found.counts, strict=True), strict=True)
                )
    return kinds, cells


def _together(run_ids: Sequence[str], metric: str, cells: Mapping[tuple[str, str], Cells]) -> Cells:
    """The values of several runs, by row."""
    if len(run_ids) == 1:
        return cells.get((metric, run_ids[0]), {})
    found: Cells = {}
    for run_id in run_ids:
        for row, (total, n) in cells.get((metric, run_id), {}).items():
            before = found.get(row, (0.0, 0))
            found[row] = before[0] + total, before[1] + n
    return found


def _pooled(
    reports: Sequence[RunReport], kinds: Mapping[str, Kind], cells: Mapping[tuple[str, str], Cells]
) -> tuple[MetricValue, ...]:
    """Each metric over several runs; a row's answers in all of them are one cluster."""
    found = []
    run_ids = [report.run_id for report in reports]
    for name in dict.fromkeys(m.name for report in reports for m in report.metrics):
        kind = kinds.get(name)
        if kind is None or kind is Kind.AGGREGATE:
            why = "an aggregate has no value over several runs" if kind is Kind.AGGREGATE else "it failed"
            found.append(MetricValue(name, None, None, None, 0, 0.0, why))
            continue
        rows = list(_together(run_ids, name, cells).values())
        n = sum(count for _, count in rows)
        shares = [m.coverage for report in reports for m in report.metrics if m.name == name]
        coverage = sum(shares) / len(shares)
        if not n:
            found.append(MetricValue(name, None, None, None, 0, coverage))
            continue
        mean = math.fsum(total for total, _ in rows) / n
        squares = math.fsum((total - count * mean) ** 2 for total, count in rows)
        interval: tuple[float, float] | None
        if kind is Kind.SHARE:
            worth = metrics.effective_n(n, len(rows), mean, squares)
            interval = metrics.wilson(mean * worth, worth)
        else:
            interval = metrics.mean_interval(mean, n, len(rows), squares)
        low, high = interval or (None, None)
        found.append(MetricValue(name, mean, low, high, n, coverage))
    return tuple(found)


def _pairs(
    points: Sequence[PointReport],
    runs: Mapping[str, Sequence[_Run]],
    kinds: Mapping[str, Kind],
    cells: Mapping[tuple[str, str], Cells],
    seed: int,
) -> list[PairReport]:
    base = next(point for point in points if point.baseline)
    found: list[PairReport] = []
    for metric, kind in kinds.items():
        if kind is Kind.AGGREGATE:
            continue
        before = _together(base.run_ids, metric, cells)
        single = all(len(p.run_ids) == 1 for p in points) and all(
            run.run.repeats == 1 for members in runs.values() for run in members
        )
        family = []
        for number, point in enumerate(points):
            if point.baseline:
                continue
            after = _together(point.run_ids, metric, cells)
            rows = [row for row in before if row in after]
            if kind is Kind.SHARE and single:
                gained = sum(1 for row in rows if after[row][0] > before[row][0])
                lost = sum(1 for row in rows if after[row][0] < before[row][0])
                difference = paired_share(len(rows), gained, lost)
            else:
                means = [after[row][0] / after[row][1] - before[row][0] / before[row][1] for row in rows]
                difference = paired_mean(means, random.Random(f"{seed} {metric} {number}"))
            family.append(PairReport(metric, point.name, base.name, difference))
        corrected = holm([pair.difference.p for pair in family])
        found += [replace(pair, p_holm=p) for pair, p in zip(family, corrected, strict=True)]
    return found


# -- which are best


def _directions(
    known: Sequence[str], kinds: Mapping[str, Kind], higher: Sequence[str] | None, lower: Sequence[str]
) -> tuple[list[str], list[str]]:
    for name in [*(higher or ()), *lower]:
        if name not in known:
            raise UsageError(f"there is no metric {name}; there are: {', '.join(known) or 'none'}")
    up = list(higher) if higher is not None else [n for n in known if kinds.get(n) is Kind.SHARE and n not in lower]
    return up, list(lower)


def _marked(points: list[PointReport], up: Sequence[str], down: Sequence[str], base: int) -> list[PointReport]:
    priced = all(point.usd_per_1000 is not None for point in points)
    goals: list[tuple[float, ...] | None] = []
    for point in points:
        values = {m.name: m.value for m in point.metrics}
        goal: list[float | None] = [values.get(name) for name in up]
        goal += [None if (value := values.get(name)) is None else -value for name in down]
        if not up and not down:
            goal.append(point.ok_share)
        if priced and point.usd_per_1000 is not None:
            goal.append(-float(point.usd_per_1000))
        numbers = [value for value in goal if value is not None]
        goals.append(tuple(numbers) if len(numbers) == len(goal) else None)
    return [
        replace(point, best=best, baseline=number == base)
        for number, (point, best) in enumerate(zip(points, pareto(goals), strict=True))
    ]


def _rank(point: PointReport, metric: str, *, less: bool) -> tuple[bool, float]:
    value = next((m.value for m in point.metrics if m.name == metric), None)
    return value is None, 0.0 if value is None else value if less else -value


def _notes(
    points: Sequence[PointReport],
    pairs: Sequence[PairReport],
    kinds: Mapping[str, Kind],
    up: Sequence[str],
    down: Sequence[str],
) -> list[str]:
    goals = [*up, *(f"{name} (lower is better)" for name in down)] or ["the share of rows that are ok"]
    priced = all(point.usd_per_1000 is not None for point in points)
    goals += ["cost"] if priced else []
    notes = [f"* no other point is at least as good in {', '.join(goals)}, and better in one of them"]
    if not priced:
        notes.append("cost does not count for it: the price of a point is not known")
    methods = dict.fromkeys(pair.difference.method for pair in pairs)
    seen: dict[str, Callable[[], str]] = {
        "McNemar exact": lambda: "yes-or-no metrics: McNemar's exact test, interval by Agresti and Min",
        "paired bootstrap": lambda: (
            f"other metrics: bootstrap over the rows, {RESAMPLES:,} resamples with a fixed seed"
        ),
    }
    notes += [f"differences over the rows that both have; {seen[method]()}" for method in methods]
    if len(points) > 2 and pairs:
        notes.append(f"p is corrected by Holm for {len(points) - 1} comparisons in each metric")
    alone = [name for name, kind in kinds.items() if kind is Kind.AGGREGATE]
    if alone:
        notes.append(f"not compared row by row, because aggregates have no value for a row: {', '.join(alone)}")
    return notes
