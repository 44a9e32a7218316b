"""The journal: the truth about a plan's state and money.

One event a line, append-only, checksummed, fsynced before anything acts on it::

    {"crc":"9c1f0a3b","seq":12,"ts":1790000000.123,"kind":"created","shard":1,"attempt":1,"batch_id":"batch_…"}

The first line also has the file's `format`; one without is of format 1, and read as if it were of the newest.
`crc` is the CRC-32 of the line's bytes after the `"crc":"…",` field, in hexadecimal. A torn last
line (a crash in the middle of a write) is cut off; damage anywhere before it is an error, because
what was paid would be uncertain. Events hold ids, hashes and counts: no prompt, no answer, no secret.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from batchling import limits
from batchling.disk import Disk, Writer
from batchling.errors import DiskError, DiskFullError, JournalError
from batchling.ledger.upgrade import FORMAT, UnknownFormatError, format_of, upgrade

Event = dict[str, Any]

RESERVE_BYTES = 65_536
"""Kept beside the journal and freed when the disk is full, so that a batch id can always be written."""

_LARGEST = 2**63 - 1

_HEAD = len(b'{"crc":"00000000",')


def encode(event: Event) -> bytes:
    """One journal line, newline included."""
    try:
        rest = orjson.dumps(event)[1:]
    except TypeError:
        rest = orjson.dumps(_writable(event))[1:]
    return b'{"crc":"%08x",' % zlib.crc32(rest) + rest + b"\n"


def _writable(value: Any) -> Any:
    """What a provider said, as JSON can hold it: half a surrogate pair becomes U+FFFD, a number without bounds the largest."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-_LARGEST, min(_LARGEST, value))
    if isinstance(value, dict):
        return {_writable(str(name)): _writable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(part) for part in value]
    return value


def decode(line: bytes) -> Event | None:
    """The event of one line without its newline; None when the line is damaged."""
    if not line.startswith(b'{"crc":"') or len(line) < _HEAD:
        return None
    rest = line[_HEAD:]
    with suppress(ValueError):
        if int(line[8:16], 16) == zlib.crc32(rest):
            event = limits.loads(b"{" + rest)
            if isinstance(event, dict):
                return event
    return None


def parse(data: bytes, *, where: str) -> tuple[list[Event], int]:
    """Events and the number of bytes that are good.

    Args:
        data: the journal's bytes.
        where: the file's name for messages.

    Raises:
        JournalError: a damaged line that is not the last, sequence numbers with a gap, or a format of a later version.
    """
    events: list[Event] = []
    start = 0
    newest = True
    while start < len(data):
        end = data.find(b"\n", start)
        event = decode(data[start:end]) if end >= 0 else None
        if event is None:
            if end < 0 or end == len(data) - 1:
                return events, start
            raise _damaged(where, len(events) + 1, "does not match its checksum")
        if event.get("seq") != len(events) + 1:
            raise _damaged(where, len(events) + 1, f"has sequence number {event.get('seq')}")
        if not events:
            newest = _format(event, where) == FORMAT
        events.append(event if newest else upgrade(event))
        start = end + 1
    return events, start


def _format(first: Event, where: str) -> int:
    try:
        return format_of(first)
    except UnknownFormatError as error:
        raise JournalError(
            f"the journal was written by a later version of batchling: {error}",
            where=where,
            next_command="run the command with the version of batchling that wrote it, or a later one",
        ) from None


def _damaged(where: str, line: int, what: str) -> JournalError:
    return JournalError(
        f"line {line} {what}: the journal is damaged before its end, so nothing is sent for this plan",
        where=f"{where}:{line}",
        next_command=f"restore the file from a backup, or give up what was not collected: batchling rm {Path(where).parent.name} --force",
    )


def read(disk: Disk, path: Path) -> list[Event]:
    """Events of a journal that another process may be writing; a torn last line is left alone. Absent: none."""
    if not disk.exists(path):
        return []
    return parse(disk.read(path), where=str(path))[0]


def says_finished(disk: Disk, path: Path) -> bool:
    """Whether the last line of a journal, which may be damaged before it, says that the plan has ended."""
    try:
        last = decode(disk.read(path).rstrip(b"\n").rpartition(b"\n")[2])
    except (DiskError, OSError):
        return False
    return last is not None and last.get("kind") == "finished"


class Journal:
    """An open journal. One process holds it, under the plan's lock.

    A line is written by one `write`, then fsynced. After a failed fsync nothing more is written:
    what reached the disk is unknown until the file is read again.

    Attributes:
        torn: its last line was not whole when it was opened, and was cut off.
    """

    def __init__(self, disk: Disk, path: Path):
        self.disk = disk
        self.path = path
        self.reserve = path.with_name(path.name + ".reserve")
        self.events: list[Event] = []
        self.good = 0
        self.broken = False
        self.torn = False
        if disk.exists(path):
            data = disk.read(path)
            self.events, self.good = parse(data, where=str(path))
            self.torn = self.good < len(data)
            if self.torn:
                disk.truncate(path, self.good)
        self._writer: Writer = disk.append(path)
        if not disk.exists(self.reserve):
            with suppress(DiskError):
                self._keep_reserve()

    def _keep_reserve(self) -> None:
        writer = self.disk.create(self.reserve)
        try:
            writer.write(b"\0" * RESERVE_BYTES)
            writer.sync()
        finally:
            writer.close()

    @property
    def last_ts(self) -> float:
        """Unix seconds of the last event; 0 for an empty journal."""
        return float(self.events[-1]["ts"]) if self.events else 0.0

    def line(self, event: Event, *, ts: float) -> Event:
        """An event as it will be read again once it is appended."""
        head: Event = {"seq": len(self.events) + 1, "ts": round(ts, 3)}
        if not self.events:
            head["format"] = FORMAT
        line = decode(encode(head | event)[:-1])
        assert line is not None
        return line

    def append(self, events: Iterable[Event], *, ts: float) -> list[Event]:
        """Writes events durably, each with a write and an fsync of its own, and returns them as recorded.

        A crash may so leave the first of several behind, but never one after a gap.

        Raises:
            DiskError: what reached the disk is unknown; the journal takes no more events.
        """
        if self.broken:
            raise DiskError("the journal could not be written before; start again", where=str(self.path))
        recorded: list[Event] = []
        for event in events:
            line = self.line(event, ts=ts)
            data = encode(line)
            self.broken = True
            try:
                self._write(data)
            except DiskFullError:
                # Give the reserve back and write once more, over whatever part arrived.
                if not self.disk.exists(self.reserve):
                    raise
                self.disk.remove(self.reserve)
                self.disk.truncate(self.path, self.good)
                self._write(data)
            self.good += len(data)
            self.events.append(line)
            recorded.append(line)
            self.broken = False
        return recorded

    def _write(self, data: bytes) -> None:
        self._writer.write(data)
        self._writer.sync()

    def close(self) -> None:
        self._writer.close()
