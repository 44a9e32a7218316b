"""The points of a sweep: composed alike by the quick way and by Hydra, and with the section's grammar through the Python API."""

from __future__ import annotations

from pathlib import Path

import pytest

import batchling
from batchling.config.composition import Workbench
from batchling.config.tree import assign, clone
from tests.sweep.conftest import Lab

ROOT = Path(__file__).parents[2]

PLAIN = [
    "+model.params.seed=7",
    "+model.params.deep.er=x",
    "++model.params.temperature=0.5",
    "++data.limit=3",
    "++model.max_output_tokens=7",
    "~model.max_output_tokens",
    "~description",
    "~metrics.accuracy",
    "prompt.messages.0.content=hello",
    "prompt.messages.1.role=assistant",
    "data.limit=3",
    "model.params={a: {b: 1}}",
    "schema.fields.label.enum=[a,b]",
]


@pytest.fixture
def workbench(monkeypatch: pytest.MonkeyPatch) -> Workbench:
    monkeypatch.chdir(ROOT)
    return Workbench("intent")


@pytest.mark.parametrize("override", PLAIN)
def test_the_quick_way_gives_what_hydra_gives(workbench: Workbench, override: str) -> None:
    composer = workbench.composer
    merged = composer.merged([]).tree
    (parsed,) = composer.parse([override])
    quick = clone(merged)
    assert assign(quick, parsed)
    assert quick == composer._with_hydra(clone(merged), [parsed])


@pytest.mark.parametrize(
    "override", ["+model.id=x", "~model.nothing", "~model.max_output_tokens=1", "+model.params={a: 1}"]
)
def test_what_is_an_error_or_rare_is_left_to_hydra(workbench: Workbench, override: str) -> None:
    composer = workbench.composer
    (parsed,) = composer.parse([override])
    tree = clone(composer.merged([]).tree)
    assert not assign(tree, parsed)


def test_a_sweep_from_python(lab: Lab) -> None:
    sweep = {
        "grid": {"prompt": ["plain", "polite"]},
        "zip": {"model.id": ["m-1", "m-2"], "model.max_output_tokens": [10, 20]},
        "points": [{"model.id": "m-3"}],
        "exclude": [{"model.id": "m-2", "prompt": "polite"}],
    }
    results = batchling.run("ask", ["data.limit=2"], sweep=sweep, project=lab.root)
    found = {tuple(run.overrides.split()[1:]) for run in results.runs}
    assert found == {
        ("prompt=plain", "model.id=m-1", "model.max_output_tokens=10"),
        ("prompt=plain", "model.id=m-2", "model.max_output_tokens=20"),
        ("prompt=polite", "model.id=m-1", "model.max_output_tokens=10"),
        ("model.id=m-3",),
    }
    assert results.exit_code == 0 and len(results) == 8


def test_an_experiments_own_sweep_section_runs_without_m(lab: Lab) -> None:
    config = lab.root / "experiments/ask/config.yaml"
    config.write_text(config.read_text() + "sweep:\n  grid: {prompt: [plain, polite]}\n")
    assert len(lab.run().runs) == 2
    assert len(lab.run("prompt=brief").runs) == 1


def test_points_that_resolve_to_the_same_config_are_one_run(lab: Lab) -> None:
    report = lab.plan("model.id=m-1,m-1", "+model.params.seed=1,1")
    assert (report.runs, report.requests) == (1, 6)
