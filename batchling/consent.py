"""What is the user's own, kept in the user's configuration folder: never in a project, which may be anybody's.

`$XDG_CONFIG_HOME/batchling`, by default `~/.config/batchling`, on macOS too: `hosts.json` has the pairs of variable and
origin that the user said yes to, `plans` the plans that the user made or took. The files are the user's alone (0600,
their folder 0700); one that others could have written is not believed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batchling import limits
from batchling.disk import make_folders, open_lock, open_private
from batchling.errors import BatchlingError, ConfigError
from batchling.trust import Origin

_VERSION = 1


def user_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The user's configuration folder; need not exist."""
    environ = os.environ if environ is None else environ
    named = environ.get("XDG_CONFIG_HOME", "")
    # A relative one is ignored, as the XDG base directory specification says: it would lie in some project.
    if Path(named).is_absolute():
        return Path(named) / "batchling"
    try:
        return Path(environ.get("HOME") or Path.home()) / ".config" / "batchling"
    except RuntimeError:  # a container's user that has neither a HOME nor an entry in the list of users
        return machine_folder() / "config"


def machine_folder() -> Path:
    """A folder of this user in the machine's temporary folder; need not exist."""
    return Path(tempfile.gettempdir()) / f"batchling-{os.geteuid()}"


class Consent:
    """The pairs of variable and origin that the user confirmed.

    Args:
        folder: the user's configuration folder; None: as the environment says.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder or user_folder()
        self.path = self._folder / "hosts.json"

    def pairs(self) -> frozenset[tuple[str, Origin]]:
        """All of them.

        Raises:
            ConfigError: the file is not what was written, or somebody else could have written it.
        """
        return frozenset((entry["variable"], Origin.of(entry["origin"])) for entry in self._entries())

    def remember(self, pairs: Iterable[tuple[str, Origin]]) -> None:
        """Adds pairs, durably.

        Raises:
            ConfigError: the file there cannot be believed.
            OSError: it cannot be written.
        """
        make_folders(self._folder)
        lock = open_lock(self._folder / "hosts.lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be asking the same person something else
            entries = self._entries()
            known = {(entry["variable"], entry["origin"]) for entry in entries}
            for variable, origin in pairs:
                if (variable, str(origin)) not in known:
                    now = datetime.now(UTC).isoformat(timespec="seconds")
                    entries.append({"variable": variable, "origin": str(origin), "since": now})
            part = self.path.with_name(f".hosts.{os.getpid()}.part")
            part.unlink(missing_ok=True)
            descriptor = open_private(part, os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"version": _VERSION, "pairs": entries}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        finally:
            os.close(lock)

    def _entries(self) -> list[dict[str, Any]]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return []
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise ConfigError(
                "others could have written the file that remembers where keys may go, so it is ignored",
                where=str(self.path),
                next_command=f"look at it, then: chmod 600 {self.path}   (or delete it)",
            )
        try:
            document = limits.loads_tolerantly(content)
            entries = document["pairs"]
            for entry in entries:
                if not isinstance(entry["variable"], str):
                    raise ValueError("a variable is a text")
                Origin.of(entry["origin"])
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise ConfigError(
                "the file that remembers where keys may go cannot be read",
                where=str(self.path),
                next_command="delete it; you will be asked again",
            ) from error
        return list(entries)


MOST_PLANS = 10_000
"""Plans that are remembered; the oldest are forgotten when there are half as many again."""

_HERE: set[str] = set()
"""Marks of this process, for where nothing can be written."""


class Plans:
    """The marks (`batchling.runner.sealing`) of the plans that the user made or took.

    One line each, `<mark> <plan id>`, appended under a lock. Where the configuration folder cannot be written (read-only, or
    a container's user without a home), a folder of the user in the machine's temporary folder takes its place: what is
    planned and run in one container is known there, and nothing of it travels with a project.

    Args:
        folder: the user's configuration folder; None: as the environment says.
        instead: where the marks go when that cannot be written; None: the user's folder in the temporary folder.
    """

    def __init__(self, folder: Path | None = None, *, instead: Path | None = None):
        self._folders = (folder or user_folder(), instead or machine_folder())

    def knows(self, mark: str) -> bool:
        """Whether a plan is the user's own."""
        return mark in _HERE or any(mark in _marks(folder / "plans") for folder in self._folders)

    def named(self, plan_id: str) -> bool:
        """Whether some plan of this id is known, whatever its content."""
        return any(plan_id == name for folder in self._folders for _, name in _lines(folder / "plans"))

    def remember(self, plan_id: str, mark: str) -> None:
        """Adds a plan, durably where that is possible. Never fails: a plan that is not remembered is asked about."""
        _HERE.add(mark)
        if self.knows_on_disk(mark):
            return
        problem: OSError | BatchlingError | None = None
        for folder in self._folders:
            try:
                _append(folder, f"{mark} {plan_id}\n")
                return
            except (OSError, BatchlingError) as error:
                problem = problem or error
        logging.getLogger(__name__).warning("the plan %s could not be remembered as yours: %s", plan_id, problem)

    def knows_on_disk(self, mark: str) -> bool:
        """`knows`, without what this process alone remembers."""
        return any(mark in _marks(folder / "plans") for folder in self._folders)


def _append(folder: Path, line: str) -> None:
    make_folders(folder)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or not _is_mine(found):
        raise PermissionError(13, "it belongs to someone else", str(folder))
    lock = open_lock(folder / "plans.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / "plans"
        known = _read(path)
        if known is None and path.exists():
            raise PermissionError(13, "others could have written it", str(path))
        if (known or b"").count(b"\n") >= MOST_PLANS * 3 // 2:
            _trim(path, known or b"")
        descriptor = open_private(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            torn = known is not None and known and not known.endswith(b"\n")  # of a process that was killed
            os.write(descriptor, (b"\n" if torn else b"") + line.encode("utf-8", "backslashreplace"))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        os.close(lock)


def _trim(path: Path, content: bytes) -> None:
    part = path.with_name(f".plans.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    descriptor = open_private(part, os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "wb") as file:
        file.write(b"".join(content.splitlines(keepends=True)[-MOST_PLANS:]))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _is_mine(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _read(path: Path) -> bytes | None:
    """What a file holds; None: there is none, or it is not believed."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and _is_mine(status) and _is_mine(path.parent.lstat()):
                return file.read()
    return None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    for line in (_read(path) or b"").decode("utf-8", "replace").splitlines():
        mark, _, name = line.partition(" ")
        if name:
            yield mark, name


def _marks(path: Path) -> frozenset[str]:
    return frozenset(mark for mark, _ in _lines(path))
