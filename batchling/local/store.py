"""The server's state on disk.

```
<state_dir>/
  lock                         held by the one server that runs
  server.sqlite                files and batches as objects (WAL, synchronous=FULL)
  files/<file id>              bytes, as uploaded or as answered
  batches/<batch id>/          only while the batch is not over
    input.jsonl                a hard link to the input file: deleting the file does not hurt the batch
    output.jsonl, errors.jsonl answers so far, append-only; renamed into files/ at the end
```

Objects are in SQLite because ending a batch changes several of them at once (two files and the
batch) and lists need cursors; answers are in append-only files because they are many, large, and
become the output file as they are. SQLite comes with Python.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

import orjson

from batchling import limits
from batchling.disk import create_private, make_folders, make_private
from batchling.models import TERMINAL

JsonObject = dict[str, Any]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, filename TEXT NOT NULL, purpose TEXT NOT NULL,
  bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER, deleted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS batches (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, model TEXT, created REAL NOT NULL,
  tokens INTEGER NOT NULL DEFAULT 0, ending TEXT, file_seconds INTEGER, document BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status);
CREATE INDEX IF NOT EXISTS batches_by_created ON batches (created);
"""

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


class Store:
    """Files and batches. Every method may be called from any thread.

    Args:
        state_dir: an existing folder; the caller holds its lock.
        now: Unix seconds.
    """

    def __init__(self, state_dir: Path, now: Callable[[], float]):
        self.root = state_dir
        self.now = now
        self.files_dir = state_dir / "files"
        self.batches_dir = state_dir / "batches"
        make_folders(self.files_dir)
        make_folders(self.batches_dir)
        self._lock = threading.RLock()
        self._live: dict[str, JsonObject] = {}
        create_private(state_dir / "server.sqlite")  # SQLite gives its log the same mode
        self._db = sqlite3.connect(state_dir / "server.sqlite", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._sweep()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _sweep(self) -> None:
        """Removes what a killed server left half done (uploads without an object, folders of batches that are over) and expired files."""
        self._db.execute("UPDATE files SET deleted = 1 WHERE expires_at <= ?", (self.now(),))
        known = {row[0] for row in self._db.execute("SELECT id FROM files WHERE NOT deleted")}
        unfinished = {row["id"] for row in self.unfinished()}
        made = {output_id(batch, kind) for batch in unfinished for kind in ("output", "error")}
        for path in self.files_dir.iterdir():
            if path.name not in known and path.name not in made:
                path.unlink()
        for folder in self.batches_dir.iterdir():
            if folder.name not in unfinished:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # Files

    def new_upload(self) -> tuple[str, Path]:
        """An id for a file to come, and where its bytes go. It is no file until `add_file`."""
        file_id = f"file-{token_hex(12)}"
        return file_id, self.files_dir / file_id

    def add_file(self, file_id: str, filename: str, purpose: str, size: int, expires_at: int | None) -> JsonObject:
        """Registers a file whose bytes are in place and synced."""
        sync_folder(self.files_dir)
        created = int(self.now())
        with self._transaction() as db:
            self._insert_file(db, file_id, filename, purpose, size, created, expires_at)
        return _file_object((file_id, filename, purpose, size, created, expires_at))

    def _insert_file(
        self,
        db: sqlite3.Connection,
        file_id: str,
        filename: str,
        purpose: str,
        size: int,
        created: int,
        expires: int | None,
    ) -> None:
        db.execute(
            "INSERT INTO files (id, filename, purpose, bytes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            (file_id, filename, purpose, size, created, expires),
        )

    def file(self, file_id: str) -> JsonObject | None:
        """The file object; None when there is none, or no more."""
        with self._lock:
            row = self._db.execute(
                "SELECT id, filename, purpose, bytes, created_at, expires_at FROM files WHERE id = ? AND NOT deleted",
                (file_id,),
            ).fetchone()
        if row is None:
            return None
        if row[5] is not None and row[5] <= self.now():
            self.delete_file(file_id)
            return None
        return _file_object(row)

    def path(self, file_id: str) -> Path:
        """Where the bytes of a known file are."""
        return self.files_dir / file_id

    def delete_file(self, file_id: str) -> bool:
        """Forgets a file; False when there is none. Batches that read it go on."""
        with self._transaction() as db:
            done = db.execute("UPDATE files SET deleted = 1 WHERE id = ? AND NOT deleted", (file_id,)).rowcount
        if done:
            with suppress(FileNotFoundError):
                self.path(file_id).unlink()
        return bool(done)

    def list_files(
        self, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[JsonObject], bool] | None:
        """A page of files and whether there are more; None when the cursor is unknown."""
        where, values = ["NOT deleted", "(expires_at IS NULL OR expires_at > ?)"], [self.now()]
        if purpose is not None:
            where.append("purpose = ?")
            values.append(purpose)  # type: ignore[arg-type]
        page = self._page(
            "files", "id, filename, purpose, bytes, created_at, expires_at", where, values, after, limit, newest_first
        )
        return None if page is None else ([_file_object(row) for row in page[0]], page[1])

    def _page(
        self, table: str, columns: str, where: list[str], values: list[Any], after: str | None, limit: int, newest: bool
    ) -> tuple[list[Any], bool] | None:
        with self._lock:
            if after is not None:
                # A cursor stays good when its object has been deleted meanwhile.
                cursor = self._db.execute(f"SELECT seq FROM {table} WHERE id = ?", (after,)).fetchone()
                if cursor is None:
                    return None
                where.append("seq < ?" if newest else "seq > ?")
                values.append(cursor[0])
            clause = f"WHERE {' AND '.join(where)}" if where else ""
            rows = self._db.execute(
                f"SELECT {columns} FROM {table} {clause} ORDER BY seq {'DESC' if newest else 'ASC'} LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        return rows[:limit], len(rows) > limit

    # Batches

    def folder(self, batch_id: str) -> Path:
        return self.batches_dir / batch_id

    def add_batch(self, document: JsonObject, created: float, file_seconds: int | None) -> JsonObject | None:
        """Registers a new batch and ties its input file to it; None when the file is gone.

        Args:
            document: the batch object, without an id.
            created: Unix seconds, with fractions.
            file_seconds: how long its output files are kept; None: for ever.
        """
        batch_id = f"batch_{token_hex(12)}"
        document = {"id": batch_id, **document}
        folder = self.folder(batch_id)
        make_folders(folder)
        try:
            os.link(self.path(document["input_file_id"]), folder / "input.jsonl")
        except FileNotFoundError:
            folder.rmdir()
            return None
        except OSError:  # a file system without hard links
            shutil.copyfile(self.path(document["input_file_id"]), folder / "input.jsonl")
            make_private(folder / "input.jsonl")
        sync_folder(folder)
        sync_folder(self.batches_dir)
        with self._transaction() as db:
            db.execute(
                "INSERT INTO batches (id, status, created, file_seconds, document) VALUES (?, ?, ?, ?, ?)",
                (batch_id, document["status"], created, file_seconds, orjson.dumps(document)),
            )
        return document

    def batch(self, batch_id: str) -> JsonObject | None:
        """The batch object with the counts of this moment."""
        with self._lock:
            row = self._db.execute("SELECT document FROM batches WHERE id = ?", (batch_id,)).fetchone()
            return None if row is None else self._shown(row[0])

    def _shown(self, blob: bytes) -> JsonObject:
        document: JsonObject = limits.own(blob)
        return {**document, **self._live.get(document["id"], {})}

    def list_batches(self, *, after: str | None, limit: int) -> tuple[list[JsonObject], bool] | None:
        """A page of batches, newest first, and whether there are more; None when the cursor is unknown."""
        with self._lock:
            page = self._page("batches", "document", [], [], after, limit, True)
            return None if page is None else ([self._shown(row[0]) for row in page[0]], page[1])

    def unfinished(self) -> list[JsonObject]:
        """Batches that are not over, oldest first."""
        with self._lock:
            rows = self._db.execute(
                f"SELECT document FROM batches WHERE status IN ({_marks(UNFINISHED)}) ORDER BY seq", UNFINISHED
            ).fetchall()
            return [self._shown(row[0]) for row in rows]

    def status(self, batch_id: str) -> str:
        with self._lock:
            return str(self._db.execute("SELECT status FROM batches WHERE id = ?", (batch_id,)).fetchone()[0])

    def ending(self, batch_id: str) -> str | None:
        """How a batch that is being finalized will end."""
        with self._lock:
            row = self._db.execute("SELECT ending FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return None if row[0] is None else str(row[0])

    def set_ending(self, batch_id: str, ending: str) -> None:
        """From here on nothing is answered: the batch's answers may already have become files."""
        with self._transaction() as db:
            db.execute("UPDATE batches SET ending = ? WHERE id = ?", (ending, batch_id))

    def creations_since(self, moment: float) -> tuple[int, float | None]:
        """Batches created after a moment, and when the first of them was."""
        with self._lock:
            count, first = self._db.execute(
                "SELECT count(*), min(created) FROM batches WHERE created > ?", (moment,)
            ).fetchone()
        return int(count), first

    def enqueued_tokens(self, model: str) -> int:
        """Prompt tokens of the model's batches that were let in and are not over."""
        with self._lock:
            total = self._db.execute(
                f"SELECT coalesce(sum(tokens), 0) FROM batches WHERE model = ? AND status IN ({_marks(UNFINISHED)})",
                (model, *UNFINISHED),
            ).fetchone()[0]
        return int(total)

    def show_progress(self, batch_id: str, counts: JsonObject, usage: JsonObject) -> None:
        """Counts that a reader sees now; they are counted again from the answers after a restart."""
        with self._lock:
            self._live[batch_id] = {"request_counts": counts, "usage": usage}

    def move(
        self,
        batch_id: str,
        origins: Iterable[str],
        status: str,
        *,
        tokens: int | None = None,
        ending: str | None = None,
        **fields: Any,
    ) -> JsonObject | None:
        """Moves a batch to another status if it is in one of `origins`, else None. Sets `<status>_at`."""
        with self._transaction() as db:
            return self._move(db, batch_id, tuple(origins), status, tokens, ending, fields)

    def _move(
        self,
        db: sqlite3.Connection,
        batch_id: str,
        origins: tuple[str, ...],
        status: str,
        tokens: int | None,
        ending: str | None,
        fields: JsonObject,
    ) -> JsonObject | None:
        row = db.execute("SELECT status, document FROM batches WHERE id = ?", (batch_id,)).fetchone()
        if row is None or row[0] not in origins:
            return None
        document = {**self._shown(row[1]), **fields, "status": status, f"{status}_at": int(self.now())}
        db.execute(
            "UPDATE batches SET status = ?, model = ?, tokens = coalesce(?, tokens), ending = coalesce(?, ending), document = ? "
            "WHERE id = ?",
            (status, document.get("model"), tokens, ending, orjson.dumps(document), batch_id),
        )
        if status in TERMINAL:
            self._live.pop(batch_id, None)
        return document

    def finish(self, batch_id: str, origins: Iterable[str], status: str, **fields: Any) -> JsonObject | None:
        """Ends a batch: its answers become files, and the batch names them, in one step.

        May be repeated after a kill at any point: the files' ids follow from the batch's.
        """
        with self._lock:
            return self._finish(batch_id, tuple(origins), status, fields)

    def _finish(self, batch_id: str, origins: tuple[str, ...], status: str, fields: JsonObject) -> JsonObject | None:
        if self.status(batch_id) not in origins:
            return None
        folder = self.folder(batch_id)
        made: list[tuple[str, str, int]] = []
        for kind, name in (("output", "output.jsonl"), ("error", "errors.jsonl")):
            file_id = output_id(batch_id, kind)
            part, target = folder / name, self.path(file_id)
            if part.exists():
                part.replace(target)
            if target.exists():
                made.append((kind, file_id, target.stat().st_size))
        sync_folder(self.files_dir)
        now = int(self.now())
        with self._transaction() as db:
            keep = db.execute("SELECT file_seconds FROM batches WHERE id = ?", (batch_id,)).fetchone()[0]
            for kind, file_id, size in made:
                if size:
                    name = f"{batch_id}_{kind}.jsonl"
                    self._insert_file(
                        db, file_id, name, "batch_output", size, now, None if keep is None else now + keep
                    )
                    fields[f"{kind}_file_id"] = file_id
            document = self._move(db, batch_id, origins, status, None, None, fields)
        for _, file_id, size in made:
            if not size:
                self.path(file_id).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return document


def output_id(batch_id: str, kind: str) -> str:
    """The id of a batch's output or error file."""
    return "file-" + sha256(f"{batch_id} {kind}".encode()).hexdigest()[:24]


def sync_folder(folder: Path) -> None:
    """Makes names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_object(row: tuple[Any, ...]) -> JsonObject:
    return {
        "id": row[0],
        "object": "file",
        "bytes": row[3],
        "created_at": row[4],
        "expires_at": row[5],
        "filename": row[1],
        "purpose": row[2],
        "status": "processed",
        "status_details": None,
    }


def _marks(values: tuple[str, ...]) -> str:
    return ", ".join("?" * len(values))
