"""The client's side of the simulation: the port of `batchling.providers`, with everything that goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from batchling.errors import CallAmbiguous, CallNotFound, CallRefused, CallUnavailable
from batchling.models import Batch, ResultFile, Submission
from batchling.spec import ProviderConfig
from batchling.testing.chaos import Chaos
from batchling.testing.server import SimBatch, SimServer

PAGE_SIZE = 4
"""Batches in a page of the list, whatever is asked for, so that short lists have pages too."""

CALL_SECONDS = 0.2


class SimClient:
    """One process's connection to a simulated provider; implements `batchling.providers.Client`.

    Args:
        server: the provider.
        chaos: where kills and faults come from.
        watch: called with the name and the subject of each call before it leaves, to check what must hold by then.
    """

    def __init__(self, server: SimServer, chaos: Chaos, *, watch: Callable[[str, str], None] | None = None):
        self.server = server
        self.chaos = chaos
        self.watch = watch
        self._facts = ProviderConfig(name="simulated-provider", base_url="http://simulated.invalid/v1")

    @property
    def facts(self) -> ProviderConfig:
        return self._facts

    def fingerprint(self) -> str | None:
        return "0" * 16

    def _call(self, name: str, subject: str = "") -> None:
        """A call is about to leave."""
        if self.watch is not None and self.chaos.alive:
            self.watch(name, subject)
        self.server.catch_up()
        self.chaos.step(f"{name} {subject} at {self.server.time.now:.3f}")
        self.server.time.pass_by(CALL_SECONDS)
        self.server.catch_up()

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        self._call("upload", submission.filename())
        faults, fault = self.server.faults, self.chaos.fault
        if fault("upload refused", faults.upload_refused):
            raise CallRefused("too many requests", status=429, code="rate_limit_exceeded", retry_after=5.0)
        if fault("upload lost", faults.upload_lost):
            raise CallUnavailable("connection reset")
        file_id = self.server.store(content.read())
        self.chaos.step(f"uploaded {file_id}")
        if fault("upload unheard", faults.upload_unheard):
            raise CallUnavailable("timeout")
        return file_id

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        self._call("create", file_id)
        server, faults, fault = self.server, self.server.faults, self.chaos.fault
        metadata = submission.metadata()
        if fault("create refused: key", faults.create_fatal):
            raise CallRefused("Incorrect API key provided", status=401, code="invalid_api_key")
        if fault("create refused", faults.create_refused):
            if self.chaos.rng.random() < 0.5:
                raise CallRefused("too many requests", status=429, code="rate_limit_exceeded")
            raise CallRefused(f"file {file_id} is not ready", status=400, code="invalid_request_error")
        if fault("create lost", faults.create_lost):
            raise CallAmbiguous("timeout")
        if fault("create late", faults.create_late):
            server.later(
                self.chaos.rng.random() * faults.late_seconds, lambda moment: server.make(file_id, metadata, at=moment)
            )
            self.chaos.step("create on its way")
            raise CallAmbiguous("timeout")
        limit = faults.enqueued_tokens
        if limit is not None and faults.limit_at_once:
            probe = sum(b.tokens for b in server.batches.values() if b.ours and not b.over)
            if probe + submission.requests * server.least_tokens > limit:
                self.chaos.faults["token limit at once"] += 1
                raise CallRefused(server.limit_text(limit), status=400, code="token_limit_exceeded")
        twice = fault("create twice", faults.create_twice)
        if twice:
            server.make(file_id, metadata)
            server.time.pass_by(self.chaos.rng.uniform(2.0, 60.0))  # a gateway sends it again when its patience is over
            server.catch_up()
        batch = server.make(file_id, metadata)
        if batch is None:
            raise CallRefused(f"No such File object: {file_id}", status=404, code="invalid_request_error")
        if batch.ending != "completed":
            self.chaos.faults[f"batch {batch.ending}"] += 1
        self.chaos.step(f"created {batch.id}")
        if fault("create unheard", faults.create_unheard):
            raise CallAmbiguous(self.chaos.rng.choice(("timeout", "500 Internal Server Error", "409 Conflict")))
        return server.view(batch)

    def _read(self, name: str, subject: str) -> None:
        self._call(name, subject)
        if self.chaos.fault("404", self.server.faults.not_found):
            raise CallNotFound("not found", status=404)
        if self.chaos.fault("read fails", self.server.faults.read_down):
            raise CallUnavailable("bad gateway", status=self.chaos.rng.choice((None, 429, 502, 503)))

    def _batch(self, batch_id: str) -> SimBatch:
        batch = self.server.batches.get(self.server.real(batch_id))
        if batch is None or self.server.forgotten(batch):
            raise CallNotFound("no such batch", status=404)
        return batch

    def poll(self, batch_id: str) -> Batch:
        self._read("poll", batch_id)
        return self.server.asked(self._batch(batch_id))

    def cancel(self, batch_id: str) -> Batch:
        self._call("cancel", batch_id)
        batch = self._batch(batch_id)
        if self.chaos.fault("cancel lost", self.server.faults.cancel_lost):
            if self.chaos.rng.random() < 0.5:
                self.server.cancel(batch)
            raise CallUnavailable("timeout")
        heard = self.server.cancel(batch)
        self.chaos.step(f"cancelled {batch_id}")
        if not heard:
            raise CallRefused("the batch is over", status=400, code="invalid_request_error")
        return self.server.asked(batch)

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        self._list_page("list", 0)
        shown = list(self.server.rows())
        size = page_size if self.server.strangers else PAGE_SIZE
        for start in range(0, len(shown), size):
            if start:
                self._list_page("list page", start)
            page = shown[start : start + size]
            yield from [row for _, row in page]
            if page[-1][0] < since - 3600.0:
                return

    def _list_page(self, name: str, start: int) -> None:
        self._call(name, str(start))
        if self.chaos.fault("list fails", self.server.faults.list_down):
            raise CallUnavailable("bad gateway", status=502)
        others = sum(1 for batch in self.server.batches.values() if not batch.ours)
        room = self.server.faults.others_at_most - others
        if start == 0 and room > 0 and self.chaos.fault("other people's batches", self.server.faults.others):
            for _ in range(min(room, self.chaos.rng.randint(1, 5))):
                self._somebody_else()

    def _somebody_else(self) -> None:
        """Another person of the same organisation makes a batch; some of them use this program too."""
        server, rng = self.server, self.chaos.rng
        own = next((b for b in server.batches.values() if b.ours), None)
        metadata = {}
        if own is not None and rng.random() < 0.5:
            metadata = {**own.metadata, "batchling_sha256": "0" * 64}
            if rng.random() < 0.5:
                metadata = {**own.metadata, "batchling_plan": "f00f00"}
        content = b""
        if not server.marks:  # of the sizes that ours have, and now and then of a plan with our six characters
            tail = rng.choice(("000000", "f00f00", own.metadata["batchling_plan"] if own is not None else "000000"))
            names = [f"k1-{server.number():040x}-{tail}-0001" for _ in range(rng.randint(1, 6))]
            content = b"".join(b'{"custom_id":"%b","body":{"messages":[]}}\n' % name.encode() for name in names)
        file_id = server.store(content)
        server.make(file_id, metadata, at=server.time.now - rng.choice((0.0, rng.random() * 3600.0)), ours=False)

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        self._read("fetch", file_id)
        content = self.server.file(file_id)
        if content is None:
            raise CallNotFound("no such file", status=404)
        if self.chaos.fault("download cut", self.server.faults.download_cut):
            cut = self.chaos.rng.randrange(len(content) + 1)
            if self.chaos.rng.random() < 0.3:  # the nastiest place: between two lines
                cut = content.rfind(b"\n", 0, cut) + 1
            sink.write(content[:cut])
            if self.chaos.rng.random() < 0.5:
                raise CallUnavailable("connection reset")
            return cut
        half = len(content) // 2
        sink.write(content[:half])
        self.chaos.step("half a file")
        sink.write(content[half:])
        return len(content)

    def file_bytes(self, file_id: str) -> int | None:
        self._read("file", file_id)
        server = self.server
        if server.file(file_id) is None or server.told("file: size not known", server.real(file_id), server.time.now):
            raise CallNotFound("no such file", status=404)
        if server.told("file: size cannot be read", server.real(file_id), server.time.now):
            raise CallUnavailable("internal server error", status=500)
        return server.stated_bytes(file_id) if server.faults.sizes else None

    def fence(self, file_id: str) -> bool:
        self._call("delete", file_id)
        if self.chaos.fault("delete lost", self.server.faults.fence_lost):
            raise CallUnavailable("timeout")
        self.server.files.pop(self.server.real(file_id), None)
        self.server.deleted.add(self.server.real(file_id))
        self.chaos.step(f"deleted {file_id}")
        if self.chaos.fault("delete unheard", self.server.faults.fence_unheard):
            raise CallUnavailable("timeout")
        return True
