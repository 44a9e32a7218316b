"""A stranger's project, keys in the environment, and a server that writes down whatever arrives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchling.cli import main
from tests.servers.batches import BatchServer

CANARIES = {
    "OPENAI_API_KEY": "sk-" + "canaryQ7w3Zt9XkP2mVb8Nf4Ld",
    "GROQ_API_KEY": "gsk_" + "canaryH5j2Lx8RwT6nBc1Vm9Ke",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
}

CONFIG = """\
defaults:
  - /base
  - override /model: custom
  - override /provider: openai
  - _self_
name: ask
data:
  rows: [{text: one}, {text: two}]
model:
  id: m-1
  max_output_tokens: 20
  price: {input: 1.0, output: 2.0}
limits: {poll_seconds: 0.01, settle_seconds: 0}
prompt:
  messages: [{role: user, content: "Which one is {text}?"}]
"""


@dataclass
class Answer:
    """What a command wrote and returned."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / "experiments" / "ask").mkdir(parents=True)
    (folder / "experiments" / "ask" / "config.yaml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in ("BATCHLING_RUNS", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with BatchServer() as made:
        yield made


@pytest.fixture
def cli(project: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process, with nobody at the terminal."""

    def run(*args: str) -> Answer:
        capfd.readouterr()
        code = main(args)
        sys.stdout.flush()
        written = capfd.readouterr()
        return Answer(code, written.out, written.err)

    return run


def arrived(server: BatchServer) -> str:
    """Everything that a server got: request lines, headers, bodies."""
    return "\n".join(f"{r.method} {r.path} {r.query} {r.headers} {r.body!r}" for r in server.log)
