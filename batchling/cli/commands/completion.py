"""`batchling completion`: Tab completes commands, options, experiments, groups, choices and keys."""

from __future__ import annotations

import click

from batchling.cli.program import COMPLETE_VARIABLE, NAME, program
from batchling.cli.shell import Shell, common, pass_shell

WHERE = {
    "bash": '~/.bashrc:  eval "$(batchling completion bash)"',
    "zsh": '~/.zshrc:  eval "$(batchling completion zsh)"',
    "fish": "~/.config/fish/completions/batchling.fish:  batchling completion fish > that file",
}


@click.command("completion")
@click.argument("shell_name", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@common
@pass_shell
def completion_command(shell: Shell, shell_name: str) -> int:
    """Print the script that makes Tab complete commands, experiments and overrides."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell_name)
    assert kind is not None
    shell.out(kind(program, {}, NAME, COMPLETE_VARIABLE).source())
    shell.say(f"# in {WHERE[shell_name]}")
    return 0
