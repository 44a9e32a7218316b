"""The disk, as the ledger sees it: the only door to files whose loss would cost money.

A `Disk` is handed to the journal and the runner, so the same code runs on a simulated disk that
loses what was not fsynced. `RealDisk` is the machine's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from batchling.errors import DiskError, DiskFullError, LockedError


class Writer(Protocol):
    """A file being written. Nothing is safe before `sync` has returned; then content and name are."""

    def write(self, data: bytes, /) -> int: ...
    def sync(self) -> None: ...
    def close(self) -> None: ...


class Lock(Protocol):
    """A held lock; `release` gives it back. The operating system gives it back when the process dies."""

    def release(self) -> None: ...


class Disk(Protocol):
    """What the ledger needs of a file system. Every method may raise `DiskError`."""

    def read(self, path: Path) -> bytes: ...
    def reader(self, path: Path) -> BinaryIO: ...
    def exists(self, path: Path) -> bool: ...
    def size(self, path: Path) -> int: ...
    def names(self, folder: Path) -> list[str]: ...
    def make_folder(self, folder: Path) -> None: ...
    def create(self, path: Path) -> Writer: ...
    def append(self, path: Path) -> Writer: ...
    def truncate(self, path: Path, size: int) -> None: ...
    def replace(self, source: Path, target: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def discard(self, folder: Path) -> None: ...
    def lock(self, path: Path, *, wait: bool = False) -> Lock: ...


@contextmanager
def _telling(action: str, path: Path) -> Iterator[None]:
    """Turns an OSError into a DiskError that names the file and what to do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = {
            errno.ENOSPC: "free some space, then run the same command again",
            errno.EDQUOT: "free some quota, then run the same command again",
            errno.EROFS: "make the folder writable, or set BATCHLING_RUNS to one that is",
            errno.EACCES: "make the folder writable, or set BATCHLING_RUNS to one that is",
        }.get(error.errno or 0, "check the disk, then run the same command again")
        kind = DiskFullError if error.errno in (errno.ENOSPC, errno.EDQUOT) else DiskError
        raise kind(f"cannot {action}: {error.strerror or error}", where=str(path), next_command=hint) from error


class _File:
    """A file opened for writing through its descriptor: short writes are finished, nothing is buffered twice."""

    def __init__(self, path: Path, flags: int):
        self.path = path
        self.unnamed = not path.exists()
        with _telling("open", path):
            self.descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes, /) -> int:
        view = memoryview(data)
        with _telling("write", self.path):
            while view:
                view = view[os.write(self.descriptor, view) :]
        return len(data)

    def sync(self) -> None:
        with _telling("fsync", self.path):
            os.fsync(self.descriptor)
            if self.unnamed:
                _sync_folder(self.path.parent)
                self.unnamed = False

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Flock:
    def __init__(self, descriptor: int):
        self.descriptor = descriptor

    def release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RealDisk:
    """The machine's disk."""

    def read(self, path: Path) -> bytes:
        with _telling("read", path):
            return path.read_bytes()

    def reader(self, path: Path) -> BinaryIO:
        with _telling("read", path):
            return path.open("rb")

    def exists(self, path: Path) -> bool:
        return path.exists()

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def names(self, folder: Path) -> list[str]:
        """Names in a folder, sorted; an absent folder has none."""
        try:
            with _telling("list", folder):
                return sorted(os.listdir(folder))  # noqa: PTH208 (names, not paths)
        except FileNotFoundError:
            return []

    def make_folder(self, folder: Path) -> None:
        with _telling("make folder", folder):
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as error:  # a file system that makes no folders, such as /proc
                raise PermissionError(errno.EACCES, "no folder can be made there") from error
            for path in missing:
                _sync_folder(path.parent)

    def create(self, path: Path) -> Writer:
        return _File(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def append(self, path: Path) -> Writer:
        return _File(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def truncate(self, path: Path, size: int) -> None:
        with _telling("truncate", path):
            os.truncate(path, size)

    def replace(self, source: Path, target: Path) -> None:
        """Atomic rename, durable when it returns."""
        with _telling("rename", target):
            source.replace(target)
            _sync_folder(target.parent)

    def remove(self, path: Path) -> None:
        with _telling("remove", path), suppress(FileNotFoundError):
            path.unlink()

    def discard(self, folder: Path) -> None:
        """Removes a folder and all that is in it; an absent one is fine."""
        with _telling("remove", folder), suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def lock(self, path: Path, *, wait: bool = False) -> Lock:
        """An exclusive lock on `path`. Held by another process: LockedError that names it, or wait for it."""
        with _telling("lock", path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            os.close(descriptor)
            raise LockedError(f"held by {holder}", where=str(path)) from None
        except BaseException:
            os.close(descriptor)
            raise
        with _telling("lock", path):
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {stamp}\n".encode(), 0)
        return _Flock(descriptor)


def write_file(disk: Disk, path: Path, data: bytes) -> None:
    """Writes a whole file so that after a crash it is either absent (or as before) or complete."""
    part = path.with_name(path.name + ".part")
    writer = disk.create(part)
    try:
        writer.write(data)
        writer.sync()
    finally:
        writer.close()
    disk.replace(part, path)
