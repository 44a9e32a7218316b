"""What is checked before anything is sent, and what leaves the catalog for other programs."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from batchling.errors import BatchlingError, SchemaError, UsageError
from tests.servers.batches import answered
from tests.workbench import Workbench


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema in a schema."""
    found = []
    if isinstance(schema, dict):
        if schema.get("type") in ("object", ["object", "null"]):
            found.append(schema)
        for part in schema.values():
            found += objects(part)
    elif isinstance(schema, list):
        for part in schema:
            found += objects(part)
    return found


OPTIONAL = """\
from typing import Literal, Optional
from pydantic import BaseModel

class Inner(BaseModel):
    place: Optional[str] = None

class Answer(BaseModel):
    label: Literal["a", "b"]
    note: Optional[str] = None
    count: int = 3
    inner: Inner = Inner()
"""


def test_23_a_schema_sent_as_strict_satisfies_the_strict_rules(bench: Workbench) -> None:
    bench.write({"experiments/ask/answer.py": OPTIONAL})
    bench.server.row = lambda r: answered(r, '{"label": "a", "note": null, "count": 1, "inner": {"place": null}}')
    outcome = bench.run("schema.fields=null", "schema.pydantic=answer.py:Answer")
    assert outcome.exit_code == 0
    sent = bench.server.sent()[0]["body"]["response_format"]["json_schema"]
    assert sent["strict"] is True
    for part in objects(sent["schema"]):
        assert part["additionalProperties"] is False
        assert sorted(part["required"]) == sorted(part["properties"])
    assert "default" not in json.dumps(sent["schema"])


def test_23_what_strict_cannot_say_is_an_error_before_anything_is_made(bench: Workbench) -> None:
    bench.write({"experiments/ask/open.json": '{"type": "object", "additionalProperties": {"type": "string"}}'})
    with pytest.raises(SchemaError):
        bench.run("schema.fields=null", "schema.json_schema=open.json")
    assert (bench.plans, bench.server.log) == ([], [])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"id": "x", "text": "1"}, {"id": "x", "text": "2"}], ["x"]),
        ([], ["row"]),
        ([{"id": "a", "text": "fine"}, {"id": "the-long-one", "text": "y" * 5000}], ["the-long-one"]),
        ([{"id": "a", "text": "fine"}, {"id": "the-empty-one", "text": ""}], ["the-empty-one"]),
    ],
    ids=["duplicate id", "no rows", "row over the line limit", "empty prompt"],
)
def test_24_bad_rows_are_named_at_plan_time(bench: Workbench, rows: list[dict[str, str]], words: list[str]) -> None:
    bench.rows(rows)
    with pytest.raises(UsageError) as caught:
        bench.run("prompt.messages=[{role: user, content: '{text}'}]", "provider.limits.max_line_bytes=4000")
    assert all(word in str(caught.value) for word in words), caught.value
    assert (bench.plans, bench.server.log) == ([], [])


def test_25_one_file_has_one_model_and_one_endpoint_no_bom_no_blank_line_and_no_stream(bench: Workbench) -> None:
    bench.rows(4)
    outcome = bench.run("model.id=m-1,m-2", multirun=True)
    assert outcome.exit_code == 0
    assert bench.server.creates == 2
    for content in bench.server.uploads.values():
        assert not content.startswith(b"\xef\xbb\xbf")
        lines = content.split(b"\n")
        assert lines.pop() == b"" and all(lines)
        requests = [json.loads(line) for line in lines]
        assert len({r["body"]["model"] for r in requests}) == len({r["url"] for r in requests}) == 1
        assert not any("stream" in r["body"] for r in requests)


def test_25_a_request_that_asks_to_be_streamed_is_refused(bench: Workbench) -> None:
    with pytest.raises(BatchlingError, match="stream"):
        bench.run("model.params={stream: true}")
    assert bench.server.log == []


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1"]


def test_26_cells_that_look_like_formulas_are_quoted_in_csv_exports(bench: Workbench) -> None:
    bench.rows([{"id": f"r{n}", "text": text} for n, text in enumerate(FORMULAS)])
    bench.server.row = lambda r: answered(r, r["body"]["messages"][-1]["content"])
    bench.run("schema.fields=null", "prompt.messages=[{role: user, content: '{text}'}]")
    exported = bench.cli("results", "ask", "--format", "csv", "-o", "out.csv")
    assert exported.returncode == 0, exported.stderr
    content = (bench.root / "out.csv").read_bytes().decode()
    cells = [cell for row in csv.reader(io.StringIO(content, newline="")) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    assert sum("SUM(1)" in cell for cell in cells) == 2


def test_26_escapes_in_answers_prompts_and_errors_are_inert_on_the_terminal(bench: Workbench) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m</script><b>"
    bench.rows([{"id": f"r{n}{evil}", "text": f"{n}{evil}"} for n in range(3)])
    bench.server.row = lambda r: (
        answered(r, evil)
        if bench.server.answered.total() < 2
        else {"custom_id": r["custom_id"], "response": None, "error": {"code": evil, "message": evil}}
    )
    ran = bench.cli("run", "--yes", *bench.arguments("schema.fields=null", "limits.poll_seconds=0.02"))
    assert ran.returncode == 3, ran.stderr
    plan = bench.plans[-1].name
    for arguments in (
        ("status", plan),
        ("results", plan),
        ("results", plan, "--format", "jsonl"),
        ("plan", "--show", "2", *bench.arguments("schema.fields=null")),
        ("query", "select text, error, data from records"),
    ):
        shown = bench.cli(*arguments)
        assert shown.returncode == 0, shown.stderr
        assert not set("\x1b\x07\x9b") & set(shown.stdout + shown.stderr), arguments
    assert "\x1b" not in ran.stdout + ran.stderr
