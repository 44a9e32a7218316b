"""Writes docs/cli.md from the commands themselves: `python docs/generate_cli.py`. A test fails when it is out of date."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from batchling.cli.program import COMMANDS, NAME, program
from batchling.cli.shell import COMMON

TARGET = Path(__file__).with_name("cli.md")

INTRODUCTION = """\
# Command line

Generated from the commands by `python docs/generate_cli.py`.

`stdout` carries results, `stderr` messages and progress. `--json` writes one JSON document to `stdout`, with money as
text. Where `stderr` is no terminal there are plain lines, without colour or cursor codes; `NO_COLOR` is respected.

`EXPERIMENT` is a folder with a `config.yaml`, a `.yaml` file, or a name in `experiments/`. `OVERRIDES` are Hydra's:
`key=value`, `+key=value`, `~key`, `group=choice`; with `-m` also its sweeps (`a,b`, `choice()`, `range()`, `glob()`).
`PLAN` is a plan's id, a part of one that only it has, a run's id, or an experiment's name (its newest plan).
Options may stand before and after them.

## Exit codes

Of `plan`, `run` and `watch`. When several hold, the first of 1, 2, 75, 5, 4, 3, 0.

| code | meaning |
|---|---|
| 0 | done, and every row is ok |
| 1 | an unexpected error |
| 2 | the command line, a config, the data, a prompt or a schema is wrong |
| 3 | done, but some rows are not ok |
| 4 | refused by a budget or a gate; nothing was spent |
| 5 | the provider refused: key, quota or model |
| 75 | not finished (detached too) or parked; the last line is the command that resumes |
| 130 | stopped watching (Ctrl-C or SIGTERM); nothing is cancelled at the provider, the last line is the command that resumes |

Commands that only read exit with 0 whatever a plan's state; `doctor` with 1 when a check fails.
"""


def text() -> str:
    """The whole page."""
    sections = [INTRODUCTION]
    sections.append("## Options of every command\n\n" + _options(_common()))
    for name in COMMANDS:
        command = program.get_command(click.Context(program, info_name=NAME), name)
        assert command is not None
        sections.append(_section(name, command))
    return "\n".join(sections)


def _common() -> list[click.Parameter]:
    def probe() -> None: ...

    for option in COMMON:
        option(probe)
    return list(probe.__click_params__)  # type: ignore[attr-defined]


def _section(name: str, command: click.Command) -> str:
    shared = {param.name for param in _common()}
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    options = [param for param in command.params if isinstance(param, click.Option) and param.name not in shared]
    usage = " ".join([NAME, name, *(["[OPTIONS]"] if options else []), *map(_argument, arguments)])
    parts = [f"## {NAME} {name}\n", f"```\n{usage}\n```\n", inspect.cleandoc(command.help or "") + "\n"]
    if options:
        parts.append(_options(options))
    return "\n".join(parts)


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if argument.nargs == -1:
        return f"[{name}]..."
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _options(options: list[click.Parameter]) -> str:
    lines = ["| option | meaning |", "|---|---|"]
    for option in options:
        assert isinstance(option, click.Option)
        names = ", ".join([*option.opts, *option.secondary_opts])
        value = "" if option.is_flag else " " + _value(option)
        help_text = option.help or ""
        if option.show_default and not option.is_flag:
            help_text = f"{help_text} Default: {option.default}.".strip()
        lines.append(f"| `{_cell(names + value)}` | {_cell(help_text)} |")
    return "\n".join(lines) + "\n"


def _value(option: click.Option) -> str:
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    if isinstance(option.type, click.types.IntParamType):
        return "N"
    if isinstance(option.type, click.types.FloatParamType):
        return "X"
    return "TEXT"


def _cell(value: str) -> str:
    return value.replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
