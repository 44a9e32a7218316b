"""Records are a function of what was received: what was made of an answer is stored once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchling import duck

SCHEMA = """
import datetime, pathlib, uuid
from typing import Literal
from pydantic import BaseModel, Field, field_validator

COUNT = pathlib.Path(__file__).parent.joinpath("validated.txt")

class Tags(BaseModel):
    tags: set[Literal["red", "green", "blue", "black", "white", "amber", "violet", "ochre"]] = Field(min_length=3)
    text: str
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    at: datetime.datetime = Field(default_factory=datetime.datetime.now)

    @field_validator("text")
    @classmethod
    def count(cls, text):
        return text + " " + uuid.uuid4().hex
"""
# What the class gives by itself is not asked for: the answers leave it out.
TAGS = """
defaults: [/base, _self_]
name: tags
data: {rows: [{text: a}, {text: b}, {text: c}]}
prompt: {messages: [{role: user, content: "{text}"}]}
schema: {pydantic: "schema.py:Tags"}
retry: {repair: false}
"""
JUDGE = """
defaults: [/base, _self_]
name: judge
data: {run: tags, where: "state = 'ok'"}
prompt: {messages: [{role: user, content: "{output.tags} {output.text} {output.id} {output.at}"}]}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    files = {
        "conf/.keep": "",
        "experiments/tags/config.yaml": TAGS,
        "experiments/tags/schema.py": SCHEMA,
        "experiments/judge/config.yaml": JUDGE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def batchling(project: Path, *words: str, seed: int = 0) -> str:
    """Runs a command in a process of its own, with a hash seed of its own."""
    environ = {**os.environ, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-m", "batchling", *words]
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return done.stdout


def records(project: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(project.glob("runs/*/records.parquet"))}


def test_a_rebuild_gives_the_same_bytes_and_buys_nothing_downstream(project: Path) -> None:
    batchling(project, "run", "tags", seed=1)
    batchling(project, "run", "judge", seed=1)
    before = records(project)
    (project / "runs/catalog.duckdb").unlink()
    batchling(project, "doctor", "--rebuild", seed=3)
    assert records(project) == before
    assert "nothing sent" in batchling(project, "run", "judge", seed=4)


def test_a_new_plan_that_reuses_the_answers_has_what_was_made_of_them(project: Path) -> None:
    batchling(project, "run", "tags", seed=1)
    batchling(project, "run", "tags", "+metrics.tries=attempts", seed=2)
    plans = sorted(path.parent.name for path in project.glob("runs/*/plan.json"))
    assert len(plans) == 2
    first, second = (
        [json.loads(line)["output"] for line in batchling(project, "results", plan).splitlines()] for plan in plans
    )
    assert first == second
    assert any(first)


ROWS = (
    '{"id": "1", "order": {"a": 1, "price": 1.10}, "n": 1.0, "tags": [{"x": 1}, {"y": 2}]}',
    '{"id": "2", "order": {"b": [null, 2]}, "n": 12345678901234567890123, "tags": []}',
    '{"id": "3", "order": {"a": 2, "b": [1], "price": 3.5}, "n": 3, "tags": null}',
)
RAGGED = """
defaults: [/base, override /model: simulated, _self_]
name: ragged
data: {path: rows.jsonl, id: id}
prompt: {messages: [{role: user, content: "{order}"}]}
"""
CHAINED = """
defaults: [/base, override /model: simulated, _self_]
name: chained
data: {run: ragged}
prompt: {messages: [{role: user, content: "{data.order} {data.n} {data.tags} {data.order.price}"}]}
"""
TOLD = (
    '{"a": 1, "price": 1.10} 1.0 [{"x": 1}, {"y": 2}] 1.10',
    '{"b": [null, 2]} 12345678901234567890123 [] ',
    '{"a": 2, "b": [1], "price": 3.5} 3  3.5',
)


@pytest.fixture
def ragged(tmp_path: Path) -> Path:
    files = {
        "conf/.keep": "",
        "experiments/ragged/config.yaml": RAGGED,
        "experiments/ragged/rows.jsonl": "\n".join(ROWS) + "\n",
        "experiments/ragged/others.jsonl": "\n".join(ROWS[:2]) + '\n{"id": "4", "order": {"c": 1}, "more": [{}]}\n',
        "experiments/chained/config.yaml": CHAINED,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def asked(project: Path, rows: int) -> list[str]:
    """The user messages of `chained`, in order."""
    shown = batchling(project, "plan", "chained", "--show", str(rows))
    found = [line.strip() for line in shown.splitlines() if line.strip().startswith('"content": ')]
    return [json.loads("{" + line + "}")["content"] for line in found]


@pytest.mark.parametrize("ids", [(0, 1, 2), (1,)])
def test_exports_and_later_experiments_see_the_keys_and_digits_of_each_row(ragged: Path, ids: tuple[int, ...]) -> None:
    (ragged / "experiments/ragged/rows.jsonl").write_text("".join(ROWS[i] + "\n" for i in ids))
    batchling(ragged, "run", "ragged")
    lines = batchling(ragged, "results", "ragged").splitlines()
    written = [ROWS[i].replace(" ", "") for i in ids]
    assert [line.partition('"data":')[2].partition(',"text"')[0] for line in lines] == written
    shown = batchling(ragged, "query", "select data from records order by row", "--format", "jsonl").splitlines()
    assert [json.loads(line)["data"] for line in shown] == written
    cells = list(csv.DictReader(batchling(ragged, "results", "ragged", "--format", "csv").splitlines()))
    for row, i in zip(cells, ids, strict=True):
        order = ROWS[i].partition('"order": ')[2].partition(', "n"')[0]
        number = ROWS[i].partition('"n": ')[2].partition(",")[0]
        assert (row["data.order"], row["data.n"]) == (order.replace(" ", ""), number)
    if len(ids) > 1:
        batchling(ragged, "results", "ragged", "--format", "parquet", "-o", "out.parquet")
        with duck.connect() as con:
            of = con.execute(f"SELECT data.order::VARCHAR FROM read_parquet('{ragged / 'out.parquet'}')").fetchall()
        assert [text for (text,) in of] == [row["data.order"] for row in cells]
        assert asked(ragged, len(ids)) == [TOLD[i] for i in ids]


def test_runs_over_rows_of_different_types_keep_each_rows_own_json(ragged: Path) -> None:
    batchling(ragged, "run", "ragged", "-m", "data.path=rows.jsonl,others.jsonl")
    lines = batchling(ragged, "results", "ragged").splitlines()
    data = [line.partition('"data":')[2].partition(',"text"')[0] for line in lines]
    assert data[:3] == [row.replace(" ", "") for row in ROWS]
    assert data[3] == ROWS[0].replace(" ", "").removesuffix("}") + ',"more":null}'
    assert data[5] == '{"id":"4","order":{"c":1},"n":null,"tags":null,"more":[{}]}'


def test_records_of_an_earlier_version_can_be_read(ragged: Path) -> None:
    batchling(ragged, "run", "ragged")
    (path,) = ragged.glob("runs/*/records.parquet")
    with duck.connect() as con:
        con.execute(f"COPY (SELECT * EXCLUDE (written) FROM read_parquet('{path}')) TO '{path}.old' (FORMAT parquet)")
    path.with_name("records.parquet.old").replace(path)
    first = json.loads(batchling(ragged, "results", "ragged").splitlines()[0])
    assert first["data"]["order"] == {"a": 1, "price": 1.1, "b": None}
    assert asked(ragged, 3)[2] == '{"a": 2, "price": 3.5, "b": [1]} 3.0  3.5'


TYPED = """SELECT 1 AS id, '2024-01-02 03:04:05.123456789'::TIMESTAMP_NS AS t, '2024-01-02 03:04:05.5'::TIMESTAMP_NS AS u,
{'d': 1.10::DECIMAL(4, 2), 'e': []::FLOAT[], 'm': MAP {'a "b"': 2.50::DECIMAL(4, 2)}, 'no': NULL::FLOAT} AS s,
[-0.50::DECIMAL(4, 2), NULL] AS l, 0.1::FLOAT AS f, [0.1::FLOAT] AS fl, NULL::FLOAT[] AS none, 1.10::DECIMAL(4, 2) AS d"""


def test_numbers_and_times_of_parquet_keep_their_digits(ragged: Path) -> None:
    with duck.connect() as con:
        con.execute(f"COPY ({TYPED}) TO '{ragged / 'experiments/ragged/rows.parquet'}' (FORMAT parquet)")
    config = ragged / "experiments/ragged/config.yaml"
    config.write_text(RAGGED.replace("rows.jsonl", "rows.parquet").replace("{order}", "{t} {u} {d} {f} {fl}"))
    shown = batchling(ragged, "plan", "ragged", "--show", "1")
    assert '"2024-01-02T03:04:05.123456789 2024-01-02T03:04:05.500000 1.10 0.1 [0.1]"' in shown
    batchling(ragged, "run", "ragged")
    line = batchling(ragged, "results", "ragged")
    assert (
        '"s":{"d":1.10,"e":[],"m":{"a \\"b\\"":2.50},"no":null},"l":[-0.50,null],"f":0.1,"fl":[0.1],"none":null,"d":1.10}'
        in line
    )
    (row,) = csv.DictReader(batchling(ragged, "results", "ragged", "--format", "csv").splitlines())
    assert row["data.s"] == '{"d":1.10,"e":[],"m":{"a \\"b\\"":2.50},"no":null}'
    assert (row["data.l"], row["data.fl"], row["data.none"], row["data.d"]) == ("[-0.50,null]", "[0.1]", "", "1.10")
