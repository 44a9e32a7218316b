"""How the catalog's file is opened: for moments, under a lock of our own.

DuckDB locks out every other process while one writes, and has lost acknowledged commits when
processes opened, wrote and closed at once. So whoever opens `catalog.duckdb` first takes a `flock` on
`catalog.duckdb.lock`: writers alone, readers together. Nobody opens, hashes or copies the database
file in any other way: closing any descriptor of a file drops all of the process's POSIX locks on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from batchling import duck
from batchling.catalog import tables
from batchling.disk import make_folders, make_private, masked, open_lock
from batchling.duck import literal
from batchling.errors import CatalogBusyError, CatalogDamagedError, CatalogError, DiskError, DiskFullError

if TYPE_CHECKING:
    import duckdb

FILE = "catalog.duckdb"
SCHEMA = "catalog"
"""Name of the attached database while it is written."""

_OPTIONS = "ROW_GROUP_SIZE 30720, STORAGE_VERSION 'v1.5.0'"
"""Row groups small enough that plans of 100,000 rows are compressed by all threads while they are inserted and not by
one at the commit (half the time); the format of the oldest DuckDB we support, so that every one of them can open it."""

WAIT_SECONDS = 60.0
_SMALL = 16 << 20
"""Bytes of a catalog, half a million answers, up to which one thread and little memory are enough for every question."""

_REBUILD = "batchling doctor --rebuild"


class Condition(StrEnum):
    """What `ensure` found."""

    READY = "ready"
    MISSING = "missing"  # there was none: an empty one was made
    DAMAGED = "damaged"  # set aside, an empty one made
    OUTDATED = "outdated"  # of another version: set aside, an empty one made


@dataclass(frozen=True, slots=True)
class Ensured:
    """The catalog's condition; `aside` is where a file that could not be used was moved."""

    condition: Condition
    aside: Path | None = None


class _Outdated(CatalogDamagedError):
    """A whole catalog, of another version."""


def file_of(runs: Path) -> Path:
    return runs / FILE


@contextmanager
def _locked(runs: Path, *, exclusive: bool, wait: float) -> Iterator[None]:
    path = runs / (FILE + ".lock")
    try:
        descriptor = open_lock(path, writable=exclusive)
    except OSError as error:
        if not exclusive and error.errno in (errno.EROFS, errno.EACCES):
            yield  # a folder that nobody can write needs no lock against writers
            return
        raise DiskError(f"cannot lock the catalog: {error.strerror}", where=str(path)) from error
    try:
        operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
        deadline = time.monotonic() + wait
        pause = 0.002
        while True:
            try:
                fcntl.flock(descriptor, operation)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise CatalogBusyError(
                        f"another process has held the catalog for more than {wait:.0f} s",
                        where=str(file_of(runs)),
                        next_command="run the same command again; nothing is lost",
                    ) from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained(runs: Path) -> Iterator[None]:
    """Turns DuckDB's errors about the file into ours. Errors in somebody's SQL pass."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        text = str(error)
        if not _about_the_file(error, text):
            raise
        where = str(file_of(runs))
        if "could not set lock" in text.lower():
            raise CatalogBusyError(
                f"another program has the catalog open: {text.splitlines()[0]}",
                where=where,
                next_command="close it, then run the same command again",
            ) from error
        if "No space left" in text:
            raise DiskFullError(
                "the disk is full", where=where, next_command="free some space, then run the same command again"
            ) from error
        if "Permission denied" in text or "Read-only file system" in text:
            raise DiskError(f"cannot write the catalog: {text.splitlines()[0]}", where=where) from error
        kind = _Outdated if "newer version" in text else CatalogDamagedError
        raise kind(f"the catalog cannot be read: {text.splitlines()[0]}", where=where, next_command=_REBUILD) from error


def _about_the_file(error: duckdb.Error, text: str) -> bool:
    """Whether an error speaks of the database file, and not of a statement. DuckDB 2 has no class for corruption."""
    import duckdb

    file = (duckdb.IOException, duckdb.SerializationException, duckdb.InternalException, duckdb.FatalException)
    return isinstance(error, file) or "Corrupt database file" in text


_KEYWORDS = re.compile(r"\b(?:on|and|as|select|from|join)\b", re.IGNORECASE)
_CALL = re.compile(r"[\w\"]\s*\(")


def _check_own(con: duckdb.DuckDBPyConnection, database: str, runs: Path) -> None:
    """Whether a catalog holds our tables and our view alone: a stranger's view or macro could read other files.

    Raises:
        CatalogDamagedError: it holds something else.
    """
    tables_there = {
        name
        for (name,) in con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = ?", [database]
        ).fetchall()
    }
    views = con.execute(
        "SELECT view_name, sql FROM duckdb_views() WHERE database_name = ? AND NOT internal", [database]
    ).fetchall()
    # A function call is a name before a parenthesis; the view has none but those around its conditions.
    plain = all(
        name == "results"
        and not _CALL.search(_KEYWORDS.sub(",", sql))
        and "'" not in sql
        and ";" not in sql[:-1].strip()
        for name, sql in views
    )
    if not plain or not tables_there >= set(tables.TABLES):
        raise CatalogDamagedError(
            "the catalog contains something that batchling did not write",
            where=str(file_of(runs)),
            next_command=_REBUILD,
        )


def _check_macros(con: duckdb.DuckDBPyConnection, runs: Path) -> None:
    """`_check_own`, of macros: they are told by a list of all functions, which takes 16 ms."""
    found = con.execute(
        "SELECT count(*) FROM duckdb_functions() WHERE database_name = current_database() AND NOT internal"
    ).fetchone()
    if found and found[0]:
        raise CatalogDamagedError("the catalog contains macros", where=str(file_of(runs)), next_command=_REBUILD)


def _check_version(con: duckdb.DuckDBPyConnection, database: str, runs: Path) -> None:
    found = con.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = ? AND table_name = 'catalog_version'", [database]
    ).fetchone()
    version = None
    if found and found[0]:
        row = con.execute(f"SELECT max(version) FROM {duck.identifier(database)}.catalog_version").fetchone()
        version = row[0] if row else None
    if version != tables.VERSION:
        raise _Outdated(
            f"the catalog has version {version}, this batchling writes version {tables.VERSION}",
            where=str(file_of(runs)),
            next_command=_REBUILD,
        )


def _check_plain(runs: Path) -> None:
    """Whether the catalog and its log are plain files: a link would have us read, or write, elsewhere.

    Raises:
        CatalogDamagedError: one is not; it is set aside like a damaged one.
    """
    for path in (file_of(runs), file_of(runs).with_name(FILE + ".wal")):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode):
                what = "a link" if stat.S_ISLNK(mode) else "no plain file"
                raise CatalogDamagedError(f"the catalog is {what}", where=str(path), next_command=_REBUILD)


@contextmanager
def reading(
    runs: Path, *, wait: float = WAIT_SECONDS, memory_mb: int | None = None, temp: Path | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection, beside other readers, for statements of our own.

    Args:
        memory_mb: MiB that statements may need; None: few, and the connection is one that this process keeps.
        temp: folder to spill to.

    Raises:
        CatalogDamagedError: there is none, or it cannot be used; `ensure` says which and makes a new one.
        CatalogBusyError: a writer did not finish in `wait` seconds.
    """
    path = file_of(runs)
    _check_plain(runs)
    if not path.exists():
        raise CatalogDamagedError("there is no catalog yet", where=str(path), next_command=_REBUILD)
    with _locked(runs, exclusive=False, wait=wait), explained(runs):
        if memory_mb is None and path.stat().st_size <= _SMALL:
            with duck.borrowed() as con:
                con.execute(f"ATTACH {literal(str(path))} AS {SCHEMA} (READ_ONLY)")
                con.execute(f"USE {SCHEMA}")
                _check_version(con, SCHEMA, runs)
                _check_own(con, SCHEMA, runs)
                yield con
                con.execute("USE memory")
                con.execute(f"DETACH {SCHEMA}")
            return
        con = duck.connect(path, read_only=True, memory_mb=memory_mb or 256, temp=temp)
        try:
            _check_version(con, path.stem, runs)
            _check_own(con, path.stem, runs)
            yield con
        finally:
            con.close()


@contextmanager
def writing(
    runs: Path, con: duckdb.DuckDBPyConnection | None = None, *, wait: float = WAIT_SECONDS
) -> Iterator[duckdb.DuckDBPyConnection]:
    """One transaction on the catalog, attached as `catalog` to `con` (or to a connection of its own).

    Everything is written or nothing. The file is made when there is none.

    Raises:
        CatalogDamagedError, CatalogBusyError, DiskError: see `reading`.
    """
    make_folders(runs)
    with (
        _locked(runs, exclusive=True, wait=wait),
        explained(runs),
        _writer(runs) if con is None else nullcontext(con) as used,
    ):
        _attach(used, runs)
        try:
            used.execute("BEGIN")
            try:
                yield used
                with masked(runs):  # its log
                    used.execute("COMMIT")
            except BaseException:
                with suppress(Exception):
                    used.execute("ROLLBACK")
                raise
            used.execute(f"CHECKPOINT {SCHEMA}")
            make_private(file_of(runs).with_name(FILE + ".wal"))
        finally:
            with suppress(Exception):  # the error that brought us here says more
                used.execute(f"DETACH {SCHEMA}")


@contextmanager
def _writer(runs: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    path = file_of(runs)
    if not path.exists() or path.stat().st_size <= _SMALL:
        with duck.borrowed() as con:
            yield con
        return
    with duck.connect() as con:
        yield con


def _attach(con: duckdb.DuckDBPyConnection, runs: Path) -> None:
    path = file_of(runs)
    _check_plain(runs)
    new = not path.exists()
    con.execute("SET checkpoint_threshold = '1KiB'")  # a commit goes into the file at once, not into the log first
    with masked(runs):
        con.execute(f"ATTACH {literal(str(path))} AS {SCHEMA} ({_OPTIONS})")
    try:
        if new:
            make_private(path)
            con.execute(tables.create(SCHEMA))  # one transaction: after a kill there is all of it or nothing
        _check_version(con, SCHEMA, runs)
        _check_own(con, SCHEMA, runs)
    except BaseException:
        with suppress(Exception):
            con.execute(f"DETACH {SCHEMA}")
        raise


def ensure(runs: Path, *, wait: float = WAIT_SECONDS) -> Ensured:
    """Makes sure that there is a catalog which can be opened; an empty one where there was none.

    A file that cannot be used is moved aside (`catalog.duckdb.damaged-N`, with its write-ahead log),
    never deleted. Unless the condition is READY every plan is `stale` afterwards: the caller refreshes them.
    """
    path = file_of(runs)
    if os.path.lexists(path):
        try:
            with reading(runs, wait=wait) as con:
                _check_macros(con, runs)
                for table in tables.TABLES:
                    con.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()
            return Ensured(Condition.READY)
        except CatalogBusyError:
            raise
        except Exception as error:
            if not _is_damage(error):
                raise
            aside = set_aside(runs, wait=wait)
            condition = Condition.OUTDATED if isinstance(error, _Outdated) else Condition.DAMAGED
    else:
        aside, condition = None, Condition.MISSING
        _orphaned_log(path)
    with writing(runs, wait=wait):
        pass
    return Ensured(condition, aside)


def _is_damage(error: Exception) -> bool:
    import duckdb

    return isinstance(error, CatalogDamagedError | duckdb.CatalogException | duckdb.BinderException)


def set_aside(runs: Path, *, wait: float = WAIT_SECONDS) -> Path | None:
    """Moves the database and its log to a free name beside it; returns that name, None when there was nothing."""
    path = file_of(runs)
    with _locked(runs, exclusive=True, wait=wait):
        number = 1
        while path.with_name(f"{FILE}.damaged-{number}").exists():
            number += 1
        aside = path.with_name(f"{FILE}.damaged-{number}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CatalogError(f"a damaged catalog cannot be moved aside: {error.strerror}", where=str(path)) from error
        with suppress(FileNotFoundError):
            path.with_name(FILE + ".wal").rename(aside.with_name(aside.name + ".wal"))
    return aside


def _orphaned_log(path: Path) -> None:
    """A write-ahead log whose database was deleted must not be replayed into a new one."""
    log = path.with_name(FILE + ".wal")
    with suppress(FileNotFoundError):
        log.rename(log.with_name(log.name + ".orphan"))
