"""Plan folders as the runner leaves them, made in a few lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchling import duck
from batchling.duck import literal

PLAN = "20261123-021409-intent-3f9ac1"
LANE = {
    "lane": 0,
    "provider": "openai",
    "base_url": "https://api.openai.com/v1",
    "endpoint": "/v1/chat/completions",
    "model": "gpt-5-mini",
}
LABEL = 'STRUCT("label" VARCHAR)'


def key_of(name: object) -> str:
    """A request key: 43 characters, told apart by `name`."""
    return "k1-" + str(name).rjust(40, "0")


def answer(name: object, **said: Any) -> dict[str, Any]:
    """A decoded line; an ok answer with the label `a` unless `said` otherwise. `parent` names the parent's key."""
    parent = said.pop("parent", None)
    line = {
        "key": key_of(name),
        "shard": 1,
        "attempt": 1,
        "row_attempt": 1,
        "source": "batch",
        "outcome": "ok",
        "state": "ok",
        "status_code": 200,
        "finish_reason": "stop",
        "error_code": None,
        "error_message": None,
        "input_tokens": 10,
        "cached_tokens": 0,
        "output_tokens": 5,
        "reasoning_tokens": 0,
        "cost_usd": "0.000100000",
        "output": {"label": "a"},
        "text": '{"label": "a"}',
        "error": None,
        "file": "0001.1.output.jsonl",
        "offset": 0,
        "length": 10,
        "parent_key": key_of(parent) if parent is not None else None,
        "schema": 0,
    }
    return {**line, **said}


def failed(name: object, outcome: str, **said: Any) -> dict[str, Any]:
    """A decoded line without an answer."""
    empty = {"output": None, "text": None, "cost_usd": None, "status_code": None, "finish_reason": None, "file": None}
    return answer(name, **{**empty, "outcome": outcome, "state": outcome, "error": outcome, **said})


@dataclass
class Run:
    """One run: its rows, and the name of each row's key (the row's position unless told)."""

    rows: Sequence[dict[str, Any]]
    run_id: str = "r-000000000001"
    names: Sequence[object] | None = None
    repeats: int = 1
    lane: int = 0
    overrides: Sequence[str] = ()
    output_type: str | None = LABEL
    metrics: dict[str, str] = field(default_factory=dict)


@dataclass
class Plan:
    """A plan's folder. `write` may be called again with more: that is what time does."""

    path: Path
    runs: Sequence[Run]
    lanes: Sequence[dict[str, Any]] = (LANE,)
    created_at: float = 1_790_000_000.0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.path.parent

    def write(self) -> Plan:
        for name in ("data", "manifest", "requests", "responses"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        documents = [self._run(run, number) for number, run in enumerate(self.runs)]
        document = {
            "version": 1,
            "plan_id": self.path.name,
            "identity": "0" * 64,
            "experiment": "intent",
            "created_at": self.created_at,
            "command": "batchling run intent",
            "simulated": False,
            "git": {"commit": "abc", "dirty": False},
            "python": "3.11.7",
            "packages": {"openai": "3.54.0"},
            "requests": 2,
            "cached": 0,
            "duplicates": 0,
            "estimated_usd": "0.5",
            "estimated_usd_max": None,
            "lanes": list(self.lanes),
            "runs": documents,
            **self.extra,
        }
        (self.path / "plan.json").write_text(json.dumps(document))
        self.journal(1)
        return self

    def _run(self, run: Run, number: int) -> dict[str, Any]:
        data = f"data/{number:016x}.parquet"
        source = self.path / "data" / "rows.jsonl"
        source.write_text(
            "".join(json.dumps({"row_id": f"row-{i}", "data": row}) + "\n" for i, row in enumerate(run.rows))
        )
        with duck.connect(memory_mb=2048) as con:
            con.execute(f"SET file_search_path = {literal(str(source.parent))}")
            con.execute(
                "COPY (SELECT row_number() OVER () - 1 AS row, row_id, data FROM read_json('rows.jsonl'))"
                f" TO {literal(str(self.path / data))} (FORMAT parquet)"
            )
        source.unlink()
        names = run.names or [i * run.repeats + r for i in range(len(run.rows)) for r in range(run.repeats)]
        lines = ["row,repeat,key"]
        for position, name in enumerate(names):
            lines.append(f"{position // run.repeats},{position % run.repeats},{key_of(name)}")
        (self.path / "manifest" / f"{run.run_id}.csv").write_text("\n".join(lines) + "\n")
        lane = self.lanes[run.lane]
        return {
            "run_id": run.run_id,
            "lane": run.lane,
            "overrides": list(run.overrides),
            "config": {"name": "intent"},
            "config_sha256": "c",
            "prompt_sha256": "p",
            "data_sha256": "d",
            "data": data,
            "rows": len(run.rows),
            "repeats": run.repeats,
            "provider": lane["provider"],
            "model": lane["model"],
            "endpoint": "chat",
            "columns": [],
            "schema": None,
            "schema_index": 0,
            "metrics": run.metrics,
            "output_type": run.output_type,
        }

    def journal(self, size: int) -> None:
        (self.path / "journal.jsonl").write_bytes(b"." * size)

    def shard(self, number: int, *names: object, parents: dict[object, object] | None = None) -> Plan:
        lines = ["key,parent_key,input_tokens,bytes,schema,lane"]
        for name in names:
            parent = (parents or {}).get(name)
            lines.append(f"{key_of(name)},{key_of(parent) if parent is not None else ''},7,300,0,0")
        (self.path / "requests" / f"{number:04d}.index.csv").write_text("\n".join(lines) + "\n")
        return self

    def decoded(self, name: str, *lines: dict[str, Any] | bytes) -> Plan:
        """Writes responses/<name>.decoded.jsonl; bytes go in as they are."""
        content = b"".join(
            line
            if isinstance(line, bytes)
            else json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
            for line in lines
        )
        (self.path / "responses" / f"{name}.decoded.jsonl").write_bytes(content)
        return self


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def plan(runs: Path) -> Plan:
    """Three rows of two labels; nothing sent yet."""
    rows = [{"text": "one", "label": "a"}, {"text": "two", "label": "a"}, {"text": "three", "label": "b"}]
    return Plan(runs / PLAN, [Run(rows)]).write()
