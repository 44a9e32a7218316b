"""A plan may have more than 9,999 batches: their numbers get a fifth digit, and no file grows beyond what the provider takes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from batchling.disk import RealDisk
from batchling.packing import MAX_SHARDS, ShardLimits
from batchling.providers.openai import ADAPTER
from batchling.runner.folder import PlanFolder, shard_numbers
from batchling.runner.shards import LaneShape, ShardWriter, read_index
from tests.test_packing import key

BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
PATH = "/v1/chat/completions"


def writer(folder: PlanFolder, limits: ShardLimits, first: int) -> ShardWriter:
    def free(requests: int, tokens: int | None) -> Decimal:
        return Decimal(0)

    lane = LaneShape(0, PATH, limits, ADAPTER.envelope.encode, free)
    return ShardWriter(RealDisk(), folder, {0: lane}, first=first, row_attempt=1, kind="first")


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_lines_of_the_batch_that_takes_a_fifth_digit_fit_like_those_before(tmp_path: Path, rows: int) -> None:
    folder = PlanFolder(tmp_path / "20261125-120000-many-abcdef")
    folder.requests.mkdir(parents=True)
    longest = len(ADAPTER.envelope.encode(f"{key(0)}-abcdef-10000", PATH, BODY))
    files = writer(folder, ShardLimits(max_bytes=rows * longest), 9998)
    for number in range(rows * 4):
        files.add(0, key(number), BODY, 3)
    records = files.finish()
    assert [record.shard for record in records] == [9998, 9999, 10000, 10001]
    for record in records:
        lines = folder.shard(record.shard).read_bytes().splitlines(keepends=True)
        assert len(lines) == rows == record.rows
        assert sum(map(len, lines)) == record.bytes <= rows * longest
        keys = [entry.key for entry in read_index(RealDisk(), folder.index(record.shard))]
        suffix = f"-abcdef-{record.shard:04d}"
        assert all(f'"custom_id":"{one}{suffix}"'.encode() in line for one, line in zip(keys, lines, strict=True))
        assert len(f"{keys[0]}{suffix}") <= 64, "what OpenAI takes as a custom_id"
    assert shard_numbers(path.name for path in folder.requests.iterdir()) == {9998, 9999, 10000, 10001}


def test_the_longest_custom_id_is_within_what_providers_take() -> None:
    assert len(f"{key(0)}.r3-abcdef-{MAX_SHARDS:04d}") <= 64


def test_what_is_no_shards_file_has_no_number() -> None:
    assert shard_numbers(["0001.index.csv", "held.x.jsonl", "also.csv", "123456.2.errors.jsonl", "²²²².jsonl"]) == {
        1,
        123456,
    }
