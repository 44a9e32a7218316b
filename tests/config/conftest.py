"""A project in a temporary folder, written file by file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from batchling.config import Project, find_project

Write = Callable[[Mapping[str, str]], Project]

HELLO = """\
defaults:
  - /base
  - override /model: simulated
  - _self_

name: hello
data:
  rows:
    - {name: John Doe}
    - {name: Jane Doe}
prompt:
  messages:
    - {role: user, content: "Hello {name}"}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into a project that has the experiment `hello`, and makes it the working directory."""
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)

    def files(contents: Mapping[str, str]) -> Project:
        for name, text in {"experiments/hello/config.yaml": HELLO, **contents}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return find_project(tmp_path)

    return files


@pytest.fixture
def project(write: Write) -> Project:
    return write({})
