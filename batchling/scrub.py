"""Blots keys out of texts, whatever shape they come back in: as they are, escaped, encoded, or a part of them.

Servers repeat keys in error messages, libraries in exceptions. What is shown, logged or written goes through a
`Scrubber` first. Pure: the secrets are arguments.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from batchling import limits

BLOT = "***"

SHORTEST = 6
"""Characters. A shorter value (`none`, `x`, `EMPTY`) is a placeholder for a server that wants some key, and as a word
or a number it stands in any text: blotting it out would damage ids and counts and protect nothing."""

PART = 8
"""Characters of a key in a row that are taken for a part of it."""


class Scrubber:
    """Knows some secrets, and finds them.

    Args:
        secrets: their values; blank and very short ones are ignored.
    """

    __slots__ = ("_bytes", "_forms", "_parts", "_secrets")

    def __init__(self, secrets: Iterable[str] = ()):
        self._secrets = tuple(dict.fromkeys(secret for secret in secrets if len(secret) >= SHORTEST))
        forms: dict[str, None] = {}
        parts: list[tuple[str, int]] = []
        for secret in self._secrets:
            for form, least in _forms(secret):
                forms[form] = None
                parts.append((form, min(least, len(form))))
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        self._bytes = tuple(form.encode() for form in self._forms)
        self._parts: dict[int, set[str]] = {}  # length → every run of so many characters
        for form, least in parts:
            grams = self._parts.setdefault(least, set())
            grams.update(form[i : i + least] for i in range(len(form) - least + 1))

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def __repr__(self) -> str:
        return f"<scrubber of {len(self._secrets)} secrets>"

    def text(self, text: str) -> str:
        """A message without the secrets and without parts of them.

        >>> Scrubber(["sk-abcdefgh12345678"]).text("Incorrect API key provided: sk-abcde*****5678.")
        'Incorrect API key provided: ********5678.'
        """
        if not self._secrets:
            return text
        text = self.whole(text)
        covered = bytearray(len(text))
        for least, grams in self._parts.items():
            for i in range(len(text) - least + 1):
                if text[i : i + least] in grams:
                    covered[i : i + least] = b"\1" * least
        if not any(covered):
            return text
        kept: list[str] = []
        for i, character in enumerate(text):
            if not covered[i]:
                kept.append(character)
            elif not i or not covered[i - 1]:
                kept.append(BLOT)
        return "".join(kept)

    def whole(self, text: str) -> str:
        """A text without whole secrets; ids and numbers that only share some characters with one stay."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, BLOT)
        return text

    def value(self, value: Any) -> Any:
        """JSON values with every text in them blotted: messages of their parts too, ids only of whole secrets."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value) if " " in value else self.whole(value)
        if isinstance(value, dict):
            return {self.whole(name): self.value(child) for name, child in value.items()}
        if isinstance(value, list):
            return [self.value(child) for child in value]
        return value

    def finds(self, data: bytes) -> bool:
        """Whether a line of raw bytes holds a secret, in any of its shapes."""
        if any(form in data for form in self._bytes):
            return True
        if b"\\u00" not in data or not self._secrets:  # any character may be escaped in JSON
            return False
        try:
            document = limits.loads(data)
        except ValueError:
            return False
        return orjson.dumps(self._within(document)) != orjson.dumps(document)

    def line(self, data: bytes) -> bytes:
        """A JSON line with the secrets blotted out; anything else with their bytes replaced."""
        try:
            document = limits.loads(data)
        except ValueError:
            for form in self._bytes:
                data = data.replace(form, BLOT.encode())
            return data
        return orjson.dumps(self._within(document))

    def _within(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.whole(value)
        if isinstance(value, dict):
            return {self.whole(name): self._within(child) for name, child in value.items()}
        if isinstance(value, list):
            return [self._within(child) for child in value]
        return value


def is_placeholder(value: str) -> bool:
    """Whether a key is words for a server that wants some key (`not-needed`): an answer may hold them by chance.

    >>> is_placeholder("not-needed"), is_placeholder("sk-1234567890abcdef")
    (True, False)
    """
    return len(value) < 24 and re.fullmatch(r"[A-Za-z]+(?:[ _-][A-Za-z]+)*", value) is not None


def _forms(secret: str) -> Iterable[tuple[str, int]]:
    """(a shape that a secret may come back in, characters of it that are a telling part)."""
    raw = secret.encode()
    escaped = json.dumps(secret)[1:-1]
    for text in (
        secret,
        escaped,
        escaped.replace("/", "\\/"),
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        html.escape(secret),
        quote(secret, safe=""),
        quote(secret),
    ):
        yield text, PART
    yield json.dumps(escaped)[1:-1], PART + 1  # JSON within JSON
    for pattern in ("\\u{:04x}", "\\u{:04X}"):
        yield "".join(pattern.format(ord(character)) for character in secret), 6 * PART
    yield "\0".join(secret), 2 * PART  # UTF-16, read as something else
    yield raw.hex(), 2 * PART
    yield raw.hex().upper(), 2 * PART
    for shift in range(3):  # base64 of a text that the secret stands somewhere in
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * shift + raw).decode()
            whole = encoded[(0, 2, 3)[shift] : (shift + len(raw)) * 8 // 6]
            yield whole, 12


URL = re.compile(r"""\b[a-z][a-z0-9+.-]*://[^\s'"<>|\\^`{}]+""", re.IGNORECASE)

MARK = "?…"
"""Takes the place of a data URL's query."""


def urls_in(value: Any) -> list[str]:
    """The URLs with a query (which may be a signature) in plain values, the longest first."""
    found = {url for text in _texts(value) for url in URL.findall(text) if "?" in url}
    return sorted(found, key=len, reverse=True)


def cut(text: str, urls: Sequence[str]) -> str:
    """A text without the queries of these URLs."""
    for url in urls:
        head, _, query = url.partition("?")
        text = text.replace(url, head + MARK)
        if len(query) >= 8:
            text = text.replace(query, MARK.removeprefix("?"))
    return text


def cut_all(value: Any, urls: Sequence[str]) -> Any:
    """Plain values without the queries of these URLs."""
    if isinstance(value, str):
        return cut(value, urls)
    if isinstance(value, dict):
        return {key: cut_all(child, urls) for key, child in value.items()}
    if isinstance(value, list):
        return [cut_all(child, urls) for child in value]
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child)
