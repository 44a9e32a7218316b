"""How much a compressed file holds, before anything reads it whole.

A gzip file of a megabyte may hold a gigabyte, one in zstandard thirty: enough to keep a reader busy for a day that was
meant to take a second. Real rows shrink to a tenth, very repetitive ones to a hundredth. What is counted here is bytes;
nothing is kept, and counting ends at the bound.
"""

from __future__ import annotations

import bz2
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from batchling.duck import literal
from batchling.errors import DataError

if TYPE_CHECKING:
    import duckdb

FREE_BYTES = 1 << 30
"""Bytes that any file may unpack to."""

_BLOCK = 1 << 16
_GZIP, _BZIP2, _ZIP, _PARQUET = b"\x1f\x8b", b"BZh", b"PK\x03\x04", b"PAR1"
_ZSTD_FRAME, _ZSTD_SKIPPED = 0xFD2FB528, 0x184D2A50  # RFC 8878, sections 3.1.1 and 3.1.2
_ZSTD_BLOCK = 128 << 10  # the most that a block decodes to (RFC 8878, section 3.1.1.2.4)
_DEFLATE = 1032  # times that deflate shrinks anything at most


def check(con: duckdb.DuckDBPyConnection, path: str, escaped: str, factor: int) -> None:
    """Raises `DataError` for a local file that unpacks to more than `factor` times its size and to more than a gigabyte.

    Args:
        con: a connection to read a Parquet file's footer with.
        path: the file.
        escaped: the same for DuckDB's readers, which take patterns.
        factor: `limits.unpack_factor`.
    """
    try:
        too_large, size, most = _beyond(con, path, escaped, factor)
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=path) from None
    if too_large:
        raise DataError(
            f"the file has {size:,} bytes and unpacks to more than {most:,}: far more than rows do",
            where=path,
            key="limits.unpack_factor",
            next_command=f"look at what is in it; if it is meant to be like that, raise limits.unpack_factor ({factor})",
        )


def _beyond(con: duckdb.DuckDBPyConnection, path: str, escaped: str, factor: int) -> tuple[bool, int, int]:
    """Whether it does, its size, and the bound."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        most = max(FREE_BYTES, size * factor)
        start = file.read(4)
        file.seek(0)
        if start.startswith(_GZIP):
            too_large = size * _DEFLATE > most and _streamed(file, "gzip", most)
        elif start.startswith(_BZIP2):
            too_large = _streamed(file, "bzip2", most)
        elif start == _ZIP:
            too_large = _zipped(file, most)
        elif start == _PARQUET:
            too_large = _columns(con, escaped, most)
        else:
            too_large = _frames(file, most)
    return too_large, size, most


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ..., /) -> bytes: ...


def _streamed(file: IO[bytes], kind: str, most: int) -> bool:
    """Whether a gzip or bzip2 file, of one member or many, holds more than `most` bytes. What is broken is its reader's to report."""
    total = 0
    try:
        for piece in _unpacked(file, kind):
            total += piece
            if total > most:
                return True
    except (zlib.error, OSError, ValueError):
        pass
    return False


def _unpacked(file: IO[bytes], kind: str) -> Iterator[int]:
    """Sizes of the pieces that a file unpacks to, one after the other."""
    pending = b""
    while pending := pending or file.read(_BLOCK):
        member: _Decompressor = zlib.decompressobj(31) if kind == "gzip" else bz2.BZ2Decompressor()
        while not member.eof:
            found = member.decompress(pending, 1 << 20)
            pending = getattr(member, "unconsumed_tail", b"")
            yield len(found)
            if member.eof:
                break
            if not pending and (kind == "gzip" or getattr(member, "needs_input", True)):
                pending = file.read(_BLOCK)
                if not pending and not found:
                    return
        pending = member.unused_data


def _zipped(file: IO[bytes], most: int) -> bool:
    """Whether the parts of a spreadsheet say that they are larger. One that lies meets the limit on its reader's memory."""
    try:
        with zipfile.ZipFile(file) as book:
            return sum(part.file_size for part in book.infolist()) > most
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _columns(con: duckdb.DuckDBPyConnection, escaped: str, most: int) -> bool:
    """Whether a Parquet file's pages say so. One that lies meets the limit on DuckDB's memory."""
    import duckdb

    try:
        row = con.execute(
            f"SELECT sum(total_uncompressed_size)::DOUBLE FROM parquet_metadata({literal(escaped)})"
        ).fetchone()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        return False
    return bool(row and row[0] and row[0] > most)


def _frames(file: IO[bytes], most: int) -> bool:
    """Whether a zstandard file can hold more than `most` bytes, by the headers of its blocks; False: it is no such file.

    Python 3.11 has no zstandard. A block that is neither raw nor one byte repeated counts as the most that it can be.
    """
    total = 0
    while len(magic := file.read(4)) == 4:
        number = int.from_bytes(magic, "little")
        if number & 0xFFFFFFF0 == _ZSTD_SKIPPED:
            file.seek(int.from_bytes(file.read(4), "little"), 1)
            continue
        if number != _ZSTD_FRAME:
            return False
        descriptor = int.from_bytes(file.read(1), "little")
        single = descriptor & 0x20
        window = 0 if single else 1
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        content = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
        file.seek(window + dictionary + content, 1)
        last = 0
        while not last:
            header = file.read(3)
            if len(header) < 3:
                return False
            block = int.from_bytes(header, "little")
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            total += _ZSTD_BLOCK if kind == 2 else size
            if total > most:
                return True
            file.seek(1 if kind == 1 else size, 1)
        file.seek(4 if descriptor & 4 else 0, 1)
    return False
