"""Temporary folders, and the removal of those that killed processes left behind.

Each one holds a mark that its process keeps locked for as long as it lives. So a folder with a mark that nobody has
locked belongs to nobody, and one without a mark was made by somebody else, whatever its name says.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "batchling-"
_MARK = ".batchling-scratch"


@contextmanager
def scratch(what: str = "") -> Iterator[Path]:
    """A temporary folder of mode 700, removed at the end. First those of killed processes of this user are removed.

    Args:
        what: a word for its name.

    Raises:
        OSError: it cannot be made.
    """
    sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{what}-" if what else _PREFIX))
    mark = -1
    try:
        mark = _marked(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if mark >= 0:
            os.close(mark)


def _marked(folder: Path) -> int:
    """Marks a folder as in use. The mark appears locked: it is locked under another name first."""
    unlocked = folder / f"{_MARK}.new"
    descriptor = os.open(unlocked, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        unlocked.rename(folder / _MARK)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sweep(parent: Path | None = None) -> list[Path]:
    """Removes the folders of processes that are gone.

    Args:
        parent: where to look; None: the machine's folder for temporary files.

    Returns:
        What was removed.
    """
    parent = parent or Path(tempfile.gettempdir())
    removed = []
    with suppress(OSError):
        names = [entry.name for entry in os.scandir(parent) if entry.name.startswith(_PREFIX)]
        for name in sorted(names):
            if _abandoned(parent / name):
                shutil.rmtree(parent / name, ignore_errors=True)  # follows no links
                removed.append(parent / name)
    return removed


def _abandoned(folder: Path) -> bool:
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(folder / _MARK, flags)
    except OSError:
        return False
    try:
        mark = os.fstat(descriptor)
        if not stat.S_ISREG(mark.st_mode) or mark.st_uid != os.geteuid():
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
