"""What DuckDB's errors mean for a person who has a file with a mistake in it."""

from __future__ import annotations

import difflib
import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from batchling import limits
from batchling.errors import BatchlingError, DataError, DiskError
from batchling.source import encodings

_LONGEST = 64 << 20  # bytes of a line that are looked at
_SHOWN = 300  # characters of a row or message that an error repeats


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing."""
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


@contextmanager
def explained(what: str, paths: Sequence[str] = ()) -> Iterator[None]:
    """Turn DuckDB's errors into ours; running out of memory passes, because the caller can give more."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise explain(error, what=what, paths=paths) from None


def missing_column(name: str, columns: Sequence[str], *, what: str, where: str, key: str | None = None) -> DataError:
    """A column that the config names, in `key`, and the source does not have."""
    shown = ", ".join(columns[:40]) + (", …" if len(columns) > 40 else "")
    return DataError(
        f"{what}: there is no column {name!r}{nearest(name, columns) or '.'} The columns are: {shown}",
        where=where,
        key=key,
    )


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def explain(error: Exception, *, what: str, paths: Sequence[str] = ()) -> BatchlingError:
    """The error to show for an exception that DuckDB raised while it read `what` (a short name of the source)."""
    text = str(error)
    if "No space left" in text or "Read-only file system" in text:
        return DiskError(shorten(text), where=what, next_command="free some space, then run the same command again")
    extension = re.search(r"exists in the (\w+) extension", text) or re.search(
        r"(?:required extension|[Ee]xtension) \W*(\w+)", text
    )
    if extension and re.search(r"automatically install|Failed to download extension|INSTALL ", text):
        name = extension.group(1)
        return DataError(
            f"reading this needs DuckDB's extension {name}, which is not here and cannot be downloaded",
            where=what,
            next_command=f"with a network, once: python -c \"import duckdb; duckdb.sql('INSTALL {name}')\"; without one, download the "
            "file and name it in data.path",
        )
    found = re.search(r"^\s*file = (.+)$", text, re.M) or re.search(r'(?:in|reading) file "([^"]+)"', text)
    file = found.group(1) if found else (paths[0] if len(paths) == 1 else what)
    if "CSV Error on Line" in text or "file = " in text:
        return _csv_fault(text, file)
    if "expected records" in text and paths:
        return _not_records(paths)
    if found and ("JSON" in text or "maximum_object_size" in text):
        return _json_fault(text, file)
    if "Invalid named parameter" in text or "named parameter" in text.lower():
        option = re.search(r'parameter "?(\w+)"?', text)
        name = option.group(1) if option else "?"
        return DataError(
            f"data.options: DuckDB's reader has no option {name!r}: {shorten(text.split('Candidates')[0])}", where=file
        )
    if "utf" in text.lower() and "valid" in text.lower():
        return DataError(f"the text is not valid UTF-8: {shorten(text)}", where=file)
    return DataError(f"the rows cannot be read: {shorten(text)}", where=file)


def _csv_fault(text: str, file: str) -> DataError:
    at = re.search(r"CSV Error on Line: (\d+)", text)
    where = f"{file}, line {at.group(1)}" if at else file
    row = re.search(r"Original Line: (.*)", text)
    shown = f": {shorten(row.group(1))!r}" if row else ""
    if "unicode" in text or "encoding" in text.lower().split("possible")[0]:
        return encodings.not_utf8(file, where, shown)
    count = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text)
    if count:
        return DataError(
            f"the header has {count.group(1)} columns and this row {count.group(2)}{shown}",
            where=where,
            next_command="quote values that hold the delimiter, or set data.options: {delim: …} or {null_padding: true}",
        )
    if "unterminated quote" in text:
        return DataError(
            f"a quoted value does not end as RFC 4180 asks{shown}",
            where=where,
            next_command="double the quotes inside values, or set data.options: {quote: ''} or {strict_mode: false}",
        )
    if "Maximum line size" in text:
        return DataError(
            f"a row is longer than DuckDB's line limit{shown[:80]}",
            where=where,
            next_command="set data.options: {max_line_size: 16000000} (bytes)",
        )
    if "invalid state" in text:
        return DataError(
            "the file does not follow RFC 4180 (mixed line endings, or quotes inside values)",
            where=where,
            next_command="set data.options: {strict_mode: false}, or save the file with one kind of line ending",
        )
    head = text.split("Possible")[0].split("file =")[0]
    return DataError(f"the file is not valid CSV: {shorten(head)}", where=where)


def _array_fault(path: str) -> DataError | None:
    """What is wrong with a `.json` file that begins as an array; None: it is something else, or too large to look at."""
    file = Path(path)
    if file.suffix != ".json" or not file.is_file() or file.stat().st_size > _LONGEST:
        return None
    raw = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not raw.lstrip().startswith(b"["):
        return None
    try:
        items = limits.loads_tolerantly(raw.decode("utf-8"))
    except json.JSONDecodeError as error:
        line = raw.decode("utf-8").split("\n")[error.lineno - 1 :][:1]
        return DataError(
            f"the array is not JSON ({error.msg}): {shorten(''.join(line))!r}", where=f"{path}, line {error.lineno}"
        )
    except (ValueError, RecursionError):
        return None
    if not items:
        return DataError("the source has no rows: there is nothing to ask", where=path)
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            return DataError(f"item {number} of the array is not an object: {shorten(json.dumps(item))}", where=path)
    return None


def _json_fault(text: str, file: str) -> DataError:
    if (fault := _array_fault(file)) is not None:
        return fault
    line, why, row = (0, "", "") if "maximum_object_size" in text else _first_bad_line(Path(file))
    if line:
        where = f"{file}, line {line}"
        if why == "encoding":
            return encodings.not_utf8(file, where, f": {row!r}")
        return DataError(f"not a JSON object on one line ({why}): {row!r}", where=where)
    if "maximum_object_size" in text:
        return DataError(
            "a row is larger than DuckDB's limit for a JSON object, 16 MB",
            where=file,
            next_command="cut it, or set data.options: {maximum_object_size: 64000000} (bytes); no provider takes a row of this size",
        )
    return DataError(f"the file is not JSON lines: {shorten(text.split('Try increasing')[0])}", where=file)


def _not_records(paths: Sequence[str]) -> DataError:
    """DuckDB's JSON reader found something that is not an object, and does not say where."""
    for path in paths:
        if (fault := _array_fault(path)) is not None:
            return fault
        line, why, row = _first_bad_line(Path(path))
        if line:
            return DataError(f"not a JSON object on one line ({why}): {row!r}", where=f"{path}, line {line}")
    if all(Path(p).is_file() and Path(p).stat().st_size < 4096 and not Path(p).read_bytes().strip() for p in paths):
        return DataError("the source has no rows: there is nothing to ask", where=paths[0])
    return DataError("the lines are not JSON objects with named keys", where=paths[0])


def _first_bad_line(path: Path) -> tuple[int, str, str]:
    """Number, reason and text of the first line that is not a JSON object; (0, "", "") when none was found.

    DuckDB counts lines differently near the end of a buffer, so the line is looked for again here.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number in itertools.count(1):
                raw = lines.readline(_LONGEST)
                if len(raw) >= _LONGEST:
                    return (
                        number,
                        f"it is longer than {_LONGEST:,} bytes",
                        shorten(raw[:1000].decode("utf-8", "replace")),
                    )
                if not raw:
                    break
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if not raw.strip():
                    continue
                shown = shorten(raw.decode("utf-8", "replace"))
                try:
                    value = limits.loads_tolerantly(raw.decode("utf-8"))
                except UnicodeDecodeError:
                    return number, "encoding", shown
                except (ValueError, RecursionError) as error:
                    return number, "it is nested too deeply" if isinstance(error, RecursionError) else str(error), shown
                if isinstance(value, dict) and "" in value:
                    return number, "a key is empty", shown
                if not isinstance(value, dict):
                    return number, f"it is a {type(value).__name__}", shown
    except OSError:
        pass
    return 0, "", ""
