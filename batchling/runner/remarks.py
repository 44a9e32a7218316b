"""The notes of a plan: what a person should know before it costs anything, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from batchling import schema
from batchling.placeholders import lookalikes
from batchling.prompt import mistakable
from batchling.runner.compiling import Totals
from batchling.runner.observing import Observed, braces
from batchling.runner.points import Point
from batchling.source import Snapshot

FAR = 20
"""A request so many times as long as the others' average is told."""

LONG = {"tokens": 2_000, "bytes": 8_000}
"""Shorter than this, no request is worth a remark."""


class Made(Protocol):
    """What a draft tells: its runs, their rows, and what is doubtful about the metrics."""

    @property
    def points(self) -> tuple[Point, ...]: ...
    @property
    def snapshots(self) -> dict[str, Snapshot]: ...
    @property
    def doubtful(self) -> tuple[str, ...]: ...


def notes(made: Made, totals: Totals) -> tuple[str, ...]:
    """Every note of a plan, each once, in the order: config, schema, metrics, prompt, rows."""
    found: dict[str, None] = {}
    for point in made.points:
        found.update(dict.fromkeys(point.spec.notes))
        found.update(dict.fromkeys(_of_schema(point)))
    found.update(dict.fromkeys(made.doubtful))
    for point in made.points:
        columns = [column.name for column in made.snapshots[point.data_key].columns]
        found.update(dict.fromkeys(_of_prompt(point, columns)))
    for point, observed in zip(made.points, totals.observed, strict=True):
        found.update(dict.fromkeys(_of_rows(point, observed)))
    return tuple(found)


def _of_schema(point: Point) -> Iterator[str]:
    compiled = point.schema
    if compiled is None:
        return
    config = point.spec.config.output_schema
    form = "pydantic" if config.pydantic else "json_schema" if config.json_schema else "fields"
    name = config.pydantic or config.json_schema or ""
    where = f" [{name}]" if name else f" [{place}]" if (place := point.spec.set_at("schema.fields")) else ""
    if compiled.words is not None:
        why = "" if config.send != "auto" else f"{point.spec.config.model.id} takes no strict schema: "
        mode = "in JSON mode, with the schema" if compiled.sent == "json_mode" else "with the schema"
        yield f"{why}asked {mode} in words in the system message (plan --show prints it)"
    if compiled.unsent:
        yield f"only checked here, not sent to the model: {', '.join(compiled.unsent)}"
    if form == "fields":
        return
    if unknown := schema.unknown(compiled.json_schema):
        yield f"keywords that JSON Schema does not know have no effect: {', '.join(unknown)}{where}"
    if compiled.strict_schema is not None:
        for path in schema.open_objects(compiled.json_schema):
            yield (
                f"{path} allows more fields than it names, and strict mode cannot express that: the schema sent to the model"
                f" allows no others{where}"
            )


def _of_prompt(point: Point, columns: list[str]) -> Iterator[str]:
    spec = point.spec
    engine = spec.config.prompt.engine
    texts = braces(spec)
    for key, text in texts:
        place = spec.set_at(key)
        for told in lookalikes(text, engine, columns):
            yield told + (f" [{place}]" if place else "")
    if engine == "format":
        for name in mistakable([text for _, text in texts], columns):
            yield f"{{{name}}} is sent as it stands: a name with braces is not a placeholder; give the column another name with data.sql"


def _of_rows(point: Point, observed: Observed) -> Iterator[str]:
    config = point.spec.config
    if observed.asks_the_same:
        why = "repeats" if config.repeats > 1 else "dedupe: false" if not config.dedupe else "one row"
        yield f"the prompt uses no column: every request asks the same question ({why})"
    for name, rows in observed.blank.items():
        yield f"{name} is empty or null in {rows.count:,} of {observed.rows:,} rows ({rows}); data.where leaves them out"
    if observed.repeated.count and not observed.asks_the_same:
        same = observed.repeated
        if same.count == 1:
            yield f"1 row asks the same as an earlier one, and is bought once ({same})"
        else:
            yield f"{same.count:,} rows ask the same as earlier ones, and are bought once ({same})"
    if observed.over.count:
        over = observed.over
        yield (
            f"{over.count:,} request{'s are' if over.count != 1 else ' is'} above the {config.model.context_tokens:,} tokens"
            f" that {config.model.id} takes ({over}); longest row: {observed.longest_row}, {observed.longest:,} tokens"
        )
    elif observed.requests > 1:
        others = (observed.total - observed.longest) / (observed.requests - 1)
        if observed.longest >= LONG[observed.unit] and observed.longest > FAR * others:
            yield (
                f"longest row: {observed.longest_row}, {observed.longest:,} {observed.unit};"
                f" the others have {others:,.0f} on average"
            )
