"""Templates: compile once against the columns, render a row into the texts the model sees.

Two engines. `format` (the default) knows one thing, the placeholder; everything else, every other
brace too, is literal, so JSON and LaTeX need no escaping:

    {name}   {address.city}   {tags[0]}      the value of a column, or of a part of it
    {Product Name}                           the same, where a column has exactly this name
    {{name}}                                 the text {name}
    {{{name}}}                               the value between braces, as in str.format

`jinja` is Jinja in its sandbox, for prompts with logic: see `batchling.sandbox`.

Values are data: they are never templates and never rendered again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, time
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

from batchling.errors import PromptError
from batchling.written import WrittenFloat, dumps

Engine = Literal["format", "jinja"]

_PATH = r"[^\W\d]\w*(?:\.[^\W\d]\w*|\[\d+\])*"
_STEP = re.compile(r"\.([^\W\d]\w*)|\[(\d+)\]")


class RenderError(Exception):
    """One row cannot be rendered. The caller knows the row and says so in a `DataError`.

    Args:
        message: what is wrong with the value.
        column: the column (or placeholder) it came from, where that is known.
    """

    def __init__(self, message: str, column: str | None = None):
        super().__init__(message)
        self.message = message
        self.column = column


@dataclass(frozen=True, slots=True)
class Slot:
    """A placeholder: where a row's value goes.

    Attributes:
        name: the placeholder as written, without its braces.
        column: the top-level column.
        path: the steps from the column's value to the value meant; `str` for fields, `int` for list positions.
    """

    name: str
    column: str
    path: tuple[str | int, ...] = ()

    def text(self, value: Any) -> str:
        """The text of this slot, given the column's value.

        Raises:
            RenderError: the value has no such part, or has no text form.
        """
        try:
            for step in self.path:
                if value is None:
                    return ""
                if type(value) is str:  # `{tags[0]}` of the text '["a"]' would be its bracket
                    raise TypeError
                value = value[step]
        except (KeyError, IndexError, TypeError) as error:
            raise RenderError(
                f"there is no `{self.name}` in this row's value of `{self.column}`", self.column
            ) from error
        if type(value) is str:
            return value
        try:
            return value_text(value)
        except RenderError as error:
            raise RenderError(error.message, self.name) from error


Part = str | Slot


@dataclass(frozen=True, slots=True)
class Template:
    """One message: a role and, by engine, its literal and variable parts or the function that renders it.

    Attributes:
        role: system, developer, user or assistant (any word, for the text of an embeddings request).
        parts: `format`: literals and slots in order, no two literals adjacent; None for Jinja.
        render: Jinja: from a row to the text; None for `format`.
    """

    role: str
    parts: tuple[Part, ...] | None
    render: Callable[[Mapping[str, Any]], str] | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Compiled messages.

    Attributes:
        templates: the messages in order.
        columns: the top-level columns they use, in order of first use.
    """

    templates: tuple[Template, ...]
    columns: tuple[str, ...]

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """The rendered text of each message.

        Raises:
            RenderError: this row cannot be rendered.
        """
        texts = []
        for template in self.templates:
            if template.parts is None:
                assert template.render is not None
                texts.append(template.render(row))
            else:
                texts.append("".join(p if type(p) is str else p.text(row[p.column]) for p in template.parts))  # type: ignore[union-attr]
        return texts

    def saying(self, words: str) -> Prompt:
        """The prompt with words, taken literally, at the end of its last system message, or in a new one before all."""
        places = [i for i, t in enumerate(self.templates) if t.role in ("system", "developer")]
        jinja = any(template.parts is None for template in self.templates)
        if not places:
            said = Template("system", None, lambda row: words) if jinja else Template("system", (words,))
            return replace(self, templates=(said, *self.templates))
        at = places[-1]
        return replace(
            self, templates=(*self.templates[:at], _ending(self.templates[at], words), *self.templates[at + 1 :])
        )


def _ending(template: Template, words: str) -> Template:
    """A template with a paragraph more."""
    words = "\n\n" + words
    if template.parts is None:
        render = template.render
        assert render is not None
        return replace(template, render=lambda row: render(row) + words)
    *parts, last = template.parts or ("",)
    return replace(template, parts=(*parts, last + words) if isinstance(last, str) else (*parts, last, words))


def compile_prompt(messages: Sequence[tuple[str, str]], engine: Engine, columns: Sequence[str]) -> Prompt:
    """Compile the messages' templates.

    Args:
        messages: role and template text of each message.
        engine: `format` or `jinja`.
        columns: the columns that rows have.

    Raises:
        PromptError: a placeholder names no column, or Jinja does not understand the template.
    """
    used: dict[str, None] = {}
    templates = []
    for number, (role, text) in enumerate(messages, 1):
        where = f"message {number} ({role})"
        try:
            if engine == "format":
                parts = tuple(_parse(text, columns, where))
                used.update((part.column, None) for part in parts if isinstance(part, Slot))
                templates.append(Template(role, parts))
            else:
                from batchling.sandbox import compile_template  # Jinja takes a while to import

                render, names = compile_template(text, columns, where)
                used.update((name, None) for name in names)
                templates.append(Template(role, None, render))
        except PromptError as error:
            error.key = "prompt.input" if role == "input" else f"prompt.messages.{number - 1}.content"
            raise
    return Prompt(tuple(templates), tuple(used))


@lru_cache(maxsize=64)
def _token(columns: tuple[str, ...]) -> re.Pattern[str]:
    """A placeholder in one, two or three braces. A column's own name is one, blanks and all: `{Product Name}`."""
    odd = [name for name in columns if not re.fullmatch(_PATH, name) and not re.search(r"[{}]", name)]
    inner = "(" + "|".join([*map(re.escape, sorted(odd, key=len, reverse=True)), _PATH]) + ")"
    return re.compile(rf"(?:\{{\{{\{{{inner}\}}\}}\}})|(?:\{{\{{{inner}\}}\}})|(?:\{{{inner}\}})")


def mistakable(texts: Iterable[str], columns: Iterable[str]) -> list[str]:
    """Columns whose name stands in braces in a template of the engine `format` and is no placeholder: `{a{b}`."""
    found = []
    for name in columns:
        written = f"{{{name}}}"
        if _token((name,)).fullmatch(written) is None and any(written in text for text in texts):
            found.append(name)
    return found


def value_text(value: Any) -> str:
    """A value as the model reads it.

    Text as it is, NULL as nothing, booleans as true and false, numbers plainly (shortest digits
    that read back the same, no exponent where digits will do), dates and times in ISO 8601,
    structs and lists as JSON.

    Raises:
        RenderError: bytes, or a struct that JSON cannot hold.
    """
    match value:
        case str():
            return value
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _plain_float(value)
        case Decimal():
            return format(value, "f")
        case date() | time():  # datetime is a date
            return value.isoformat()
        case dict() | list() | tuple():
            try:
                return dumps(value, value_text)
            except (TypeError, ValueError, RecursionError) as error:
                raise RenderError(f"the value cannot be written as JSON: {error}") from error
        case bytes() | bytearray() | memoryview():
            raise RenderError("the value is binary; cast the column to text in the data source")
    return str(value)


def _plain_float(value: float) -> str:
    if isinstance(value, WrittenFloat):
        return value.text
    text = repr(value)
    if "e" in text and 1e-7 <= abs(value) < 1e21:
        return format(Decimal(text), "f")
    return text


def _parse(text: str, columns: Sequence[str], where: str) -> Iterable[Part]:
    """Split a template into literals and slots."""
    literal = ""
    position = 0
    for match in _token(tuple(columns)).finditer(text):
        literal += text[position : match.start()]
        position = match.end()
        triple, double, single = match.groups()
        if double:
            literal += "{" + double + "}"
            continue
        if triple:
            literal += "{"
        if literal:
            yield literal
        yield _slot(triple or single, columns, f"{where}, line {text.count(chr(10), 0, match.start()) + 1}")
        literal = "}" if triple else ""
    literal += text[position:]
    if literal:
        yield literal


def _slot(name: str, columns: Sequence[str], where: str) -> Slot:
    if name in columns:  # a column may itself be called `a.b`
        return Slot(name, name)
    column = re.split(r"[.\[]", name, maxsplit=1)[0]
    if column not in columns:
        raise unknown_column(
            column, columns, f"{{{name}}}", where, f"for the text {{{name}}} itself write {{{{{name}}}}}"
        )
    path = tuple(field or int(index) for field, index in _STEP.findall(name[len(column) :]))
    return Slot(name, column, path)


def unknown_column(name: str, columns: Sequence[str], shown: str, where: str, hint: str) -> PromptError:
    """The error of a template that names a column there is not, with the nearest that there is."""
    near = get_close_matches(name, columns, n=1)
    guess = f"; did you mean `{near[0]}`?" if near else "."
    listed = ", ".join(columns[:40]) + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
    return PromptError(
        f"{shown}: there is no column `{name}`{guess} Columns: {listed or 'none'}", where=where, next_command=hint
    )
