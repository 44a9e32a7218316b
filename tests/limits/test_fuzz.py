"""Fuzz lanes: whatever comes in, the answer is a result or one of our own errors, which have an exit code.

A few hundred inputs each by default; with `--long` 100,000 (`BATCHLING_FUZZ_INPUTS` says another number).
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchling import journal, limits, schema
from batchling.collect import Join, Row, Verdict
from batchling.config import compose, find_project
from batchling.errors import BatchlingError, ConfigError, DataError, JournalError, PromptError, SchemaError
from batchling.local.replies import ApiError
from batchling.local.upload import Upload
from batchling.models import KEY_LENGTH, Outcome, Response, RowState
from batchling.prompt import RenderError, compile_prompt
from batchling.providers.openai.decode import decode
from batchling.runner.broken import folded
from batchling.runner.folder import PlanFolder
from batchling.source import read, snapshot
from batchling.spec import DataConfig, SchemaConfig

LONG = int(os.environ.get("BATCHLING_FUZZ_INPUTS", "100000"))
KEY = "k1-" + "0" * (KEY_LENGTH - 3)

numbers = st.integers() | st.sampled_from([2**53, 2**63, -(2**63) - 1, 2**64, 10**400, -1, True]) | st.floats()
scalars = (
    st.none() | st.booleans() | numbers | st.text(max_size=20) | st.sampled_from(["", "\ud800", "NaN", "1e5", "9" * 30])
)


def values(names: list[str]) -> st.SearchStrategy[Any]:
    """JSON values whose objects mostly have these names."""
    keys = st.sampled_from(names) | st.text(max_size=5)
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=6), max_leaves=25
    )


def damaged(text: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Texts as they are, cut, with bytes put in, with a piece doubled, and wrapped deeply."""

    def harm(data: bytes, how: int, at: int, piece: bytes, depth: int) -> bytes:
        at = at % (len(data) + 1)
        return (
            data,
            data[:at],
            data[:at] + piece + data[at:],
            data[:at] + data[at // 2 :],
            data[:at] + b"[" * depth + b"]" * depth + data[at:],
        )[how]

    return st.builds(
        harm,
        text,
        st.integers(0, 4),
        st.integers(0, 10_000),
        st.binary(max_size=6),
        st.sampled_from([1, 99, 101, 600, 2_000]),
    )


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def lane(strategy: st.SearchStrategy[Any], check: Callable[[Any], None], inputs: int) -> None:
    @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


def sized(few: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("inputs", [few, pytest.param(LONG, marks=pytest.mark.long)])


ANSWER_NAMES = [
    "custom_id", "response", "status_code", "body", "error", "choices", "message", "content", "finish_reason", "usage",
    "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens", "model", "output", "status", "data",
    "embedding", "refusal", "tool_calls", "code", "type", "text", "detail", "innererror", "incomplete_details", "reason",
]  # fmt: skip
lines = damaged(
    st.builds(
        lambda status, body, error: dumped(
            {"custom_id": KEY, "response": {"status_code": status, "body": body}, "error": error}
        ),
        st.sampled_from([200, 0, 429, 500, None, "200", 2e300]) | scalars,
        values(ANSWER_NAMES),
        st.none() | values(ANSWER_NAMES),
    )
    | values(ANSWER_NAMES).map(dumped)
    | st.binary(max_size=200)
)


def check_line(line: bytes) -> None:
    decode(line)
    join = Join([Row(KEY)], suffix="", judge=lambda response: Verdict(RowState.OK), shard=1, attempt=1, decode=decode)
    made = [*join.read("f", [line]), *join.finish()]
    assert len(made) == 1
    document = orjson.loads(made[0])
    assert document["outcome"] in set(Outcome)
    for name in ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"):
        assert document[name] is None or 0 <= document[name] < 2**53


@sized(300)
def test_the_decoder(inputs: int) -> None:
    lane(lines, check_line, inputs)


KINDS = [
    "plan_created", "planned", "session", "awaited", "learned", "uploaded", "create_intent", "created", "rejected", "fenced",
    "parked", "absent", "ended", "throttled", "collected", "closed", "dropped", "alias", "duplicate", "cancelling",
    "cancel_wanted", "cancel_requested", "finished",
]  # fmt: skip
EVENT_NAMES = [
    "shard", "attempt", "batch_id", "file_id", "rows", "bytes", "sha256", "lane", "status", "files", "counts", "usd",
    "kept", "retry", "again", "lost", "requests", "runs", "reason", "worst_usd",
]  # fmt: skip
events = st.lists(
    st.builds(
        lambda kind, fields: {"ts": 1.0, **fields, "kind": kind},
        st.sampled_from(KINDS) | scalars,
        st.dictionaries(st.sampled_from(EVENT_NAMES), st.integers(-1, 3) | values(EVENT_NAMES), max_size=8),
    ),
    max_size=5,
)


def journal_of(found: list[dict[str, Any]]) -> bytes:
    text = b""
    for number, event in enumerate(found, 1):
        rest = dumped({"seq": number, **event})[1:]
        text += b'{"crc":"%08x",' % zlib.crc32(rest) + rest + b"\n"
    return text


def check_journal(data: bytes) -> None:
    with suppress(JournalError):
        found, good = journal.parse(data, where="journal.jsonl")
        assert good <= len(data)
        folded(PlanFolder(Path("runs/20260101-000000-e-abcdef")), found)


@sized(300)
def test_the_journal(inputs: int) -> None:
    lane(events.map(journal_of) | damaged(events.map(journal_of)) | st.binary(max_size=300), check_journal, inputs)


def check_rows(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rows.jsonl").write_bytes(data)
        with suppress(BatchlingError):
            made = snapshot(DataConfig(path="rows.jsonl"), folder, folder / "out")
            taken = sum(len(list(chunk)) for chunk in read(made.path, [column.name for column in made.columns]))
            assert taken == made.rows


rows = st.lists(
    st.dictionaries(st.sampled_from(["id", "a", "b"]), values(["a", "x"]), max_size=3).map(dumped), max_size=4
)


@sized(50)
def test_json_lines(inputs: int) -> None:
    lane(damaged(rows.map(b"\n".join)) | st.binary(max_size=100), check_rows, inputs)


PIECES = [
    b"--B", b"--B--", b"\r\n", b"\n", b"--", b":", b"Content-Disposition: form-data; ", b'name="file"', b'name="purpose"',
    b'; filename="x"', b"; ", b"batch", b"\0", b"=", b'"', b"Content-Type: text/plain", b"a" * 9_000,
]  # fmt: skip


def check_form(given_form: tuple[str, bytes, int]) -> None:
    boundary, body, size = given_form

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    with tempfile.TemporaryDirectory() as name, suppress(ApiError):
        upload = Upload(boundary, Path(name) / "f", 5_000)
        try:
            asyncio.run(upload.read(chunks()))
        except ApiError as error:
            assert 400 <= error.status < 500
        finally:
            upload.discard()


forms = st.tuples(
    st.just("multipart/form-data; boundary=B")
    | st.text(st.characters(max_codepoint=255), max_size=60).map("multipart/form-data; {}".format),
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=30).map(b"".join),
    st.integers(1, 64),
)


@sized(300)
def test_multipart(inputs: int) -> None:
    lane(forms, check_form, inputs)


COLUMNS = ["a", "b.c", "größe"]
TOKENS = [
    "{", "}", "{{", "}}", "{%", "%}", "{#", "#}", "a", "b", ".", "[", "]", "0", "|", "!r", ":", " if ", " for ", " in ",
    " end", "tojson", "(", ")", "'", '"', ",", "+", "*", "**", "~", "{{ a }}", "{a}", "{b.c}", "{% if a %}", "{% endif %}",
    "{% for x in a %}", "{% endfor %}", "{% set x = a %}", "{% raw %}", "__class__", "\ud800", "\0", "größe",
]  # fmt: skip


def check_prompt(case: tuple[str, str, dict[str, Any]]) -> None:
    engine, text, row = case
    with suppress(PromptError, RenderError):
        prompt = compile_prompt([("user", text)], engine, COLUMNS)  # type: ignore[arg-type]
        for made in prompt.texts({name: row.get(name) for name in COLUMNS}):
            assert isinstance(made, str)


prompts = st.tuples(
    st.sampled_from(["format", "jinja"]),
    st.lists(st.sampled_from(TOKENS) | st.text(max_size=4), max_size=12).map("".join),
    st.dictionaries(st.sampled_from(COLUMNS), values(["a", "c"]), max_size=3),
)


@sized(200)
def test_prompts(inputs: int) -> None:
    lane(prompts, check_prompt, inputs)


SCHEMA_NAMES = [
    "type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "pattern",
    "minimum", "maximum", "multipleOf", "minItems", "format", "additionalProperties", "not", "description", "prefixItems",
]  # fmt: skip
SCHEMA_WORDS = ["object", "array", "string", "integer", "number", "null", "#", "#/$defs/a", "a", "date", "(", "[a-"]
schemas = st.recursive(
    scalars | st.sampled_from(SCHEMA_WORDS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*SCHEMA_NAMES, "a", "b"]), inner, max_size=5)
        | st.builds(
            lambda kind, more: {"type": kind, **more},
            st.sampled_from(SCHEMA_WORDS[:6]),
            st.dictionaries(st.sampled_from(SCHEMA_NAMES), inner, max_size=3),
        )
    ),
    max_leaves=20,
)
roots = st.builds(
    lambda properties, more: {"type": "object", "properties": properties, **more},
    st.dictionaries(st.sampled_from(["a", "b", "c"]), schemas, max_size=3),
    st.dictionaries(st.sampled_from(SCHEMA_NAMES), schemas, max_size=2),
)


def check_schema(case: tuple[Any, bytes]) -> None:
    document, answer = case
    with suppress(SchemaError):
        made = schema.compile(SchemaConfig(name="x"), document)
        if made is not None:
            made.judge(answer.decode("utf-8", "replace"))
            _ = made.duckdb_type


@sized(300)
def test_schemas(inputs: int) -> None:
    readable = damaged(roots.map(dumped)).map(_document)
    lane(st.tuples(roots | readable, damaged(values(["a", "b", "c"]).map(dumped))), check_schema, inputs)


def _document(text: bytes) -> Any:
    """As a schema file is read."""
    try:
        document = limits.loads_tolerantly(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


CONFIG = [
    "defaults:\n", "  - /base\n", "  - override /model: simulated\n", "  - _self_\n", "name: e\n", "data:\n", "  rows:\n",
    "    - {a: 1}\n", "prompt:\n", "  messages:\n", "    - {role: user, content: hi}\n", "model:\n", "  id: x\n",
    "  max_output_tokens: 5\n", "schema:\n", "  fields: {a: str}\n", "budget: {usd: 1}\n", "repeats: 2\n", "x: ${name}\n",
    "y: ${oc.env:HOME}\n", "z: ${z}\n", "!!python/object:os.system\n", "? [a]\n", "- b\n", "\t", "---\n", "{", "}", "%",
    "tokens: off\n", "retry: 1e400\n", "limits: [1]\n", "2001-99-99: 1\n", "name: !!binary x\n", "1: 2\n", "null: 3\n",
    "metrics: {m: 'avg(x)'}\n", "provider: {name: local, base_url: 5}\n",
]  # fmt: skip


@sized(20)
def test_config(inputs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "experiments" / "e" / "config.yaml"
    file.parent.mkdir(parents=True)

    def check(case: tuple[str, str]) -> None:
        text, override = case
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(ConfigError, SchemaError, PromptError, DataError):
            compose("e", [override] if override else [], project=find_project(tmp_path))

    texts = st.lists(st.sampled_from(CONFIG) | st.text(max_size=8), max_size=14).map("".join)
    whole = st.lists(st.sampled_from(CONFIG), max_size=4).map(lambda more: "".join(CONFIG[:11]) + "".join(more))
    overrides = (
        st.just("")
        | st.text(max_size=12)
        | st.sampled_from(
            [
                "model=",
                "+a=b",
                "~model",
                "data.rows=[[[[",
                "name=${name}",
                "repeats=1e999",
                "data.rows.0.a={b:c}",
                "x=" + "[" * 600,
            ]
        )
    )
    lane(st.tuples(texts | whole, overrides), check, inputs)


def test_the_lanes_would_notice() -> None:
    """A check that lets everything pass would find nothing."""

    def broken(line: bytes) -> None:
        response = decode(line)
        if isinstance(response, Response) and response.outcome is Outcome.ERROR:
            raise KeyError("x")

    with pytest.raises(KeyError):
        lane(lines, broken, 200)
