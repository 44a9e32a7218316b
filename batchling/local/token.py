"""The token that the embedded server wants, as an OpenAI client sends its API key: `Authorization: Bearer TOKEN`."""

from __future__ import annotations

import hmac
import os
import re
import stat
from pathlib import Path
from secrets import token_urlsafe

from batchling.disk import make_folders, open_private
from batchling.errors import ConfigError, DiskError

FILE = "token"
_TOKEN = re.compile(r"[\x21-\x7e]{32,512}")


def new_token() -> str:
    """A random one: 256 bits."""
    return f"bl-{token_urlsafe(32)}"


def kept_token(state_dir: Path) -> str:
    """The token of a state folder, made the first time: a server that is started again knows its clients again.

    Raises:
        ConfigError: the file holds no token, or somebody else could have read or written it.
        DiskError: it cannot be read or made.
    """
    path = state_dir / FILE
    try:
        make_folders(state_dir)
        try:
            descriptor = open_private(path, os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW)
        except FileExistsError:
            return _read(path)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            token = new_token()
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        return token
    except OSError as error:
        raise DiskError(
            f"the server's token cannot be saved: {error.strerror}",
            where=str(path),
            next_command="make the folder writable, or give the server another --state-dir",
        ) from error


def _read(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        private = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o007
        text = file.read(1_000).decode("latin-1").strip() if private else ""
    if not _TOKEN.fullmatch(text):
        what = "holds no token" if private else "is not the user's alone"
        raise ConfigError(
            f"the file of the server's token {what}",
            where=str(path),
            next_command="delete it; the next start makes a new one",
        )
    return text


def carries(authorization: bytes | None, token: str) -> bool:
    """Whether an Authorization header has the token. Takes as long whatever it holds."""
    scheme, _, given = (authorization or b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())
