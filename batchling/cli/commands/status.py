"""`batchling status`: where plans stand. Reads small files only, whatever their size and whoever works on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from batchling.cli.commands.arguments import plan_argument
from batchling.cli.figures import count, duration, moment, reasons, usd
from batchling.cli.screen import PRETEND, SIMULATED, simulated, width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.table import table
from batchling.printable import one_line, printable

if TYPE_CHECKING:
    from batchling.api.outcome import LaneStatus, PlanStatus
    from batchling.api.standing import PlanLine

SHOWN = 20
"""Finished plans that are listed without `--all`."""


@click.command("status")
@plan_argument()
@click.option("--all", "every", is_flag=True, help=f"List every plan, not only the unfinished and the newest {SHOWN}.")
@common
@pass_shell
def status_command(shell: Shell, plan: str | None, every: bool) -> int:
    """What is where: batches, rows, money. PLAN is an id, a part of one, or an experiment's name."""
    from batchling.api.standing import listing, name_broken, status

    if plan is not None:
        found = status(plan, runs=shell.runs)
        name_broken(shell.runs, but=found.plan_id)
        if shell.json:
            from batchling.cli.document import write

            write(shell, found)
        else:
            shell.out("\n".join(describe(found, time.time())))
        return 0
    plans = listing(runs=shell.runs)
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"runs": shell.runs, "plans": plans})
        return 0
    if not plans:
        shell.say(f"there is no plan in {shell.runs}")
        shell.say("next: batchling run EXPERIMENT")
        return 0
    shown = plans if every else [p for i, p in enumerate(plans) if p.finished_at is None or len(plans) - i <= SHOWN]
    shell.out(plan_table(shown, time.time()))
    if len(shown) < len(plans):
        shell.say(f"{len(plans) - len(shown):,} older finished plans; batchling status --all lists them")
    if any(p.simulated for p in shown):
        pretend = any(p.simulated and p.actual_usd for p in shown)
        shell.say("* " + (PRETEND if pretend else SIMULATED).strip("[]"))
    return 0


def plan_table(plans: list[PlanLine], now: float) -> str:
    """A line for each plan."""
    rows = []
    for plan in plans:
        done = plan.rows - plan.states.get("pending", 0)
        rest = {k: n for k, n in plan.states.items() if k not in ("ok", "pending") and n}
        rows.append(
            [
                plan.plan_id + ("*" if plan.simulated else ""),
                plan.state,
                count(plan.out) if plan.out else "-",
                f"{done:,}/{plan.rows:,}",
                ", ".join(f"{n:,} {k}" for k, n in sorted(rest.items())) or "-",
                usd(plan.actual_usd),
                moment(plan.created_at) if plan.created_at else "?",
            ]
        )
    return table(["plan", "state", "batches out", "rows", "not ok", "USD", "made"], rows, width=width())


def lane_table(lanes: Sequence[LaneStatus]) -> str:
    """A line for each provider and model, and one for all."""
    rows = [
        [
            lane.provider,
            lane.model,
            count(lane.waiting),
            count(lane.out),
            count(lane.done),
            f"{lane.requests - lane.states.get('pending', 0):,}/{lane.requests:,}",
            _rest(lane.states),
            usd(lane.actual_usd),
            one_line(lane.refused or "", 100),
        ]
        for lane in lanes
    ]
    every = sum(lane.requests for lane in lanes)
    pending = sum(lane.states.get("pending", 0) for lane in lanes)
    totals = [count(sum(getattr(lane, name) for lane in lanes)) for name in ("waiting", "out", "done")]
    known = [lane.actual_usd for lane in lanes if lane.actual_usd is not None]
    spent = usd(sum(known, Decimal(0)) if len(known) == len(lanes) else None)
    rows.append(["all", "", *totals, f"{every - pending:,}/{every:,}", "", spent, ""])
    header = ["provider", "model", "batches to send", "out", "done", "requests", "not ok", "USD", "refused"]
    return table(header, rows, width=width())


def _rest(states: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {k}" for k, n in sorted(states.items()) if k not in ("ok", "pending") and n) or "-"


def describe(plan: PlanStatus, now: float) -> list[str]:
    """One plan as lines for a person."""
    from batchling.runner.doubts import told

    head = f"{plan.plan_id}   {plan.state}"
    lines = [head + (f"   {simulated(plan.actual_usd, plan.worst_usd)}" if plan.simulated else "")]
    made = f"made {moment(plan.created_at)}"
    if plan.finished_at is not None:
        made += f", finished {moment(plan.finished_at)} ({duration(plan.finished_at - plan.created_at)})"
    lines.append(f"  {made}")
    states = ", ".join(f"{n:,} {name}" for name, n in sorted(plan.states.items())) or "none"
    lines.append(f"  requests: {states}")
    worst = "" if plan.finished_at is not None else f", at most {usd(plan.worst_usd)} USD with what is in flight"
    lines.append(f"  money: {usd(plan.actual_usd)} USD{worst}{reasons(plan.unknown_usd)}")
    if plan.not_received:
        lines.append(f"  {printable(told(plan.not_received))}")
    lines += [f"  key: {printable(r.variable)} goes to {printable(r.host)}" for r in plan.recipients]
    if plan.trouble:
        lines.append(f"  trouble: {printable(plan.trouble)}")
    if not plan.own:
        lines.append("  not known to be yours: without --trust its code is not run and no key is sent")
    if plan.holder:
        lines.append(f"  held by {printable(plan.holder)}")
    if len(plan.points) > 1:
        common = set.intersection(*(set(point.overrides) for point in plan.points))
        rows = [
            [
                point.run_id,
                point.provider,
                point.model,
                " ".join(text for text in point.overrides if text not in common),
                count(point.records),
                count(point.states.get("ok", 0)),
                count(point.states.get("pending", 0)),
                _rest(point.states),
                usd(point.cost_usd),
            ]
            for point in plan.points
        ]
        header = ["run", "provider", "model", "overrides", "rows", "ok", "pending", "not ok", "USD"]
        lines += ["", table(header, rows, width=width())]
    if len(plan.lanes) > 1:
        lines += ["", lane_table(plan.lanes)]
    if plan.batches:
        batches = [
            [
                f"{b.shard}.{b.attempt}",
                b.provider,
                b.model,
                b.phase,
                count(b.requests),
                count(b.input_tokens),
                b.batch_id or "-",
                "-" if b.created_at is None else duration((b.ended_at or now) - b.created_at),
                one_line(b.reason or "", 200),
            ]
            for b in plan.batches
        ]
        header = ["batch", "provider", "model", "state", "requests", "tokens", "id at the provider", "time", "reason"]
        lines += ["", table(header, batches, width=width())]
    lines += ["", *notes] if (notes := [f"  {printable(b.note)}" for b in plan.batches if b.note]) else []
    told_waits = [f"  {one_line(w.text(now), 600)}" for w in plan.waits if w.since is None or now - w.since >= 60]
    lines += ["", *told_waits] if told_waits else []
    if plan.next_command:
        lines += ["", f"next: {printable(plan.next_command)}"]
    return lines
