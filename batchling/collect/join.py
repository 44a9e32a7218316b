"""Puts every line of a shard attempt's files on the request that it answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import orjson

from batchling import limits
from batchling.collect.failure import Failure
from batchling.collect.lines import lines
from batchling.collect.refusal import About, account_refusal
from batchling.dialects.reading import clean
from batchling.models import KEY_LENGTH, NOT_UNDERSTOOD, Garbage, Outcome, Response, RowState, Usage

_REMEMBERED = 10_000  # parts of lines that many have alike

MAX_STRAYS = 1000
"""Stray lines remembered by their place; all of them are counted."""


class Row(NamedTuple):
    """One request of the shard: a line of its index."""

    key: str
    parent_key: str | None = None
    input_tokens: int | None = None
    row_attempt: int = 1


READER = 2
"""Raised when answers are read more tolerantly than before: an earlier reader's `invalid` is not the last word."""


class Verdict(NamedTuple):
    """What validation says of an answer: the row's state, the JSON value, and one line when it is not ok.

    `reasoning` is what stood around the JSON.
    """

    state: RowState
    output: Any = None
    error: str | None = None
    schema: int = 0
    reasoning: str | None = None


Judge = Callable[[Response], Verdict]
"""Validates an answer. Called for the outcome `ok` only."""


class Stray(NamedTuple):
    """A line that was put on no request. The raw bytes stay where they are: at `offset` in `file`.

    `kind` is `foreign` (a custom_id that is not of this shard), `duplicate` (a further line for a
    request that has one) or `garbage` (no custom_id to be had); `detail` the custom_id or the reason.
    """

    kind: Literal["foreign", "duplicate", "garbage"]
    file: str
    offset: int
    length: int
    detail: str


@dataclass(slots=True)
class Summary:
    """What came of a shard attempt, complete when `Join.finish` has ended. `states` and `outcomes` each add up to `rows`.

    Attributes:
        lines: lines read in all files.
        strays: the first 1,000 lines that were put on no request; `foreign`, `duplicates` and `garbage` count them all.
        missing: requests without a line.
        hidden: of these, the ones whose line may be there and was not understood.
        usage: sums over the rows that say how many tokens they took.
        cost_usd: sum over the rows whose cost is known.
        unpriced: rows that were, or may have been, answered and whose cost is not known.
        account: why the account is refused, by the first row that says so; None: no row does.
    """

    rows: int
    lines: int = 0
    states: Counter[RowState] = field(default_factory=Counter)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    foreign: int = 0
    duplicates: int = 0
    garbage: int = 0
    missing: int = 0
    hidden: int = 0
    strays: list[Stray] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal = Decimal(0)
    unpriced: int = 0
    account: str | None = None


_STATE = {
    Outcome.OK: RowState.OK,
    Outcome.TRUNCATED: RowState.TRUNCATED,
    Outcome.REFUSED: RowState.REFUSED,
    Outcome.FILTERED: RowState.FILTERED,
    Outcome.ERROR: RowState.ERROR,
    Outcome.RETRYABLE: RowState.ERROR,
    Outcome.ACCOUNT: RowState.ERROR,
    Outcome.EXPIRED: RowState.EXPIRED,
    Outcome.CANCELLED: RowState.CANCELLED,
    Outcome.MISSING: RowState.MISSING,
}

_ANSWERS = frozenset({Outcome.OK, Outcome.TRUNCATED, Outcome.REFUSED, Outcome.FILTERED})
_OPEN, _HELD, _GIVEN = 0, 1, 2
_dumps = orjson.dumps
_NO_ERROR = b'"error_code":null,"error_message":null,"error":null,"parent_key":null}\n'


def state_of(outcome: Outcome) -> RowState:
    """The row's state for an outcome, before any schema is looked at. A retryable error is an `error` so far."""
    return _STATE[outcome]


_Kind = tuple[Usage, Outcome, RowState, int | None, str | None, int, int, bool]
"""Usage, outcome, state, status, finish reason, row attempt and schema of a line, and whether it may have been billed."""


@dataclass(slots=True)
class _Alike:
    """Lines that differ only in their texts and places: their common part in JSON, a comma behind it, and its cost in USD."""

    encoded: bytes
    cost: Decimal | None
    outcome: Outcome
    state: RowState
    usage: Usage
    billed: bool
    count: int = 0


class Join:
    """Joins one shard attempt: feed it each file with `read`, then call `finish`.

    Each request gives exactly one decoded line. Order means nothing. When a request has several lines
    the first answer wins, because it was paid; without an answer the first error. So errors are held
    until `finish` (as their encoded lines, without bodies), and answers are given at once: memory is the
    keys, a byte each, and the errors. Every line that loses is counted and flagged as a duplicate.

    Args:
        rows: the shard's requests.
        suffix: what follows the key in a custom_id, e.g. `-3f9ac1-0001`; a line of another plan or
            shard is foreign. None (reused answers): any suffix is good.
        judge: validates an answer.
        shard: 1-based number, 0 for reused answers; attempt: 1-based shard attempt.
        source: `batch` or `cache`.
        charge: USD for a usage; None: unknown.
        decode: reads one line: `Envelope.decode` of the provider's adapter.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        *,
        suffix: str | None,
        judge: Judge,
        shard: int,
        attempt: int,
        source: Literal["batch", "cache"] = "batch",
        charge: Callable[[Usage], Decimal | None] | None = None,
        decode: Callable[[bytes], Response | Garbage],
    ):
        self._rows = list(rows)
        self._index = {row.key: i for i, row in enumerate(self._rows)}
        if len(self._index) != len(self._rows):
            raise ValueError("a shard holds one request twice")
        self._suffix = suffix
        self._judge = judge
        self._constant = {"shard": shard, "attempt": attempt, "source": source, "reader": READER}
        self._charge = charge
        self._decode = decode
        self._alike: dict[_Kind, _Alike] = {}
        self._phase = bytearray(len(self._rows))
        self._held: dict[int, tuple[bytes, _Alike]] = {}
        self._tokens = [0] * len(Usage._fields)
        self.summary = Summary(rows=len(self._rows))

    def read(
        self, file: str, chunks: Iterable[bytes], *, decode: Callable[[bytes], Response | Garbage] | None = None
    ) -> Iterator[bytes]:
        """Decoded JSON lines (line feed included) of the requests that this file answers.

        Args:
            file: its name, as it is recorded.
            chunks: its bytes in pieces of any size.
            decode: for a file that the provider did not write.
        """
        decode = decode or self._decode
        summary, index, phase, suffix = self.summary, self._index, self._phase, self._suffix
        for offset, line in lines(chunks):
            summary.lines += 1
            response = decode(line)
            if isinstance(response, Garbage):
                summary.garbage += 1
                self._stray("garbage", file, offset, line, response.message)
                continue
            custom_id = response.custom_id
            place = index.get(custom_id[:KEY_LENGTH])
            if place is None or (suffix is not None and custom_id[KEY_LENGTH:] != suffix):
                summary.foreign += 1
                self._stray("foreign", file, offset, line, custom_id)
                continue
            seen = phase[place]
            answer = response.outcome in _ANSWERS
            if seen:
                summary.duplicates += 1
                self._stray("duplicate", file, offset, line, custom_id)
                if seen == _GIVEN or not answer:
                    continue
                del self._held[place]
            decoded, alike = self._decoded(place, response, file, offset, len(line))
            if answer:
                phase[place] = _GIVEN
                alike.count += 1
                yield decoded
            else:
                phase[place] = _HELD
                self._held[place] = decoded, alike

    @property
    def answered(self) -> int:
        """Requests that a line so far answers, or would have if it could be read."""
        return self._phase.count(_GIVEN) + sum(alike.billed for _, alike in self._held.values())

    def finish(
        self, *, absent: Outcome = Outcome.MISSING, error_code: str | None = None, error_message: str | None = None
    ) -> Iterator[bytes]:
        """Decoded lines of the requests that no file answers, errors first. `summary` is complete when it ends.

        Args:
            absent: what a request without a line is: `expired` or `cancelled` when the batch ended so, `error` when
                its line may be there and was not understood.
            error_code, error_message: why, for the requests without a line.
        """
        for decoded, alike in self._held.values():
            self._count(alike, 1)
            yield decoded
        self._held.clear()
        summary = self.summary
        message = error_message or (
            "no line for this request in any file" if absent is Outcome.MISSING else f"the batch {absent} before it"
        )
        for place, seen in enumerate(self._phase):
            if seen == _OPEN:
                summary.missing += 1
                summary.hidden += absent is Outcome.ERROR
                response = Response("", absent, error_code=error_code, error_message=message)
                decoded, alike = self._decoded(place, response, None, None, None)
                alike.count += 1
                yield decoded
            self._phase[place] = _GIVEN
        self._count_alike()
        summary.usage = Usage(*self._tokens)
        if not summary.rows == sum(summary.states.values()) == sum(summary.outcomes.values()):
            raise AssertionError(f"{self._constant}: {summary.rows} rows, but states say {dict(summary.states)}")

    def _decoded(
        self, place: int, response: Response, file: str | None, offset: int | None, length: int | None
    ) -> tuple[bytes, _Alike]:
        row = self._rows[place]
        outcome, usage = response.outcome, response.usage
        if outcome is Outcome.OK:
            state, output, error, schema, reasoning = self._judge(response)
        else:
            state, output, schema, reasoning = _STATE[outcome], None, 0, None
            error = _one_line(response.error_code, response.error_message)
            if outcome is Outcome.ACCOUNT and self.summary.account is None:
                self.summary.account = _account(response)
        billed = outcome in _ANSWERS or (outcome is Outcome.ERROR and _maybe_billed(response))
        # Answers of one prompt mostly have few different counts: what is alike is encoded, and priced, once.
        kind = (usage, outcome, state, response.status_code, response.finish_reason, row.row_attempt, schema, billed)
        alike = self._alike.get(kind)
        if alike is None:
            alike = self._new_alike(kind)
        if output is None:
            output = response.embedding
        try:
            line = b'{"key":%b,"output":%b,"text":%b,"file":%b,"offset":%b,"length":%b,%b' % (
                _dumps(row.key),
                _dumps(output),
                _dumps(response.text),
                _dumps(file),
                _dumps(offset),
                _dumps(length),
                alike.encoded,
            )
            if error is reasoning is row.parent_key is response.error_code is response.error_message is None:
                return line + _NO_ERROR, alike
            return line + _dumps(_rest(row, response, error, reasoning))[1:] + b"\n", alike
        except TypeError:
            # An integer beyond 64 bits or a lone surrogate in the validated value: JSON has them, orjson does not.
            document = {
                "key": row.key,
                "output": output,
                "text": response.text,
                "file": file,
                "offset": offset,
                "length": length,
                **limits.own(b"{" + alike.encoded[:-1] + b"}"),
                **_rest(row, response, error, reasoning),
            }
            return json.dumps(clean(document), default=str).encode() + b"\n", alike

    def _new_alike(self, kind: _Kind) -> _Alike:
        usage, outcome, state, status_code, finish_reason, row_attempt, schema, billed = kind
        cost = self._charge(usage) if self._charge is not None else None
        part = {
            **self._constant,
            "row_attempt": row_attempt,
            "outcome": outcome._value_,
            "state": state._value_,
            "status_code": status_code,
            "finish_reason": finish_reason,
            **_counts(usage),
            "cost_usd": None if cost is None else format(cost, "f"),
            "schema": schema,
        }
        try:
            encoded = orjson.dumps(part)
        except TypeError:
            encoded = json.dumps(clean(part)).encode()
        if len(self._alike) >= _REMEMBERED:
            self._count_alike()
        alike = self._alike[kind] = _Alike(encoded[1:-1] + b",", cost, outcome, state, usage, billed)
        return alike

    def _count_alike(self) -> None:
        """Puts what was counted so far into the summary, and forgets it."""
        for alike in self._alike.values():
            self._count(alike, alike.count)
        self._alike.clear()

    def _count(self, alike: _Alike, lines: int) -> None:
        if not lines:
            return
        summary = self.summary
        summary.states[alike.state] += lines
        summary.outcomes[alike.outcome] += lines
        for place, tokens in enumerate(alike.usage):
            self._tokens[place] += (tokens or 0) * lines
        if alike.cost is not None:
            summary.cost_usd += alike.cost * lines
        elif alike.billed:
            summary.unpriced += lines

    def _stray(
        self, kind: Literal["foreign", "duplicate", "garbage"], file: str, offset: int, line: bytes, detail: str
    ) -> None:
        if len(self.summary.strays) < MAX_STRAYS:
            self.summary.strays.append(Stray(kind, file, offset, len(line), detail[:200]))


def _account(response: Response) -> str:
    """What is wrong with the account, in the words of one row's error."""
    code, message = response.error_code, response.error_message or ""
    found = account_refusal(response.status_code, [code], message) or About.QUOTA
    return Failure(found, code, message).sentence[:500]


_INSTEAD = frozenset({NOT_UNDERSTOOD, "empty_answer", "bad_embedding", None})


def _maybe_billed(response: Response) -> bool:
    """An error that stands where an answer should be: what it cost is not known."""
    status = response.status_code
    good = status is not None and 200 <= status < 300
    return response.error_code == NOT_UNDERSTOOD or (good and response.error_code in _INSTEAD)


def _rest(row: Row, response: Response, error: str | None, reasoning: str | None) -> dict[str, Any]:
    """What is null on nearly every line."""
    return {
        **({} if reasoning is None else {"reasoning": reasoning}),
        "error_code": response.error_code,
        "error_message": response.error_message,
        "error": error,
        "parent_key": row.parent_key,
    }


def _one_line(code: str | None, message: str | None) -> str:
    """Code and message on one line of at most 500 characters."""
    text = " ".join((message or "").split())
    if code and code.lower() not in text.lower():
        text = f"{code}: {text}" if text else code
    return text[:500]


def _counts(usage: Usage) -> dict[str, int | None]:
    """Token counts as a document has them: writing to a cache is named where a provider counts it."""
    counts = usage._asdict()
    if usage.written_tokens is None:
        del counts["written_tokens"]
    return counts
