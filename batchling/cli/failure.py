"""How an error is reported: what happened, where, and the next command, on stderr."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence

import click

from batchling.cli.shell import Shell
from batchling.cli.stopping import MESSAGE, NOW
from batchling.errors import BatchlingError
from batchling.printable import printable

REPORT = "this is a bug in batchling; run the same command with -v for the traceback"


def show(error: Exception, shell: Shell) -> int:
    """Prints an error and returns the exit code that it means."""
    if isinstance(error, click.ClickException):
        return _usage(error, shell)
    if isinstance(error, BatchlingError):
        if shell.verbose and error.exit_code != 130:
            traceback.print_exception(error, file=sys.stderr)
        # Last, because the last line is the command to type.
        again = shell.command(error.next_command) if error.next_command else None
        tell(error.message, error.where, again)
        NOW.told = NOW.told or error.exit_code == 130
        _document(shell, type(error).__name__, error.message, error.where, again, error.exit_code)
        return error.exit_code
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if shell.verbose:
        traceback.print_exception(error, file=sys.stderr)
    tell(f"unexpected: {what}", None, None if shell.verbose else REPORT)
    _document(shell, type(error).__name__, what, None, None, 1)
    return 1


def _usage(error: click.ClickException, shell: Shell) -> int:
    help_command = None
    if type(error).__name__ == "NoArgsIsHelpError":  # not in every version of click
        click.echo(error.format_message(), err=True)
        return 2
    if isinstance(error, click.UsageError) and error.ctx is not None:
        help_command = f"{error.ctx.command_path} --help"
    tell(error.format_message(), None, help_command)
    _document(shell, "UsageError", error.format_message(), None, help_command, 2)
    return 2


def show_interrupted(args: Sequence[str], shell: Shell) -> None:
    """Ctrl-C where no plan was held: what was made is kept, and the same command resumes."""
    again = shlex.join(["batchling", *args])
    tell(MESSAGE, None, again)
    NOW.told = True
    _document(shell, "DetachedError", MESSAGE, None, again, 130)


def tell(message: str, where: str | None, next_command: str | None) -> None:
    """`error: …`, and where there are some `  where: …` and `  next: …`."""
    first, *more = message.splitlines() or [""]
    lines = [f"error: {printable(first)}", *(f"       {printable(line)}" for line in more)]
    if where:
        lines.append(f"  where: {printable(where)}")
    if next_command:
        lines.append(f"  next: {printable(next_command)}")
    click.echo("\n".join(lines), err=True)


def _document(
    shell: Shell, kind: str, message: str, where: str | None, next_command: str | None, exit_code: int
) -> None:
    if not shell.json or shell.answered:
        return
    from batchling.cli.document import write

    write(
        shell,
        {
            "error": {"kind": kind, "message": message, "where": where, "next_command": next_command},
            "exit_code": exit_code,
        },
    )
