"""What the user said yes to, kept in the user's own configuration folder: never in a project, which may be anybody's.

`$XDG_CONFIG_HOME/batchling/hosts.json`, by default `~/.config/batchling/hosts.json`, on macOS too. The file is the
user's alone (0600, its folder 0700); one that others could have written is not believed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batchling import limits
from batchling.disk import make_folders, open_lock, open_private
from batchling.errors import ConfigError
from batchling.trust import Origin

_VERSION = 1


def user_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The user's configuration folder; need not exist."""
    environ = os.environ if environ is None else environ
    named = environ.get("XDG_CONFIG_HOME", "")
    # A relative one is ignored, as the XDG base directory specification says: it would lie in some project.
    home = Path(named) if Path(named).is_absolute() else Path(environ.get("HOME") or Path.home()) / ".config"
    return home / "batchling"


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
                "others could have written the file that remembers where keys may go, so it is not believed",
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
