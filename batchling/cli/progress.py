"""How a run goes, in a few numbers, and the two ways to show it: a display that redraws itself, or plain lines."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import click

from batchling.cli.figures import count, duration, usd
from batchling.cli.screen import live, simulated
from batchling.errors import CallError, CallRefused
from batchling.ledger import UNSENT, Phase
from batchling.printable import one_line

if TYPE_CHECKING:
    from batchling.runner.session import Session
    from batchling.waiting import Wait

TROUBLE_SECONDS, TROUBLE_AT_MOST_SECONDS = 60.0, 3600.0
"""Pauses after which the same trouble is told again: the first one, and the longest."""

LINE_SECONDS = 5.0
"""Plain lines come at most this often."""

LOOK_SECONDS = 0.2
"""The display's numbers are made at most this often: a plan may have thousands of batches."""

_WORDS = {
    Phase.PLANNED: "to send",
    Phase.UPLOADING: "to send",
    Phase.UPLOADED: "to send",
    Phase.CREATING: "uncertain",
    Phase.FENCED: "uncertain",
    Phase.PARKED: "parked",
    Phase.CREATED: "at the provider",
    Phase.ENDED: "to collect",
    Phase.COLLECTED: "to collect",
    Phase.CLOSED: "done",
    Phase.THROTTLED: "to send",
    Phase.ABSENT: "to send",
    Phase.DROPPED: "dropped",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A call that failed and is made again at `until` (Unix seconds)."""

    text: str
    until: float

    def line(self, now: float) -> str:
        left = self.until - now
        return self.text + (f"; again in {duration(left)}" if left >= 1 else "; trying again")


@dataclass(frozen=True, slots=True)
class Progress:
    """One plan at one moment.

    Attributes:
        batches: number of batches by what happens with them, in the order of the way they go.
        rows: requests that are answered or given up, of how many.
        tokens: input tokens sent, of how many; None when they are not counted.
        spent: USD; worst: USD, including the worst case of batches in flight; None when a price is not known.
        oldest: Unix seconds at which the oldest batch in flight was created.
        lanes: of a plan with several providers or models: name, requests that are over, of how many.
        points: of a sweep: overrides, rows that are over, of how many, as of the last time that answers were read.
    """

    plan_id: str
    batches: dict[str, int]
    rows: tuple[int, int]
    tokens: tuple[int, int] | None
    spent: Decimal | None
    worst: Decimal | None
    oldest: float | None
    simulated: bool
    lanes: tuple[tuple[str, int, int], ...] = ()
    points: tuple[tuple[str, int, int], ...] = ()


def look(session: Session) -> Progress:
    """The numbers of a plan that is held."""
    state = session.state
    batches = dict.fromkeys(_WORDS.values(), 0)
    sent = total = 0
    counted = True
    answered = 0
    oldest: float | None = None
    for shard in state.shards.values():
        attempt = shard.primary
        if shard.replanned and attempt.phase is Phase.DROPPED:
            continue
        batches[_WORDS[attempt.phase]] += 1
        if shard.input_tokens is None:
            counted = False
        else:
            total += shard.input_tokens
            sent += 0 if attempt.phase in UNSENT else shard.input_tokens
        if attempt.phase is Phase.CREATED:
            batch = session.batches.get(attempt.batch_id or "")
            if batch is not None:
                answered += (batch.completed or 0) + (batch.failed or 0)
            if attempt.created_at is not None:
                oldest = attempt.created_at if oldest is None else min(oldest, attempt.created_at)
        elif attempt.phase in (Phase.ENDED, Phase.COLLECTED):
            answered += shard.rows
    counts = state.counts()
    every = sum(counts.values())
    return Progress(
        plan_id=session.folder.plan_id,
        batches={name: n for name, n in batches.items() if n},
        rows=(min(every, every - counts.get("pending", 0) + answered), every),
        tokens=(sent, total) if counted else None,
        spent=state.known_spent(),
        worst=state.known_worst(),
        oldest=oldest,
        simulated=_is_simulated(session),
        lanes=_lanes(session),
        points=_points(session),
    )


POINTS = 12
"""Points that the live display has room for."""


def _lanes(session: Session) -> tuple[tuple[str, int, int], ...]:
    if len(session.kits) < 2:
        return ()
    found = []
    for kit in session.kits:
        counts = session.state.counts(kit.lane.number)
        every = sum(counts.values())
        found.append((f"{kit.client.facts.name} {kit.lane.model}", every - counts.get("pending", 0), every))
    return tuple(found)


def _points(session: Session) -> tuple[tuple[str, int, int], ...]:
    from batchling.catalog import read_summary

    summary = read_summary(session.folder.path)
    if summary is None or len(summary.runs) < 2:
        return ()
    found = []
    for run in summary.runs:
        every = sum(run.states.values())
        found.append((run.overrides or run.run_id, every - run.states.get("pending", 0), every))
    return tuple(found)


def _is_simulated(session: Session) -> bool:
    engines = [kit.client.facts.engine for kit in session.kits]
    return bool(engines) and all(engine is not None and engine.kind != "http" for engine in engines)


class Display(Protocol):
    """An observer that steps aside while a question is asked, and remembers what it saw.

    Attributes:
        seen: how often each kind of event came, by (plan id, kind).
    """

    seen: Counter[tuple[str, str]]

    def event(self, session: Session, event: dict[str, Any]) -> None: ...
    def polled(self, session: Session) -> None: ...
    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None: ...
    def pause(self) -> AbstractContextManager[None]: ...


def told(what: str, error: Exception) -> str:
    """A failed call in one line."""
    status = getattr(error, "status", None)
    words = one_line(str(getattr(error, "message", "") or error) or type(error).__name__, 240)
    answered = type(error) is CallError or getattr(error, "code", None) == "incomplete"  # and it does not add up (yet)
    if isinstance(error, CallRefused) or (answered and status is None):
        return f"{what}: {words}"
    if status is None:
        return f"the provider cannot be reached ({what}: {words})"
    return f"the provider answered {status} ({what}: {words})"


@dataclass(slots=True)
class Lines:
    """Plain lines on stderr: one when something has changed, at most every few seconds. No colour, no cursor codes.

    With `verbose` each event has a line of its own.
    """

    verbose: bool = False
    write: Callable[[str], None] = lambda text: click.echo(text, err=True)
    monotonic: Callable[[], float] = time.monotonic
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    _last: str = ""
    _last_at: float = field(default=-1e9)
    _troubles: dict[str, tuple[float, float]] = field(default_factory=dict)

    def event(self, session: Session, event: dict[str, Any]) -> None:
        self.seen[session.folder.plan_id, event["kind"]] += 1
        if self.verbose:
            self.write(f"{session.folder.plan_id}: {said(event)}")
        if self.monotonic() - self._last_at >= LINE_SECONDS or event["kind"] in ("parked", "finished"):
            if event["kind"] in ("created", "collected"):
                self._troubles.clear()
            self._show(session)

    def polled(self, session: Session) -> None:
        if self.monotonic() - self._last_at >= LINE_SECONDS:
            self._show(session)

    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None:
        text = told(what, error)
        now = session.clock.now()
        due, pause = self._troubles.get(text, (-math.inf, TROUBLE_SECONDS / 2))
        if now >= due:
            # The same again is told after growing pauses, however often it comes.
            pause = min(TROUBLE_AT_MOST_SECONDS, 2 * pause)
            self._troubles[text] = (now + pause, pause)
            self.write(text + (f"; again in {duration(retry_in)}" if retry_in >= 1 else ""))

    def waiting(self, session: Session, found: Sequence[Wait]) -> None:
        now = session.clock.now()
        for wait in found:
            self.write(f"{session.folder.plan_id}: {one_line(wait.text(now), 600)}")

    def _show(self, session: Session) -> None:
        progress = look(session)
        text = describe(progress)
        if text != self._last:
            self._last, self._last_at = text, self.monotonic()
            self.write(text)

    @contextmanager
    def pause(self) -> Iterator[None]:
        yield


def said(event: dict[str, Any]) -> str:
    """A journal event in a line: `created shard=1 attempt=1 batch_id=batch_…`."""
    simple = {k: v for k, v in event.items() if k not in ("seq", "ts", "kind") and isinstance(v, str | int | float)}
    return one_line(" ".join([event["kind"], *(f"{k}={v}" for k, v in simple.items())]), 300)


def describe(progress: Progress) -> str:
    """One line for a log."""
    batches = ", ".join(f"{n:,} {name}" for name, n in progress.batches.items()) or "none"
    done, every = progress.rows
    return f"{progress.plan_id}: batches: {batches}; rows {done:,}/{every:,}; spent {usd(progress.spent)} USD"


class Live:
    """A display on the terminal that redraws itself. The main thread hands over whole `Progress` values."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.seen: Counter[tuple[str, str]] = Counter()
        self._progress: Progress | None = None
        self._trouble: Trouble | None = None
        self._waits: tuple[str, ...] = ()
        self._looked = -1e9
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = RichLive(
            console=self._console,
            get_renderable=self._render,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def start(self) -> None:
        self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def event(self, session: Session, event: dict[str, Any]) -> None:
        self.seen[session.folder.plan_id, event["kind"]] += 1
        self._waits = ()
        if event["kind"] in ("created", "ended", "collected", "closed"):
            self._trouble = None
        self._look(session)

    def polled(self, session: Session) -> None:
        self._trouble = None
        self._look(session)

    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None:
        self._trouble = Trouble(told(what, error), time.time() + retry_in)
        self._look(session)

    def waiting(self, session: Session, found: Sequence[Wait]) -> None:
        now = session.clock.now()
        self._waits = tuple(one_line(wait.text(now), 600) for wait in found)

    def _look(self, session: Session) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._progress = look(session)
            self._looked = time.monotonic()

    @contextmanager
    def pause(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        progress, trouble = self._progress, self._trouble
        if progress is None:
            return Spinner("dots", Text("planning"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        now = time.time()
        batches = ", ".join(f"{n:,} {name}" for name, n in progress.batches.items()) or "none"
        grid.add_row("batches", batches)
        done, every = progress.rows
        rows = Table.grid(padding=(0, 2))
        rows.add_row(f"{done:,} / {every:,}", ProgressBar(total=max(1, every), completed=done, width=30))
        grid.add_row("rows", rows)
        for name, over, all_of in (*progress.lanes, *progress.points[:POINTS]):
            line = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=max(1, all_of), completed=over, width=15)
            line.add_row(bar, f"{over:,} / {all_of:,}", Text(one_line(name, 80)))
            grid.add_row("", line)
        if len(progress.points) > POINTS:
            grid.add_row("", f"… and {len(progress.points) - POINTS:,} points more")
        if progress.tokens is not None:
            grid.add_row("tokens", f"{count(progress.tokens[0])} of {count(progress.tokens[1])} sent")
        grid.add_row(
            "money", f"{usd(progress.spent)} USD so far, at most {usd(progress.worst)} USD with what is in flight"
        )
        if progress.oldest is not None:
            grid.add_row("oldest", f"in flight for {duration(now - progress.oldest)}")
        title = Text(progress.plan_id, style="bold")
        if progress.simulated:
            title.append(f"  {simulated(progress.spent, progress.worst)}", style="yellow")
        parts: list[Any] = [title, grid]
        if trouble is not None:
            parts.append(Text(trouble.line(now), style="red"))
        parts += [Text(text, style="yellow") for text in self._waits]
        parts.append(Text("Ctrl-C stops watching; nothing is cancelled", style="dim"))
        return Group(*parts)


@contextmanager
def observing(*, verbose: bool = False) -> Iterator[Display]:
    """The display that fits stderr, for as long as the block runs; with `verbose` lines, also on a terminal."""
    if verbose or not live():
        yield Lines(verbose=verbose)
        return
    display = Live()
    display.start()
    try:
        yield display
    finally:
        display.stop()
