"""`batchling results` and `batchling query`: what came back."""

from __future__ import annotations

import codecs
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click

from batchling.cli.commands.arguments import plan_argument
from batchling.cli.figures import plural
from batchling.cli.screen import PRETEND, SIMULATED, width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.printable import printable

if TYPE_CHECKING:
    from batchling.catalog import QueryResult, Reference
    from batchling.plan_document import Doubt

_MEASURED = 1_000
"""Rows that a table's columns are measured by; later ones may stand out of line."""


@click.command("results")
@plan_argument()
@click.option(
    "--format", "form", type=click.Choice(["jsonl", "csv", "parquet"]), help="Default: by FILE's ending, else jsonl."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Default: stdout."
)
@common
@pass_shell
def results_command(shell: Shell, plan: str | None, form: str | None, output: Path | None) -> int:
    """Rows with their answers. PLAN is a plan, a run, or an experiment's name (its newest plan); default: the newest plan."""
    from batchling.errors import UsageError
    from batchling.export import Format, export, format_of

    reference = up_to_date(shell, plan)
    lost = _not_received(shell, reference)
    if lost:
        from batchling.runner.doubts import told

        shell.say(f"warning: {printable(told(lost))}")
    chosen = cast("Format", form or "jsonl")
    if output is not None:
        chosen = format_of(output, cast("Format | None", form))
    simulated = _is_simulated(reference)
    if output is not None:
        rows = export(reference, output, chosen)
        if shell.json:
            from batchling.cli.document import write

            answer = {"plan_id": reference.plan_id, "run_id": reference.run_id, "simulated": simulated}
            write(shell, {**answer, "rows": rows, "format": chosen, "file": output, "not_received": lost})
            return 0
        shell.say(_header(reference, simulated) + f": {plural(rows, 'row')} in {output}")
        return 0
    if shell.json:
        _write_document(shell, reference, simulated, lost)
        return 0
    if chosen == "parquet" and sys.stdout.isatty():
        raise UsageError(
            "parquet cannot be printed", next_command=f"batchling results {reference.plan_id} -o results.parquet"
        )
    shell.say(_header(reference, simulated))
    stream: BinaryIO = sys.stdout.buffer
    export(reference, cast("BinaryIO", _Printable(stream)) if sys.stdout.isatty() else stream, chosen)
    stream.flush()
    return 0


def up_to_date(shell: Shell, reference: str | None) -> Reference:
    """The plan or run that is meant, its records brought up to what was collected so far."""
    from batchling import catalog
    from batchling.api.standing import name_broken, trouble_of
    from batchling.api.workspace import Workspace
    from batchling.errors import JournalError, UsageError
    from batchling.runner.folder import PlanFolder

    workspace = Workspace(shell.runs)
    if reference is None:
        newest = catalog.latest(shell.runs)
        if newest is None:
            raise UsageError(f"there is no plan in {shell.runs}", next_command="batchling run EXPERIMENT")
        reference = newest.name
        with suppress(JournalError):
            workspace.state(PlanFolder(newest), to_show=True)
            newest = None
        if newest is not None:  # the newest cannot be read: the newest that can
            reference = workspace.find(None).plan_id
    found = catalog.resolve(shell.runs, reference)
    name_broken(shell.runs, but=found.plan_id)
    summary = catalog.read_summary(found.plan_dir)
    if summary is None or summary.stale:
        workspace.refresh(PlanFolder(found.plan_dir))
    workspace.state(PlanFolder(found.plan_dir), to_show=True)
    if (trouble := trouble_of(workspace, PlanFolder(found.plan_dir))) is not None:
        shell.say(f"warning: {printable(trouble.message)}")
    return found


def _is_simulated(reference: Reference) -> bool:
    from batchling.results import Results

    return Results(reference.plan_dir).simulated


def _header(reference: Reference, simulated: bool) -> str:
    from batchling.results import Results

    name = reference.run_id or reference.plan_id
    if not simulated:
        return name
    return f"{name}   {PRETEND if Results(reference.plan_dir).pretend else SIMULATED}"


def _not_received(shell: Shell, reference: Reference) -> tuple[Doubt, ...]:
    """What may have been paid and did not arrive; nothing where only the answers are left of a plan."""
    from batchling.api.standing import not_received
    from batchling.api.workspace import Workspace
    from batchling.errors import BatchlingError
    from batchling.runner.folder import PlanFolder

    folder, workspace = PlanFolder(reference.plan_dir), Workspace(shell.runs)
    try:
        document = folder.load(workspace.disk)
        return tuple(not_received(workspace, folder, workspace.state(folder, to_show=True), document))
    except BatchlingError:
        return ()


def _write_document(shell: Shell, reference: Reference, simulated: bool, lost: tuple[Doubt, ...]) -> None:
    """One document, written row by row."""
    from batchling.cli.document import plain
    from batchling.results import Results

    records = iter(Results(reference.plan_dir, run_id=reference.run_id))
    first = next(records, None)  # what is wrong is said before the document begins
    shell.answered = True
    head: dict[str, Any] = {"plan_id": reference.plan_id, "run_id": reference.run_id, "simulated": simulated}
    head["not_received"] = plain(lost)
    sys.stdout.write(json.dumps(head, indent=2)[:-2] + ',\n  "records": [')
    separator = "\n    "
    for record in () if first is None else itertools.chain([first], records):
        sys.stdout.write(separator + json.dumps(plain(record)))
        separator = ",\n    "
    sys.stdout.write("\n  ]\n}\n")


class _Printable:
    """A terminal that text from strangers cannot take over."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> int:
        self._stream.write(printable(self._decoder.decode(data)).encode())
        return len(data)


@click.command("query")
@click.argument("sql")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json", "jsonl"]), default="table", show_default=True
)
@common
@pass_shell
def query_command(shell: Shell, sql: str, form: str) -> int:
    """One SQL statement over the catalog, opened read-only.

    Tables: plans, runs, requests, run_requests, batches, responses, records, metrics, events, and the view results.
    """
    from batchling import catalog
    from batchling.api.standing import name_broken
    from batchling.api.workspace import Workspace

    Workspace(shell.runs).refresh_stale()
    name_broken(shell.runs)
    if not shell.runs.exists():
        from batchling.errors import UsageError

        raise UsageError(f"there is no plan in {shell.runs}", next_command="batchling run EXPERIMENT")
    with catalog.query(shell.runs, sql) as result:
        {"table": _table, "csv": _csv, "json": _json, "jsonl": _jsonl}["json" if shell.json else form](shell, result)
    return 0


def _table(shell: Shell, result: QueryResult) -> None:
    from itertools import islice

    from batchling.cli.table import MOST, table

    rows: Iterator[list[Any]] = ([_text(v) for v in row] for row in result)
    if not result.columns:
        return
    first = list(islice(rows, _MEASURED))
    click.echo(table(result.columns, first, width=width(), longest=MOST))
    while chunk := list(islice(rows, _MEASURED)):
        click.echo(table(result.columns, chunk, width=width(), longest=MOST).partition("\n")[2])


def _text(value: Any) -> Any:
    """A value for a table cell: numbers as they are, other things as text."""
    from decimal import Decimal

    from batchling.cli.table import Number

    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Decimal):
        return Number(format(value, "f"))
    if isinstance(value, int | float):
        return Number(value)
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    from batchling.cli.document import plain

    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, bytes):
        return value.hex()
    return plain(value)


def _objects(result: QueryResult) -> Iterator[dict[str, Any]]:
    names = _unique(result.columns)
    return (dict(zip(names, map(_plain, row), strict=True)) for row in result)


def _unique(columns: tuple[str, ...]) -> list[str]:
    """Column names with `_2`, `_3` where one comes again: an object has each name once."""
    seen: dict[str, int] = {}
    names = []
    for name in columns:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def _json(shell: Shell, result: QueryResult) -> None:
    shell.answered = True
    separator = "[\n  "
    for row in _objects(result):
        sys.stdout.write(separator + json.dumps(row))
        separator = ",\n  "
    sys.stdout.write("[]\n" if separator.startswith("[") else "\n]\n")


def _jsonl(shell: Shell, result: QueryResult) -> None:
    for row in _objects(result):
        sys.stdout.write(json.dumps(row) + "\n")


def _csv(shell: Shell, result: QueryResult) -> None:
    import csv

    from batchling.export import safe_cell

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in result.columns])
    for row in result:
        texts = [_text(v) for v in row]
        writer.writerow([safe_cell(printable(t)) if type(t) is str else t for t in texts])
