"""`batchling cancel` and `batchling resolve`: a person's decisions about a plan that is out."""

from __future__ import annotations

import time

import click

from batchling.cli.commands.arguments import gate, plan_argument, trust_option, trust_plan_option
from batchling.cli.shell import Shell, common, pass_shell


@click.command("cancel")
@plan_argument(required=True)
@trust_option
@trust_plan_option
@common
@pass_shell
def cancel_command(shell: Shell, plan: str) -> int:
    """Cancel a plan's batches at the provider, wait for their end, and collect what was paid.

    Exit code 0 when everything is over, 75 when it is not.
    """
    from batchling.api.standing import name_broken
    from batchling.api.verbs import cancel
    from batchling.cli.commands.run import conclude
    from batchling.cli.progress import observing

    name_broken(shell.runs)
    with observing(verbose=shell.verbose) as observer:
        outcome = cancel(plan, runs=shell.runs, observer=observer, gate=gate(shell, observer.pause))
    code = conclude(shell, [outcome], observer, several=False)
    return 0 if outcome.reason in ("finished", "cancelled") else code


@click.command("resolve")
@plan_argument(required=True)
@click.option("--adopt", metavar="BATCH_ID", help="The submission happened: it is this batch.")
@click.option("--resubmit", is_flag=True, help="It did not happen: send it again.")
@click.option("--drop", is_flag=True, help="Give up its rows.")
@click.option("--shard", type=click.IntRange(min=1), metavar="N", help="Which shard, if several need a decision.")
@click.option(
    "--force",
    is_flag=True,
    help="With --adopt: although the batch does not say that it is ours. With --drop: give it up whatever the provider "
    "says, without asking it; its worst case stays in the budget.",
)
@trust_option
@trust_plan_option
@common
@pass_shell
def resolve_command(
    shell: Shell, plan: str, adopt: str | None, resubmit: bool, drop: bool, shard: int | None, force: bool
) -> int:
    """Decide what became of a submission whose fate is unknown, or give up one that never ends (--drop --shard N --force)."""
    from batchling.api.standing import name_broken
    from batchling.api.verbs import resolve

    chosen = [name for name, given in (("adopt", adopt), ("resubmit", resubmit), ("drop", drop)) if given]
    if len(chosen) != 1:
        raise click.UsageError("give exactly one of --adopt BATCH_ID, --resubmit and --drop")
    name_broken(shell.runs)
    found = resolve(
        plan, runs=shell.runs, decision=chosen[0], batch_id=adopt, shard=shard, force=force, gate=gate(shell)
    )
    if shell.json:
        from batchling.cli.document import write

        write(shell, found)
        return 0
    from batchling.cli.commands.status import describe

    shell.out("\n".join(describe(found, time.time())))
    return 0
