"""The command line: a thin shell over `batchling.api`.

`main` is the console script. Nothing but the standard library is imported before it knows what it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. `argv` without the program's name; None: the process's own."""
    from batchling.cli.stopping import INTERRUPTED, MESSAGE, arguments, listening

    args = arguments(argv)
    with listening(args) as stopping:
        try:
            from batchling.cli.process import run

            return run(args)
        except KeyboardInterrupt:  # while modules were imported, or the last line was written
            if not stopping.told:
                import sys

                sys.stderr.write(f"error: {MESSAGE}\n  next: {stopping.again}\n")
                stopping.told = True
            return INTERRUPTED
