"""The documentation's pages and the code blocks in them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"


WALKTHROUGHS = (
    "tutorials/decision.md",
    "tutorials/hydra.md",
    "howto/recipes.md",
    "howto/notebooks.md",
    "troubleshooting.md",
)
"""Pages that `test_walkthroughs` follows from top to bottom: what is on them is run, so it is not checked piece by piece."""


class Block(NamedTuple):
    """A fenced block: where it begins, its language, its text."""

    where: str
    language: str
    text: str


def pages() -> list[Path]:
    """Everything that people read, in order."""
    return sorted(
        [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("experiments/*/README.md")],
        key=lambda path: path.relative_to(ROOT).as_posix(),
    )


def blocks(*languages: str) -> Iterator[Block]:
    """The blocks in these languages, on all pages."""
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", text, re.M | re.S):
            if found[2] in languages:
                line = text.count("\n", 0, found.start()) + 1
                yield Block(f"{path.relative_to(ROOT).as_posix()}:{line}", found[2], textwrap.dedent(found[3]))


def followed(where: str) -> bool:
    """Whether a place is on a page of `WALKTHROUGHS`."""
    return where.partition(":")[0].removeprefix("docs/") in WALKTHROUGHS


def commands() -> Iterator[tuple[str, str]]:
    """(where, command line) of every `batchling …` that a reader is told to type, comments left out."""
    for block in blocks("sh", "console", ""):
        for offset, line in enumerate(block.text.splitlines(), 1):
            found = re.match(r"(?:\$ )?(?:until )?(?:\.venv/bin/)?(batchling .*)", line)
            if found:
                page, _, number = block.where.partition(":")
                command = re.split(r"\s+#\s|;", found[1])[0].strip()
                yield f"{page}:{int(number) + offset}", command
