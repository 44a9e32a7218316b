"""`batchling du` and `batchling rm`: disk used, and given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchling.cli.commands.arguments import plan_argument
from batchling.cli.figures import size, usd
from batchling.cli.screen import interactive, width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.table import table

if TYPE_CHECKING:
    from batchling.catalog import PlanSpace

_PARTS = ("requests", "responses", "data", "records.parquet", "local")


@click.command("du")
@plan_argument()
@common
@pass_shell
def du_command(shell: Shell, plan: str | None) -> int:
    """Disk used by plans, and by the parts of each."""
    from batchling import catalog
    from batchling.api.standing import name_broken

    space = catalog.du(shell.runs)
    plans = space.plans
    wanted = None
    if plan is not None:
        wanted = catalog.resolve(shell.runs, plan).plan_id
        plans = tuple(p for p in plans if p.plan_id == wanted)
    name_broken(shell.runs, but=wanted)
    if shell.json:
        from batchling.cli.document import plain, write

        found = [{**plain(p), "total": p.total} for p in plans]
        whole = {"catalog": space.catalog, "total": space.total} if plan is None else {}
        write(shell, {"runs": shell.runs, "plans": found, **whole})
        shell.answered = True
        return _readable(shell, wanted)
    rows = [[p.plan_id, size(p.total), *_parts(p)] for p in plans]
    if plan is None:
        rows.append(["catalog", size(space.catalog), *[None] * (len(_PARTS) + 1)])
        rows.append(["all", size(space.total), *[None] * (len(_PARTS) + 1)])
    shell.out(table(["plan", "total", *_PARTS, "rest"], rows, width=width()))
    return _readable(shell, wanted)


def _readable(shell: Shell, plan: str | None) -> int:
    """0. The size of a plan that cannot be read is told as well, but a command that names it ends as an error.

    Raises:
        JournalError: the plan is broken.
    """
    from batchling.api.workspace import Workspace
    from batchling.runner.folder import PlanFolder

    if plan is not None:
        Workspace(shell.runs).state(PlanFolder(shell.runs / plan), to_show=True)
    return 0


def _parts(plan: PlanSpace) -> list[object]:
    known = [plan.parts.get(name, 0) for name in _PARTS]
    return [size(n) for n in [*known, plan.total - sum(known)]]


@click.command("rm")
@plan_argument(required=True)
@click.option(
    "--keep-answers",
    is_flag=True,
    help="Keep its answers so that later runs can reuse them; remove its rows and requests.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask, even if its answers were paid for.")
@click.option(
    "--force",
    is_flag=True,
    help="Also remove a plan that cannot be read or whose batches were given up; whatever was not collected is lost.",
)
@common
@pass_shell
def rm_command(shell: Shell, plan: str, keep_answers: bool, yes: bool, force: bool) -> int:
    """Remove a finished plan's files. Without --keep-answers the next run buys its answers again."""
    from batchling import catalog
    from batchling.api.standing import name_broken, status
    from batchling.api.verbs import remove
    from batchling.errors import JournalError

    named = catalog.resolve(shell.runs, plan)
    name_broken(shell.runs, but=named.plan_id)
    question = None
    try:
        found = status(plan, runs=shell.runs)
        plan = found.plan_id
        if found.actual_usd != 0 and not keep_answers:
            question = f"{plan} holds answers that cost {usd(found.actual_usd)} USD. Remove them?"
    except JournalError:
        if not force:
            raise
        question = f"plan {named.plan_id} cannot be read: its batches may still be running, and their answers would be lost. Remove it?"
    if question is not None and not yes and interactive() and not click.confirm(question, err=True):
        shell.say("kept")
        return 0
    freed = remove(plan, runs=shell.runs, keep_answers=keep_answers, force=force)
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"plan_id": plan, "freed_bytes": freed, "answers_kept": keep_answers})
    else:
        shell.out(f"removed {plan}: {size(freed)}" + (" (its answers are kept)" if keep_answers else ""))
    return 0
