"""batchling in a notebook: a real kernel, without ipywidgets."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from batchling.config import init_project

CELLS = (
    "import sys; sys.modules['ipywidgets'] = None",  # as if it were not installed
    "import batchling; print(batchling.plan('hello').requests)",
    "results = batchling.run('hello'); print(results.exit_code)",
    "print(list(batchling.query('select state, count(*) from records group by 1')))",
    "print(batchling.run('hello', ['repeats=2']).exit_code)",  # a second run reads what the first one left
    "print(results.df().shape[0], batchling.status().state)",
    "from batchling.cli import main; print(main(['run', 'hello', '--yes']), main(['plan', 'hello']))",
    "print(main(['query', 'select count(*) as n from records', '--format', 'csv']))",
)


def test_plan_run_and_query_work_in_a_kernel_without_ipywidgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    project = tmp_path / "project"
    project.mkdir()
    init_project(project)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(project))
    said = ["".join(o.text for o in cell.outputs if o.get("name") == "stdout") for cell in notebook.cells]
    assert said[1:6] == ["2\n", "0\n", "[('ok', 2)]\n", "0\n", "2 finished\n"]
    assert said[6].rstrip().endswith("0 0")
    assert said[7].split() == ["n", "6", "0"]
