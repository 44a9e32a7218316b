"""Runs the benchmarks and prints a table. See README.md beside this file."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.figures import FIGURES, FULL, TINY, Bench, Line


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)}; none: all")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    parser.add_argument("--folder", type=Path, help="where to work (about 8 GB for P5); default: a temporary folder")
    chosen = parser.parse_args(argv)
    names = [name.upper() for name in chosen.figures] or list(FIGURES)
    for name in names:
        if name not in FIGURES:
            parser.error(f"there is no figure {name}")
    say(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}\n")
    say("| # | figure | must | aim | measured | from |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="batchling-bench-", dir=chosen.folder) as folder:
        bench = Bench(Path(folder), TINY if chosen.tiny else FULL, vocabulary_at_hand())
        for name in names:
            for line in FIGURES[name](bench):
                say(row(line))
    return 0


def say(text: str) -> None:
    """To stdout, at once: some figures take minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def row(line: Line) -> str:
    """A line of the table in Markdown."""
    cells = (line.figure, line.what, line.must, line.aim, line.measured, line.detail)
    return "| " + " | ".join(cells) + " |"


def vocabulary_at_hand() -> bool:
    """Whether exact tokens can be counted here."""
    from batchling.tokens import vocabulary

    return vocabulary.encoding("o200k_base")[0] is not None


if __name__ == "__main__":
    sys.exit(main())
