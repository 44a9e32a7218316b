"""Answers in which a server repeats a key: kept as they came in the raw bytes, and blotted in all that is made of them.

The key is known only while a provider is connected. So the blotted line is kept beside the raw file, under the hash of the line that
it stands for: a rebuild, or a plan that reuses the answer, needs no key to leave it out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import orjson

from batchling import limits
from batchling.collect import lines
from batchling.disk import Disk, write_file
from batchling.models import Garbage, Response
from batchling.runner.shards import chunks
from batchling.scrub import Scrubber

Decode = Callable[[bytes], Response | Garbage]

_RAW = re.compile(r"(\d{4,}\.\d+)\.(?:output|errors)\.jsonl")


class Blots:
    """The lines of a batch's raw files that hold a key.

    Args:
        path: where they are kept; need not exist.
        scrubber: knows the keys that the provider was called with; an empty one finds nothing new.
    """

    def __init__(self, disk: Disk, path: Path, scrubber: Scrubber | None = None):
        self._disk = disk
        self._path = path
        self._scrubber = scrubber or Scrubber()
        self._known: dict[str, bytes] = {}
        self._new = False
        if disk.exists(path):
            for _, line in lines(chunks(disk, path)):
                document = limits.own(line)
                self._known[document["sha256"]] = document["line"].encode()

    @property
    def count(self) -> int:
        """Lines that hold a key."""
        return len(self._known)

    def line(self, raw: bytes) -> bytes:
        """The line without the key; itself where it holds none."""
        if self._known:
            found = self._known.get(hashlib.sha256(raw).hexdigest())
            if found is not None:
                return found
        if not self._scrubber or not self._scrubber.finds(raw):
            return raw
        blotted = self._scrubber.line(raw)
        self._known[hashlib.sha256(raw).hexdigest()] = blotted
        self._new = True
        return blotted

    def decoding(self, decode: Decode) -> Decode:
        """A decoder that reads the lines without the key."""
        if not self._known and not self._scrubber:
            return decode
        return lambda raw: decode(self.line(raw))

    def save(self) -> None:
        """Keeps what was found, before anything that was derived from it."""
        if self._new:
            kept = [
                orjson.dumps({"sha256": digest, "line": line.decode("utf-8", "replace")}) + b"\n"
                for digest, line in self._known.items()
            ]
            write_file(self._disk, self._path, b"".join(kept))
            self._new = False


def blots_of(disk: Disk, responses: Path, file: str) -> Blots:
    """What is known of a raw file of an earlier plan."""
    named = _RAW.fullmatch(file)
    return Blots(disk, responses / f"{named[1] if named else file}.blotted.jsonl")
