"""What a plan was made from, sealed: plan.json and every file of `source/` have their hashes in the journal's first event.

Schemas are code, and plan.json says where keys go, so a plan whose files were changed since is not used: nothing of it is
imported or sent. The *mark* of a plan is a hash of its id, its first event and these files. A user's configuration folder
remembers the marks of the plans that the user made (`batchling.consent`), which no copy of a runs folder can bring along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from batchling.disk import Disk
from batchling.errors import ChangedError, DiskError
from batchling.journal import encode
from batchling.runner.folder import PlanFolder

_PIECE = 1 << 20

Digests = Mapping[str, str]
"""Name in the plan's folder → SHA-256 in hexadecimal."""


def digests_of(document: bytes, sources: Mapping[str, bytes]) -> dict[str, str]:
    """Of a plan that is being made.

    Args:
        document: plan.json.
        sources: name below `source/` → content.
    """
    found = {"plan.json": hashlib.sha256(document).hexdigest()}
    found |= {_name(f"source/{name}"): hashlib.sha256(content).hexdigest() for name, content in sources.items()}
    return dict(sorted(found.items()))


def digests(disk: Disk, folder: PlanFolder) -> dict[str, str]:
    """Of a plan that is there.

    Raises:
        ChangedError: one of the files cannot be read, or is no plain file.
    """
    try:
        names = disk.files(folder.source)
        found = {"plan.json": _sha256(disk, folder, "plan.json")}
        found |= {_name(f"source/{name}"): _sha256(disk, folder, f"source/{name}") for name in names}
    except (DiskError, OSError) as error:
        words = error.message if isinstance(error, DiskError) else error.strerror or str(error)
        where = error.where if isinstance(error, DiskError) and error.where else str(folder.path)
        raise _changed(folder, where, f"{_relative(folder, where)}: {words}") from error
    return dict(sorted(found.items()))


def _sha256(disk: Disk, folder: PlanFolder, name: str) -> str:
    digest = hashlib.sha256()
    with disk.reader(folder.path / name) as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _name(text: str) -> str:
    """A file's name as JSON can hold it, whatever its bytes are."""
    return text.encode("utf-8", "backslashreplace").decode()


def _relative(folder: PlanFolder, where: str) -> str:
    return where.removeprefix(f"{folder.path}/")


def sealed(events: Iterable[Mapping[str, Any]]) -> Digests | None:
    """What the first event of a journal says; None: the plan was made by a version that did not say it."""
    first = next(iter(events), None)
    files = None if first is None or first.get("kind") != "plan_created" else first.get("files")
    return files if isinstance(files, dict) else None


def check_seal(disk: Disk, folder: PlanFolder, events: Iterable[Mapping[str, Any]]) -> Digests:
    """Whether plan.json and `source/` are what they were when the plan was made, as far as its journal says that.

    Returns:
        What they are.

    Raises:
        ChangedError: a file was changed, removed or added.
    """
    wanted, found = sealed(events), digests(disk, folder)
    if wanted is None or wanted == found:
        return found
    for name in sorted({*wanted, *found}):
        if name not in found:
            raise _changed(folder, folder.path / name, f"{name} is missing")
        if name not in wanted:
            raise _changed(folder, folder.path / name, f"{name} was added after the plan was made")
        if wanted[name] != found[name]:
            raise _changed(folder, folder.path / name, f"{name} was changed after the plan was made")
    raise AssertionError("unreachable")


def _changed(folder: PlanFolder, where: object, what: str) -> ChangedError:
    return ChangedError(
        f"plan {folder.plan_id} is not used: {what}",
        where=str(where),
        next_command=f"put the file back as it was; to give the plan up: batchling rm {folder.plan_id} --force",
    )


def mark_of(plan_id: str, first: Mapping[str, Any], files: Digests) -> str:
    """What tells a plan from every other, whatever it is called.

    Args:
        first: the first event of its journal, as recorded.
        files: what plan.json and `source/` are.
    """
    digest = hashlib.sha256(b"batchling-plan-1\0" + plan_id.encode("utf-8", "backslashreplace") + b"\0")
    digest.update(encode(dict(first)) + orjson.dumps(dict(files), option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


def no_links(disk: Disk, folder: PlanFolder) -> None:
    """Whether a plan's folder holds plain files alone: a link in a folder that travelled would have us write elsewhere.

    Raises:
        ChangedError: it does not.
    """
    try:
        disk.files(folder.path)
    except DiskError as error:
        where = error.where or str(folder.path)
        raise ChangedError(
            f"plan {folder.plan_id} is not used: {_relative(folder, where)} {error.message}",
            where=where,
            next_command=f"remove it, or give the plan up: batchling rm {folder.plan_id} --force",
        ) from error
