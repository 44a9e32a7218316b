"""How a plan ended, on the screen: a table of its runs, the first answers, where everything is."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.cli.figures import count, plural, reasons, usd
from batchling.cli.screen import simulated, width
from batchling.cli.shell import Shell
from batchling.cli.table import Number, table
from batchling.errors import BatchlingError
from batchling.printable import printable
from batchling.runner.doubts import told

if TYPE_CHECKING:
    from batchling.api.outcome import MetricValue, Outcome, RunReport

PREVIEW_ROWS = 5

REASONS = {
    "finished": "finished",
    "cancelled": "cancelled",
    "detached": "detached: batches are running",
    "awaiting": "waiting for answers that another plan is paying for",
    "locked": "waiting for a plan that another process is working on",
    "parked": "needs your decision",
    "refused": "stopped: the provider refused",
    "unread": "stopped: the provider no longer shows a batch",
    "budget": "stopped: the budget does not allow the rest",
    "failed": "cannot go on",
}


def show_outcome(shell: Shell, outcome: Outcome, *, worked: bool) -> None:
    """Prints it on stdout; `worked`: this call sent or collected something."""
    lines = [f"{printable(outcome.experiment)}: {REASONS.get(outcome.reason, outcome.reason)}   plan {outcome.plan_id}"]
    if outcome.simulated:
        lines[0] += f"   {simulated(outcome.actual_usd, *(run.cost_usd for run in outcome.runs))}"
    lines.append(f"  {_bought(outcome, worked)}")
    if outcome.not_received:
        lines.append(f"  {printable(told(outcome.not_received))}")
    lines += ["", run_table(outcome.runs), ""]
    lines += metric_problems(outcome.runs)
    if len(outcome.runs) == 1 and outcome.states.get("pending", 0) < sum(outcome.states.values()):
        lines += preview(outcome.folder)
    where = _relative(outcome.folder)
    lines.append(f"folder: {printable(where)}")
    if outcome.reason == "finished":
        file = shlex.quote(f"{printable(outcome.experiment)}.csv")
        export = f"batchling results {outcome.plan_id} --format csv -o {file}"
        lines.append(f"export: {shell.command(export)}")
        query = 'batchling query "select state, count(*) from records group by 1"'
        lines.append(f"query:  {shell.command(query)}")
    shell.out("\n".join(lines))


def _bought(outcome: Outcome, worked: bool) -> str:
    if not worked and outcome.reason == "finished" and not outcome.created:
        sent = "nothing sent" if outcome.not_received else "nothing sent: everything has been answered"
        return f"{sent}   {usd(outcome.actual_usd)} USD in total{reasons(outcome.unknown_usd)}"
    parts = [f"{plural(outcome.bought, 'request')} sent in {plural(outcome.batches, 'batch', 'batches')}"]
    if outcome.reused:
        parts.append(f"{plural(outcome.reused, 'answer')} reused")
    parts.append(f"{usd(outcome.actual_usd)} USD{reasons(outcome.unknown_usd)}")
    return ", ".join(parts)


def run_table(runs: tuple[RunReport, ...]) -> str:
    """A line for each run: rows by state, metrics with their interval, tokens, cost."""
    names = list(dict.fromkeys(m.name for run in runs for m in run.metrics))
    many_providers = len({run.provider for run in runs}) > 1
    swept = any(run.overrides for run in runs) and len(runs) > 1
    header = ["run", *(["provider"] if many_providers else []), "model", *(["overrides"] if swept else [])]
    header += ["rows", "ok", "not ok", *names, "tokens in", "out", "USD"]
    rows = []
    for run in runs:
        values = {m.name: m for m in run.metrics}
        row: list[Any] = [run.run_id, *([run.provider] if many_providers else []), run.model]
        row += [run.overrides] if swept else []
        row += [count(sum(run.states.values())), count(run.states.get("ok", 0)), not_ok(run.states)]
        row += [metric(values[name], run) if name in values else None for name in names]
        row += [count(run.input_tokens), count(run.output_tokens), usd(run.cost_usd)]
        rows.append(row)
    return table(header, rows, width=width())


def not_ok(states: Mapping[str, int]) -> str:
    """`3 invalid, 1 error`."""
    rest = sorted(((n, name) for name, n in states.items() if name != "ok" and n), reverse=True)
    return ", ".join(f"{n:,} {name}" for n, name in rest) or "-"


def metric(value: MetricValue, run: RunReport) -> str:
    """`0.913 [0.903, 0.923]`, and on how many rows where that is not all of them."""
    if value.value is None:
        return "?" if value.problem else "-"
    text = f"{value.value:.4g}"
    if value.low is not None and value.high is not None:
        text += f" [{value.low:.4g}, {value.high:.4g}]"
    every = sum(run.states.values())
    text += f" n={value.n:,}" if value.n != every else ""
    if value.coverage < 1 and every:
        text += f" {value.coverage:.1%} covered"
    return text


def metric_problems(runs: tuple[RunReport, ...]) -> list[str]:
    """Why a metric has no value, once each."""
    found = dict.fromkeys(f"metric {m.name}: {m.problem}" for run in runs for m in run.metrics if m.problem)
    lines = [printable(text) for text in found]
    return [*lines, ""] if lines else []


def preview(folder: Path) -> list[str]:
    """The first rows with their answers."""
    from batchling.results import Results

    try:
        records = Results(folder).head(PREVIEW_ROWS)
    except BatchlingError:
        return []
    if not records:
        return []
    outputs = [r["output"] for r in records if isinstance(r["output"], dict)]
    fields = list(dict.fromkeys(name for output in outputs for name in output))
    header = ["row", "state", *(fields or ["answer"])]
    rows = []
    for record in records:
        output = record["output"]
        cells: list[Any]
        if fields:
            cells = [_value(output.get(name)) if isinstance(output, dict) else None for name in fields]
            if not isinstance(output, dict):
                cells[0] = record["error"] or record["text"]
        else:
            cells = [_value(output) if output is not None else record["text"] or record["error"]]
        rows.append([record["row_id"], record["state"], *cells])
    return [table(header, rows, width=width()), ""]


def _value(value: Any) -> Any:
    if isinstance(value, list) and len(value) > 8 and all(isinstance(x, float | int) for x in value[:8]):
        return f"{len(value):,} numbers"
    if isinstance(value, dict | list):
        import json

        return json.dumps(value, ensure_ascii=False)
    return Number(f"{value:g}") if isinstance(value, float) else value


def _relative(folder: Path) -> str:
    path = os.path.relpath(folder)
    return shlex.quote(str(folder) if path.startswith("..") else path)
