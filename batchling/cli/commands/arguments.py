"""Arguments that several commands share, and how a call is said again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from batchling.cli.shell import F, Shell
from batchling.models import RowState
from batchling.printable import printable

if TYPE_CHECKING:
    from batchling.providers.gate import Gate
    from batchling.trust import Recipient

RETRYABLE = ("invalid", "truncated", "refused", "filtered", "error", "missing")
"""States that `--retry` reopens; the others are asked again by every run anyway. `missing`: those that may be paid."""


def _complete_overrides(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from batchling.config import complete

    shell = context.find_object(Shell) or Shell()
    before = [context.params.get("experiment"), *(context.params.get("overrides") or ())]
    words = [word for word in before if word]
    found = complete([*words, incomplete], project=shell.project, config_dir=shell.config_dir)
    return [CompletionItem(text) for text in found]


def _complete_plan(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from batchling.catalog.plan_files import plan_folders

    shell = context.find_object(Shell) or Shell()
    names = [folder.name for folder in plan_folders(shell.runs)]
    return [CompletionItem(name) for name in reversed(names) if name.startswith(incomplete)]


def experiment_argument(*, required: bool = True) -> Callable[[F], F]:
    """EXPERIMENT [OVERRIDES]…"""

    def decorate(function: F) -> F:
        function = click.argument("overrides", nargs=-1, shell_complete=_complete_overrides)(function)
        return click.argument("experiment", required=required, shell_complete=_complete_overrides)(function)

    return decorate


def plan_argument(*, required: bool = False) -> Callable[[F], F]:
    """[PLAN]: an id, a part of one, or an experiment's name."""

    def decorate(function: F) -> F:
        return click.argument("plan", required=required, shell_complete=_complete_plan)(function)

    return decorate


if TYPE_CHECKING:
    _Parameter = click.ParamType[tuple[str, ...]]
else:
    _Parameter = click.ParamType  # generic only in newer versions of click


class States(_Parameter):
    """`invalid,truncated`: record states, separated by commas."""

    name = "states"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        states = tuple(dict.fromkeys(part.strip() for part in str(value).split(",") if part.strip()))
        for state in states:
            if state not in RETRYABLE:
                known = state in set(RowState)
                why = "is asked again by every run" if known and state != "ok" else "is not a state that can be retried"
                self.fail(f"{state!r} {why}; choose from {', '.join(RETRYABLE)}", param, ctx)
        return states


multirun_option = click.option(
    "-m", "--multirun", is_flag=True, help="Overrides may sweep: model=a,b; choice(), range(), glob()."
)
fresh_option = click.option("--fresh", is_flag=True, help="Ignore earlier answers and pay for them again.")
retry_option = click.option(
    "--retry",
    type=States(),
    default=(),
    metavar="STATE,…",
    help=f"Ask the rows in these states again: {', '.join(RETRYABLE)} (may already be paid for, so it asks first).",
)


def _keep_hosts(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> None:
    context.ensure_object(Shell).hosts = value


trust_option = click.option(
    "--trust-host",
    multiple=True,
    expose_value=False,
    callback=_keep_hosts,
    metavar="HOST",
    help="Allow keys to be sent to this host, for this command: HOST, HOST:PORT or a URL (repeatable).",
)


def _keep_trust(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.ensure_object(Shell).trust = value


trust_plan_option = click.option(
    "--trust",
    is_flag=True,
    expose_value=False,
    callback=_keep_trust,
    help="Trust a plan that is not known to be yours, from now on: its code runs, and keys are sent where it says.",
)


def gate(shell: Shell, pause: Callable[[], AbstractContextManager[None]] = nullcontext) -> Gate:
    """What every key passes: asks on a terminal, where a pair of variable and host is new."""
    from batchling.cli.screen import interactive
    from batchling.providers.gate import Gate

    def ask(what: str) -> bool:
        with pause():
            return click.confirm(f"Send {printable(what)}?", err=True)

    def tell(recipient: Recipient) -> None:
        shell.say(f"key: {recipient.variable} goes to {recipient.host}")

    def ask_plan(what: str) -> bool:
        with pause():
            return click.confirm(f"{printable(what)}. Trust it?", err=True)

    asks = interactive()
    return Gate(
        hosts=shell.hosts,
        ask=ask if asks else None,
        tell=tell,
        plans=shell.trust,
        ask_plan=ask_plan if asks else None,
    )


def said(shell: Shell, verb: str, experiment: str, overrides: Sequence[str], *, multirun: bool = False) -> str:
    """The call as a person would type it again."""
    words = ["batchling", verb, experiment, *overrides]
    if multirun:
        words.append("-m")
    if shell.config_dir is not None:
        words += ["--config-dir", str(shell.config_dir)]
    if shell.folder is not None:
        words += ["--project", str(shell.folder)]
    return shlex.join(words)
