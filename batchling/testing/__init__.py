"""For people who write a provider, or want to see what the ledger does when everything goes wrong.

A simulated world that runs in virtual time from a seed: `SimServer` is a provider with a memory and a
bill, `SimClient` one process's connection to it, `SimDisk` a disk that loses what was not fsynced,
`SimClock` a clock, `Chaos` decides about kills and faults. `batchling.testing.contract` is a test
suite for a provider adapter. Nothing here is imported by a run.
"""

from batchling.testing.chaos import Chaos, Killed, Overrun
from batchling.testing.clock import SimClock, SimTime
from batchling.testing.disk import SimDisk
from batchling.testing.faults import Faults
from batchling.testing.lies import Lie
from batchling.testing.provider import SimClient
from batchling.testing.server import Run, SimBatch, SimServer

__all__ = [
    "Chaos",
    "Faults",
    "Killed",
    "Lie",
    "Overrun",
    "Run",
    "SimBatch",
    "SimClient",
    "SimClock",
    "SimDisk",
    "SimServer",
    "SimTime",
]
