"""From a row's values to the exact bytes of its request, and to the key that names them.

A body is JSON of which only the values change from row to row. Escaping a string for JSON works
character by character, so everything constant (model, parameters, schema, the literal parts of the
messages) is serialised once, and a row costs the escaping of its values and a join. The hash takes
the same short cut: SHA-256 is kept as it stands after the constant beginning, and copied.

What is written is UTF-8 JSON in which U+2028, U+2029 and U+0085 are escaped: servers and clients
that split lines by Unicode's rules would cut a request in two there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat as repeated
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from batchling import limits
from batchling.dialects import BUILT_IN, CHAT, Dialect, NeutralRequest, StrictSchema
from batchling.errors import ConfigError, DataError
from batchling.prompt import Prompt, RenderError, Slot, compile_prompt
from batchling.schema.sending import OPENING
from batchling.spec import Config, Spec

if TYPE_CHECKING:
    from batchling.schema import OutputSchema

_BODY_END = b"]}"  # of bodies whose dialect has turns; a repair is spliced in before the list's end


class Built(NamedTuple):
    """One request: its key, its body's bytes, and the rendered text of each message (to count tokens)."""

    key: str
    body: bytes
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Block:
    """The requests of consecutive rows, by column: most of what is known of them is the same for all.

    Attributes:
        head: what every body begins with.
        rests: the remainder of each body.
        texts: each message's texts, to count tokens: one for each row, or a single text that all rows share.
    """

    keys: list[str]
    head: bytes
    rests: list[bytes]
    texts: list[str | list[str]]

    def body(self, place: int) -> bytes:
        """The whole body of one row's request."""
        return self.head + self.rests[place]


class RequestBuilder:
    """Builds the requests of one run.

    The key is `k1-` and the first 40 hexadecimal digits of the SHA-256 of these fields, joined by
    NUL bytes (JSON escapes NUL, so no field holds one and the joint is unambiguous):

        1. `k1`
        2. the provider's name, as a JSON string
        3. its address, as a JSON string: see `address`
        4. the endpoint's URL path, as a JSON string
        5. `provider.headers`, as a JSON object: names in lower case, sorted
        6. the body's bytes exactly as sent
        7. the repeat: 0-based, decimal
        8. only with `dedupe: false`: the row id, as a JSON string

    JSON is compact and UTF-8, with U+0085, U+2028 and U+2029 escaped. See `repair_key` for repairs.

    Args:
        spec: the run.
        columns: the columns that rows have.
        output_schema: what answers must look like; None for plain text.
        dialect: writes the bodies; None: the one that OpenAI's API speaks at the run's endpoint.
        engine_identity: takes the place of the address in the key.

    Attributes:
        columns: the columns that `build` needs; a row's values are given in this order.
        prompt: the compiled messages.

    Raises:
        ConfigError: the body cannot be made from this config.
        PromptError: a template is wrong.
    """

    __slots__ = (
        "_dialect",
        "_glue",
        "_head",
        "_layout",
        "_midstate",
        "_slots",
        "_spoken",
        "_tails",
        "_with_row_id",
        "columns",
        "prompt",
    )

    def __init__(
        self,
        spec: Spec,
        columns: Sequence[str],
        output_schema: OutputSchema | None = None,
        *,
        dialect: Dialect | None = None,
        engine_identity: str | None = None,
    ):
        config = spec.config
        self._dialect = dialect or BUILT_IN[config.model.endpoint]
        prompt = _compile(spec, columns)
        if output_schema is not None and output_schema.words is not None:
            prompt = prompt.saying(output_schema.words)
        self.prompt, frame = _frame(self._dialect, config, prompt, output_schema)
        self.columns = self.prompt.columns
        self._with_row_id = not config.dedupe
        self._layout, self._slots = _lay_out_texts(self.prompt)
        self._spoken = _spoken(self.prompt)

        self._head, *glue = _lay_out_body(self.prompt, frame)
        self._glue = tuple(glue)
        headers = dict(sorted((name.lower(), value) for name, value in config.provider.headers.items()))
        place = address(config) if engine_identity is None else engine_identity
        fields = (_json(config.provider.name), _json(place), _json(spec.endpoint_path), _json(headers))
        self._midstate = hashlib.sha256(b"\0".join((b"k1", *fields, self._head)))
        self._tails: dict[int, bytes] = {}

    def build(self, values: Sequence[Any], *, repeat: int = 0, row_id: str | None = None) -> Built:
        """The request of one row.

        Args:
            values: the row's values of `self.columns`, in that order.
            repeat: 0-based.
            row_id: names the row in errors; with `dedupe: false` it is part of the key.

        Raises:
            DataError: a value cannot be sent (binary, not Unicode, a missing part), or nothing is left to ask.
        """
        slots = self._slots
        if slots is None:
            texts = strings = self._rendered(values, row_id)
        else:
            strings = []
            for index, slot in slots:
                value = values[index]
                if type(value) is not str or slot.path:
                    value = self._slot_text(slot, value, row_id)
                strings.append(value)
            texts = [
                part
                if isinstance(part, str)
                else strings[part]
                if isinstance(part, int)
                else "".join([p if isinstance(p, str) else strings[p] for p in part])
                for part in self._layout
            ]
        pieces: list[bytes] = []
        for string, after in zip(strings, self._glue, strict=True):
            try:
                escaped = orjson.dumps(string)[1:-1]
            except TypeError as error:  # orjson.JSONEncodeError
                raise self._not_unicode(len(pieces) // 2, string, row_id) from error
            if not string.isascii():
                escaped = _escape_separators(escaped)
            pieces.append(escaped)
            pieces.append(after)
        rest = b"".join(pieces)

        if self._spoken is not None:
            for index in self._spoken:
                text = texts[index]
                if text and not text.isspace():
                    break
            else:
                raise DataError(
                    "the prompt is empty: every placeholder of this row is blank",
                    where=_row(row_id),
                    next_command="leave such rows out with data.where",
                )

        digest = self._midstate.copy()
        digest.update(rest)
        digest.update(self._tail(repeat, row_id))
        return Built("k1-" + digest.hexdigest()[:40], self._head + rest, texts)

    def build_many(self, columns: Sequence[Sequence[Any]], row_ids: Sequence[str], *, repeat: int = 0) -> Block:
        """The requests of many rows; the same as `build` for each, several times as fast.

        Args:
            columns: the values of each of `self.columns`, in that order: one value for each row.
            row_ids: each row's id.
            repeat: 0-based.

        Raises:
            DataError: as in `build`, for the first row that cannot be sent.
        """
        block = None if self._slots is None else self._by_column(self._slots, columns, row_ids, repeat)
        if block is not None:
            return block
        built = [
            self.build([column[i] for column in columns], repeat=repeat, row_id=row_id)
            for i, row_id in enumerate(row_ids)
        ]
        skip = len(self._head)
        texts: list[str | list[str]] = [list(column) for column in zip(*(b.texts for b in built), strict=True)]
        return Block([b.key for b in built], self._head, [b.body[skip:] for b in built], texts)

    def _by_column(
        self, slots: list[tuple[int, Slot]], columns: Sequence[Sequence[Any]], row_ids: Sequence[str], repeat: int
    ) -> Block | None:
        """`build_many` without a step for each row; None when some row needs to be looked at by itself."""
        count = len(row_ids)
        try:
            strings = [
                [v if type(v) is str and not slot.path else slot.text(v) for v in columns[index]]
                for index, slot in slots
            ]
            dumps = orjson.dumps
            escaped = [
                [dumps(s)[1:-1] if s.isascii() else _escape_separators(dumps(s)[1:-1]) for s in column]
                for column in strings
            ]
        except (RenderError, TypeError):
            return None
        texts: list[str | list[str]] = [
            part
            if isinstance(part, str)
            else strings[part]
            if isinstance(part, int)
            else list(
                map(
                    "".join, zip(*(repeated(p, count) if isinstance(p, str) else strings[p] for p in part), strict=True)
                )
            )
            for part in self._layout
        ]
        if self._spoken is not None:
            heard = [texts[index] for index in self._spoken]
            said = zip(*(repeated(text, count) if isinstance(text, str) else text for text in heard), strict=True)
            if not all(any(text and not text.isspace() for text in row) for row in said):
                return None
        pieces: list[Iterable[bytes]] = []
        for column, after in zip(escaped, self._glue, strict=True):
            pieces += (column, repeated(after, count))
        rests = list(map(b"".join, zip(*pieces, strict=True))) if pieces else [b""] * count

        keys = []
        copy = self._midstate.copy
        tails = map(self._tail, repeated(repeat), row_ids) if self._with_row_id else repeated(self._tail(repeat, None))
        for rest, tail in zip(rests, tails, strict=False):
            digest = copy()
            digest.update(rest + tail)
            keys.append("k1-" + digest.hexdigest()[:40])
        return Block(keys, self._head, rests, texts)

    def key_of_body(self, body: bytes, *, repeat: int = 0, row_id: str | None = None) -> str:
        """The key of a body that this builder made.

        Raises:
            ValueError: the body does not begin as this run's bodies do.
        """
        if not body.startswith(self._head):
            raise ValueError("this body was not built from this config")
        digest = self._midstate.copy()
        digest.update(body[len(self._head) :])
        digest.update(self._tail(repeat, row_id))
        return "k1-" + digest.hexdigest()[:40]

    @property
    def repairs(self) -> bool:
        """Whether a request can be repaired: its dialect has turns."""
        return self._dialect.turns

    def repair(self, parent_key: str, body: bytes, answer: str, errors: str, n: int) -> tuple[str, bytes]:
        """The module's `repair`, in the words of the run's dialect."""
        return repair(parent_key, body, answer, errors, n, dialect=self._dialect)

    def _tail(self, repeat: int, row_id: str | None) -> bytes:
        """Fields 7 and 8 of the key."""
        tail = self._tails.get(repeat)
        if tail is None:
            tail = self._tails[repeat] = b"\0%d" % repeat
        if self._with_row_id:
            if row_id is None:
                raise ValueError("with `dedupe: false` a request needs its row's id")
            tail += b"\0" + _json(row_id)
        return tail

    def _rendered(self, values: Sequence[Any], row_id: str | None) -> list[str]:
        try:
            return self.prompt.texts(dict(zip(self.columns, values, strict=True)))
        except RenderError as error:
            raise _row_error(error, row_id) from error

    @staticmethod
    def _slot_text(slot: Slot, value: Any, row_id: str | None) -> str:
        try:
            return slot.text(value)
        except RenderError as error:
            raise _row_error(error, row_id) from error

    def _not_unicode(self, hole: int, string: str, row_id: str | None) -> DataError:
        column = None if self._slots is None else self._slots[hole][1].name
        position = next((i for i, c in enumerate(string) if "\ud800" <= c <= "\udfff"), 0)
        error = RenderError(
            f"the text is not valid Unicode: a lone surrogate (U+{ord(string[position]):04X}) at position {position}",
            column,
        )
        return _row_error(error, row_id)


def address(config: Config) -> str:
    """What stands for the provider's place in a key.

    The base URL without a trailing slash. The embedded server's port changes from run to run, so
    there it is `engine:<kind>`, and `engine:http:<upstream>` where it forwards to another endpoint. What makes simulated answers
    others, a seed or faults, stands behind the kind.
    """
    engine = config.provider.engine
    if engine is None:
        return (config.provider.base_url or "").rstrip("/")
    if engine.kind == "http":
        return f"engine:http:{(engine.upstream or '').rstrip('/')}"
    varied = {name: share for name, share in engine.faults if share}
    if engine.kind == "simulated" and (engine.seed or varied):
        said = [f"seed={engine.seed}", *(f"{name}={share:g}" for name, share in sorted(varied.items()))]
        return f"engine:{engine.kind}:{','.join(said)}"
    return f"engine:{engine.kind}"


def repair_key(parent_key: str, n: int) -> str:
    """The key of the n-th repair (1-based) of a request, whatever the repair's text.

    `k1-` and 40 digits of the SHA-256 of `k1`, the parent's key, `repair` and n in decimal, joined by NUL.
    """
    fields = (b"k1", parent_key.encode("ascii"), b"repair", b"%d" % n)
    return "k1-" + hashlib.sha256(b"\0".join(fields)).hexdigest()[:40]


def repair(
    parent_key: str, body: bytes, answer: str, errors: str, n: int, *, dialect: Dialect = CHAT
) -> tuple[str, bytes]:
    """The request that shows the model its answer and what was wrong with it.

    Args:
        parent_key: key of the request that was answered.
        body: that request's body.
        answer: the answer that did not fit; where it is blank, no assistant message is sent (providers refuse empty ones).
        errors: what was wrong, one line for each error.
        n: 1-based number of the repair of this parent.
        dialect: the body's.

    Returns:
        The repair's key and body.

    Raises:
        ValueError: the body has no messages to add to (embeddings).
    """
    if not dialect.turns or not body.endswith(_BODY_END):
        raise ValueError("only requests with messages can be repaired")
    messages = []
    if answer.strip():
        messages.append(dialect.turn("assistant", _unicode(answer)))
    request = f"That answer does not fit the required format:\n{errors}\nAnswer again with the corrected JSON only."
    if words := _format_in_words(body, dialect):
        request += f"\n\n{words}"
    messages.append(dialect.turn("user", _unicode(request)))
    added = b"".join(b"," + _json(message) for message in messages)
    return repair_key(parent_key, n), body[: -len(_BODY_END)] + added + _BODY_END


def _format_in_words(body: bytes, dialect: Dialect) -> str | None:
    """The schema as the body's instructions say it; None where they do not: a lane's runs may have several schemas."""
    if _json(OPENING)[1:-1] not in body:
        return None
    for text in reversed(dialect.instructions(limits.own(body))):
        _, found, words = text.rpartition(OPENING)
        if found:
            return OPENING + words
    return None


def custom_id(key: str, plan: str, shard: int) -> str:
    """What names a request in a shard: the key, the plan's last six characters, the 1-based shard number."""
    return f"{key}-{plan}-{shard:04d}"


def _compile(spec: Spec, columns: Sequence[str]) -> Prompt:
    config = spec.config
    endpoint = config.model.endpoint
    if endpoint not in config.provider.endpoints:
        raise ConfigError(
            f"model.endpoint: provider `{config.provider.name}` has no batches for `{endpoint}`, "
            f"only for {', '.join(config.provider.endpoints)}"
        )
    if endpoint == "embeddings":
        if spec.input is None:
            raise ConfigError(
                "prompt.input: the embeddings endpoint needs the text to embed, e.g. prompt.input: '{text}'"
            )
        with spec.placing():
            return compile_prompt([("input", spec.input)], config.prompt.engine, columns)
    if not spec.messages:
        raise ConfigError(f"prompt.messages: the {endpoint} endpoint needs at least one message")
    with spec.placing():
        return compile_prompt(spec.messages, config.prompt.engine, columns)


def _frame(
    dialect: Dialect, config: Config, prompt: Prompt, output_schema: OutputSchema | None
) -> tuple[Prompt, list[bytes]]:
    """The run's body with a gap for each message: what stands before the first, between them, and after the last.

    A dialect may put the messages in another order; the prompt comes back in the order of its gaps. A gap is found by a
    mark that stands for the message's text: a number between two NULs, which no config holds by accident.

    Raises:
        ConfigError: the dialect cannot say this request, or does not do what `Dialect` promises.
    """
    model, endpoint = config.model, config.model.endpoint
    sent = None
    if output_schema is not None:
        if endpoint == "embeddings":
            raise ConfigError("schema: the embeddings endpoint answers with vectors; remove the schema")
        if output_schema.strict_schema is not None:
            sent = StrictSchema(output_schema.name, output_schema.strict_schema, config.provider.strict_schema)
    marks = [f"\0text {number}\0" for number in range(len(prompt.templates))]
    body = dialect.write(
        NeutralRequest(
            model=model.id,
            texts=tuple((template.role, mark) for template, mark in zip(prompt.templates, marks, strict=True)),
            params=model.params,
            max_output_tokens=model.max_output_tokens,
            max_tokens_param=config.provider.max_tokens_param.get(endpoint),
            schema=sent,
            json_mode=output_schema is not None and output_schema.sent == "json_mode",
        )
    )
    text = _json(body, "model.params")
    places = []
    for number, mark in enumerate(marks):
        needle = _json(mark)[1:-1]
        if (count := text.count(needle)) != 1:
            raise _flaw(dialect, config, f"wrote message {number + 1} {count} times")
        places.append((text.index(needle), len(needle), number))
    places.sort()
    if dialect.turns and not text.endswith(_BODY_END):
        raise _flaw(dialect, config, "did not end a body with its messages")
    frame, end = [], 0
    for start, length, _ in places:
        frame.append(text[end:start])
        end = start + length
    frame.append(text[end:])
    return replace(prompt, templates=tuple(prompt.templates[number] for _, _, number in places)), frame


def _flaw(dialect: Dialect, config: Config, what: str) -> ConfigError:
    return ConfigError(
        f"provider.adapter: the dialect `{dialect.name}` of adapter `{config.provider.adapter}` {what}; "
        "this is a fault of the adapter, not of your config"
    )


def _lay_out_texts(
    prompt: Prompt,
) -> tuple[tuple[str | int | tuple[str | int, ...], ...], list[tuple[int, Slot]] | None]:
    """How the texts come from the slots' strings, and the slots, each with the position of its column's value.

    A text is constant (str), one slot's string (int) or a join of both kinds (tuple). With Jinja
    there are no slots (None): each text is rendered whole.
    """
    layout: list[str | int | tuple[str | int, ...]] = []
    slots: list[tuple[int, Slot]] = []
    for template in prompt.templates:
        if template.parts is None:
            return (), None
        parts: list[str | int] = []
        for part in template.parts:
            if isinstance(part, str):
                parts.append(part)
            else:
                parts.append(len(slots))
                slots.append((prompt.columns.index(part.column), part))
        layout.append(tuple(parts) if len(parts) > 1 else parts[0] if parts else "")
    return tuple(layout), slots


def _lay_out_body(prompt: Prompt, frame: Sequence[bytes]) -> list[bytes]:
    """The body's constant bytes: what stands before the first slot's string, and after each."""
    pieces = [frame[0]]
    for template, after in zip(prompt.templates, frame[1:], strict=True):
        if template.parts is None:
            pieces.append(b"")
        else:
            for part in template.parts:
                if isinstance(part, str):
                    pieces[-1] += _json(part, "prompt.messages")[1:-1]
                else:
                    pieces.append(b"")
        pieces[-1] += after
    return pieces


def _spoken(prompt: Prompt) -> tuple[int, ...] | None:
    """The messages of which one must say something: the user's, or all where the user has none.

    None when their literal text always does.
    """
    user = [i for i, t in enumerate(prompt.templates) if t.role in ("user", "input")]
    chosen = user or list(range(len(prompt.templates)))
    for index in chosen:
        if any(isinstance(part, str) and part.strip() for part in prompt.templates[index].parts or ()):
            return None
    return tuple(chosen)


def _json(value: Any, what: str = "config") -> bytes:
    """Compact JSON as it is sent: UTF-8, line separators escaped.

    `json` rather than orjson: it keeps integers of any size and refuses NaN. Not for rows.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return _escape_separators(text.encode("utf-8"))
    except (TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
        raise ConfigError(f"{what}: cannot be written as JSON: {error}") from error


def _escape_separators(data: bytes) -> bytes:
    return (
        data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029").replace(b"\xc2\x85", b"\\u0085")
    )


def _unicode(text: str) -> str:
    """Text that UTF-8 can hold: an answer may contain lone surrogates, and its repair must still be sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _row(row_id: str | None) -> str | None:
    return None if row_id is None else f"row {row_id}"


def _row_error(error: RenderError, row_id: str | None) -> DataError:
    message = f"column `{error.column}`: {error.message}" if error.column else error.message
    return DataError(message, where=_row(row_id), next_command="fix the row, or leave it out with data.where")
