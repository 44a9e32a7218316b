"""The life of one batch: validate, answer, finish; can be stopped or killed anywhere and resumes where it was.

A run is a generator that works for a short while and then yields the moment (Unix seconds, by the
server's clock) before which it has nothing to do; 0 means at once. One thread drives all runs, so
nothing here needs a lock.

An answer counts once it is on disk: lines are appended in one write, fsynced, and only then counted
and shown. A row whose answer is on disk is never asked again. Which row a line belongs to is told
by the last 8 hexadecimal digits of its id.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from batchling import limits
from batchling.disk import open_private
from batchling.local.engines import Answer, Engine
from batchling.local.engines.usage import usage_of
from batchling.local.jsonl import cut_torn_line, dump, escape_separators, read_lines
from batchling.local.options import ServerOptions
from batchling.local.replies import error_body
from batchling.local.store import Store
from batchling.local.validation import InputCheck, token_limit_fault
from batchling.models import Usage

Moments = Generator[float, None, None]

SLICE_SECONDS = 0.05
"""How long a run works before others get their turn, and how often answers reach the disk at least."""

ROWS_BETWEEN_BREATHS = 32
"""After so many rows the interpreter is handed to the threads that serve HTTP."""

DISK_PAUSE_SECONDS = 5.0

_KEY = re.compile(rb'"(k1-[0-9a-f]{40})-')

HALTS = {
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
    "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}
"""How a batch ends early, and what its error file says of the rows that were not executed."""


@dataclass(frozen=True, slots=True)
class _Line:
    """A finished line; `counted` is False for rows that never ran."""

    index: int
    data: bytes
    ok: bool
    usage: Usage
    counted: bool = True


class BatchRun:
    """One batch under way.

    Args:
        store: where it lives.
        options: limits and clock.
        engine: what answers.
        pool: threads for an engine that needs them.
        wake: called from other threads when an answer has come.
        batch_id: which batch.
    """

    def __init__(
        self,
        store: Store,
        options: ServerOptions,
        engine: Engine,
        pool: Executor | None,
        wake: Callable[[], None],
        batch_id: str,
    ):
        self.store = store
        self.options = options
        self.engine = engine
        self.pool = pool
        self.wake = wake
        self.id = batch_id
        self.folder = store.folder(batch_id)
        self.pending: dict[Future[Answer], tuple[int, bytes]] = {}
        self.endpoint = ""
        self._mark = sha256(batch_id.encode()).hexdigest()[:24]
        self._done = bytearray()
        self._expires_at = 0.0
        self._halted: str | None = None
        self._total = 0
        self._completed = 0
        self._failed = 0
        self._usage = [0, 0, 0, 0]
        self._sizes = {"output.jsonl": 0, "errors.jsonl": 0}

    def life(self) -> Moments:
        """Everything from where the batch is now to its end."""
        batch = self.store.batch(self.id)
        if batch is None:
            return
        self.endpoint = batch["endpoint"]
        ending = self.store.ending(self.id)
        if ending is None and batch["status"] == "validating":
            yield from self._validate()
            batch = self.store.batch(self.id) or batch
        if batch["status"] == "failed":
            return
        if ending is None and batch["in_progress_at"] is not None:
            self._total = batch["request_counts"]["total"]
            self._expires_at = float(batch["expires_at"])
            self._recount()
            yield from self._answer()
            ending = yield from self._end_early()
        if ending is None:
            ending = "cancelled"  # while it was being validated
        if (
            self.store.move(self.id, ("in_progress",), "finalizing", ending=ending) is None
            and self._status() == "cancelling"
        ):
            ending = "cancelled"
            self.store.set_ending(self.id, ending)
        self.store.finish(self.id, ("finalizing", "cancelling"), ending)

    def _status(self) -> str:
        return self.store.status(self.id)

    # Validation

    def _validate(self) -> Moments:
        path = self.folder / "input.jsonl"
        check = InputCheck(self.endpoint, self.options)
        check.check_size(path.stat().st_size)
        due = _slice_end()
        with path.open("rb") as handle:
            lines = read_lines(handle, self.options.max_line_bytes)
            while not check.done:
                batch = list(itertools.islice(lines, ROWS_BETWEEN_BREATHS))
                if not batch:
                    break
                for line in batch:
                    check.add(line)
                    if check.done:
                        break
                time.sleep(0)
                if time.monotonic() > due:
                    yield 0.0
                    due = _slice_end()
                    if self._status() != "validating":
                        return
        faults = check.faults
        if not faults and check.model is not None:
            limit = self.options.token_limit(check.model)
            if limit is not None and self.store.enqueued_tokens(check.model) + check.tokens > limit:
                faults = [token_limit_fault(check.model, limit)]
        if faults:
            errors = {"object": "list", "data": [fault.document() for fault in faults]}
            self.store.finish(self.id, ("validating",), "failed", errors=errors)
            return
        counts = {"total": check.total, "completed": 0, "failed": 0}
        self.store.move(
            self.id, ("validating",), "in_progress", tokens=check.tokens, model=check.model, request_counts=counts
        )

    # Answers on disk

    def _recount(self) -> None:
        """Reads the answers that are on disk, so that none is asked for again."""
        self._done = bytearray(self._total)
        for name in self._sizes:
            path = self.folder / name
            cut_torn_line(path)
            self._sizes[name] = self._recount_file(path) if path.exists() else 0
        self._show()

    def _recount_file(self, path: Path) -> int:
        """Counts a file's lines; what follows a line that a dying machine spoilt is cut off. Returns the bytes kept."""
        good = 0
        with path.open("rb") as handle:
            for raw in handle:
                try:
                    line = limits.own(raw)
                    index = int(line["id"][-8:], 16)
                    error = line["error"]
                except (KeyError, TypeError, ValueError):
                    break
                good += len(raw)
                if index < self._total:
                    self._done[index] = 1
                if error is not None:
                    self._halted = next((end for end, (code, _) in HALTS.items() if code == error["code"]), None)
                else:
                    status = line["response"]["status_code"]
                    self._count(status == 200, usage_of(line["response"]["body"]) if status == 200 else Usage())
        if good < path.stat().st_size:
            os.truncate(path, good)
        return good

    def _count(self, ok: bool, usage: Usage) -> None:
        if ok:
            self._completed += 1
        else:
            self._failed += 1
        figures = (usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens)
        self._usage = [total + (figure or 0) for total, figure in zip(self._usage, figures, strict=True)]

    def _show(self) -> None:
        given, cached, made, reasoning = self._usage
        usage = {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": given + made,
        }
        counts = {"total": self._total, "completed": self._completed, "failed": self._failed}
        self.store.show_progress(self.id, counts, usage)

    def _keep(self, lines: list[_Line]) -> Moments:
        """Puts lines on disk, then counts them. A full disk is waited for: answers are not thrown away."""
        if not lines:
            return
        while not self._persisted(lines):
            yield self.options.now() + DISK_PAUSE_SECONDS

    def _persisted(self, lines: list[_Line]) -> bool:
        groups = {
            "output.jsonl": b"".join(line.data for line in lines if line.ok),
            "errors.jsonl": b"".join(line.data for line in lines if not line.ok),
        }
        try:
            for name, data in groups.items():
                if data:
                    self._append(name, data)
        except OSError:
            for name, size in self._sizes.items():
                if (self.folder / name).exists():
                    os.truncate(self.folder / name, size)
            return False
        for name, data in groups.items():
            self._sizes[name] += len(data)
        for line in lines:
            self._done[line.index] = 1
            if line.counted:
                self._count(line.ok, line.usage)
        self._show()
        return True

    def _append(self, name: str, data: bytes) -> None:
        descriptor = open_private(self.folder / name, os.O_WRONLY | os.O_APPEND)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _line(self, index: int, custom_id: bytes, answer: Answer) -> _Line:
        """The output line of an answer. `custom_id` is JSON text."""
        mark = b"%s%08x" % (self._mark.encode(), index)
        data = (
            b'{"id":"batch_req_%s","custom_id":%s,"response":{"status_code":%d,"request_id":"req_%s","body":%s},"error":null}\n'
            % (mark, custom_id, answer.status, mark, answer.body)
        )
        return _Line(index, data, answer.status == 200, answer.usage)

    def _unexecuted(self, index: int, custom_id: bytes, ending: str) -> _Line:
        code, message = HALTS[ending]
        error = orjson.dumps({"code": code, "message": message})
        mark = b"%s%08x" % (self._mark.encode(), index)
        data = b'{"id":"batch_req_%s","custom_id":%s,"response":null,"error":%s}\n' % (mark, custom_id, error)
        return _Line(index, data, False, Usage(), counted=False)

    # Answering

    def _open_rows(self) -> Iterator[tuple[int, bytes, dict[str, Any]]]:
        """Rows without an answer: position, custom_id as JSON text, body."""
        with (self.folder / "input.jsonl").open("rb") as handle:
            for index, line in enumerate(read_lines(handle, self.options.max_line_bytes)):
                if index < self._total and not self._done[index] and line is not None:
                    request = limits.own(line)
                    yield index, escape_separators(orjson.dumps(request["custom_id"])), request["body"]

    def _halt(self) -> str | None:
        """Why the batch has to stop now, or None. A batch that has begun to end early stays ended."""
        if self._status() == "cancelling":
            return "cancelled"
        if self._halted is not None:
            return self._halted
        return "expired" if self.options.now() >= self._expires_at else None

    def _answer(self) -> Moments:
        if self.pool is not None:
            yield from self._answer_in_pool(self.pool)
        elif self.options.row_seconds > 0:
            yield from self._answer_slowly()
        else:
            yield from self._answer_at_once()

    def _answer_at_once(self) -> Moments:
        rows = self._open_rows()
        while self._halt() is None:
            due = _slice_end()
            lines: list[_Line] = []
            while time.monotonic() < due:
                group = list(itertools.islice(rows, ROWS_BETWEEN_BREATHS))
                lines.extend(self._line(index, name, self._ask(body, name)) for index, name, body in group)
                if len(group) < ROWS_BETWEEN_BREATHS:
                    yield from self._keep(lines)
                    return
                time.sleep(0)
            yield from self._keep(lines)
            yield 0.0

    def _answer_slowly(self) -> Moments:
        rows = self._open_rows()
        due = self.options.now()
        while group := list(itertools.islice(rows, self.options.engine.concurrency)):
            due += self.options.row_seconds
            while self.options.now() < due:
                if self._halt() is not None:
                    return
                yield due
            if self._halt() is not None and due > self._expires_at:
                return
            yield from self._keep([self._line(index, name, self._ask(body, name)) for index, name, body in group])
            if self._status() == "cancelling":
                return

    def _answer_in_pool(self, pool: Executor) -> Moments:
        rows = self._open_rows()
        while True:
            halted = self._halt() is not None
            if halted:
                self._withdraw()
            else:
                for index, name, body in itertools.islice(rows, 2 * self.engine.parallel - len(self.pending)):
                    future = pool.submit(self._ask, body, name)
                    self.pending[future] = (index, name)
                    future.add_done_callback(lambda _: self.wake())
            if not self.pending:
                return
            finished = self._finished()
            yield from self._keep(finished)
            if not finished:
                yield self._expires_at if not halted else float("inf")

    def _withdraw(self) -> None:
        """Takes back what has not begun; what is under way is paid for and is waited for."""
        for future in list(self.pending):
            if future.cancel():
                del self.pending[future]

    def _finished(self) -> list[_Line]:
        lines = []
        for future in [future for future in self.pending if future.done()]:
            index, name = self.pending.pop(future)
            if not future.cancelled():
                lines.append(self._line(index, name, future.result()))
        return lines

    def _ask(self, body: dict[str, Any], custom_id: bytes) -> Answer:
        """One answer; a request's key is read from its `custom_id` (JSON text), where that is ours. Whatever a hostile body does to an engine is that row's error and nobody else's."""
        found = _KEY.match(custom_id)
        try:
            return self.engine.answer(self.endpoint, body, found[1].decode() if found else "")
        except Exception as error:  # the boundary between strangers' rows and the server
            message = f"The engine failed on this request: {type(error).__name__}"
            return Answer(500, dump(error_body(message, kind="server_error", code="engine_error")))

    def settle(self, seconds: float) -> None:
        """Keeps what is answered within a few seconds; the rest is asked again after the next start."""
        self._withdraw()
        wait(self.pending, timeout=seconds)
        lines = self._finished()
        if lines:
            self._persisted(lines)

    def _end_early(self) -> Generator[float, None, str]:
        """The batch's ending; rows that were not executed get their lines in the error file."""
        if all(self._done):
            return self._halted or "completed"
        self._halted = ending = self._halt() or "expired"
        rows = self._open_rows()
        while group := list(itertools.islice(rows, 1_000)):
            yield from self._keep([self._unexecuted(index, name, ending) for index, name, _ in group])
            yield 0.0
        return ending


def _slice_end() -> float:
    return time.monotonic() + SLICE_SECONDS
