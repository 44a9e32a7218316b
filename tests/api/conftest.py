"""A project with one experiment whose schema is a pydantic class."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFIG = """\
defaults:
  - /base
  - _self_
name: people
data:
  rows: [{name: Ada}, {name: Bob}, {name: Cleo}]
prompt:
  messages: [{role: user, content: "Describe {name}"}]
schema:
  pydantic: people_schema.py:Person
metrics:
  adult: output.age >= 18
tokens: "off"
"""

SCHEMA = """\
from pydantic import BaseModel, Field

class Person(BaseModel):
    age: int = Field(ge=0, le=99)
    tags: list[str]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "experiments" / "people").mkdir(parents=True)
    (folder / "experiments" / "people" / "config.yaml").write_text(CONFIG)
    (folder / "experiments" / "people" / "people_schema.py").write_text(SCHEMA)
    monkeypatch.chdir(folder)
    for name in ("BATCHLING_RUNS", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder
