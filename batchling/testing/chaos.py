"""When the simulated process dies, what goes wrong, and a trace of it all."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Container


class Killed(BaseException):
    """The simulated process died here. Nothing may catch it but the test."""


class Blocked(BaseException):
    """The simulated process waits for a lock that another one holds, which continues only when this one stops."""


class Overrun(BaseException):
    """More effects than any schedule needs: the program goes round in circles."""


class Chaos:
    """Decides about kills and faults, from a seed alone, and counts and hashes what happened.

    Every effect of the simulated disk, clock and provider reports here before and after it happens, so
    `steps` numbers the points at which a process can be killed.

    Args:
        seed: the same seed gives the same schedule.
        kill_rate: probability of a kill at each step; `kill_at`: numbers of steps (from 1) to be killed at.
        max_kills: kills by rate, at most.
        max_steps: steps after which `Overrun` is raised.
    """

    def __init__(
        self,
        seed: str,
        *,
        kill_rate: float = 0.0,
        max_kills: int = 0,
        kill_at: Container[int] = (),
        max_steps: int = 100_000,
    ):
        self.kill_rate = kill_rate
        self.max_kills = max_kills
        self.kill_at = kill_at
        self.max_steps = max_steps
        self.sleep_weight = 5.0
        self.steps = 0
        self.kills = 0
        self.alive = True
        self.faults: Counter[str] = Counter()
        self.trace: list[str] | None = None
        self._kills = random.Random(f"{seed}/kills")
        self._faults = random.Random(f"{seed}/faults")
        self._digest = hashlib.blake2b(digest_size=16)

    @property
    def rng(self) -> random.Random:
        """For the details of a fault: how much of a file is lost, how late a request arrives."""
        return self._faults

    @property
    def digest(self) -> str:
        """Hash of everything that happened so far."""
        return self._digest.hexdigest()

    def note(self, text: str) -> None:
        """Adds to the trace without being a point to be killed at."""
        self._digest.update(text.encode() + b"\n")
        if self.trace is not None:
            self.trace.append(text)

    def step(self, name: str, last: Callable[[], None] | None = None, *, weight: float = 1.0) -> None:
        """An effect is about to happen, is in the middle of happening, or has just happened.

        Args:
            last: what a kill here leaves half done.
            weight: how much more probable than elsewhere a kill is here.

        Raises:
            Killed: the process dies here, or is dead already.
        """
        if not self.alive:
            raise Killed(name)
        self.steps += 1
        if self.steps > self.max_steps:
            raise Overrun(f"{self.steps} steps")
        self.note(name)
        due = self.steps in self.kill_at
        if self.kills < self.max_kills and self._kills.random() < self.kill_rate * weight:
            due = True
        if due:
            if last is not None:
                last()
            self.alive = False
            self.kills += 1
            self.note(f"KILLED at {name}")
            raise Killed(name)

    def revive(self) -> None:
        """Another process begins."""
        self.alive = True
        self.note("PROCESS")

    def fault(self, name: str, rate: float) -> bool:
        """Whether this fault happens now; counted when it does."""
        if rate <= 0.0 or self._faults.random() >= rate:
            return False
        self.faults[name] += 1
        self.note(f"FAULT {name}")
        return True
