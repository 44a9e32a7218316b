"""A batchling process that kills itself with SIGKILL at its N-th write point. Production code knows nothing of it.

A write point is right before and right after each change of the disk and each call to a provider, in the middle of
each write, and around each refresh of the catalog. They are counted in the order in which they are met.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported before the fork, so that each process starts at once.
import duckdb
import hydra
import jsonschema_rs
import openai.resources.batches
import openai.resources.files
import rich.live
import yaml

import batchling.api.verbs
import batchling.catalog
import batchling.cli
import batchling.cli.commands.run
import batchling.cli.progress
import batchling.cli.summary
import batchling.config.composer
import batchling.disk
import batchling.providers.openai.client
import batchling.tokens

PRELOADED = (batchling.tokens, duckdb, hydra, jsonschema_rs, openai.resources, rich.live, yaml)


class Countdown:
    """Dies at point `at` (1-based; 0: never) and keeps the names of the points in `log`.

    With `distinct`, a point counts only when something has changed since the last one: a kill leaves the same behind at
    "after fsync" as at the "before write" that follows (and as at "before fsync": what is written survives a kill).
    """

    def __init__(self, at: int, log: Path | None, distinct: bool = False):
        self.at = at
        self.log = log
        self.distinct = distinct
        self.changed = True
        self.count = 0

    def point(self, name: str) -> None:
        if self.distinct and not self.changed:
            return
        self.changed = False
        self.count += 1
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(name + "\n")
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def wrap(countdown: Countdown) -> None:
    """Puts points around everything that changes something."""

    def around(owner: Any, name: str, label: Callable[..., str], changes: bool = True) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            text = label(*args)
            countdown.point(f"before {text}")
            try:
                result = real(*args, **kwargs)
            finally:
                countdown.changed |= changes
            countdown.point(f"after {text}")
            return result

        setattr(owner, name, wrapped)

    disk = batchling.disk.RealDisk
    for name in ("create", "append", "truncate", "replace", "remove"):
        around(
            disk,
            name,
            lambda self, path, *rest, name=name: f"{name} {Path(rest[0] if name == 'replace' else path).name}",
        )
    around(batchling.disk._File, "sync", lambda self: f"fsync {self.path.name}", changes=False)
    real_write = batchling.disk._File.write

    def write(self: Any, data: bytes, /) -> int:
        countdown.point(f"before write {self.path.name}")
        countdown.changed = True
        half = len(data) // 2
        if half and self.path.name == "journal.jsonl":
            real_write(self, data[:half])
            countdown.point(f"in the middle of write {self.path.name}")
            countdown.changed = True
            return half + real_write(self, data[half:])
        return real_write(self, data)

    batchling.disk._File.write = write  # type: ignore[method-assign]
    provider = batchling.providers.openai.client.OpenAIClient
    for name in ("upload", "create", "fetch", "fence", "cancel"):
        around(provider, name, lambda self, *rest, name=name: f"{name} at the provider", changes=name != "fetch")
    around(batchling.catalog, "refresh", lambda *args: "refresh of the catalog")
    around(sys.modules["batchling.catalog.refresh"], "_publish", lambda part, path: f"publish {path.name}")


def main(folder: str, arguments: list[str], at: int, log: str | None, distinct: bool) -> None:
    """One process: runs a command of batchling in a project and may die on the way."""
    os.chdir(folder)
    quiet = os.open(f"{folder}/output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    wrap(Countdown(at, Path(log) if log else None, distinct))
    sys.argv = ["batchling", *arguments]
    sys.exit(batchling.cli.main())
