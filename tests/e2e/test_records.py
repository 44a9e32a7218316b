"""Records are a function of what was received: what was made of an answer is stored once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
