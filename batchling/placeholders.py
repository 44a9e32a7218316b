"""What in a prompt looks like a placeholder and is none, or should have been one: notes, never changes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

_ROOT = r"([^\W\d]\w*)((?:\.[^\W\d]\w*|\[\d+\])*)"
_DOUBLED = re.compile(rf"(?<!\{{)\{{\{{(\s*){_ROOT}(\s*)(\|[^{{}}]*)?\}}\}}(?!\}})")
_SPACED = re.compile(
    rf"(?<!\{{)\{{(?=\s|{_ROOT}[\s!:|])\s*{_ROOT}\s*((?:![rsa])?(?::[^\s{{}}]+)?|\|[^{{}}]*)\}}(?!\}})"
)
_WORDS = re.compile(r"(?<![\w\\}^_${])\{([^\W\d][\w-]*(?: [\w-]+){1,5})\}(?!\})")
_SINGLE = re.compile(rf"(?<!\{{)\{{\s*{_ROOT}\s*\}}(?!\}})")
_TRIPLED = re.compile(rf"\{{\{{\{{\s+{_ROOT}\s*\}}\}}\}}|\{{\{{\{{{_ROOT}\s+\}}\}}\}}")
_INDEXED = re.compile(r"""(?<!\{)\{([^\W\d]\w*)((?:\[(?:"\w+"|'\w+')\])+)\}(?!\})""")
_ESCAPED = re.compile(r"""\{\{\s*["'][\w -]{1,40}["']\s*:""")
_BRACED = re.compile(r"\{([^{}\n]{1,200})\}")
_OWN_WORD = re.compile(r"\{\{-?\s*(true|false|none|True|False|None)\s*(?:\|[^{}]*)?-?\}\}")
_STATEMENT = re.compile(r"\{%-?\s*(?:if|for|set|else|endif|endfor)\b[^{}]*%\}")


def lookalikes(text: str, engine: str, columns: Collection[str]) -> Iterator[str]:
    """What a person should know about the braces of a template, a sentence each.

    Args:
        text: one message's template.
        engine: `format` or `jinja`.
        columns: the columns that rows have.
    """
    if engine == "jinja":
        for match in _SINGLE.finditer(text):
            if match[1] in columns:
                yield f"{match[0]} is sent as it stands: with prompt.engine=jinja a placeholder is {{{{ {match[1]} }}}}"
        for match in _OWN_WORD.finditer(text):
            if match[1] in columns:
                yield f"{match[0]} is Jinja's own {match[1].lower()}, not the column {match[1]}: rename it with data.sql"
        return
    for match in _DOUBLED.finditer(text):
        column = _column(match[2], columns)
        if column is None:
            continue
        plain = not (match[1] or match[4] or match[5])
        sent = f"as the text {match[0][1:-1]}" if plain else "as it stands"
        hint = "; for filters set prompt.engine=jinja" if match[5] else ""
        yield f"{match[0]} is sent {sent}: a placeholder has one pair of braces, {{{column}{match[3]}}}{hint}"
    for column in columns:
        if f"{{{{{column}}}}}" in text and not re.fullmatch(_ROOT, column):
            yield f"{{{{{column}}}}} is sent as the text {{{column}}}: a placeholder has one pair of braces, {{{column}}}"
    for match in _SPACED.finditer(text):
        column = _column(match[3], columns)
        if column is not None:
            hint = "" if not match[5] else "; a placeholder takes no format: use data.sql, or prompt.engine=jinja"
            yield f"{match[0]} is sent as it stands: a placeholder is {{{column}{match[4]}}}{hint}"
    for match in _WORDS.finditer(text):
        if match[1] not in columns:
            near = get_close_matches(match[1], list(columns), n=1, cutoff=0.7)
            guess = f"; did you mean `{near[0]}`?" if near else ""
            yield f"{match[0]} is sent as it stands: there is no column of that name{guess}"
    for match in _TRIPLED.finditer(text):
        column = _column(match[1] or match[3], columns)
        if column is not None:
            yield f"{match[0]} is sent as it stands: a placeholder is {{{column}{match[2] or match[4] or ''}}}"
    for match in _INDEXED.finditer(text):
        column = _column(match[1], columns)
        if column is not None:
            path = re.sub(r"""\[["'](\w+)["']\]""", r".\1", match[2])
            yield f"{match[0]} is sent as it stands: a placeholder is {{{column}{path}}}"
    for match in _BRACED.finditer(text):
        if match[1] not in columns and (column := _spelt_otherwise(match[1], columns)):
            yield f"{match[0]} is sent as it stands: the column {column} has the same letters in other code points (Unicode NFC, NFD)"
    if escaped := _ESCAPED.search(text):
        yield (
            f"{' '.join(escaped[0].split())} … is sent with both braces: a brace outside a placeholder is literal "
            "and needs no doubling"
        )
    for match in _STATEMENT.finditer(text):
        yield f"{match[0]} is sent as it stands: prompt.engine=jinja renders it"
        return


def provided_for(text: str, column: str) -> bool:
    """Whether a Jinja template says itself what happens when a column has no value."""
    name = re.escape(column)
    return any(
        re.search(pattern, text)
        for pattern in (
            rf"\{{%-?\s*(?:if|elif|for)\b[^%]*\b{name}\b",
            rf"\b{name}\b\s*\|\s*(?:d|default)\b",
            rf"\bif\b[^{{}}]*\b{name}\b",
            rf"\b{name}\b\s+or\b",
        )
    )


def is_blank(value: Any) -> bool:
    """Whether a value leaves a hole in a prompt: null, NaN, or text without a visible character."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and value != value)


def _column(name: str, columns: Collection[str]) -> str | None:
    """The column that a name means, also in another case."""
    if name in columns:
        return name
    return next((column for column in columns if column.casefold() == name.casefold()), None)


def _spelt_otherwise(name: str, columns: Collection[str]) -> str | None:
    """The column of the same letters: a Mac writes é as two code points."""
    if name.isascii():
        return None
    plain = unicodedata.normalize("NFC", name)
    return next((column for column in columns if unicodedata.normalize("NFC", column) == plain), None)
