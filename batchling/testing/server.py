"""The provider's side of the simulation: files, batches, a bill. It outlives every client.

What it did is the ground truth that a client's claims are compared with: `runs` has one entry for
each time that a request was run, with what it was answered and whether it was billed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchling.models import KEY_LENGTH, Batch, BatchError, Outcome
from batchling.testing.clock import SimTime
from batchling.testing.faults import Faults
from batchling.testing.lies import BATCH, NAMELESS, ROW, UNMARKED, Lie

ANSWER_TOKENS = 5
"""Output tokens of each answer."""

VALIDATING_SECONDS = 30.0

SPELLINGS: Mapping[str, Callable[[int], str]] = {
    "1,000": lambda n: f"{n:,}",
    "1000": str,
    "1.000": lambda n: f"{n:,}".replace(",", "."),
    "1 000": lambda n: f"{n:,}".replace(",", " "),
    "1K": lambda n: f"{n / 1000:g}K",
    "0.001M": lambda n: f"{n / 1_000_000:g}M",
    "1 thousand": lambda n: f"{n / 1000:g} thousand",
}
"""How providers write a number of tokens."""

ACCOUNT = (
    (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
    (400, "billing_hard_limit_reached", "Billing hard limit has been reached."),
    (401, "invalid_api_key", "Incorrect API key provided."),
)
"""Refusals of an account, as rows have them."""

ALIAS = "enc-"
"""How an id begins that a gateway made of another."""

BILLED = frozenset({Outcome.OK, Outcome.REFUSED, Outcome.TRUNCATED, Outcome.FILTERED})
"""Outcomes that are billed: the model has answered."""


@dataclass(frozen=True, slots=True)
class Run:
    """One request run once.

    Attributes:
        custom_id, key: as sent; `batch_id`: where.
        outcome: what became of it (an invalid answer is `ok` here: the provider does not look).
        text: the answer; unlike that of any other run.
        input_tokens, output_tokens: as billed; 0 when it is not billed.
    """

    custom_id: str
    batch_id: str
    outcome: Outcome
    text: str | None
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def key(self) -> str:
        return self.custom_id[:KEY_LENGTH]

    @property
    def billed(self) -> bool:
        return self.outcome in BILLED


@dataclass(slots=True)
class SimBatch:
    """A batch as the server has it. Times are Unix seconds."""

    id: str
    file_id: str
    metadata: dict[str, str]
    requests: list[tuple[str, int]]
    created_at: float
    visible_at: float
    ends_at: float
    ending: str
    status: str = "validating"
    cancelled_at: float | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    filed_at: float = 0.0
    ended_at: float | None = None
    errors: tuple[BatchError, ...] = ()
    answered: int = 0
    failed: int = 0
    ours: bool = True

    @property
    def over(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.requests)


@dataclass(slots=True)
class _About:
    """A batch that is lied about."""

    server: SimServer
    batch: SimBatch
    rng: random.Random

    @property
    def over(self) -> bool:
        return self.batch.over

    def alias(self, name: str) -> str:
        return name if name.startswith(ALIAS) else ALIAS + name.encode().hex()

    def somebody_elses(self) -> str:
        others = sorted(b.file_id for b in self.server.batches.values() if b.created_at < self.batch.created_at)
        return (
            self.rng.choice(others) if others and self.rng.random() < 0.5 else f"file-of-{self.rng.getrandbits(32):08x}"
        )


@dataclass(slots=True)
class SimServer:
    """One simulated provider.

    Args:
        time: the true time.
        seed: the same seed, and the same calls, give the same answers.
        faults: how badly it behaves; may be changed at any time.
        tokens: prompt tokens of a request's body.
        lies: what it says that is not so.
        strangers: rows of other people that its list always has.
        marks: its batches say which file they are made from, and with which metadata.
        ids: how files are named: `new` (no id twice), `content` (equal bytes, equal id) or `counter` (the number of a
            deleted file is given to the next one).
        least_tokens: prompt tokens of its smallest request.
        spelling: how it writes a number of tokens in a refusal: a name in `SPELLINGS`.
    """

    time: SimTime
    seed: str
    faults: Faults = field(default_factory=Faults)
    tokens: Callable[[dict[str, Any]], int] = lambda body: 10
    lies: tuple[Lie, ...] = ()
    strangers: int = 0
    marks: bool = True
    ids: str = "new"
    spelling: str = "1,000"
    least_tokens: int = 10
    files: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)
    batches: dict[str, SimBatch] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    rng: random.Random = field(init=False)
    _late: list[tuple[float, int, Callable[[float], object]]] = field(default_factory=list)
    _serial: int = 0
    _mark: str = ""

    def __post_init__(self) -> None:
        self.rng = random.Random(f"{self.seed}/server")
        self._mark = f"{self.rng.getrandbits(16):04x}"

    def number(self) -> int:
        self._serial += 1
        return self._serial

    def later(self, seconds: float, arrive: Callable[[float], object]) -> None:
        """A request that is still on its way; `arrive` is given the time at which it does."""
        self._late.append((self.time.now + seconds, self.number(), arrive))

    @property
    def on_its_way(self) -> int:
        """Requests that may still arrive."""
        return len(self._late)

    def catch_up(self) -> None:
        """Does everything that was due by now, in the order in which it was due."""
        while self._late or any(not batch.over for batch in self.batches.values()):
            arrivals = sorted(entry for entry in self._late if entry[0] <= self.time.now)
            endings = [(b.ends_at, b.id) for b in self.batches.values() if not b.over and b.ends_at <= self.time.now]
            if not arrivals and not endings:
                break
            if arrivals and (not endings or arrivals[0][0] <= min(endings)[0]):
                self._late.remove(arrivals[0])
                arrivals[0][2](arrivals[0][0])
            else:
                self._end(self.batches[min(endings)[1]])
        for batch in self.batches.values():
            if not batch.over and batch.cancelled_at is None:
                running = self.time.now >= batch.created_at + VALIDATING_SECONDS
                batch.status = "in_progress" if running else "validating"

    def store(self, content: bytes) -> str:
        if self.ids == "content":
            file_id = f"file-{hashlib.sha256(content).hexdigest()[:16]}"
        elif self.ids == "counter":
            taken = self.files.keys() | self.damaged
            file_id = next(name for n in range(1, len(taken) + 2) if (name := f"file-{n}") not in taken)
        else:
            file_id = f"file-{self._mark}{self.number():06d}"
        self.files[file_id] = content
        self.deleted.discard(file_id)
        return file_id

    def make(
        self, file_id: str, metadata: dict[str, str], *, at: float | None = None, ours: bool = True
    ) -> SimBatch | None:
        """Makes a batch; None when its input file is gone."""
        content = self.files.get(file_id)
        if content is None:
            return None
        rng, faults = self.rng, self.faults
        now = self.time.now if at is None else at
        requests = []
        for line in content.split(b"\n"):
            if line:
                request = json.loads(line)
                requests.append((request["custom_id"], self.tokens(request["body"])))
        ending = "completed"
        for name, rate in (
            ("expired", faults.batch_expired),
            ("failed", faults.batch_failed),
            ("cancelled", faults.batch_cancelled),
            ("bad_lines", faults.bad_lines),
            ("all_errors", faults.all_errors),
        ):
            if rng.random() < rate:
                ending = name
                break
        seconds = rng.uniform(*faults.run_seconds)
        waiting = sum(b.tokens for b in self.batches.values() if b.ours and not b.over)
        if ending == "expired":
            seconds = faults.window_seconds
        elif ending in ("failed", "bad_lines"):
            seconds = VALIDATING_SECONDS
        if (
            faults.enqueued_tokens is not None
            and ours
            and waiting + sum(n for _, n in requests) > faults.enqueued_tokens
        ):
            ending, seconds = "throttled", VALIDATING_SECONDS
        batch = SimBatch(
            id=f"batch_{self._mark}{self.number():06d}",
            file_id=file_id,
            metadata=metadata,
            requests=requests,
            created_at=now,
            visible_at=now + rng.random() * faults.list_lag_seconds,
            ends_at=now + seconds,
            ending=ending,
            ours=ours,
        )
        self.batches[batch.id] = batch
        return batch

    def cancel(self, batch: SimBatch) -> bool:
        """Starts a cancellation; False when the batch is over."""
        if batch.over:
            return False
        if batch.cancelled_at is None:
            batch.cancelled_at = self.time.now
            batch.ends_at = min(batch.ends_at, self.time.now + self.rng.uniform(1.0, 600.0))
            batch.ending = "cancelled" if batch.ending not in ("failed", "bad_lines", "throttled") else batch.ending
            batch.status = "cancelling"
        return True

    def real(self, name: str) -> str:
        """The id that an alias stands for; any other id as it is."""
        if name.startswith(ALIAS):
            try:
                return bytes.fromhex(name.removeprefix(ALIAS)).decode()
            except ValueError:
                return name
        return name

    def told(self, what: str, subject: str, since: float, *, delay: float = 0.0) -> random.Random | None:
        """Whether a lie is told of something now: then a source of randomness that is its own; None: it is not.

        Args:
            since: Unix seconds from which its time counts; it begins up to `delay` seconds later.
        """
        for lie in self.lies:
            if lie.what == what:
                rng = random.Random(f"{self.seed}/{what}/{subject}")
                begins = since + rng.random() * delay
                if rng.random() < lie.share and begins <= self.time.now < begins + lie.seconds:
                    return rng
        return None

    def forgotten(self, batch: SimBatch) -> bool:
        """Whether a GET of it is answered 404 now."""
        return self.told("forgets a batch", batch.id, batch.created_at, delay=7_200.0) is not None

    def hidden(self, batch: SimBatch) -> bool:
        """Whether the list leaves it out now."""
        return (
            batch.visible_at > self.time.now
            or self.told("forgets it in the list", batch.id, batch.visible_at, delay=7_200.0) is not None
            or self.told("the list is empty", str(self.time.now // 7_200.0), self.time.now // 7_200.0 * 7_200.0)
            is not None
        )

    def unshown(self, batch: SimBatch) -> bool:
        """Whether the list does not show a batch as what it is: it is left out, or its row says neither file nor marker."""
        row = self._row(batch)
        file_known = row.input_file_id == batch.file_id
        return self.hidden(batch) or not (file_known or row.metadata == batch.metadata)

    def asked(self, batch: SimBatch) -> Batch:
        """What a GET of it says: the truth, as far as the provider's lies leave it."""
        said = self.view(batch)
        for what, telling in BATCH.items():
            rng = self.told(what, batch.id, batch.ended_at or batch.created_at)
            if rng is not None:
                said = telling(said, _About(self, batch, rng))
        return said

    def rows(self) -> Iterator[tuple[float, Batch]]:
        """The list, newest first: when each batch was made, and what its row says of it."""
        found: list[tuple[float, str, SimBatch | None]] = [
            (batch.created_at, batch.id, batch) for batch in self.batches.values() if not self.hidden(batch)
        ]
        for number in range(self.strangers):
            found.append((self.time.now - 40.0 * number, f"batch_of_others_{number:05d}", None))
        for created_at, name, batch in sorted(found, key=lambda row: row[:2], reverse=True):
            if batch is None:
                yield created_at, Batch(name, "completed", f"file-{name}", f"file-out-{name}", None, created_at, {})
                continue
            row = self._row(batch)
            yield created_at, row
            if self.told("row: twice", batch.id, batch.created_at) is not None:
                yield created_at, row

    def _row(self, batch: SimBatch) -> Batch:
        said = self.view(batch)
        nameless = False
        for what, telling in ROW.items():
            rng = self.told(what, batch.id, batch.ended_at or batch.created_at)
            if rng is None or (nameless and what in UNMARKED):
                continue
            nameless = nameless or what in NAMELESS
            said = telling(said, _About(self, batch, rng))
        return said

    def file(self, file_id: str) -> bytes | None:
        """What is in a file now; None: it is not there."""
        file_id = self.real(file_id)
        content = self.files.get(file_id)
        written = self.written.get(file_id)
        if content is None or written is None:
            return content
        if self.told("forgets a file", file_id, written, delay=600.0) is not None:
            return None
        rng = self.told("file: fills late", file_id, written)
        if rng is None:
            return content
        lines = content.splitlines(keepends=True)
        return b"".join(lines[: rng.randrange(len(lines) + 1)])

    def stated_bytes(self, file_id: str) -> int | None:
        """What it says that the size of a file is; None: it says that it knows none."""
        file_id = self.real(file_id)
        size = self.sizes.get(file_id, len(self.file(file_id) or b""))
        written = self.written.get(file_id, 0.0)
        if self.told("file: size of zero", file_id, written):
            return 0
        if self.told("file: one byte more", file_id, written):
            return size + 1
        if self.told("file: much larger", file_id, written):
            return size * 3 + 100
        return size

    def view(self, batch: SimBatch) -> Batch:
        """The truth about a batch, as far as the provider tells it."""
        counts = self.faults.counts and batch.over
        filed = self.time.now >= batch.filed_at
        return Batch(
            id=batch.id,
            status=batch.status,
            input_file_id=batch.file_id if self.marks else None,
            output_file_id=batch.output_file_id if filed else None,
            error_file_id=batch.error_file_id if filed else None,
            created_at=batch.created_at,
            metadata=dict(batch.metadata) if self.marks else {},
            errors=batch.errors,
            total=len(batch.requests) if counts or not self.marks else None,
            completed=batch.answered if counts else None,
            failed=batch.failed if counts else None,
        )

    def _end(self, batch: SimBatch) -> None:
        batch.ended_at = batch.ends_at
        if not batch.ours:
            batch.status = "completed"
            if not self.marks:
                lines = [_answer_line(custom_id, Outcome.OK, "{}", 1) for custom_id, _ in batch.requests]
                batch.output_file_id = self.store(b"".join(lines))
            return
        match batch.ending:
            case "throttled":
                batch.status = "failed"
                assert self.faults.enqueued_tokens is not None
                batch.errors = (BatchError("token_limit_exceeded", self.limit_text(self.faults.enqueued_tokens)),)
            case "failed":
                batch.status = "failed"
                batch.errors = (BatchError("internal_error", "something broke before it began"),)
            case "bad_lines":
                batch.status = "failed"
                line = self.rng.randrange(len(batch.requests)) + 1
                batch.errors = (BatchError("invalid_request", "the line is not to our taste", line),)
                self.runs.append(Run(batch.requests[line - 1][0], batch.id, Outcome.ERROR, None))
            case _:
                batch.status = batch.ending if batch.ending in ("expired", "cancelled") else "completed"
                self._answer(batch)

    def limit_text(self, limit: int) -> str:
        """The refusal of a batch for the tokens that may wait at once."""
        return f"Enqueued token limit reached for sim. Limit: {SPELLINGS[self.spelling](limit)} enqueued tokens."

    def _answer(self, batch: SimBatch) -> None:
        rng, faults = self.rng, self.faults
        output: list[bytes] = []
        errors: list[bytes] = []
        # An expired or cancelled batch has answered what it came to.
        share = rng.random() if batch.status in ("expired", "cancelled") else 1.0
        refusal = rng.choice(ACCOUNT) if rng.random() < faults.row_account else None
        dry = rng.randrange(len(batch.requests)) if refusal else len(batch.requests)
        for place, (custom_id, tokens) in enumerate(batch.requests):
            if refusal is not None and place >= dry:
                self.runs.append(Run(custom_id, batch.id, Outcome.ACCOUNT, None))
                errors.append(_error_line(custom_id, *refusal))
                batch.failed += 1
                continue
            if rng.random() > share:
                if batch.status == "expired" and rng.random() < 0.5:
                    errors.append(_error_line(custom_id, None, "batch_expired", "the window ended first"))
                continue
            outcome = self._draw(all_errors=batch.ending == "all_errors")
            if outcome is None:
                continue
            if outcome not in BILLED:
                self.runs.append(Run(custom_id, batch.id, outcome, None))
                status = 400 if outcome is Outcome.ERROR else rng.choice((429, 500, 0))
                errors.append(_error_line(custom_id, status, None, "no"))
                batch.failed += 1
                continue
            serial = self.number()
            text = json.dumps({"n": serial})
            if outcome is Outcome.OK and rng.random() < faults.row_invalid:
                text = f"not what was asked for: {serial}\u2028"
            self.runs.append(Run(custom_id, batch.id, outcome, text, tokens, ANSWER_TOKENS))
            output.append(_answer_line(custom_id, outcome, text, tokens))
            batch.answered += 1
        lines = [*output, *(line for line in output if rng.random() < faults.line_twice)]
        while rng.random() < faults.line_foreign:
            lines.append(_answer_line(f"k1-{self.number():040x}-000000-0001", Outcome.OK, '{"n": 0}', 1))
        rng.shuffle(lines)
        rng.shuffle(errors)
        if lines:
            batch.output_file_id = self.store(b"".join(lines))
            self._damage(batch.output_file_id)
        if errors:
            batch.error_file_id = self.store(b"".join(errors))
        batch.filed_at = self.time.now + rng.random() * faults.files_late_seconds
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                self.written[file_id] = batch.filed_at

    def _damage(self, file_id: str) -> None:
        """The provider itself may lose an answer that it has billed."""
        content = self.files[file_id]
        if self.rng.random() < self.faults.file_short:
            self.damaged.add(file_id)
            self.sizes[file_id] = len(content)
            self.files[file_id] = content[: content.rfind(b"\n", 0, len(content) - 1) + 1]
        elif self.rng.random() < self.faults.file_gone:
            self.damaged.add(file_id)
            del self.files[file_id]

    def _draw(self, *, all_errors: bool) -> Outcome | None:
        """What becomes of a row; None: no line for it anywhere."""
        faults = self.faults
        for outcome, rate in (
            (Outcome.RETRYABLE, 1.0 if all_errors else faults.row_retryable),
            (Outcome.ERROR, faults.row_error),
            (None, faults.row_missing),
            (Outcome.REFUSED, faults.row_refused),
            (Outcome.TRUNCATED, faults.row_truncated),
            (Outcome.FILTERED, faults.row_filtered),
        ):
            if self.rng.random() < rate:
                return outcome
        return Outcome.OK


def _answer_line(custom_id: str, outcome: Outcome, text: str, tokens: int) -> bytes:
    finish = {Outcome.TRUNCATED: "length", Outcome.FILTERED: "content_filter"}.get(outcome, "stop")
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if outcome is Outcome.REFUSED:
        message = {"role": "assistant", "content": None, "refusal": text}
    body = {
        "model": "sim",
        "system_fingerprint": None,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": ANSWER_TOKENS},
    }
    line = {"id": "x", "custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _error_line(custom_id: str, status: int | None, code: str | None, message: str) -> bytes:
    line: dict[str, Any]
    if status is None:
        line = {"custom_id": custom_id, "response": None, "error": {"code": code, "message": message}}
    else:
        body = {} if status == 0 else {"error": {"code": code, "message": message}}
        line = {"custom_id": custom_id, "response": {"status_code": status, "body": body}, "error": None}
    return json.dumps(line).encode() + b"\n"
