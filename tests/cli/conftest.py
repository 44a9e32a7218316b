"""A project in a folder of its own, and the command line run in this process or as one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchling.cli import main
from batchling.local.options import ServerOptions
from batchling.local.server import LocalServer, start_in_process

CONFIG = """\
defaults:
  - /base
  - _self_
name: names
data:
  rows: [{name: Ada}, {name: Bob}, {name: Cleo}]
prompt:
  messages: [{role: user, content: "Label {name}"}]
schema:
  fields: {label: {enum: [a, b]}}
metrics:
  share_a: output.label = 'a'
tokens: "off"
"""


@dataclass
class Answer:
    """What a command wrote and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Answer]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one experiment, `names`: three rows, a schema, a metric. The working directory is in it."""
    folder = tmp_path / "project"
    (folder / "experiments" / "names").mkdir(parents=True)
    (folder / "experiments" / "names" / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    for name in ("BATCHLING_RUNS", "OPENAI_API_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def cli(project: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process."""

    def run(*args: str) -> Answer:
        capfd.readouterr()
        code = main(args)
        sys.stdout.flush()
        written = capfd.readouterr()
        return Answer(code, written.out, written.err)

    return run


@pytest.fixture
def started(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command as a process of its own, its streams piped."""
    processes: list[subprocess.Popen[str]] = []

    def start(*args: str, **more: Any) -> subprocess.Popen[str]:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | more
        process = subprocess.Popen([sys.executable, "-m", "batchling", *args], text=True, cwd=project, **streams)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def slow_server(tmp_path: Path) -> Iterator[LocalServer]:
    """A server whose batches are never done."""
    with start_in_process(ServerOptions(state_dir=tmp_path / "server", token=None, row_seconds=3600.0)) as server:
        yield server


def plan_ids(project: Path) -> list[str]:
    return sorted(path.parent.name for path in (project / "runs").glob("*/plan.json"))


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **more}
