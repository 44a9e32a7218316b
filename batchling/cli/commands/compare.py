"""`batchling compare`: points side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchling.cli.figures import count, duration, usd
from batchling.cli.screen import simulated, width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.summary import not_ok
from batchling.cli.table import Number, table
from batchling.printable import printable

if TYPE_CHECKING:
    from batchling.api.compare import Comparison, PairReport, PointReport
    from batchling.api.outcome import MetricValue

SHOWN = 50
"""Points that are shown without `--all`."""


@click.command("compare")
@click.argument("plans", nargs=-1)
@click.option(
    "--by", metavar="KEY,…", help="Group the runs that share the values of these override keys: model,prompt."
)
@click.option(
    "--baseline", metavar="RUN", help="The run that every other point is compared with. Default: the first point."
)
@click.option("--higher", metavar="METRIC,…", help="Metrics where higher is better. Default: the yes-or-no metrics.")
@click.option("--lower", metavar="METRIC,…", help="Metrics where lower is better.")
@click.option("--all", "every", is_flag=True, help=f"Show every point, not only the first {SHOWN}.")
@common
@pass_shell
def compare_command(
    shell: Shell,
    plans: tuple[str, ...],
    by: str | None,
    baseline: str | None,
    higher: str | None,
    lower: str | None,
    every: bool,
) -> int:
    """Metrics, cost, tokens and time of each point; differences on the same rows; the best for their price.

    PLANS are plans, runs or experiments' names (the newest plan of each); default: the newest plan.
    """
    from batchling.api.compare import compare
    from batchling.api.standing import name_broken

    name_broken(shell.runs)
    found = compare(
        plans,
        runs=shell.runs,
        by=_names(by) or (),
        baseline=baseline,
        higher=_names(higher),
        lower=_names(lower) or (),
    )
    if shell.json:
        from batchling.cli.document import write

        write(shell, found)
        return 0
    shell.out("\n".join(describe(found, SHOWN if not every else len(found.points))))
    return 0


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def describe(found: Comparison, most: int) -> list[str]:
    """The comparison as lines for a person."""
    title = "compared: " + ", ".join(found.plans)
    lines = [
        title + (f"   {simulated(*(point.cost_usd for point in found.points))}" if found.simulated else ""),
        "",
        _points(found, most),
    ]
    if len(found.points) > most:
        lines.append(f"… and {len(found.points) - most:,} more: --all")
    shown = {point.name for point in found.points[:most]}
    pairs = [pair for pair in found.pairs if pair.point in shown]
    if pairs:
        base = next(point for point in found.points if point.baseline)
        lines += ["", f"against {printable(base.name)}:", _pairs(pairs)]
    lines += ["", *(f"note: {printable(note)}" for note in found.notes)]
    return lines


def _points(found: Comparison, most: int) -> str:
    names = list(dict.fromkeys(m.name for point in found.points for m in point.metrics))
    header = ["", "point", "rows", "ok", "not ok", *names, "tokens in", "out", "USD", "USD per 1,000", "time"]
    if found.by:
        header[2:2] = ["runs"]
    rows = []
    for point in found.points[:most]:
        values = {m.name: m for m in point.metrics}
        row: list[Any] = ["*" if point.best else "", point.name, *([count(len(point.run_ids))] if found.by else [])]
        row += [count(point.records), Number(f"{point.ok_share:.1%}"), not_ok(point.states)]
        row += [_metric(values.get(name), point) for name in names]
        row += [count(point.input_tokens), count(point.output_tokens), usd(point.cost_usd), usd(point.usd_per_1000)]
        row.append("-" if point.seconds is None else duration(point.seconds))
        rows.append(row)
    return table(header, rows, width=width())


def _metric(value: MetricValue | None, point: PointReport) -> str:
    """`0.913 [0.903, 0.923]`, and on how many rows where that is not all of them."""
    if value is None or value.value is None:
        return "?" if value is not None and value.problem else "-"
    text = f"{value.value:.4g}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:.4g}, {value.high:.4g}]"
    return text + (f" n={value.n:,}" if value.n != point.records else "")


def _pairs(pairs: list[PairReport]) -> str:
    rows = []
    for pair in pairs:
        d = pair.difference
        interval = "" if d.low is None or d.high is None else f" [{d.low:+.4g}, {d.high:+.4g}]"
        rows.append(
            [
                pair.metric,
                pair.point,
                "-" if d.value is None else f"{d.value:+.4g}{interval}",
                count(d.n),
                "-" if d.gained is None else f"+{d.gained:,} -{d.lost:,}",
                _p(d.p),
                _p(pair.p_holm),
                d.method,
            ]
        )
    return table(["metric", "point", "difference", "rows", "gained, lost", "p", "p (Holm)", "by"], rows, width=width())


def _p(value: float | None) -> Number:
    if value is None:
        return Number("-")
    return Number("<0.0001" if value < 0.0001 else f"{value:.4f}")
