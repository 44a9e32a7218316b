"""What models write around the JSON that they were asked for: their thoughts, a fence, a sentence, invisible characters.

Only where it is certain which JSON is meant: what stands behind a closing reasoning tag, or in the one fenced block there
is. Of two blocks, or a block and an object beside it, nobody can say which is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from batchling import limits

_TAG = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)"
_OPEN = re.compile(rf"<{_TAG}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>", re.IGNORECASE)
_MARK = re.compile(r"`{3,}|~{3,}")
_LANGUAGE = re.compile(r"[ \t]*[A-Za-z0-9_+-]{0,30}(?=[\s{\[])")
_BRACES = 100
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad"
_BLANK = _INVISIBLE + "\u00a0\u2028\u2029\u3000"
_BETWEEN = re.compile(rf'("(?:[^"\\]|\\.)*")|[{_BLANK}]+', re.DOTALL)


class Unclear(ValueError):
    """It is not certain which JSON is meant; the message is one line."""


class Unwrapped(NamedTuple):
    """A text that may be JSON, and what stood around it: thoughts and prose, without tags and fences."""

    text: str
    around: str | None


def candidates(answer: str) -> Iterator[Unwrapped]:
    """The texts in an answer that may be its JSON, the likeliest first.

    Raises:
        Unclear: there are several blocks, or the reasoning has no end.
    """
    closing = list(_CLOSE.finditer(answer))
    opening = _OPEN.search(answer)
    if closing:
        # The last one ends the thoughts, which may speak of tags; only in a string of the JSON itself it is the first.
        for mark in dict.fromkeys((closing[-1], closing[0])):
            before = answer[: mark.start()]
            lead = _OPEN.search(before)
            thoughts = before if lead is None else before[: lead.start()] + before[lead.end() :]
            yield from _visible(answer[mark.end() :], thoughts)
        bare = answer.strip(_BLANK + " \t\r\n")
        if bare.startswith(("{", "[", "```")) and bare.endswith(("}", "]", "```")):  # a string of it speaks of tags
            yield from _visible(answer, "")
    elif opening is not None and not answer[: opening.start()].strip(_BLANK + " \t\r\n"):
        raise Unclear("the reasoning does not end, so there is no answer behind it")
    else:
        yield from _visible(answer, "")


def _visible(answer: str, thoughts: str) -> Iterator[Unwrapped]:
    """The JSON of an answer without thoughts: all of it, or its one fenced block."""
    text = answer.strip(_BLANK + " \t\r\n")
    marks = list(_MARK.finditer(text))
    prose = ""
    if len(marks) > 1 and not text.startswith(("{", "[", '"')):
        first, last = marks[0], marks[-1]
        if first.start() == 0 and last.end() == len(text):  # a string of the JSON may hold a fence itself
            yield Unwrapped(_inner(text, first, last), thoughts.strip() or None)
        if len(marks) > 2:
            raise Unclear(f"ambiguous: {len(marks)} fence marks, and nothing says which block is the answer")
        prose = "\n".join(part.strip() for part in (text[: first.start()], text[last.end() :]) if part.strip())
        if _holds_object(prose):
            raise Unclear("ambiguous: an object beside the fenced block, and nothing says which is the answer")
        text = _inner(text, first, last)
    around = "\n".join(part for part in (thoughts.strip(), prose) if part) or None
    yield Unwrapped(text, around)
    plain = _BETWEEN.sub(lambda found: found[1] or " ", text)
    if plain != text:
        yield Unwrapped(plain, around)


def _inner(text: str, first: re.Match[str], last: re.Match[str]) -> str:
    """What stands in a fenced block, without the language that may be named at its beginning."""
    inner = text[first.end() : last.start()]
    language = _LANGUAGE.match(inner)
    return inner[language.end() if language else 0 :].strip(_BLANK + " \t\r\n")


def _holds_object(prose: str) -> bool:
    """Whether a JSON object stands in a text; one with very many braces may."""
    if prose.count("{") > _BRACES:
        return True
    start = prose.find("{")
    while start >= 0:
        end = prose.find("}", start)
        tries = 0
        while end >= 0 and tries < 20:
            try:
                if isinstance(limits.loads(prose[start : end + 1]), dict):
                    return True
            except ValueError:
                pass
            end, tries = prose.find("}", end + 1), tries + 1
        start = prose.find("{", start + 1)
    return False
