"""Text that is not UTF-8: read with Python's codecs, and a guess for the person who did not say which it is.

DuckDB knows UTF-8, UTF-16 and a Latin-1 without the quotes and dashes that Windows writes; everything else is an extension to
download. So a file in another encoding is read through a copy in UTF-8, as long as the plan is being made.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from batchling.errors import DataError

_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_BLOCK = 1 << 20
_CONTROLS = re.compile("[\x80-\x9f]")
_SCRIPTS = ["cp932", "gb18030", "euc_kr", "big5", "cp1251", "cp1253"]
"""What is guessed where most letters are not ASCII."""


def known(encoding: str) -> bool:
    """Whether Python has a codec for it."""
    try:
        return codecs.lookup(encoding)._is_text_encoding
    except LookupError:
        return False


def is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def marked(path: str) -> str | None:
    """The encoding that a file's byte order mark names, where it is not UTF-8."""
    with opened(path) as file:
        return _MARKS.get(file.read(2))


def opened(path: str) -> IO[bytes]:
    """The file's bytes, decompressed when its name ends in .gz or .bz2."""
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path))
    return bz2.open(path) if path.endswith(".bz2") else Path(path).open("rb")


def utf8(path: str, encoding: str, to: Path) -> None:
    """Writes the file's text to `to`, in UTF-8 and without a byte order mark.

    Raises:
        DataError: it is not in this encoding.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    latin = codecs.lookup(encoding).name == "iso8859-1"
    line = 1
    with opened(path) as file, to.open("w", encoding="utf-8", newline="") as out:
        decoder = codecs.getincrementaldecoder(encoding)()
        first = True
        for block in _blocks(file):
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise DataError(
                    f"the file is not {encoding}: {error.reason} (0x{error.object[error.start]:02x})",
                    where=f"{path}, line {line}",
                    key="data.options.encoding",
                    next_command=_advice(guess(error.object)),
                ) from None
            if latin and (found := _CONTROLS.search(text)):
                raise DataError(
                    f"the file is not {encoding}: 0x{ord(found[0]):02x} is not a character there, but is one in windows-1252",
                    where=f"{path}, line {line + text.count(chr(10), 0, found.start())}",
                    key="data.options.encoding",
                    next_command=_advice("windows-1252"),
                )
            out.write(text.removeprefix("\ufeff") if first else text)
            first = first and not text
            line += text.count("\n")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The file in blocks, and an empty one at its end."""
    while block := file.read(_BLOCK):
        yield block
    yield b""


def not_utf8(path: str, where: str, shown: str = "") -> DataError:
    """The error for a file that is not UTF-8, with the encoding that it seems to have."""
    found = "windows-1252"
    try:
        with opened(path) as file:
            for block in _blocks(file):
                lines = [row for row in block.split(b"\n") if not row.isascii()]
                if lines:
                    found = guess(b"\n".join(lines[:200]))
                    break
    except OSError:
        pass
    return DataError(f"the file is not UTF-8{shown}", where=where, next_command=_advice(found))


def _advice(encoding: str) -> str:
    other = "windows-1250" if encoding == "windows-1252" else "windows-1252"
    return (
        f"set data.options: {{encoding: {encoding}}}, which is a guess (or the encoding it has, for example {other}: "
        "look at a row with plan --show 1), or save the file as UTF-8"
    )


def guess(text: bytes) -> str:
    """The likely encoding of text that is not UTF-8: Windows' western one, unless most letters are beyond ASCII."""
    high = sum(byte > 127 for byte in text)
    together = sum(len(run) for run in re.findall(rb"[\x80-\xff]{2,}", text))
    letters = sum(65 <= byte <= 90 or 97 <= byte <= 122 for byte in text)
    if high > letters and together > high / 2:
        from charset_normalizer import from_bytes

        best = from_bytes(text, cp_isolation=_SCRIPTS).best()
        if best is not None:
            return {"cp932": "shift_jis", "cp1251": "windows-1251", "cp1253": "windows-1253"}.get(
                best.encoding, best.encoding
            )
    return "windows-1252"
