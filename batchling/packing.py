"""Packing: plan ids, the set of keys, and requests into the fewest shards.

Pure, and not called `plan`, which is the package's verb. `pending = planned keys − answered keys − keys in flight in any unfinished plan` is one
anti-join on content hashes; `KeySet` is what it is made of.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

MAX_SHARDS = 999_999
"""Batches of one plan. A custom_id has four digits for the shard's number, and more from 10,000 on: at most 58 characters."""


class KeySet:
    """A set of request keys in 12 bytes each, at about twice that with its free slots.

    A million keys take 25 MB; the same in a Python set takes 140. Keys are compared by the first 96
    of their 160 bits: for ten million keys the chance of one false match is 1 in 10^15.

    Open addressing in 64 parts that grow one at a time, so that growing needs little memory for the moment.
    """

    __slots__ = ("_high", "_low", "_mask", "_size", "_used")

    _PARTS = 64
    _FIRST = 16  # slots of a new part

    def __init__(self, keys: Iterable[str] = ()):
        self._low = [array("Q", bytes(8 * self._FIRST)) for _ in range(self._PARTS)]
        self._high = [array("I", bytes(4 * self._FIRST)) for _ in range(self._PARTS)]
        self._mask = [self._FIRST - 1] * self._PARTS
        self._used = [0] * self._PARTS
        self._size = 0
        self.add_many(keys)

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return self._size > 0

    def add(self, key: str) -> bool:
        """Adds a key; True when it was not there."""
        return bool(self.add_many((key,)))

    def add_many(self, keys: Iterable[str]) -> list[int]:
        """Adds keys; returns the positions of those that were not there, nor earlier among `keys`."""
        new = []
        all_lows, all_highs, masks, used = self._low, self._high, self._mask, self._used
        for position, key in enumerate(keys):
            low, high = int(key[3:19], 16) or 1, int(key[19:27], 16)  # an empty slot is zero
            part = low >> 58
            lows, mask = all_lows[part], masks[part]
            slot = low & mask
            while found := lows[slot]:
                if found == low and all_highs[part][slot] == high:
                    break
                slot = (slot + 1) & mask
            else:
                lows[slot], all_highs[part][slot] = low, high
                new.append(position)
                used[part] += 1
                if used[part] * 4 > mask * 3:
                    self._grow(part)
        self._size += len(new)
        return new

    def __contains__(self, key: str) -> bool:
        if not self._size:
            return False
        low, high = int(key[3:19], 16) or 1, int(key[19:27], 16)
        part = low >> 58
        lows, mask = self._low[part], self._mask[part]
        slot = low & mask
        while found := lows[slot]:
            if found == low and self._high[part][slot] == high:
                return True
            slot = (slot + 1) & mask
        return False

    def _grow(self, part: int) -> None:
        old = zip(self._low[part], self._high[part], strict=True)
        size = (self._mask[part] + 1) * 2
        mask = size - 1
        lows, highs = array("Q", bytes(8 * size)), array("I", bytes(4 * size))
        for low, high in old:
            if low:
                slot = low & mask
                while lows[slot]:
                    slot = (slot + 1) & mask
                lows[slot], highs[slot] = low, high
        self._low[part], self._high[part], self._mask[part] = lows, highs, mask


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """What one shard of a lane may hold. None: no limit. Bytes are of whole lines, newline included."""

    max_requests: int | None = None
    max_bytes: int | None = None
    max_line_bytes: int | None = None
    max_tokens: int | None = None
    max_inputs: int | None = None


@dataclass(slots=True)
class Packer:
    """Fills shards in the order of the requests: the next one begins when a request no longer fits.

    Requests of a lane are much smaller than a shard and nearly of one size, so this wastes less than
    one request a shard, and `ceil(total / limit)` shards are reached whenever requests alone limit.
    Deterministic: the same requests under the same limits make the same shards. `reasons` counts which limit began a shard.
    """

    limits: ShardLimits
    requests: int = 0
    bytes: int = 0
    tokens: int = 0
    shards: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def place(self, size: int, tokens: int) -> bool:
        """Counts a request in; True when it begins a new shard."""
        limits = self.limits
        new = not self.shards or (
            (limits.max_requests is not None and self.requests >= limits.max_requests)
            or (limits.max_inputs is not None and self.requests >= limits.max_inputs)
            or (limits.max_bytes is not None and self.bytes + size > limits.max_bytes)
            or (limits.max_tokens is not None and self.requests > 0 and self.tokens + tokens > limits.max_tokens)
        )
        if new:
            if self.shards:
                why = self._why(size)
                self.reasons[why] = self.reasons.get(why, 0) + 1
            self.shards += 1
            self.requests, self.bytes, self.tokens = 1, size, tokens
        else:
            self.requests += 1
            self.bytes += size
            self.tokens += tokens
        return new

    def _why(self, size: int) -> str:
        """The limit that the next request would break, in the config's words."""
        limits = self.limits
        if limits.max_requests is not None and self.requests >= limits.max_requests:
            return "max_requests"
        if limits.max_inputs is not None and self.requests >= limits.max_inputs:
            return "max_inputs"
        if limits.max_bytes is not None and self.bytes + size > limits.max_bytes:
            return "max_bytes"
        return "enqueued_tokens"

    def place_many(self, sizes: Sequence[int], tokens: Sequence[int | None]) -> None:
        """Counts requests in; the same as `place` for each."""
        limits, count = self.limits, len(sizes)
        size, token = sum(sizes), sum(n or 0 for n in tokens)
        if self.shards and (
            (limits.max_requests is None or self.requests + count <= limits.max_requests)
            and (limits.max_inputs is None or self.requests + count <= limits.max_inputs)
            and (limits.max_bytes is None or self.bytes + size <= limits.max_bytes)
            and (limits.max_tokens is None or self.tokens + token <= limits.max_tokens)
        ):
            self.requests += count
            self.bytes += size
            self.tokens += token
            return
        for one, n in zip(sizes, tokens, strict=True):
            self.place(one, n or 0)


def plan_identity(parts: Sequence[str]) -> str:
    """Hash of what a plan is: its runs' configs, data, prompt and schema hashes, in order."""
    digest = hashlib.sha256(b"plan-1")
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def plan_id(name: str, moment: float, identity: str, nonce: bytes) -> str:
    """`20261123-021409-intent-3f9ac1`: UTC time, the experiment's name, six digits that make it unique.

    Args:
        moment: Unix seconds.
        nonce: random bytes, so that two plans of one second differ.
    """
    begin = datetime.fromtimestamp(moment, UTC).strftime("%Y%m%d-%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "plan"
    tail = hashlib.sha256(identity.encode() + nonce + repr(moment).encode()).hexdigest()[:6]
    return f"{begin}-{slug}-{tail}"
