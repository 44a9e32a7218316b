"""`batchling plan`: what a run would send and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batchling.cli.commands.arguments import experiment_argument, fresh_option, multirun_option, retry_option
from batchling.cli.figures import count, duration, plural, reasons, size, usd
from batchling.cli.screen import simulated, width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.table import table
from batchling.printable import printable

if TYPE_CHECKING:
    from batchling.api.outcome import LaneReport, PlanReport


@click.command("plan")
@experiment_argument()
@multirun_option
@click.option(
    "--show", type=click.IntRange(min=0), default=0, metavar="N", help="Show the first N requests as rendered."
)
@fresh_option
@retry_option
@common
@pass_shell
def plan_command(
    shell: Shell,
    experiment: str,
    overrides: tuple[str, ...],
    multirun: bool,
    show: int,
    fresh: bool,
    retry: tuple[str, ...],
) -> int:
    """Compose, compile, count and price; send nothing and write nothing.

    EXPERIMENT is a folder with a config.yaml, a .yaml file, or a name in experiments/. OVERRIDES are Hydra's:
    key=value, +key=value, ~key, group=choice.
    """
    from batchling.api.verbs import plan
    from batchling.cli.commands.run import making_large

    report = plan(
        experiment,
        overrides,
        multirun=multirun,
        show=show,
        fresh=fresh,
        retry=retry,
        large=making_large(yes=False),
        project=shell.project_of(experiment),
        config_dir=shell.config_dir,
    )
    for note in report.notes:
        shell.say(f"note: {printable(note)}")
    if shell.json:
        from batchling.cli.document import plain, write

        write(shell, {**plain(report), "shards": report.shards})
        return 0
    shell.out("\n".join(describe(report)))
    return 0


def describe(report: PlanReport) -> list[str]:
    """The report as lines for a person."""
    title = f"{report.experiment}: {plural(report.runs, 'run')}, {plural(report.rows, 'row')}"
    lines = [title + (f"   {simulated(report.estimated_usd, report.max_usd)}" if report.simulated else "")]
    parts = [plural(report.requests, "request") + " to send"]
    if report.duplicates:
        parts.append(f"{count(report.duplicates)} duplicates merged")
    if report.cached:
        parts.append(f"{count(report.cached)} already answered")
    if report.awaiting:
        parts.append(f"{count(report.awaiting)} in flight in another plan")
    parts.append(plural(report.shards, "batch", "batches"))
    lines += ["  " + ", ".join(parts), ""]
    rows = [
        [
            lane.provider,
            lane.model,
            lane.endpoint,
            count(lane.requests),
            count(lane.shards),
            size(lane.bytes),
            count(lane.input_tokens),
            usd(lane.max_usd),
        ]
        for lane in report.lanes
    ]
    header = ["provider", "model", "endpoint", "requests", "batches", "size", "input tokens", "at most USD"]
    lines += [table(header, rows, width=width()), ""]
    lines += _tokens(report.lanes)
    for lane in report.lanes:
        keys = [f"key: {r.variable} goes to {r.host}" for r in lane.recipients]
        for text in (
            *keys,
            _price(lane.price_source),
            *_queue(lane),
        ):
            line = f"{lane.model}: {printable(text)}" if text and len(report.lanes) > 1 else text and printable(text)
            if line and line not in lines:
                lines.append(line)
    cost = f"cost: {usd(report.estimated_usd)} USD expected, {usd(report.max_usd)} USD at most"
    cost += reasons(report.unknown_usd)
    lines.append(cost + _budget(report))
    if report.same:
        lines.append(f"plan {report.same} is this one ({report.same_state}): `run` resumes it or shows its results")
    for shown in report.shown:
        import json

        body = json.dumps(shown.body, indent=2, ensure_ascii=False)
        lines += ["", f"row {printable(shown.row_id)}   {shown.key}", printable(body)]
    return lines


def _tokens(lanes: Sequence[LaneReport]) -> list[str]:
    """How tokens were counted: each way once, with its models where there are several ways."""
    ways: dict[str, list[str]] = {}
    for lane in lanes:
        if lane.tokens_by:
            ways.setdefault(lane.tokens_by, []).append(lane.model)
    if len(ways) == 1:
        return [f"tokens: {printable(way)}" for way in ways]
    return [f"tokens of {', '.join(dict.fromkeys(models))}: {printable(way)}" for way, models in ways.items()]


def _price(source: str | None) -> str:
    return f"price: {source}" if source else "price: unknown"


def _queue(lane: LaneReport) -> list[str]:
    """How the lane's batches come about, and how long they wait."""
    if not lane.requests:
        return []
    merged = (
        f"{plural(lane.requests, 'request')} of {plural(lane.runs, 'run')} in {plural(lane.shards, 'batch', 'batches')}"
    )
    said = [merged + (f", split by {' and '.join(lane.split_by)}" if lane.split_by else "")]
    if lane.learned:
        said.append(
            f"at most {count(lane.enqueued_tokens)} tokens may be enqueued there at once (learned from a refusal)"
        )
    if lane.waves and lane.waves > 1:
        limit = lane.enqueued_tokens if lane.waits_for == "enqueued_tokens" else lane.concurrent_batches
        said.append(f"{lane.waves:,} rounds, one after another: {lane.waits_for} is {count(limit)}")
    if lane.pacing_seconds is not None:
        paces = [f"{n:,} {what}" for n, what in ((lane.rpm, "RPM"), (lane.tpm, "TPM")) if n]
        paces.append(f"{plural(lane.concurrency or 1, 'request')} at a time")
        said.append(f"keeps {', '.join(paces)}: {duration(lane.pacing_seconds)} at least")
    elif lane.best_seconds:
        worst = "" if lane.worst_seconds is None else f", {duration(lane.worst_seconds)} at worst"
        said.append(f"done in {duration(lane.best_seconds)} at best (if {lane.assumes}){worst}")
    return said


def _budget(report: PlanReport) -> str:
    return "" if report.budget_usd is None else f"; the budget is {usd(report.budget_usd)} USD"
