"""plan.json: one typed value that `plan` shows, `run` writes and everything later reads; older files are read as meant."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson
import pytest

import batchling
from batchling import plan_document
from batchling.plan_document import PlanDocument, PlanLane, PlanRun, Unreadable
from tests.sweep.conftest import Lab

OF_ITS_OWN = ("plan_id", "created_at", "command", "python", "packages", "git")
"""What only a plan that is made has."""

PACKAGE = Path(batchling.__file__).parent

SAID = {f.name for kind in (PlanDocument, PlanRun, PlanLane) for f in fields(kind)} & {
    *("runs", "lanes", "config", "overrides", "columns", "schema_index", "schema_sha256", "config_sha256"),
    *("data_sha256", "repairs_once", "cached", "simulated", "command", "created_at", "doubted", "awaiting"),
}

OTHER_FILES = {"catalog/summaries.py": "summary.json", "cli/commands/arguments.py": "click's parameters"}


def shared(document: PlanDocument) -> dict[str, Any]:
    """What a plan says of itself, made or not."""
    said: dict[str, Any] = orjson.loads(document.write())
    for run in said["runs"]:
        run["run_id"] = run["run_id"].rpartition("-")[2]
    return {name: value for name, value in said.items() if name not in OF_ITS_OWN}


def test_what_plan_shows_is_what_run_writes(lab: Lab) -> None:
    asked = ["+model.params.temperature=0,1", "model.max_output_tokens=20", "budget.usd=3"]
    shown = lab.plan(*asked).document
    outcome = lab.run(*asked)
    written = (outcome.folder / "plan.json").read_bytes()
    read = plan_document.read(written)
    assert shown is not None and shared(shown) == shared(read)
    assert (len(read.runs), read.plan_id, read.budget_usd) == (2, outcome.plan_id, 3)
    assert read.write() == written


def document() -> dict[str, Any]:
    """plan.json as version 0.1.0 wrote it: without hashes of schemas, and what was learned of requests."""
    price = {"input": 1.0, "output": 2.0, "cached": None, "batch": True, "source": "model.price"}
    run = {
        "run_id": "3f9ac1-01",
        "lane": 0,
        "overrides": ["model.id=m-1", "prompt=polite"],
        "config": {
            "name": "ask",
            "retry": {"attempts": 4, "repair": True, "resubmit_usd": 0.5},
            "budget": {"usd": 5.0, "confirm_usd": 2},
            "model": {"max_output_tokens": 20},
        },
        "config_sha256": "c",
        "prompt_sha256": "p",
        "data_sha256": "d",
        "data": "data/0123456789abcdef.parquet",
        "rows": 3,
        "repeats": 2,
        "provider": "openai",
        "model": "m-1",
        "endpoint": "chat",
        "price": price,
        "columns": ["id", "text"],
        "schema": {"type": "object"},
        "schema_index": 0,
        "output_type": "VARCHAR",
        "data_type": "STRUCT(id VARCHAR)",
        "metrics": {"right": "true"},
        "tokens": "o200k_base",
    }
    lane = {
        "lane": 0,
        "provider": "openai",
        "base_url": "https://api.openai.com/v1",
        "endpoint": "/v1/chat/completions",
        "model": "m-1",
        "requests": 6,
        "input_tokens": None,
        "learned_tokens": 1000,
    }
    return {
        "version": 1,
        "plan_id": "20261123-021409-ask-3f9ac1",
        "identity": "0" * 64,
        "experiment": "ask",
        "created_at": 1_790_000_000.0,
        "command": "batchling run ask",
        "simulated": False,
        "python": "3.11.7",
        "packages": {"openai": "3.54.0"},
        "git": {"commit": None, "dirty": None},
        "requests": 6,
        "cached": 1,
        "duplicates": 0,
        "awaiting": 2,
        "estimated_usd": "0.5",
        "estimated_usd_max": None,
        "lanes": [lane],
        "runs": [run],
    }


def read(said: Any) -> PlanDocument:
    return plan_document.read(orjson.dumps(said))


def test_a_plan_of_0_1_0_means_what_it_meant() -> None:
    plan = read(document())
    (run,) = plan.runs
    assert plan.repairs(0) == 4, "`repair: true` was as many repairs as there are attempts"
    assert (plan.repairs(0, allowed=1), plan.repairs(0, allowed=False), plan.repairs(1)) == (1, 0, 0)
    assert (plan.schema_hashes, plan.doubtful, plan.doubted) == ({}, (), 0)
    assert (plan.lanes[0].learned_tokens, plan.lanes[0].learned_requests) == (1000, None)
    assert (plan.asked, plan.rows, run.records, plan.attempts) == (9, 6, 6, 4)
    assert [str(usd) for usd in (plan.budget_usd, plan.confirm_usd, plan.resubmit_usd)] == ["5.0", "2", "0.5"]
    assert (run.overridden("prompt"), run.overridden("model.id"), run.overridden("seed")) == ("polite", "m-1", None)
    assert run.price is not None and run.price.output == 2.0


def test_what_true_means_for_repairs_is_kept_in_the_plan() -> None:
    said = document()
    said["runs"][0]["repairs_once"] = True
    assert read(said).repairs(0) == 1
    said["runs"][0]["config"]["retry"]["repair"] = 3
    assert read(said).repairs(0) == 3
    said["runs"][0]["schema"] = None
    assert read(said).repairs(0) == 0, "text is never repaired"


WRONG: list[tuple[str, Any, str]] = [
    ("version", 2, "of another version"),
    ("experiment", None, "has experiment None"),
    ("requests", True, "has requests True"),
    ("created_at", "now", "has created_at 'now'"),
    ("lanes", {}, "has lanes {}"),
    ("lanes.0.model", 5, "no readable model in one of its lanes"),
    ("runs.0", [], "no readable entry in one of its runs"),
    ("runs.0.columns", [1], "no readable columns in one of its runs"),
    ("runs.0.config", "x", "no readable config in one of its runs"),
    ("runs.0.price", {"input": "free", "output": 1}, "a price with input 'free'"),
    ("runs.0.config.retry.attempts", "many", "retry.attempts 'many'"),
    ("runs.0.config.budget.usd", True, "budget.usd True"),
    ("runs.0.run_id", "../../etc", "names a file outside the plan"),
    ("runs.0.data", "data/../../../etc/passwd", "names a file outside the plan"),
    ("doubtful", [{"plan_id": "p"}], "no readable shard in what it leaves out"),
]


@pytest.mark.parametrize(("place", "value", "words"), WRONG, ids=[place for place, _, _ in WRONG])
def test_a_file_that_is_none_says_what_of_it_cannot_be_read(place: str, value: Any, words: str) -> None:
    said = document()
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    node: Any = said
    for part in path:
        node = node[part]
    node[last] = value
    with pytest.raises(Unreadable, match=r"plan\.json|run 3f9ac1-01") as caught:
        read(said)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "place", ["experiment", "lanes", "runs", "runs.0.run_id", "runs.0.schema_index", "lanes.0.lane"]
)
def test_what_every_plan_has_must_be_there(place: str) -> None:
    said = document()
    *path, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    node: Any = said
    for part in path:
        node = node[part]
    del node[last]
    with pytest.raises(Unreadable):
        read(said)


def reads(path: Path) -> list[str]:
    """Where a module takes something out of a mapping by a name that plan.json has."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        key: Any = None
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            key = node.slice.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            key = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        if key in SAID:
            found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}")
    return found


def test_plan_json_is_taken_apart_in_one_module() -> None:
    layers = ("api", "catalog", "cli", "runner")
    modules = [path for layer in layers for path in sorted((PACKAGE / layer).rglob("*.py"))]
    modules += [PACKAGE / f"{name}.py" for name in ("experiments", "export", "manager", "results")]
    assert len(SAID) == 16 and len(modules) > 60
    wrong = [
        what
        for path in modules
        if str(path.relative_to(PACKAGE)) not in OTHER_FILES
        for what in reads(path)
        if "provider" not in what
    ]
    assert not wrong, "read it with batchling.plan_document, and ask its classes:\n" + "\n".join(wrong)
