"""How much a source may bring before somebody is asked, and which sources are read in a process of their own."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchling import confined, duck, tame
from batchling.spec import DataConfig

if TYPE_CHECKING:
    import duckdb

_LOOK_SECONDS = 0.2
_DATABASE = re.compile(r"\.(sqlite3?|db3?|duckdb|ddb)(\.(gz|zstd?|bz2))?$", re.I)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What reading a source may take.

    Attributes:
        rows: rows that it may bring.
        size: bytes that it may write.
        memory_mb: MiB that it may hold.
        unpack_factor: times its size that a compressed file may hold, beyond a gigabyte.
    """

    rows: int
    size: int
    memory_mb: int = confined.MEMORY_MB
    unpack_factor: int = 200


class TooLarge(Exception):
    """A source brings more than its bounds allow. The caller may ask a person, and read it again without them.

    Args:
        what: `more than 5,000,000 rows`.
        key: the config key of the bound; None: it is the disk's free space.
    """

    def __init__(self, what: str, key: str | None):
        super().__init__(what, key)
        self.what = what
        self.key = key


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def most_bytes(folder: Path, bound: int) -> tuple[int, str | None]:
    """Bytes that may be written into a folder without a question: the bound, or half of what is free; and the bound's key.

    A bound of `sys.maxsize` is none at all: somebody was asked already.
    """
    if bound >= sys.maxsize:
        return sys.maxsize, None
    half = free_bytes(folder) // 2
    return (half, None) if half < bound else (bound, "limits.plan_bytes")


def too_many_bytes(most: int, key: str | None) -> TooLarge:
    what = "half of the disk's free space" if key is None else f"{most:,} bytes"
    return TooLarge(f"needs more than {what}" + (f" ({most:,} bytes)" if key is None else ""), key)


@contextmanager
def watched(con: duckdb.DuckDBPyConnection, folder: Path, most: int, key: str | None) -> Iterator[None]:
    """Ends what runs on a connection when the files in a folder get larger than `most` bytes.

    Raises:
        TooLarge: they did.
    """
    over, done = threading.Event(), threading.Event()

    def look() -> None:
        while not done.wait(_LOOK_SECONDS):
            if over.is_set() or _size(folder) > most:
                over.set()
                duck.interrupt([con])

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except Exception:
        if not over.is_set():
            raise
    finally:
        done.set()
    if over.is_set():
        raise too_many_bytes(most, key)


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += _size(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def wild(data: DataConfig) -> bool:
    """Whether a source has SQL that could take for ever or build gigabytes (`batchling.tame`).

    A file of a database may: it has views.
    """
    if data.databases or _is_database(data):
        return True
    texts = [] if data.sql is None else [data.sql]
    texts += [] if data.where is None else [f"SELECT (\n{data.where}\n)"]
    if not texts:
        return False
    with duck.connect() as con:
        return any(not _tame(con, text) for text in texts)


def _tame(con: duckdb.DuckDBPyConnection, sql: str) -> bool:
    import duckdb

    if not tame.short(sql):
        return False
    try:
        row = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    except duckdb.Error:
        return False
    tree = json.loads(row[0]) if row else {}
    if tree.get("error_type") == "parser":
        return True  # nothing of it is going to run
    return tame.tame(tree)


def _is_database(data: DataConfig) -> bool:
    paths = [data.path] if isinstance(data.path, str) else data.path or []
    if data.format is not None:
        return data.format == "database"
    return any(_DATABASE.search(path) for path in paths)
