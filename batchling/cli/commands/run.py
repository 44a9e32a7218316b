"""`batchling run` and `batchling watch`: the commands that spend and wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from batchling.cli.commands.arguments import (
    experiment_argument,
    fresh_option,
    gate,
    multirun_option,
    plan_argument,
    retry_option,
    said,
    trust_option,
    trust_plan_option,
)
from batchling.cli.figures import usd
from batchling.cli.screen import interactive
from batchling.cli.shell import Shell, common, pass_shell
from batchling.printable import printable

if TYPE_CHECKING:
    from batchling.api.outcome import Outcome
    from batchling.api.verbs import Confirm
    from batchling.cli.progress import Display

ORDER = (1, 2, 75, 5, 4, 3, 0)
"""Of several plans' exit codes the first one here holds."""


@click.command("run")
@experiment_argument()
@multirun_option
@click.option("--detach", is_flag=True, help="Submit everything that can be sent now, then return.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before spending more than budget.confirm_usd.")
@fresh_option
@retry_option
@click.option(
    "--prune",
    is_flag=True,
    help="Cancel batches of this experiment's older, unfinished plans that no plan needs any more; asks first.",
)
@trust_option
@trust_plan_option
@common
@pass_shell
def run_command(
    shell: Shell,
    experiment: str,
    overrides: tuple[str, ...],
    multirun: bool,
    detach: bool,
    yes: bool,
    fresh: bool,
    retry: tuple[str, ...],
    prune: bool,
) -> int:
    """Plan, submit, wait, collect and validate; run it again to resume.

    EXPERIMENT is a folder with a config.yaml, a .yaml file, or a name in experiments/. OVERRIDES are Hydra's:
    key=value, +key=value, ~key, group=choice.
    """
    from batchling.api.standing import name_broken
    from batchling.api.verbs import run_specs, specs_of
    from batchling.cli.progress import observing

    with observing(verbose=shell.verbose) as observer:
        specs, shell.used = specs_of(
            experiment, overrides, multirun=multirun, project=shell.project_of(experiment), config_dir=shell.config_dir
        )
        outcome = run_specs(
            specs,
            shell.used,
            detach=detach,
            fresh=fresh,
            retry=retry,
            prune=prune and (True if yes else agreeing(observer.pause)),
            confirm=agreed if yes else confirming(observer.pause),
            again=sending_again(observer.pause),
            large=making_large(yes=yes, pause=observer.pause),
            observer=observer,
            gate=gate(shell, observer.pause),
            tell=telling(shell, observer.pause),
            command=said(shell, "run", experiment, overrides, multirun=multirun),
        )
        name_broken(shell.used)
    return conclude(shell, [outcome], observer, several=False)


@click.command("watch")
@plan_argument()
@click.option("--detach", is_flag=True, help="Do everything that can be done now, then return.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before sending a plan that has sent nothing yet.")
@trust_option
@trust_plan_option
@common
@pass_shell
def watch_command(shell: Shell, plan: str | None, detach: bool, yes: bool) -> int:
    """Resume a plan, or every unfinished plan."""
    from batchling.api.verbs import watch
    from batchling.cli.progress import observing

    with observing(verbose=shell.verbose) as observer:
        outcomes = watch(
            plan,
            runs=shell.runs,
            detach=detach,
            confirm=agreed if yes else confirming(observer.pause),
            observer=observer,
            gate=gate(shell, observer.pause),
        )
    if all(outcome.state == "damaged" for outcome in outcomes) and plan is None and not shell.json:
        shell.say("every other plan is finished" if outcomes else "every plan is finished")
    return conclude(shell, outcomes, observer, several=plan is None)


def agreed(what: str, worst: Decimal | None) -> bool:
    """The answer of `--yes`."""
    return True


def confirming(pause: Callable[[], AbstractContextManager[None]]) -> Confirm:
    """Asks on a terminal; elsewhere the answer is no."""

    def confirm(what: str, worst: Decimal | None) -> bool:
        if not interactive():
            return False
        cost = "at an unknown price" if worst is None else f"for at most {usd(worst)} USD"
        with pause():
            return click.confirm(f"Send {what} {cost}?", err=True)

    return confirm


def sending_again(pause: Callable[[], AbstractContextManager[None]]) -> Callable[[str], bool]:
    """Asks before something is sent that may be bought already, `--yes` or not; where nobody can be asked the answer is no."""

    def agree(what: str) -> bool:
        if not interactive():
            return False
        with pause():
            return click.confirm(f"{what}. Send them anyway, and perhaps pay twice?", err=True)

    return agree


def making_large(
    *, yes: bool, pause: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[str], bool]:
    """Asks before a plan is made that is larger than its bounds; where nobody can be asked the answer is `yes`."""

    def agree(what: str) -> bool:
        if yes or not interactive():
            return yes
        with pause():
            return click.confirm(f"{what[:1].upper()}{what[1:]}. Continue anyway?", err=True)

    return agree


def telling(shell: Shell, pause: Callable[[], AbstractContextManager[None]]) -> Callable[[str], None]:
    """Writes a note to stderr, before anything is sent."""

    def tell(note: str) -> None:
        with pause():
            shell.say(f"note: {printable(note)}")

    return tell


def agreeing(pause: Callable[[], AbstractContextManager[None]]) -> Callable[[str], bool]:
    """Asks before something is cancelled; where nobody can be asked the answer is no."""

    def agree(what: str) -> bool:
        if not interactive():
            return False
        with pause():
            return click.confirm(f"Cancel {what}?", err=True)

    return agree


def conclude(shell: Shell, outcomes: Sequence[Outcome], display: Display, *, several: bool) -> int:
    """Shows how it ended and returns the exit code; the last line on stderr is the command that resumes."""
    from batchling.cli.summary import show_outcome

    broken = [outcome for outcome in outcomes if several and outcome.state == "damaged"]
    outcomes = [outcome for outcome in outcomes if outcome not in broken]  # named on their own, and no one else's fault
    codes = {outcome.exit_code for outcome in outcomes}
    code = next((code for code in ORDER if code in codes), 0)
    if shell.json:
        from batchling.cli.document import plain, write

        # `bought` counts the plan's whole life, this the call's own doing.
        documents = [{**plain(o), "sent_batches": display.seen[o.plan_id, "created"]} for o in [*outcomes, *broken]]
        write(shell, {"outcomes": documents, "exit_code": code} if several else documents[0])
    for outcome in outcomes:
        if not shell.json and outcome.state != "changed":  # of that one there is no more to show than its error
            worked = any(display.seen[outcome.plan_id, kind] for kind in ("created", "closed"))
            show_outcome(shell, outcome, worked=worked)
        for text in (*outcome.details, *outcome.warnings):
            shell.say(f"{'error' if text in outcome.details else 'warning'}: {printable(text)}")
    for outcome in sorted(outcomes, key=lambda o: ORDER.index(o.exit_code), reverse=True):
        if outcome.next_command:
            shell.say(f"next: {shell.command(outcome.next_command)}")
    return code
