"""From an argument list to an exit code: signals, errors and closed pipes, in one place."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from batchling.cli import failure
from batchling.cli.program import COMPLETE_VARIABLE, NAME, program
from batchling.cli.shell import Shell
from batchling.cli.stopping import INTERRUPTED, NOW, listening
from batchling.duck import interrupted
from batchling.errors import DetachedError, WaitingWarning
from batchling.printable import printable


def run(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 to 5, 75 or 130; what they mean is in `batchling.errors`.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, NAME, COMPLETE_VARIABLE, instruction)
    _escape_what_the_stream_cannot_say()
    try:
        with listening(args), _naming_broken_plans():
            code = _invoke(args, Shell())
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has seen enough. What is still buffered goes nowhere, without a message at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _invoke(args: list[str], shell: Shell) -> int:
    try:
        with program.make_context(NAME, args, obj=shell) as context:
            result = program.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        failure.show_interrupted(args, shell)
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if (NOW.asked or interrupted(error)) and not isinstance(error, DetachedError):
            # A library's own word for the signal, or an error that came of it: no bug, and not what a person asks about.
            failure.show_interrupted(args, shell)
            return INTERRUPTED
        return failure.show(error, shell)


def _escape_what_the_stream_cannot_say() -> None:
    """An answer with an emoji must not break a command whose output goes into an ASCII log."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _naming_broken_plans() -> Iterator[None]:
    """A plan that cannot be read is named once, in one line, whatever else a command finds out about it."""
    named: set[str] = set()
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, *place: Any, **more: Any) -> None:
            plan = getattr(message, "plan_id", None)
            if isinstance(message, WaitingWarning):
                click.echo(printable(str(message)), err=True)
            elif plan is None:
                shown(message, *place, **more)
            elif plan not in named:
                named.add(plan)
                click.echo(f"warning: {printable(str(message))}", err=True)

        warnings.showwarning = show
        warnings.filterwarnings("always", message="plan .* cannot be read")
        warnings.filterwarnings("always", category=WaitingWarning)
        yield
