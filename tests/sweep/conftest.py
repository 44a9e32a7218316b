"""A project with one experiment, and `batchling serve`'s server beside it; the client's clock moves by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchling.api import verbs
from batchling.api.outcome import Outcome, PlanReport
from batchling.catalog import query
from batchling.config import Project, find_project
from batchling.local.options import ServerOptions
from batchling.local.server import LocalServer, start_in_process

EXPERIMENT = """\
defaults:
  - /base
  - override /model: custom
  - override /provider: local
  - override /prompt: plain
  - _self_

name: ask
data:
  path: rows.jsonl
  id: id
model:
  id: m-1
schema:
  fields: {label: {enum: [a, b]}}
metrics:
  right: output.label = data.label
"""

PROMPTS = {
    "plain": 'messages: [{role: user, content: "{text}"}]\n',
    "polite": 'messages: [{role: user, content: "Please: {text}"}]\n',
    "brief": 'messages: [{role: system, content: "One word."}, {role: user, content: "{text}"}]\n',
}


class Hands:
    """The client's clock: a wait is over at once. The servers' clock may be the same one."""

    def __init__(self) -> None:
        self.wall = time.time()
        self.passed = 0.0

    def time(self) -> float:
        return self.wall + self.passed

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@dataclass
class Lab:
    """The project and how it is used."""

    root: Path
    clock: Hands
    stack: ExitStack
    servers: list[LocalServer] = field(default_factory=list)

    @property
    def project(self) -> Project:
        return find_project(self.root)

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def write(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def rows(self, n: int, *, words: int = 3, first: int = 0) -> None:
        rows = [
            {"id": f"r{i}", "text": " ".join([f"row {i}", *["word"] * words]), "label": "ab"[i % 2]}
            for i in range(first, first + n)
        ]
        self.write({"experiments/ask/rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})

    def serve(self, name: str = "server", **options: Any) -> LocalServer:
        server = start_in_process(ServerOptions(state_dir=self.root / name, token=None, **options))
        self.stack.callback(server.stop)
        self.servers.append(server)
        return server

    def serve_slowly(self, **options: Any) -> LocalServer:
        """A server whose rows take ten minutes of the client's clock: out as long as no command waits for them."""
        return self.serve(row_seconds=600.0, now=self.clock.time, **options)

    def arguments(self, overrides: tuple[str, ...]) -> list[str]:
        if not self.servers:
            return list(overrides)
        return [f"provider.base_url={self.servers[0].base_url}", "provider.engine=null", *overrides]

    def run(self, *overrides: str, **options: Any) -> Outcome:
        self.clock.passed += 2  # a plan's id begins with its second
        return verbs.run("ask", self.arguments(overrides), multirun=True, project=self.project, **options)

    def plan(self, *overrides: str, **options: Any) -> PlanReport:
        return verbs.plan("ask", self.arguments(overrides), multirun=True, project=self.project, **options)

    def document(self, outcome: Outcome) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads((outcome.folder / "plan.json").read_bytes())
        return found

    def events(self, folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        return [event for event in events if kind is None or event["kind"] == kind]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with query(self.runs, sql) as result:
            return [tuple(row) for row in result]

    def sent_keys(self, folder: Path) -> list[str]:
        """Keys of every request line that a batch was made of, as often as it was sent."""
        created = {(e["shard"], e["attempt"]) for e in self.events(folder, "created")}
        refused = {(e["shard"], e["attempt"]) for e in self.events(folder, "throttled")}
        keys = []
        for shard, _ in sorted(created - refused):
            lines = (folder / "requests" / f"{shard:04d}.index.csv").read_text().splitlines()[1:]
            keys += [line.split(",")[0] for line in lines]
        return keys


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr("batchling.clock.time", hands)
    return hands


@pytest.fixture
def lab(tmp_path: Path, clock: Hands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        made = Lab(tmp_path, clock, stack)
        made.write({"experiments/ask/config.yaml": EXPERIMENT})
        made.write({f"experiments/ask/prompt/{name}.yaml": text for name, text in PROMPTS.items()})
        made.rows(6)
        yield made
