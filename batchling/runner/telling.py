"""Reports a wait without progress: after a minute, then at growing intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchling.waiting import waits

if TYPE_CHECKING:
    from batchling.runner.session import Session

FIRST_SECONDS = 60.0
LONGEST_SECONDS = 3600.0


@dataclass(slots=True)
class Telling:
    """When a process told last. Times are Unix seconds.

    Attributes:
        mark: what it saw when there was progress for the last time.
        heard: the last call that failed, in words.
    """

    mark: tuple[object, ...] = ()
    due: float = math.inf
    pause: float = FIRST_SECONDS
    heard: str | None = None


def tell(session: Session) -> float:
    """Tells the observer what is waited for, when that is due. Returns when to come back (Unix seconds)."""
    listener = getattr(session.observer, "waiting", None)
    if listener is None:
        return math.inf
    telling, now = session.telling, session.clock.now()
    answered = sum((b.completed or 0) + (b.failed or 0) for b in session.batches.values())
    statuses = tuple(sorted({b.status for b in session.batches.values()}))
    mark = (session.state.seq, answered, statuses)
    if mark != telling.mark:
        telling.mark, telling.pause, telling.due = mark, FIRST_SECONDS, now + FIRST_SECONDS
    elif now >= telling.due:
        telling.pause = min(LONGEST_SECONDS, telling.pause * 2)
        telling.due = now + telling.pause
        listener(
            session,
            waits(
                session.state,
                now,
                session.folder.plan_id,
                policy=session.policy,
                pace=session.pace,
                batches=session.batches,
                heard=telling.heard,
            ),
        )
    return telling.due
