"""Times pieces of work: each in a process of its own, two in turn, medians.

A *side* is a function that prepares and returns a second function; only the second is timed. It runs in a
fresh interpreter, so that nothing is warm from the round before and peak memory is its own.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Work = Callable[[], Any]
Side = Callable[..., Work]

ROUNDS = 3

FRESH = True
"""Whether each round has a process of its own; a test that only wants to see it run says no."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one round took.

    Attributes:
        wall: seconds.
        cpu: seconds of processor time, children included.
        peak_mb: the largest resident set of the process, preparation included (MB, 10^6 bytes).
        said: what the work returned.
    """

    wall: float
    cpu: float
    peak_mb: float
    said: Any


def run(side: str, **arguments: Any) -> Taken:
    """One round of a side (`bench.planning:plan`) in a fresh process."""
    if not FRESH:
        return _timed(side, json.loads(json.dumps(arguments, default=str)))
    command = [sys.executable, "-m", "bench.measure", side, json.dumps(arguments, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-4000:]}")
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def in_turn(sides: Mapping[str, Callable[[], Taken]], rounds: int = ROUNDS) -> dict[str, list[Taken]]:
    """Rounds A B A B …, so that a machine that gets slower slows both."""
    taken: dict[str, list[Taken]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, once in sides.items():
            taken[name].append(once())
    return taken


def median(taken: Sequence[Taken], what: str = "wall") -> float:
    """The median of one figure over rounds."""
    return float(statistics.median(getattr(t, what) for t in taken))


def ratio(over: Sequence[Taken], under: Sequence[Taken], what: str = "wall") -> float:
    """The median of the ratios of rounds that ran one after the other."""
    return float(statistics.median(getattr(a, what) / getattr(b, what) for a, b in zip(over, under, strict=True)))


def _cpu() -> float:
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def _peak_mb() -> float:
    with suppress(OSError), Path("/proc/self/status").open(encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):  # ru_maxrss begins at the parent's
                return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _timed(name: str, arguments: Mapping[str, Any]) -> Taken:
    module, _, function = name.partition(":")
    side: Side = getattr(importlib.import_module(module), function)
    work = side(**arguments)
    wall, cpu = time.perf_counter(), _cpu()
    said = work()
    return Taken(time.perf_counter() - wall, _cpu() - cpu, _peak_mb(), said)


def main() -> None:
    """The fresh process: prepares, times, prints one line of JSON."""
    taken = _timed(sys.argv[1], json.loads(sys.argv[2]))
    print(json.dumps(asdict(taken)))  # noqa: T201


if __name__ == "__main__":
    main()
