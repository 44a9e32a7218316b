"""The thread that advances batches, one short slice after another."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from batchling.local.batch_run import BatchRun, Moments
from batchling.local.engines import Engine
from batchling.local.options import ServerOptions
from batchling.local.store import Store

log = logging.getLogger(__name__)

GLANCE_SECONDS = 0.05
"""How long the clock may move unnoticed while some batch waits for it (tests set it forward)."""

AGAIN_SECONDS = 30.0

GRACE_SECONDS = 2.0
"""How long a stop waits for requests that are under way at an upstream."""


@dataclass
class _Turn:
    run: BatchRun
    life: Moments
    due: float = 0.0


class Worker:
    """Drives every unfinished batch of a store, those it finds at the start included."""

    def __init__(self, store: Store, options: ServerOptions, engine: Engine):
        self.store = store
        self.options = options
        self.engine = engine
        self.pool = ThreadPoolExecutor(engine.parallel, "batchling-engine") if engine.parallel else None
        self._awake = threading.Condition()
        self._news = False
        self._stopping = False
        self._added: list[str] = [batch["id"] for batch in store.unfinished()]
        self._thread = threading.Thread(target=self._work, name="batchling-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops at the next slice; answers under way are kept when they come within `GRACE_SECONDS`."""
        with self._awake:
            self._stopping = True
            self._awake.notify()
        self._thread.join()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def add(self, batch_id: str) -> None:
        """Takes on a new batch."""
        with self._awake:
            self._added.append(batch_id)
            self._news = True
            self._awake.notify()

    def wake(self) -> None:
        """Something has happened that a waiting batch may want to know: an answer, a cancellation."""
        with self._awake:
            self._news = True
            self._awake.notify()

    def _work(self) -> None:
        turns: list[_Turn] = []
        while True:
            with self._awake:
                if not self._stopping and not self._added and not self._news:
                    self._awake.wait(self._patience(turns))
                if self._stopping:
                    break
                added, self._added = self._added, []
                woken, self._news = self._news, False
            turns.extend(self._turn(batch_id) for batch_id in added)
            now = self.options.now()
            turns = [turn for turn in turns if not (woken or turn.due <= now) or self._advance(turn)]
        self._settle(turns)
        self.engine.close()
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def _patience(self, turns: list[_Turn]) -> float | None:
        """Seconds to wait for news at most; None: there is nothing but news to wait for."""
        if not turns:
            return None
        return 0.0 if min(turn.due for turn in turns) <= self.options.now() else GLANCE_SECONDS

    def _turn(self, batch_id: str, due: float = 0.0) -> _Turn:
        run = BatchRun(self.store, self.options, self.engine, self.pool, self.wake, batch_id)
        return _Turn(run, run.life(), due)

    def _advance(self, turn: _Turn) -> bool:
        """Lets a batch work for a slice; False when it is over."""
        try:
            turn.due = next(turn.life)
        except StopIteration:
            return False
        except Exception:
            # A defect or a broken disk: keep what is answered, then take the batch up again from the disk.
            log.exception("batch %s failed; retrying in %.0f s", turn.run.id, AGAIN_SECONDS)
            self._settle([turn])
            again = self._turn(turn.run.id, self.options.now() + AGAIN_SECONDS)
            turn.run, turn.life, turn.due = again.run, again.life, again.due
        return True

    def _settle(self, turns: list[_Turn]) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        for turn in turns:
            try:
                turn.run.settle(max(0.0, deadline - time.monotonic()))
            except Exception:
                log.exception("batch %s could not be settled", turn.run.id)
            turn.life.close()
