"""Rows: wherever they come from, a snapshot of them in the plan's folder, and a stream out of it.

`snapshot` reads the source once, names every row, checks what can be checked before anything is
paid, and writes one Parquet file whose name is the hash of its content. Everything after it
(rendering, metrics, joining answers) reads that file, so a source that changes later changes
nothing about a plan that exists.
"""

from batchling.source.bounds import Bounds, TooLarge, most_bytes, too_many_bytes
from batchling.source.digest import FORMAT as DIGEST_FORMAT
from batchling.source.snapshots import Column, Snapshot, columns_of, read, snapshot

__all__ = [
    "DIGEST_FORMAT",
    "Bounds",
    "Column",
    "Snapshot",
    "TooLarge",
    "columns_of",
    "most_bytes",
    "read",
    "snapshot",
    "too_many_bytes",
]
