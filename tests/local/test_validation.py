from __future__ import annotations

import orjson
import pytest

from batchling.local.options import ServerOptions
from batchling.local.validation import MAX_ERRORS
from batchling.spec import EngineConfig

from .conftest import Lab, chat_line, chat_lines

ECHO = EngineConfig(kind="echo")
GOOD = chat_line("good")


def changed(**changes: object) -> bytes:
    return orjson.dumps({**orjson.loads(chat_line("changed")), **changes}) + b"\n"


BAD_LINES = {
    "bad JSON": (b'{"custom_id": \n', "invalid_json_line", None),
    "not an object": (b"[1]\n", "invalid_json_line", None),
    "NaN": (b'{"custom_id": NaN}\n', "invalid_json_line", None),
    "invalid UTF-8": (b'{"custom_id": "\xff"}\n', "invalid_json_line", None),
    "a lone surrogate": (b'{"custom_id": "\\ud800"}\n', "invalid_json_line", None),
    "nested too deep": (b"[" * 100_000 + b"\n", "invalid_json_line", None),
    "a blank line": (b"\n", "invalid_json_line", None),
    "no custom_id": (changed(custom_id=None), "missing_required_parameter", "custom_id"),
    "a number as custom_id": (changed(custom_id=7), "invalid_type", "custom_id"),
    "a duplicate custom_id": (GOOD, "duplicate_custom_id", "custom_id"),
    "no url": (changed(url=None), "missing_required_parameter", "url"),
    "another url": (changed(url="/v1/embeddings"), "url_mismatch", "url"),
    "another method": (changed(method="GET"), "invalid_method", "method"),
    "no body": (changed(body=None), "missing_required_parameter", "body"),
    "a body that is no object": (changed(body="text"), "invalid_type", "body"),
    "no model": (changed(body={"messages": []}), "missing_required_parameter", "body.model"),
    "another model": (chat_line("other", model="n"), "mismatched_model", "body.model"),
    "a stream": (chat_line("stream", stream=True), "invalid_request", "body.stream"),
}


@pytest.mark.parametrize(("line", "code", "param"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_fails_the_batch_with_code_line_and_param(
    echo: Lab, line: bytes, code: str, param: str | None
) -> None:
    batch = echo.submit(GOOD + line + chat_line("last"))
    assert batch.status == "validating"
    batch = echo.ended(batch)
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None and batch.errors.data is not None
    (error,) = batch.errors.data
    assert (error.code, error.line, error.param) == (code, 2, param)
    assert error.message
    assert (batch.output_file_id, batch.error_file_id) == (None, None)


@pytest.mark.parametrize(
    ("data", "options", "code", "line"),
    [
        (b"", {}, "empty_file", None),
        (b"\xef\xbb\xbf" + GOOD, {}, "invalid_json_line", 1),
        (chat_lines(4), {"max_requests": 3}, "too_many_tasks", None),
        (chat_lines(4), {"max_file_bytes": 100}, "file_too_large", None),
        (GOOD + chat_line("long", "x" * 2_000), {"max_line_bytes": 1_000}, "line_too_large", 2),
    ],
    ids=["empty", "byte order mark", "too many", "too large", "line too long"],
)
def test_a_bad_file_fails_the_batch(
    lab: Lab, data: bytes, options: dict[str, int], code: str, line: int | None
) -> None:
    lab.start(engine=ECHO, **options)
    batch = lab.run(data)
    assert batch.status == "failed"
    assert batch.errors is not None and batch.errors.data is not None
    assert [(e.code, e.line) for e in batch.errors.data] == [(code, line)]


def test_every_bad_line_is_listed_up_to_a_limit(echo: Lab) -> None:
    batch = echo.run(b"no\n" * (MAX_ERRORS + 50))
    assert batch.errors is not None and batch.errors.data is not None
    assert [e.line for e in batch.errors.data] == list(range(1, MAX_ERRORS + 1))


def test_embedding_inputs_are_counted_over_all_lines(lab: Lab) -> None:
    lab.start(engine=ECHO, max_requests=5)
    lines = [
        {"custom_id": f"{i}", "method": "POST", "url": "/v1/embeddings", "body": {"model": "e", "input": ["a", "b"]}}
        for i in range(3)
    ]
    batch = lab.run(b"".join(orjson.dumps(line) + b"\n" for line in lines), "/v1/embeddings")
    assert batch.errors is not None and batch.errors.data is not None
    assert [e.code for e in batch.errors.data] == ["too_many_tasks"]


def test_the_limits_are_openais_unless_told_otherwise(tmp_path: object) -> None:
    options = ServerOptions(state_dir=tmp_path)  # type: ignore[arg-type]
    assert (options.max_requests, options.max_file_bytes) == (50_000, 200_000_000)


def test_a_last_line_without_newline_and_windows_line_ends_are_fine(echo: Lab) -> None:
    data = GOOD[:-1] + b"\r\n" + chat_line("second", "a\u2028b\u0085c")[:-1]
    batch = echo.run(data)
    assert batch.status == "completed"
    assert [line["custom_id"] for line in echo.lines(batch.output_file_id)] == ["good", "second"]
