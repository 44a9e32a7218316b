"""The figures: what must be reached, what is aimed at, and how each is measured."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import collecting, commands, round_trip, workload
from bench.measure import ROUNDS, Taken, in_turn, median, ratio, run


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of each measurement. `TINY` only shows that everything runs."""

    rows: int = 100_000
    many: int = 1_000_000
    round_trip: int = 20_000
    points: int = 1000
    point_rows: int = 1000
    plans: int = 1000
    batches: int = 100
    many_batches: int = 10_000
    rounds: int = ROUNDS


FULL = Sizes()
TINY = Sizes(rows=60, many=90, round_trip=20, points=8, point_rows=10, plans=3, batches=3, many_batches=4, rounds=1)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. `measured` is the figure to compare with `must` and `aim`; `detail` what it comes from."""

    figure: str
    what: str
    must: str
    aim: str
    measured: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a run of the benchmarks works."""

    folder: Path
    sizes: Sizes
    tokens: bool
    """Whether tiktoken's vocabulary is at hand."""

    def rows(self, count: int) -> Path:
        path = self.folder / f"rows-{count}.csv"
        if not path.exists():
            workload.write_rows(path, count)
        return path

    def experiment(self, count: int) -> Path:
        return workload.experiment(self.folder / f"experiment-{count}", self.rows(count))


def _pair(product: list[Taken], loop: list[Taken]) -> str:
    def one(name: str, taken: list[Taken]) -> str:
        return f"{name} {median(taken):.2f} s ({median(taken, 'cpu'):.2f} s CPU, {median(taken, 'peak_mb'):.0f} MB)"

    return f"{one('batchling', product)}, {one('loop', loop)}"


def _speed(product: list[Taken], loop: list[Taken]) -> str:
    return f"{ratio(loop, product):.2f} (CPU {ratio(loop, product, 'cpu'):.2f})"


def _planning(bench: Bench, figure: str, what: str, must: str, aim: str, *, tokens: bool) -> list[Line]:
    experiment, data = bench.experiment(bench.sizes.rows), bench.rows(bench.sizes.rows)
    overrides = [] if tokens else ["tokens=off"]
    target = bench.folder / "loop.jsonl"

    def compile_plan() -> Taken:
        taken = run("bench.planning:compile_plan", experiment=experiment, overrides=overrides)
        shutil.rmtree(experiment / "runs")
        return taken

    taken = in_turn(
        {
            "loop": lambda: run("bench.planning:loop", data=data, tokens=tokens),
            "plan": lambda: run("bench.planning:plan", experiment=experiment, overrides=overrides),
            "writing loop": lambda: run("bench.planning:loop", data=data, tokens=tokens, target=target),
            "compile": compile_plan,
        },
        bench.sizes.rounds,
    )
    target.unlink()
    _same_work(taken)
    return [
        Line(figure, what, must, aim, _speed(taken["plan"], taken["loop"]), _pair(taken["plan"], taken["loop"])),
        Line(
            figure,
            "… `run`'s compile, files written and fsynced on both sides",
            must,
            aim,
            _speed(taken["compile"], taken["writing loop"]),
            _pair(taken["compile"], taken["writing loop"]),
        ),
    ]


def _same_work(taken: dict[str, list[Taken]]) -> None:
    requests = {t.said["requests"] for rounds in taken.values() for t in rounds}
    if len(requests) != 1:
        raise RuntimeError(f"the sides did not do the same work: {requests}")


def p1(bench: Bench) -> list[Line]:
    what = "plan with keys and exact tokens, ratio to the plain loop"
    if not bench.tokens:
        return [Line("P1", what, "≥ 0.7", "≥ 1.2", "not measured", "no tiktoken vocabulary: pip install bpe-openai")]
    return _planning(bench, "P1", what, "≥ 0.7", "≥ 1.2", tokens=True)


def p2(bench: Bench) -> list[Line]:
    what = "plan with keys, `tokens: off`, ratio to the plain loop"
    return _planning(bench, "P2", what, "≥ 0.6", "≥ 1.0", tokens=False)


def p3(bench: Bench) -> list[Line]:
    peaks = {}
    for count in (bench.sizes.rows, bench.sizes.many):
        overrides = [] if bench.tokens else ["tokens=off"]
        taken = run("bench.planning:plan", experiment=bench.experiment(count), overrides=overrides)
        peaks[count] = taken.peak_mb
    small, large = peaks.values()
    measured = f"{large:.0f} MB, {large / small:.2f} x"
    detail = ", ".join(f"{count:,} rows {peak:.0f} MB" for count, peak in peaks.items())
    return [Line("P3", "peak memory of a plan of 1,000,000 rows", "< 600 MB, < 1.3 x", "< 300 MB", measured, detail)]


def _collected(bench: Bench, count: int) -> tuple[Path, Path, str]:
    """A plan whose batches have ended, made once: where it is, its runs folder, its id."""
    place = bench.folder / f"collect-{count}"
    if place.exists():
        runs = place / "experiment" / "runs"
        return place, runs, next(path.parent.name for path in runs.glob("*/plan.json"))
    runs, plan = collecting.submitted(place, count)
    return place, runs, plan


def _collect(bench: Bench, place: Path, runs: Path, plan: str) -> Taken:
    """One round, on a copy: what is collected is collected."""
    copy = bench.folder / "collecting"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(runs, copy, copy_function=_link)
    return run("bench.collecting:collect", adapter=place / "adapter", runs=copy, plan=plan)


def _link(source: str, target: str) -> None:
    """Files that never change are linked, the others copied."""
    if source.endswith((".jsonl", ".csv")) and not source.endswith("journal.jsonl"):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def p4(bench: Bench) -> list[Line]:
    place, runs, plan = _collected(bench, bench.sizes.rows)
    target = bench.folder / "loop-collect"

    def loop() -> Taken:
        shutil.rmtree(target, ignore_errors=True)
        return run("bench.collecting:loop", provider=place / "provider", folder=runs / plan, target=target)

    taken = in_turn({"loop": loop, "collect": lambda: _collect(bench, place, runs, plan)}, bench.sizes.rounds)
    for rounds in taken.values():
        assert all(t.said == {"ok": bench.sizes.rows} for t in rounds), rounds
    what = "collect with journal, catalog and Parquet, ratio to the plain loop"
    pair = _pair(taken["collect"], taken["loop"])
    return [Line("P4", what, "≥ 0.6", "≥ 0.9", _speed(taken["collect"], taken["loop"]), pair)]


def p5(bench: Bench) -> list[Line]:
    place, runs, plan = _collected(bench, bench.sizes.many)
    taken = _collect(bench, place, runs, plan)
    shutil.rmtree(place)
    detail = f"{taken.wall:.0f} s ({taken.cpu:.0f} s CPU)"
    what = "peak memory of collecting 1,000,000 answers"
    return [Line("P5", what, "< 800 MB", "< 400 MB", f"{taken.peak_mb:.0f} MB", detail)]


def p6(bench: Bench) -> list[Line]:
    place = bench.folder / "round-trip"
    experiment = round_trip.experiment(place, bench.sizes.round_trip)
    data = place / "rows.csv"
    with round_trip.serving(place / "server") as url:
        taken = in_turn(
            {
                "script": lambda: run("bench.round_trip:script", data=data, base_url=url, target=place / "script"),
                "run": lambda: run("bench.round_trip:product", experiment=experiment, base_url=url),
            },
            bench.sizes.rounds,
        )
    slower = f"{ratio(taken['run'], taken['script']):.2f} x (CPU {ratio(taken['run'], taken['script'], 'cpu'):.2f})"
    what = "round trip of 20,000 rows, all safety on, against a plain script"
    return [Line("P6", what, "≤ 2.0 x", "≤ 1.2 x", slower, _pair(taken["run"], taken["script"]))]


def p7(bench: Bench) -> list[Line]:
    place, runs, plan = _collected(bench, bench.sizes.rows)
    _collect(bench, place, runs, plan)
    answered = bench.folder / "collecting"
    experiment = place / "experiment"

    def again() -> Taken:
        return run("bench.collecting:again", experiment=experiment, runs=answered)

    def plan_only() -> Taken:
        return run("bench.collecting:plan_anew", experiment=experiment, runs=bench.folder / "empty")

    taken = in_turn({"plan": plan_only, "again": again}, bench.sizes.rounds)
    measured = f"{ratio(taken['again'], taken['plan']):.2f} x (CPU {ratio(taken['again'], taken['plan'], 'cpu'):.2f})"
    detail = f"again {median(taken['again']):.2f} s, plan {median(taken['plan']):.2f} s"
    return [Line("P7", "same experiment again, all answered, against `plan`", "≤ 1.2 x", "≤ 1.0 x", measured, detail)]


def p8(bench: Bench) -> list[Line]:
    points = max(2, bench.sizes.points // 5)
    experiment = bench.experiment(bench.sizes.point_rows)
    taken = [run("bench.commands:compose", experiment=experiment, points=points) for _ in range(bench.sizes.rounds)]
    each = 1000 * median(taken) / points
    return [Line("P8", "sweep: each further point composed and validated", "≤ 6 ms", "≤ 3 ms", f"{each:.1f} ms")]


def p9(bench: Bench) -> list[Line]:
    experiment = bench.experiment(bench.sizes.point_rows)
    arguments: dict[str, Any] = {"prompts": 2, "temperatures": max(1, bench.sizes.points // 4)}
    taken = [run("bench.planning:sweep", experiment=experiment, **arguments) for _ in range(bench.sizes.rounds)]
    said = taken[0].said
    detail = f"{said['points']:,} points, {said['rows']:,} rows, {said['requests']:,} requests bought once"
    what = "sweep: 1,000 points x 1,000 rows composed and planned"
    return [Line("P9", what, "≤ 60 s", "≤ 20 s", f"{median(taken):.1f} s", detail)]


def p10(bench: Bench) -> list[Line]:
    runs = commands.many_plans(bench.folder / "plans", bench.sizes.plans)

    def seconds(words: list[str]) -> float:
        return statistics.median(
            run("bench.commands:command", words=words, runs=runs).wall for _ in range(bench.sizes.rounds + 2)
        )

    bare = seconds([])
    return [
        Line(
            "P10", "`batchling --help`", "≤ 0.3 s", "≤ 0.15 s", f"{seconds(['--help']):.2f} s", f"Python {bare:.2f} s"
        ),
        Line("P10", "`batchling status`, 1,000 plans", "≤ 1 s", "≤ 0.5 s", f"{seconds(['status']):.2f} s"),
    ]


def p11(bench: Bench) -> list[Line]:
    place, runs, plan = _collected(bench, bench.sizes.rows)
    _collect(bench, place, runs, plan)
    copy = bench.folder / "collecting"
    taken = [
        run("bench.collecting:rebuild", adapter=place / "adapter", runs=copy, plan=plan)
        for _ in range(bench.sizes.rounds)
    ]
    detail = f"{median(taken, 'cpu'):.1f} s CPU"
    return [
        Line(
            "P11", "journal replay + catalog rebuild, 100,000 rows", "≤ 10 s", "≤ 5 s", f"{median(taken):.1f} s", detail
        )
    ]


def p12(bench: Bench) -> list[Line]:
    place = bench.folder / "server"
    round_trip.experiment(place, bench.sizes.round_trip)
    with round_trip.serving(place / "state") as url:
        taken = [
            run("bench.round_trip:server_alone", data=place / "rows.csv", base_url=url)
            for _ in range(bench.sizes.rounds)
        ]
    what = "local server, echo engine: 20,000 rows, create to completed"
    return [Line("P12", what, "≤ 10 s", "≤ 3 s", f"{median(taken):.1f} s")]


def p13(bench: Bench) -> list[Line]:
    taken = run("bench.waiting:wait_an_hour", folder=bench.folder / "waiting", batches=bench.sizes.batches)
    said = ", ".join(f"{count} {name}" for name, count in sorted(taken.said["calls"].items())) or "none"
    what = "requests while 100 batches wait an hour"
    return [Line("P13", what, "≤ 1 list a minute", "", said)]


def p17(bench: Bench) -> list[Line]:
    batches = bench.sizes.many_batches
    taken = run("bench.waiting:wait_an_hour", folder=bench.folder / "waiting-many", batches=batches)
    requests = sum(taken.said["calls"].values())
    what = f"a plan of {batches:,} batches that wait an hour"
    found = (
        f"{requests / taken.said['looks']:.0f} requests a look (one a minute), {taken.wall / taken.said['looks']:.2f} s a look, "
        f"{taken.said['journal_bytes'] / batches / 1000:.1f} KB of journal a batch"
    )
    return [Line("P17", what, "≤ 2 + 1 for each batch due, ≤ 1 s, ≤ 4 KB", "", found)]


FIGURES: dict[str, Callable[[Bench], list[Line]]] = {
    f.__name__.upper(): f for f in (p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, p12, p13, p17)
}
