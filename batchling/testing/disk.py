"""A disk in memory that loses what was not fsynced.

Every file has two contents: what a reader sees, and what would be there after a power loss. Every
name has the same two sides. A process that dies alone loses nothing but its locks; a power loss
leaves of each file something between what was durable and what was seen, torn anywhere.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from batchling.errors import DiskError, DiskFullError, LockedError
from batchling.testing.chaos import Blocked, Chaos, Overrun


class _Inode:
    __slots__ = ("durable", "seen")

    def __init__(self) -> None:
        self.seen = b""
        self.durable = b""


def _common(first: bytes, second: bytes) -> int:
    """Length of what two contents begin with in common."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(i for i in range(length) if first[i] != second[i])


def _prefix(folder: Path) -> str:
    text = str(folder)
    return text if text.endswith("/") else f"{text}/"


def _below(folder: Path, names: Iterable[Path]) -> list[Path]:
    """The files in a folder and in those below. Texts are compared: `folder in path.parents` took a fifth of a schedule."""
    prefix = _prefix(folder)
    return [path for path in names if str(path).startswith(prefix)]


class _SimWriter:
    """A file being written by one process."""

    def __init__(self, disk: SimDisk, path: Path, inode: _Inode):
        self.disk = disk
        self.path = path
        self.inode = inode
        self.process = disk.process

    def write(self, data: bytes, /) -> int:
        disk = self.disk
        with disk.effect(f"write {self.path.name} {len(data)}", self.process):
            room = disk.room()
            if room is not None and len(data) > room:
                self.inode.seen += data[:room]
                disk.chaos.faults["disk full"] += 1
                raise DiskFullError("cannot write: No space left on device", where=str(self.path))
            disk.chaos.step("in write", lambda: self._half(data))
            self.inode.seen += data
        return len(data)

    def sync(self) -> None:
        disk = self.disk
        with disk.effect(f"fsync {self.path.name}", self.process):
            disk.chaos.step("in fsync")
            if disk.chaos.fault("fsync fails", disk.fsync_fails):
                raise DiskError("cannot fsync: Input/output error", where=str(self.path))
            self.inode.durable = self.inode.seen
            if disk.seen.get(self.path) is self.inode:
                disk.durable[self.path] = self.inode

    def _half(self, data: bytes) -> None:
        self.inode.seen += data[: self.disk.chaos.rng.randrange(len(data) + 1)]

    def close(self) -> None:
        """Nothing is promised by it."""


class _SimLock:
    def __init__(self, disk: SimDisk, path: Path):
        self.disk = disk
        self.path = path

    def release(self) -> None:
        self.disk.locks.pop(self.path, None)


class SimDisk:
    """Implements `batchling.disk.Disk`.

    Folders are not things of their own here: any path may be written, and only files exist.

    Args:
        chaos: where kills come from.
        fsync_fails: probability that an fsync raises an input/output error.

    Attributes:
        capacity: bytes that all files together may hold; None: no limit.
        elsewhere: files that are taken to exist although they are not simulated.
    """

    def __init__(self, chaos: Chaos, *, fsync_fails: float = 0.0):
        self.chaos = chaos
        self.fsync_fails = fsync_fails
        self.capacity: int | None = None
        self.process = 0
        self.seen: dict[Path, _Inode] = {}
        self.durable: dict[Path, _Inode] = {}
        self.locks: dict[Path, int] = {}
        self.renamed: list[tuple[Path, Path]] = []
        self.elsewhere: Callable[[Path], bool] = lambda path: False

    @contextmanager
    def effect(self, name: str, process: int | None = None) -> Iterator[None]:
        if process is not None and process != self.process:
            raise RuntimeError(f"a dead process did: {name}")
        self.chaos.step(name)
        yield
        self.chaos.step("done")

    def room(self) -> int | None:
        """Bytes left; None: no limit."""
        if self.capacity is None:
            return None
        return max(0, self.capacity - sum(len(inode.seen) for inode in self.seen.values()))

    def torn(self, inode: _Inode) -> bytes:
        """What a power loss leaves of a file that was not fsynced: what was durable stays, and some of what is new."""
        rng = self.chaos.rng
        certain = _common(inode.durable, inode.seen)
        new = inode.seen[certain:]
        kept = new[: rng.randrange(len(new) + 1)]
        if certain < len(inode.durable):  # truncated or rewritten
            return rng.choice((inode.durable, inode.seen[:certain] + kept))
        # A file system may have made room for bytes that never came.
        zeros = bytes(rng.randrange(len(new) - len(kept) + 1)) if rng.random() < 0.2 else b""
        return inode.durable + kept + zeros

    def gone(self, process: int) -> None:
        """One of several processes has died, and its locks with it."""
        for path in [path for path, holder in self.locks.items() if holder == process]:
            del self.locks[path]

    def next_process(self, *, power_loss: bool = False) -> None:
        """The process is gone, and its locks with it; after a power loss so is what was not fsynced."""
        self.process += 1
        self.locks.clear()
        renamed, self.renamed = self.renamed, []
        if not power_loss:
            return
        rng = self.chaos.rng
        for source, target in renamed:  # a folder is in its old or in its new place, with all that is in it
            if rng.random() < 0.5:
                self._move(self.durable, source, target)
            else:
                self._move(self.seen, target, source)
        for path in sorted(set(self.seen) | set(self.durable)):
            seen, durable = self.seen.get(path), self.durable.get(path)
            # A name that was made, renamed or removed without an fsync is in its old or in its new place.
            kept = seen if seen is durable or rng.random() < 0.5 else durable
            if kept is None:
                self.seen.pop(path, None)
            else:
                self.seen[path] = kept
        for inode in {id(inode): inode for inode in self.seen.values()}.values():
            if inode.seen != inode.durable:
                inode.seen = inode.durable if rng.random() < 0.3 else self.torn(inode)
            inode.durable = inode.seen
        self.durable = dict(self.seen)

    def survivors(self, path: Path) -> bytes:
        """What of a file is certain to survive a power loss now."""
        inode = self.durable.get(path)
        return b"" if inode is None else inode.durable

    # The port, in the order of `batchling.disk.Disk`.

    def read(self, path: Path) -> bytes:
        return self._find(path).seen

    def reader(self, path: Path) -> BinaryIO:
        return io.BytesIO(self._find(path).seen)

    def _find(self, path: Path) -> _Inode:
        if path not in self.seen:
            raise FileNotFoundError(str(path))
        return self.seen[path]

    def exists(self, path: Path) -> bool:
        return path in self.seen or self.elsewhere(path)

    def size(self, path: Path) -> int:
        return len(self._find(path).seen)

    def names(self, folder: Path) -> list[str]:
        start = len(_prefix(folder))
        return sorted({str(path)[start:].split("/", 1)[0] for path in _below(folder, self.seen)})

    def files(self, folder: Path) -> list[str]:
        start = len(_prefix(folder))
        return sorted(str(path)[start:] for path in _below(folder, self.seen))

    def make_folder(self, folder: Path) -> None:
        """Folders are always there."""

    def share(self, folder: Path) -> None:
        """There is nobody else."""

    def create(self, path: Path) -> _SimWriter:
        with self.effect(f"create {path.name}"):
            inode = self.seen.get(path)
            if inode is None:
                inode = self.seen[path] = _Inode()
            inode.seen = b""
        return _SimWriter(self, path, inode)

    def append(self, path: Path) -> _SimWriter:
        with self.effect(f"append {path.name}"):
            inode = self.seen.setdefault(path, _Inode())
        return _SimWriter(self, path, inode)

    def truncate(self, path: Path, size: int) -> None:
        with self.effect(f"truncate {path.name} {size}"):
            inode = self._find(path)
            inode.seen = inode.seen[:size]

    @staticmethod
    def _move(names: dict[Path, _Inode], source: Path, target: Path) -> None:
        for path in _below(source, names):
            names[target / path.relative_to(source)] = names.pop(path)

    def replace(self, source: Path, target: Path) -> None:
        if source not in self.seen:  # a folder; one without files is nothing here
            with self.effect(f"rename {target.name}"):
                self._move(self.seen, source, target)
                self.renamed.append((source, target))
                self.chaos.step("in rename")
                self.renamed.remove((source, target))
                self._move(self.durable, source, target)
            return
        with self.effect(f"rename {target.name}"):
            inode = self._find(source)
            self.seen[target] = inode
            del self.seen[source]
            self.chaos.step("in rename")  # a kill here: renamed, and the folder not fsynced
            self.durable[target] = inode
            self.durable.pop(source, None)

    def remove(self, path: Path) -> None:
        with self.effect(f"remove {path.name}"):
            self.seen.pop(path, None)

    def discard(self, folder: Path) -> None:
        with self.effect(f"discard {folder.name}"):
            for path in sorted(_below(folder, self.seen)):
                self.seen.pop(path, None)  # another process may be discarding it too
                self.chaos.step("in discard")

    def lock(self, path: Path, *, wait: bool = False) -> _SimLock:
        self.chaos.step(f"lock {path.name}")
        if path in self.locks and wait:
            if self.locks[path] == self.process:
                raise Overrun(f"a process waits for a lock that it holds itself: {path.name}")
            raise Blocked(str(path))
        if path in self.locks:
            raise LockedError(f"held by process {self.locks[path]} on simulated since the beginning", where=str(path))
        self.locks[path] = self.process
        return _SimLock(self, path)
