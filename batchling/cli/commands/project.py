"""`batchling init`: a project to start from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from batchling.cli.shell import Shell, common, pass_shell


@click.command("init")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@common
@pass_shell
def init_command(shell: Shell, folder: Path) -> int:
    """Write a small project into DIR (default: here): conf/, experiments/hello/, .gitignore."""
    from batchling.config import init_project

    files = init_project(folder)
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"folder": folder.absolute(), "files": files})
        return 0
    for file in files:
        shell.out(os.path.normpath(file))
    elsewhere = "" if folder.absolute() == Path.cwd() else f"cd {folder} && "
    shell.say(f"next: {elsewhere}batchling run hello")
    return 0
