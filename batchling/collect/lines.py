"""Lines of a JSONL file, cut at line feeds and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from batchling.limits import LINE_BYTES

MAX_LINE_BYTES = LINE_BYTES
"""A longer line is cut here."""


def lines(chunks: Iterable[bytes], *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line, without its line feed; lines of nothing but white space are left out.

    U+2028, U+2029, U+0085, form feeds and lone carriage returns are content. Memory is a chunk and a line:
    of a line longer than `max_bytes` only the first `max_bytes` are given, and the rest is skipped.

    Args:
        chunks: the file's bytes in pieces of any size.
        max_bytes: longest line that is held, in bytes.
    """
    offset = 0  # of the first byte not yet given
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, tail = chunk.split(b"\n")
        if whole and held:
            length = size + len(whole[0])
            whole[0] = b"".join(held) + whole[0]
            if length > max_bytes:
                whole[0] = whole[0][:max_bytes]
            held.clear()
            if not whole[0].isspace():
                yield offset, whole[0]
            offset += length + 1
            size = 0
            del whole[0]
        for line in whole:
            if line and not line.isspace():
                yield offset, line if len(line) <= max_bytes else line[:max_bytes]
            offset += len(line) + 1
        if tail:
            if size < max_bytes:
                held.append(tail[: max_bytes - size])
            size += len(tail)
    if held:
        line = b"".join(held)
        if not line.isspace():
            yield offset, line
