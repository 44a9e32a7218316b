"""The program: its commands, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from batchling.cli.shell import common

NAME = "batchling"
COMPLETE_VARIABLE = "_BATCHLING_COMPLETE"

COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("project", "Write a small project: conf/, experiments/hello/, .gitignore."),
    "plan": ("plan", "Compose, compile, count and price; send nothing."),
    "run": ("run", "Plan, submit, wait, collect and validate."),
    "watch": ("run", "Resume unfinished plans."),
    "status": ("status", "Progress and cost: batches, rows, money."),
    "results": ("results", "Rows with their answers, as jsonl, csv or parquet."),
    "compare": ("compare", "The points of a sweep side by side."),
    "query": ("results", "SQL over the catalog."),
    "du": ("space", "Disk used by plans."),
    "rm": ("space", "Remove a finished plan's files."),
    "cancel": ("decide", "Cancel at the provider and collect what was paid."),
    "resolve": ("decide", "Decide about a submission whose outcome is unknown."),
    "serve": ("serve", "An OpenAI-compatible Files and Batches server on loopback."),
    "doctor": ("doctor", "Check keys, tokenizer data, disk, catalog and providers."),
    "providers": ("facts", "The providers there are: keys, windows, limits, discounts."),
    "models": ("facts", "The models that have a file: context and batch price."),
    "config": ("config", "The composed config of an experiment."),
    "completion": ("completion", "Print the script that completes commands, experiments and overrides."),
}
"""Name → module in `batchling.cli.commands`, and what the list of commands says of it."""


class Program(click.Group):
    """A group whose list of commands is written from the table, without importing one of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"batchling.cli.commands.{COMMANDS[cmd_name][0]}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"batchling {version('batchling')}")
        ctx.exit()


@click.group(
    NAME,
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes of plan, run and watch: 0 done and every row ok; 1 unexpected error; 2 usage or config error; "
    "3 done, some rows not ok; 4 refused by a budget or a gate; 5 refused by the provider; 75 not finished, the last "
    "line resumes it; 130 stopped watching (Ctrl-C).",
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
@common
def program() -> None:
    """Declared LLM workloads through providers' Batch APIs, and back into tables."""
