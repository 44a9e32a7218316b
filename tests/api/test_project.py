"""`batchling.Project`: everything that can be done in a project, by one object; the package's functions are calls of it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import batchling
from batchling import experiments
from batchling.errors import UsageError


def test_the_functions_of_the_package_are_one_call_of_project() -> None:
    tree = ast.parse(inspect.getsource(experiments))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions] == ["plan", "run", "watch", "status", "cancel", "load", "query"]
    for function in functions:
        _, statement, *more = function.body
        assert not more and isinstance(statement, ast.Return), function.name
        assert ast.unparse(statement).startswith("return Project(project"), function.name


def test_a_project_plans_runs_shows_compares_and_removes(project: Path) -> None:
    here = batchling.Project(project)
    assert (here.folder, here.runs, here.experiments()) == (project, project / "runs", ["people"])
    planned = here.plan("people", show=1)
    assert (planned.requests, len(planned.shown), here.plans()) == (3, 1, [])
    made = here.run("people")
    assert made.exit_code == 0 and len(made) == 3
    assert planned.document is not None and planned.document.identity == planned.identity
    assert here.watch() == []
    (line,) = here.plans()
    assert (line.plan_id, here.status().plan_id, here.results("people").plan_id) == (made.plan_id,) * 3
    assert [point.records for point in here.compare().points] == [3]
    with here.query("SELECT count(*) FROM records") as rows:
        assert list(rows) == [(3,)]
    with pytest.raises(UsageError, match="nothing needs a decision"):
        here.resolve(made.plan_id, "resubmit")
    assert here.du().total > here.rm(made.plan_id) > 0
    assert here.plans() == []


def test_another_folder_is_another_project(project: Path, tmp_path: Path) -> None:
    there = batchling.Project(tmp_path / "elsewhere")
    assert there.runs == tmp_path / "elsewhere" / "runs" and there.experiments() == []
    with pytest.raises(UsageError, match="there is no plan"):
        there.results()
