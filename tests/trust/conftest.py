"""A stranger's project, keys in the environment, and a server that writes down whatever arrives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchling import consent
from batchling.cli import main
from batchling.disk import RealDisk
from batchling.journal import decode, encode
from batchling.runner.folder import PlanFolder
from batchling.runner.sealing import digests
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
    monkeypatch.setattr("batchling.consent.machine_folder", lambda: tmp_path / "machine")
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


def reseal(plan: Path) -> None:
    """What a stranger does who changed a plan's files: the hashes in its journal are made to fit."""
    lines = (plan / "journal.jsonl").read_bytes().splitlines(keepends=True)
    event = decode(lines[0].rstrip(b"\n"))
    assert event is not None
    event["files"] = digests(RealDisk(), PlanFolder(plan))
    (plan / "journal.jsonl").write_bytes(encode(event) + b"".join(lines[1:]))


def unseal(plan: Path) -> None:
    """The plan as version 0.1.0 would have made it: without hashes."""
    lines = (plan / "journal.jsonl").read_bytes().splitlines(keepends=True)
    event = decode(lines[0].rstrip(b"\n"))
    assert event is not None
    del event["files"]
    (plan / "journal.jsonl").write_bytes(encode(event) + b"".join(lines[1:]))


def travelled(project: Path) -> None:
    """The runs folder as somebody else has it who got it: the plans in it are none of theirs."""
    for place in (consent.user_folder(), consent.machine_folder()):
        (place / "plans").unlink(missing_ok=True)
    consent._HERE.clear()
    for path in (project / "runs").glob("catalog*"):
        path.unlink()
