"""Virtual time: a day passes as soon as nobody has anything left to do in it."""

from __future__ import annotations

from batchling.testing.chaos import Chaos


class SimTime:
    """The one true time, Unix seconds. It only moves when somebody sleeps or calls."""

    def __init__(self, start: float = 1_790_000_000.0):
        self.now = start

    def pass_by(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


class SimClock:
    """One process's view of it; implements `batchling.clock.Clock`.

    Args:
        offset: seconds by which this process's clock is wrong.
        machine: names this start of the machine; None: it cannot tell.
    """

    def __init__(self, time: SimTime, chaos: Chaos, *, offset: float = 0.0, machine: str | None = "first"):
        self.machine = machine
        self.time = time
        self.chaos = chaos
        self.offset = offset

    def now(self) -> float:
        return self.time.now + self.offset

    def sleep(self, seconds: float) -> None:
        self.chaos.step(f"sleep {seconds:.3f}")
        # Processes spend nearly all their time asleep, and so die there more often than anywhere else.
        part = seconds * self.chaos.rng.random()
        self.time.pass_by(part)
        self.chaos.step("asleep", weight=self.chaos.sleep_weight if seconds > 300.0 else 1.0)
        self.time.pass_by(seconds - part)

    def not_before(self, moment: float) -> None:
        behind = moment - self.now()
        if behind > 0:
            self.offset += behind

    def mark(self) -> str | None:
        return None if self.machine is None else f"{self.machine}/{self.time.now}"

    def elapsed(self, mark: str) -> float | None:
        machine, _, moment = mark.rpartition("/")
        return self.time.now - float(moment) if machine == self.machine else None
