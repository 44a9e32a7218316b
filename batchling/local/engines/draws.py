"""Pseudo-random draws that depend on a seed only: the same on every machine and Python version."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

_WORD_LIST = (
    "amber anchor birch bright brook calm cedar clear copper coral crisp delta early ember fern field forest gentle glass "
    "grain harbor hazel hollow indigo island ivory lantern light linen maple marble meadow mellow mint morning north oak "
    "ocean olive orchard pebble pine plain quiet rain reed ridge river rose sage sand silver slate small snow spring steady "
    "stone summer thistle tide valley violet warm wave west willow wind winter"
)
_WORDS = _WORD_LIST.split()


class Draws:
    """A stream of numbers from a hash in counter mode. Not for secrets."""

    def __init__(self, seed: bytes):
        self._key = seed[:64]
        self._counter = 0
        self._pool = b""

    def below(self, limit: int) -> int:
        """An integer in [0, limit); the bias of 64 bits over any limit here does not matter."""
        if limit <= 1:
            return 0
        if limit > 1 << 60:
            return (self._word() << 64 | self._word()) % limit
        return self._word() % limit

    def unit(self) -> float:
        """A float in [0, 1)."""
        return (self._word() >> 11) / (1 << 53)

    def choice(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def words(self, count: int) -> str:
        return " ".join(self.choice(_WORDS) for _ in range(count))

    def sentence(self) -> str:
        return self.words(6 + self.below(15)).capitalize() + "."

    def _word(self) -> int:
        if not self._pool:
            self._pool = blake2b(self._counter.to_bytes(8, "big"), key=self._key, digest_size=64).digest()
            self._counter += 1
        word, self._pool = self._pool[:8], self._pool[8:]
        return int.from_bytes(word, "big")
