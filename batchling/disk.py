"""The disk, as the ledger sees it: the only door to files whose loss would cost money.

A `Disk` is handed to the journal and the runner, so the same code runs on a simulated disk that
loses what was not fsynced. `RealDisk` is the machine's.

Prompts, rows and answers are private, so files get the mode 600 and folders 700, whatever the umask. Below a folder of
mode 2770 (`paths.mode: shared` makes the runs folder one) they get 660 and 2770: the folder itself says how it is
shared, so nobody has to be told, neither another command nor the embedded server. What other libraries create (DuckDB,
SQLite) gets its mode from `make_private` or `create_private`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from batchling.errors import DiskError, DiskFullError, LockedError, WaitingWarning


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
    def files(self, folder: Path) -> list[str]: ...
    def make_folder(self, folder: Path) -> None: ...
    def share(self, folder: Path) -> None: ...
    def create(self, path: Path) -> Writer: ...
    def append(self, path: Path) -> Writer: ...
    def truncate(self, path: Path, size: int) -> None: ...
    def replace(self, source: Path, target: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def discard(self, folder: Path) -> None: ...
    def lock(self, path: Path, *, wait: bool = False) -> Lock: ...


_SHARED = 0o2770


def _file_mode(folder: Path) -> int:
    return 0o660 if _is_shared(folder) else 0o600


def _is_shared(folder: Path) -> bool:
    """Whether its group may write in it and nobody else may see it; the mode that `RealDisk.share` gives."""
    try:
        return stat.S_IMODE(folder.stat().st_mode) == _SHARED
    except OSError:
        return False


def make_folders(folder: Path) -> list[Path]:
    """Makes a folder and its parents, those that are missing with the mode 700, or 2770 below a shared one.

    Returns:
        The folders that were missing, the innermost first.

    Raises:
        OSError: one cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
            continue  # another process made it in between
        except FileNotFoundError as error:  # a file system that makes no folders, such as /proc
            raise PermissionError(errno.EACCES, "no folder can be made there") from error
        _change_mode(path, _SHARED if _is_shared(path.parent) else 0o700)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return missing


def make_private(path: Path) -> None:
    """Gives a file that another library created its mode. An absent file, or somebody else's, is left alone."""
    with suppress(FileNotFoundError):
        _change_mode(path, _file_mode(path.parent))


_MASK = threading.Lock()


@contextmanager
def masked(folder: Path) -> Iterator[None]:
    """While another library makes a file in a folder: others do not see it from its first moment on.

    The mask is the whole process's, so this is for moments; a file that another thread makes meanwhile is private too.
    """
    with _MASK:
        before = os.umask(0o007 if _is_shared(folder) else 0o077)
        try:
            yield
        finally:
            os.umask(before)


def create_private(path: Path) -> None:
    """Makes an empty file for a library that would create it with the umask's mode. One that is there stays as it is.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        os.close(open_private(path, os.O_WRONLY | os.O_EXCL))


def open_private(path: Path, flags: int) -> int:
    """A descriptor of a file, which is made, with its mode, where it is missing; a file that is there keeps its mode.

    Raises:
        OSError: as `os.open`.
    """
    new = not path.exists()
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if new:
        _change_mode(descriptor, _file_mode(path.parent))
    return descriptor


def _change_mode(path: Path | int, mode: int) -> None:
    """Changes a mode where it differs; a file system without modes keeps what it has."""
    if stat.S_IMODE(os.stat(path).st_mode) != mode:  # noqa: PTH116 - a descriptor too
        with suppress(PermissionError, NotImplementedError):
            os.chmod(path, mode)  # noqa: PTH101 - a descriptor too


def open_lock(path: Path, *, writable: bool = True) -> int:
    """A descriptor of a lock file, which is made where it is missing.

    A lock file is emptied and written into, so a link that somebody put in its place would destroy what it leads to:
    links are not followed, and only a plain file with one name is taken, of ours or of whom the folder belongs to (in
    a shared folder: of anybody in the group).

    Raises:
        DiskError: there is something else in its place.
        OSError: it cannot be opened.
    """
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = open_private(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise _no_lock(path, "a link" if path.is_symlink() else "no plain file") from None
        raise
    try:
        found, folder = os.fstat(descriptor), path.parent.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _no_lock(path, "no plain file")
        if found.st_nlink > 1:
            raise _no_lock(path, "a file that has another name as well")
        if found.st_uid not in (os.geteuid(), folder.st_uid) and not _is_shared(path.parent):
            raise _no_lock(path, "somebody else's")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _no_lock(path: Path, what: str) -> DiskError:
    return DiskError(
        f"the lock file is {what}, so it is not opened",
        where=str(path),
        next_command="find out who put it there and remove it, then run the same command again",
    )


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
            self.descriptor = open_private(path, flags)

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


def plain_file(path: Path, *, follow: bool = True) -> BinaryIO:
    """A file opened for reading. A pipe or a device in its place would never end.

    Args:
        follow: a link to a file will do.

    Raises:
        OSError: it is not a regular file, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def _holder(descriptor: int) -> str:
    """Who holds a lock, by what it wrote into the file."""
    return os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"


TELL_SECONDS, TELL_AT_MOST_SECONDS = 60.0, 3600.0
"""When a wait for a lock is told first, and the longest pause after which it is told again."""


def _wait_for(descriptor: int, path: Path) -> None:
    """Takes a lock as soon as it is free. The operating system releases the lock of a process that dies, so there is no timeout."""
    since = time.monotonic()
    due, pause, look = since + TELL_SECONDS, TELL_SECONDS, 0.01
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            now = time.monotonic()
        if now >= due:
            text = (
                f"waiting for {path} since {now - since:.0f} s, which is held by {_holder(descriptor)}; no end set; "
                "Ctrl-C stops waiting, the end of that process ends it"
            )
            warnings.warn(WaitingWarning(text), stacklevel=4)
            pause = min(TELL_AT_MOST_SECONDS, 2 * pause)
            due = now + pause
        time.sleep(look)
        look = min(0.25, 2 * look)


class RealDisk:
    """The machine's disk."""

    def read(self, path: Path) -> bytes:
        with _telling("read", path), plain_file(path) as file:
            return file.read()

    def reader(self, path: Path) -> BinaryIO:
        with _telling("read", path):
            return plain_file(path)

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

    def files(self, folder: Path) -> list[str]:
        """Every file below a folder by its relative name, sorted; an absent folder has none.

        Raises:
            DiskError: there is a link, or something else that is neither a plain file nor a folder.
        """
        found = []
        left = [folder]
        with _telling("read", folder):
            if folder.is_symlink():
                raise DiskError("is a link", where=str(folder))
            while left:
                try:
                    entries = os.scandir(left.pop())
                except FileNotFoundError:
                    continue
                with entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            left.append(Path(entry.path))
                        elif entry.is_file(follow_symlinks=False):
                            found.append(Path(entry.path).relative_to(folder).as_posix())
                        else:
                            what = "is a link" if entry.is_symlink() else "is not a regular file"
                            raise DiskError(what, where=entry.path)
        return sorted(found)

    def make_folder(self, folder: Path) -> None:
        with _telling("make folder", folder):
            for path in make_folders(folder):
                _sync_folder(path.parent)

    def share(self, folder: Path) -> None:
        """Lets the folder's group read and write what will be made in it (mode 2770); somebody else's stays as it is."""
        self.make_folder(folder)
        with _telling("share", folder):
            if not _is_shared(folder) and folder.stat().st_uid == os.geteuid():
                _change_mode(folder, _SHARED)

    def create(self, path: Path) -> Writer:
        return _File(path, os.O_WRONLY | os.O_TRUNC)

    def append(self, path: Path) -> Writer:
        return _File(path, os.O_WRONLY | os.O_APPEND)

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
        """An exclusive lock on `path`. Held by another process: LockedError that names it, or wait for it, and tell now and then."""
        with _telling("lock", path):
            descriptor = open_lock(path)
        try:
            if wait:
                _wait_for(descriptor, path)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
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
