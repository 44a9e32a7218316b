"""`batchling config`: what an experiment is composed of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchling.cli.commands.arguments import experiment_argument
from batchling.cli.screen import width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.table import MOST, table
from batchling.printable import printable

if TYPE_CHECKING:
    from batchling.config import Composition


@click.command("config")
@experiment_argument(required=False)
@click.option("--resolve", is_flag=True, help="With interpolations resolved and every default filled in.")
@click.option("--origins", is_flag=True, help="Each value, and the file and line or the override that set it.")
@click.option("--defaults", is_flag=True, help="The configs it is composed from, in order.")
@click.option("--schema", is_flag=True, help="JSON Schema of a config file, for editors; needs no experiment.")
@common
@pass_shell
def config_command(
    shell: Shell,
    experiment: str | None,
    overrides: tuple[str, ...],
    resolve: bool,
    origins: bool,
    defaults: bool,
    schema: bool,
) -> int:
    """The composed config of an experiment, as YAML.

    EXPERIMENT is a folder with a config.yaml, a .yaml file, or a name in experiments/. OVERRIDES are Hydra's.
    """
    if sum((resolve, origins, defaults, schema)) > 1:
        raise click.UsageError("give at most one of --resolve, --origins, --defaults and --schema")
    if schema:
        from batchling.cli.document import write
        from batchling.config import json_schema

        write(shell, json_schema())
        return 0
    if experiment is None:
        raise click.UsageError("name an EXPERIMENT")
    from batchling.config import compose

    composition = compose(experiment, overrides, project=shell.project_of(experiment), config_dir=shell.config_dir)
    if shell.json:
        from batchling.cli.document import write

        write(shell, _document(composition, origins=origins, defaults=defaults))
        return 0
    if origins:
        shell.out(origin_table(composition))
    elif defaults:
        shell.out("\n".join(composition.defaults))
    else:
        shell.out(printable(composition.yaml if resolve else composition.unresolved_yaml).rstrip())
    return 0


def origin_table(composition: Composition) -> str:
    """Key, value, and what set it."""
    import json

    values = leaves(composition.document)
    rows = [
        [key, json.dumps(values.get(key), ensure_ascii=False), str(origin)]
        for key, origin in composition.origins.items()
    ]
    return table(["key", "value", "set by"], rows, width=width(), longest=MOST if width() else 60)


def leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """Dotted key → value, for every node of a tree."""
    found: dict[str, Any] = {key: tree} if key else {}
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, child in children:
        found |= leaves(child, f"{key}.{name}" if key else str(name))
    return found


def _document(composition: Composition, *, origins: bool, defaults: bool) -> Any:
    if origins:
        return {
            key: {
                "file": origin.file,
                "line": origin.line,
                "override": origin.override,
                **({"variable": origin.variable} if origin.variable else {}),
            }
            for key, origin in composition.origins.items()
        }
    return composition.defaults if defaults else composition.document
