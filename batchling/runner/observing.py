"""What is noticed of a run's rows while its requests are compiled, for the notes of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchling.errors import PromptError
from batchling.packing import KeySet
from batchling.placeholders import is_blank, lookalikes, provided_for
from batchling.prompt import RenderError, Slot
from batchling.request import RequestBuilder
from batchling.spec import Spec

NAMED = 5
"""Row ids that a note shows."""


class Rows:
    """Some of the rows: how many, and the ids of the first."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, places: Sequence[int], row_ids: Sequence[str]) -> None:
        self.count += len(places)
        if len(self.first) < NAMED:
            self.first += [row_ids[place] for place in places[: NAMED - len(self.first)]]

    def __str__(self) -> str:
        """`row 3`, `rows 2, 3, 4`, `rows 1, 2, 3, 4, 5, …`."""
        more = ", …" if self.count > len(self.first) else ""
        return f"row{'s' * (self.count != 1)} {', '.join(self.first)}{more}"


class Observed:
    """One run's rows.

    Attributes:
        rows: how many were looked at.
        asks_the_same: the prompt uses no column.
        blank: by placeholder: the rows that leave it empty.
        repeated: rows that ask the same as an earlier row of this run.
        longest, longest_row: the longest request to be sent, and its row; in `unit`s: tokens, or bytes where nobody counts.
        total, requests: their sum and number.
        over: requests above the model's context window.
    """

    __slots__ = (
        "_context",
        "_keys",
        "_slots",
        "asks_the_same",
        "blank",
        "longest",
        "longest_row",
        "over",
        "repeated",
        "requests",
        "rows",
        "total",
        "unit",
    )

    def __init__(self) -> None:
        self.rows = 0
        self.asks_the_same = False
        self.blank: dict[str, Rows] = {}
        self.repeated = Rows()
        self.longest = 0
        self.longest_row = ""
        self.total = 0
        self.requests = 0
        self.unit = "tokens"
        self.over = Rows()
        self._slots: list[tuple[str, int, Slot | None]] | None = None
        self._context: int | None = None
        self._keys: KeySet | None = None

    def look(self, builder: RequestBuilder, spec: Spec, *, first: bool, alone: bool) -> None:
        """Begins to look.

        Args:
            first: no run before it has these rows and this prompt: only then it is looked for blanks and equal rows.
            alone: the plan has no other run, so that a key that was seen is one of this run's.
        """
        self._context = spec.config.model.context_tokens
        if not first:
            return
        self._keys = None if alone else KeySet()
        self._slots = []
        self.asks_the_same = not builder.columns
        for number, template in enumerate(builder.prompt.templates):
            if template.parts is None:
                text = spec.messages[number][1] if spec.config.model.endpoint != "embeddings" else spec.input or ""
                self._slots += [
                    (f"`{column}`", index, None)
                    for index, column in enumerate(builder.columns)
                    if column in text and not provided_for(text, column)
                ]
                continue
            self._slots += [
                (f"{{{part.name}}}", builder.columns.index(part.column), part if part.path else None)
                for part in template.parts
                if isinstance(part, Slot)
            ]

    def blanks(self, columns: Sequence[Sequence[Any]], row_ids: Sequence[str]) -> None:
        """Notices the placeholders that rows leave empty. `columns`: the values, by the builder's columns."""
        if self._slots is None:
            return
        self.rows += len(row_ids)
        for name, index, slot in dict.fromkeys(self._slots):
            values = columns[index]
            if slot is None:
                # `is_blank`, without a call for each value
                empty = [
                    place
                    for place, value in enumerate(values)
                    if (not value or value.isspace() if type(value) is str else value is None or is_blank(value))
                ]
            else:
                empty = [place for place, value in enumerate(values) if _is_blank_there(slot, value)]
            if empty:
                self.blank.setdefault(name, Rows()).add(empty, row_ids)

    def same(self, keys: Sequence[str], fresh: Sequence[int], row_ids: Sequence[str]) -> None:
        """Notices rows that ask what an earlier one asks. `fresh`: places of keys that the plan sees for the first time."""
        if self._slots is None:
            return
        if self._keys is not None:
            fresh = self._keys.add_many(keys)
        if len(fresh) < len(keys):
            first = set(fresh)
            self.repeated.add([place for place in range(len(keys)) if place not in first], row_ids)

    def lengths(self, tokens: Sequence[int | None], sizes: Sequence[int], row_ids: Sequence[str]) -> None:
        """Notices how long requests are that will be sent."""
        if not sizes:
            return
        counted = [n for n in tokens if n is not None]
        if len(counted) == len(sizes):
            lengths: Sequence[int] = counted
        else:
            lengths, self.unit = sizes, "bytes"
        longest = max(lengths)
        if longest > self.longest:
            self.longest, self.longest_row = longest, row_ids[lengths.index(longest)]
        self.total += sum(lengths)
        self.requests += len(lengths)
        if self._context is not None and self.unit == "tokens" and longest > self._context:
            self.over.add([place for place, n in enumerate(lengths) if n > self._context], row_ids)


def _is_blank_there(slot: Slot, value: Any) -> bool:
    try:
        return is_blank(slot.text(value))
    except RenderError:
        return False  # compiling it says so, with the row


def refuse_the_same_question(spec: Spec, builder: RequestBuilder, rows: int, columns: Sequence[str]) -> None:
    """A prompt that uses no column asks every row the same.

    Raises:
        PromptError: several rows would be one request; with `repeats` or `dedupe: false` that is meant.
    """
    config = spec.config
    if builder.columns or rows < 2 or config.repeats > 1 or not config.dedupe:
        return
    key = "prompt.input" if config.model.endpoint == "embeddings" else "prompt.messages"
    hints = [hint for _, text in braces(spec) for hint in lookalikes(text, config.prompt.engine, columns)]
    example = next((name for name in columns if name != config.data.id), columns[0] if columns else "column")
    written = f"{{{{ {example} }}}}" if config.prompt.engine == "jinja" else f"{{{example}}}"
    with spec.placing():
        raise PromptError(
            f"the prompt uses no column: {rows:,} rows would ask the same" + "".join(f"; {hint}" for hint in hints[:3]),
            next_command=f"put a column into it, e.g. {written}; to ask the same several times: repeats=N, or dedupe=false",
            key=key,
        )


def braces(spec: Spec) -> list[tuple[str, str]]:
    """The templates that are sent, with the key that each one stands at."""
    if spec.config.model.endpoint == "embeddings":
        return [("prompt.input", spec.input or "")]
    return [(f"prompt.messages.{number}.content", text) for number, (_, text) in enumerate(spec.messages)]
