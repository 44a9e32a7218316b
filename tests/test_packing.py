"""The set of keys that a plan dedupes by, and counting requests into shards many at a time."""

from __future__ import annotations

import hashlib
import random

import pytest

from batchling.packing import KeySet, Packer, ShardLimits


def key(number: int) -> str:
    return "k1-" + hashlib.sha256(str(number).encode()).hexdigest()[:40]


def test_a_key_set_says_what_a_set_says() -> None:
    rng = random.Random(7)
    ours, theirs = KeySet(), set()
    for _ in range(40):
        keys = [key(rng.randrange(6000)) for _ in range(200)]
        new = []
        for place, one in enumerate(keys):
            if one not in theirs:
                theirs.add(one)
                new.append(place)
        assert ours.add_many(keys) == new
    assert len(ours) == len(theirs)
    assert all((key(n) in ours) == (key(n) in theirs) for n in range(7000))


def test_keys_that_begin_alike_are_different() -> None:
    alike = "k1-" + "ab" * 8
    keys = KeySet([alike + "0" * 24])
    assert alike + "1" + "0" * 23 not in keys
    assert keys.add(alike + "1" + "0" * 23)
    assert not keys.add(alike + "0" * 24)


def test_a_key_of_zeros_is_a_key() -> None:
    zeros = "k1-" + "0" * 40
    keys = KeySet()
    assert not keys and zeros not in keys
    assert keys.add(zeros) and zeros in keys and len(keys) == 1
    assert not keys.add(zeros)


@pytest.mark.parametrize(
    "limits",
    [
        ShardLimits(max_requests=70),
        ShardLimits(max_bytes=5000),
        ShardLimits(max_tokens=900),
        ShardLimits(max_inputs=33, max_bytes=4000),
        ShardLimits(),
    ],
)
def test_many_requests_at_once_are_packed_like_one_after_the_other(limits: ShardLimits) -> None:
    rng = random.Random(1)
    together, single = Packer(limits), Packer(limits)
    for _ in range(30):
        sizes = [rng.randrange(10, 200) for _ in range(rng.randrange(1, 60))]
        tokens = [rng.choice((None, rng.randrange(40))) for _ in sizes]
        together.place_many(sizes, tokens)
        for size, count in zip(sizes, tokens, strict=True):
            single.place(size, count or 0)
        assert together == single
