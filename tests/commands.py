"""Commands in processes of their own that start at once: forked from a process in which everything is imported already.

A test that asks what a command says needs a process that is not the test's, and no second of imports. What a command
does while it starts, and what signals do to it, is seen with `Workbench.start` only.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import batchling.cli
import tests.crash.dying
from batchling.cli.program import COMMANDS

PRELOADED = (tests.crash.dying, *(import_module(f"batchling.cli.commands.{module}") for module, _ in COMMANDS.values()))
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])

_SECONDS = 120


def completed(arguments: tuple[str, ...], folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`batchling ARGUMENTS` in a folder, when it has ended: its exit code and what it wrote."""
    with tempfile.TemporaryDirectory(prefix="batchling-tests-") as written:
        process = PROCESSES.Process(target=_command, args=(arguments, str(folder), dict(environ), written))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["batchling", *arguments], _SECONDS)
        out, err = (Path(written, name).read_text(encoding="utf-8") for name in ("out", "err"))
        return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def _command(arguments: tuple[str, ...], folder: str, environ: dict[str, str], written: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{written}/{name}", os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    sys.argv = ["batchling", *arguments]
    sys.exit(batchling.cli.main())
