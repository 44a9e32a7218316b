"""Packing: a pure function of the requests and the limits, within every limit, close to the fewest shards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchling.packing import Packer, ShardLimits

Requests = list[tuple[int, int]]

requests = st.lists(st.tuples(st.integers(1, 100), st.integers(0, 50)), max_size=200)
limits = st.builds(
    ShardLimits,
    max_requests=st.none() | st.integers(1, 60),
    max_bytes=st.none() | st.integers(100, 2_000),
    max_tokens=st.none() | st.integers(50, 900),
    max_inputs=st.none() | st.integers(1, 60),
)


def packed(found: Requests, within: ShardLimits) -> list[Requests]:
    packer = Packer(within)
    shards: list[Requests] = []
    for size, tokens in found:
        if packer.place(size, tokens):
            shards.append([])
        shards[-1].append((size, tokens))
    assert packer.shards == len(shards)
    assert sum(packer.reasons.values()) == max(0, len(shards) - 1)
    return shards


@given(requests, limits)
def test_nothing_is_lost_or_reordered_and_no_limit_is_broken(found: Requests, within: ShardLimits) -> None:
    shards = packed(found, within)
    assert [request for shard in shards for request in shard] == found
    for shard in shards:
        assert len(shard) <= min(within.max_requests or 1000, within.max_inputs or 1000)
        assert within.max_bytes is None or sum(size for size, _ in shard) <= within.max_bytes
        assert within.max_tokens is None or len(shard) == 1 or sum(n for _, n in shard) <= within.max_tokens


@given(requests, limits)
def test_the_same_requests_make_the_same_shards_however_they_are_counted(found: Requests, within: ShardLimits) -> None:
    shards = packed(found, within)
    assert packed(found, within) == shards
    many = Packer(within)
    for start in range(0, len(found), 7):
        piece = found[start : start + 7]
        many.place_many([size for size, _ in piece], [tokens for _, tokens in piece])
    assert many.shards == len(shards)


@given(requests, limits)
def test_shards_are_near_the_fewest_there_can_be(found: Requests, within: ShardLimits) -> None:
    shards = packed(found, within)
    if not found:
        assert not shards
        return
    parts = [
        (limit, total, largest)
        for limit, total, largest in (
            (within.max_requests, len(found), 1),
            (within.max_inputs, len(found), 1),
            (within.max_bytes, sum(size for size, _ in found), max(size for size, _ in found)),
            (within.max_tokens, sum(n for _, n in found), max(n for _, n in found)),
        )
        if limit is not None
    ]
    # No packing needs fewer than a limit's total over the limit (a request above the token limit goes alone).
    least = max([1, *(-(-total // limit) for limit, total, largest in parts if largest <= limit)])
    assert len(shards) >= least
    # A shard ends within one request of the limit that ends it, so each limit ends so many at most.
    assert len(shards) <= 1 + sum(total // max(1, limit - largest + 1) for limit, total, largest in parts)


@given(st.integers(1, 500), st.integers(1, 60))
def test_requests_alone_make_exactly_the_fewest(n: int, most: int) -> None:
    assert len(packed([(10, 1)] * n, ShardLimits(max_requests=most))) == -(-n // most)
