"""A grid is one plan: the fewest batches, out at once, equal requests bought once; and the example that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchling.api import verbs
from batchling.api.compare import compare
from batchling.config import find_project
from tests.sweep.conftest import Lab

ROOT = Path(__file__).parents[2]


def test_four_models_and_three_prompts_are_four_batches_that_are_out_together(lab: Lab) -> None:
    lab.serve()
    outcome = lab.run("model.id=m-1,m-2,m-3,m-4", "prompt=plain,polite,brief")
    assert outcome.states == {"ok": 4 * 3 * 6}
    kinds = [event["kind"] for event in lab.events(outcome.folder) if event["kind"] in ("created", "ended")]
    assert kinds == ["created"] * 4 + ["ended"] * 4


def test_a_prompt_that_is_equal_in_two_points_is_bought_once(lab: Lab) -> None:
    lab.write({"experiments/ask/prompt/same.yaml": (lab.root / "experiments/ask/prompt/plain.yaml").read_text()})
    lab.write({"experiments/ask/prompt/nearly.yaml": 'messages: [{role: user, content: "{text}"}]\nengine: jinja\n'})
    lab.serve()
    outcome = lab.run("prompt=plain,same,polite")
    assert (len(outcome.runs), outcome.bought) == (2, 12)  # equal configs are one run
    assert lab.plan("prompt=plain", "repeats=1,2").requests == 6  # of 18: the first repeat is the same question


def test_small_limits_split_a_lane_into_the_fewest_batches(lab: Lab) -> None:
    lab.serve()
    outcome = lab.run("prompt=plain,polite,brief", "limits.max_requests=5")
    assert outcome.batches == -(-18 // 5)


@pytest.mark.long
def test_the_grid_of_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLING_RUNS", str(tmp_path / "runs"))
    lengths = "model.max_output_tokens=100,200,300"  # three times other requests over the same prompts
    outcome = verbs.run("intent", ["model.id=m-1,m-2,m-3,m-4", lengths], multirun=True, project=find_project(ROOT))
    assert outcome.states == {"ok": 4 * 3 * 3080}
    assert outcome.batches == 4


def test_the_example_runs_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHLING_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    outcome = verbs.run("sweep-intent", project=find_project(ROOT))
    assert (outcome.exit_code, outcome.states, outcome.batches) == (0, {"ok": 360}, 2)
    found = compare(runs=tmp_path / "runs", by=["prompt"])
    assert {p.values["prompt"]: len(p.run_ids) for p in found.points} == {
        "zero_shot": 3,
        "few_shot": 2,
        "step_by_step": 1,
    }
