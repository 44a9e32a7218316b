"""A project in a temporary folder, a provider on a real socket, and the whole of batchling between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchling.api import verbs
from batchling.api.outcome import Outcome
from batchling.catalog import query
from batchling.config import Project, find_project
from tests.commands import completed
from tests.servers.batches import BatchServer

KEY_VARIABLE = "WORKBENCH_KEY"
KEY = "sk-workbench-0123456789abcdefghijklmnop"

EXPERIMENT = """\
defaults:
  - /base
  - override /model: custom
  - override /provider: compatible
  - _self_

name: ask
data:
  path: rows.jsonl
  id: id
model:
  id: m-1
  max_output_tokens: 50
  price: {input: 1.0, output: 2.0}
prompt:
  messages:
    - {role: user, content: "Which one is {text}?"}
schema:
  fields: {label: {enum: [a, b]}}
retry:
  repair: false
"""


ENDLESS = 400
"""Sleeps after which a test is taken for one that waits for ever."""


class Hands:
    """The machine's clock, moved by whoever sleeps: a wait of an hour is over at once.

    Takes the place of the module `time` in `batchling.clock`.
    """

    def __init__(self) -> None:
        self.wall = time.time()
        self.passed = 0.0
        self.sleeps = 0

    def time(self) -> float:
        return self.wall + self.passed

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds
        self.sleeps += 1
        if self.sleeps > ENDLESS:
            raise AssertionError(f"slept {ENDLESS:,} times, {self.passed:,.0f} s in all: this does not end")


@dataclass
class Workbench:
    """A project and how it is used. `server`: the provider that its experiments talk to."""

    root: Path
    server: BatchServer
    clock: Hands
    overrides: list[str] = field(default_factory=list)

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

    def rows(self, rows: Sequence[Mapping[str, Any]] | int, *, name: str = "ask") -> None:
        """The experiment's data; a number: that many plain rows."""
        if isinstance(rows, int):
            rows = [{"id": f"r{n}", "text": f"number {n}"} for n in range(rows)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.write({f"experiments/{name}/rows.jsonl": text})

    def arguments(self, *overrides: str, name: str = "ask") -> list[str]:
        return [
            name,
            f"provider.base_url={self.server.url}",
            f"provider.api_key_env={KEY_VARIABLE}",
            *self.overrides,
            *overrides,
        ]

    def run(self, *overrides: str, name: str = "ask", **options: Any) -> Outcome:
        """`batchling run`, in this process."""
        experiment, *given = self.arguments(*overrides, name=name)
        return verbs.run(experiment, given, project=self.project, **options)

    def watch(self, plan: str | None = None) -> list[Outcome]:
        return verbs.watch(plan, runs=self.runs)

    def start(self, *arguments: str, environ: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """The command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "batchling", *arguments],
            cwd=self.root,
            env=clean_environ({KEY_VARIABLE: KEY, **(environ or {})}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def cli(self, *arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """What the command says and returns; in a process of its own that has nothing left to import."""
        return completed(arguments, self.root, clean_environ({KEY_VARIABLE: KEY, **(environ or {})}))

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return list(query(self.runs, sql))

    def records(self, outcome: Outcome | None = None) -> dict[str, dict[str, Any]]:
        """row_id → record, of a plan or of the newest."""
        plan_id = outcome.plan_id if outcome is not None else self.plans[-1].name
        names = ("row_id", "state", "output", "text", "error", "attempts", "cost_usd", "request_key")
        found = self.query(
            f"select {', '.join(names)} from records where run_id like '{plan_id[-6:]}-%' order by row_id, repeat"
        )
        records = {}
        for row in found:
            record = dict(zip(names, row, strict=True))
            if isinstance(record["output"], str):
                record["output"] = json.loads(record["output"])
            records[record["row_id"]] = record
        return records

    def states(self, outcome: Outcome | None = None) -> Counter[str]:
        return Counter(record["state"] for record in self.records(outcome).values())

    @property
    def plans(self) -> list[Path]:
        """Plan folders, oldest first."""
        return sorted(path.parent for path in self.runs.glob("*/plan.json"))

    def events(self, plan: Path | None = None, kind: str | None = None) -> list[dict[str, Any]]:
        lines = ((plan or self.plans[-1]) / "journal.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [event for event in events if kind is None or event["kind"] == kind]


def clean_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change a run."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BATCHLING_", "OPENAI_", "PYTEST_"))}
    return {**kept, **(extra or {})}


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr("batchling.clock.time", hands)
    return hands


@pytest.fixture
def bench(tmp_path: Path, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project with the experiment `ask` of three rows, and its provider."""
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.chdir(tmp_path)
    with BatchServer() as server:
        made = Workbench(tmp_path, server, hands)
        made.write({"experiments/ask/config.yaml": EXPERIMENT})
        made.rows(3)
        yield made
