"""The quick start, as it is written in the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from batchling import ExperimentManager
from batchling.errors import ConfigError, NoteWarning, ProviderError, UsageError
from tests.cli.conftest import environment

QUICK_START = """\
from batchling import ExperimentManager

em = ExperimentManager()
experiment = em.start_experiment(
    experiment_id="my-experiment-1", model="gpt-4o-mini", name="My first experiment",
    description="Experimenting with gpt-4o-mini",
    template_messages=[{"role": "system", "content": "You are a helpful assistant."},
                       {"role": "user", "content": "What is your name? Mine is {name}"}],
    placeholders=[{"name": "John Doe"}, {"name": "Jane Doe"}],
    input_file_path="path/to/write/input.jsonl",
)
experiment.setup()
experiment.start()
print(experiment.status)
results = experiment.get_results()
for row in results:
    print(row["data"]["name"], row["state"])
"""


def script(text: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = environment(**more)
    if "OPENAI_API_KEY" not in more:
        env.pop("OPENAI_API_KEY", None)
    return subprocess.run([sys.executable, "-c", text], cwd=folder, env=env, capture_output=True, text=True)


def test_without_a_key_it_ends_with_the_variable_and_what_needs_none(tmp_path: Path) -> None:
    done = script(QUICK_START, tmp_path)
    assert done.returncode != 0
    assert "OPENAI_API_KEY" in done.stderr and 'provider="local"' in done.stderr
    assert not list(tmp_path.glob("runs/*/plan.json")), "nothing is left that a later watch would send"


def test_on_the_embedded_server_the_same_code_runs(tmp_path: Path) -> None:
    done = script(QUICK_START.replace('model="gpt-4o-mini",', 'model="gpt-4o-mini", provider="local",'), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["waiting", "John Doe ok", "Jane Doe ok"]
    lines = [json.loads(line) for line in (tmp_path / "path/to/write/input.jsonl").read_text().splitlines()]
    assert [line["body"]["messages"][1]["content"] for line in lines] == [
        "What is your name? Mine is John Doe",
        "What is your name? Mine is Jane Doe",
    ]
    assert {(line["method"], line["url"], line["body"]["model"]) for line in lines} == {
        ("POST", "/v1/chat/completions", "gpt-4o-mini")
    }


@pytest.fixture
def manager(project: Path) -> ExperimentManager:
    return ExperimentManager()


def simple(manager: ExperimentManager, experiment_id: str = "simple", **more: object):  # type: ignore[no-untyped-def]
    return manager.start_experiment(
        experiment_id=experiment_id,
        model="simulated",
        template_messages=[{"role": "user", "content": "Hello {name}"}],
        placeholders=[{"name": "Ada"}],
        **more,  # type: ignore[arg-type]
    )


def test_the_input_file_is_what_was_uploaded(manager: ExperimentManager, project: Path) -> None:
    experiment = simple(manager, input_file_path="deep/input.jsonl")
    assert experiment.status == "new"
    assert experiment.setup() == Path("deep/input.jsonl")
    assert experiment.status == "planned"
    experiment.start()
    uploaded = [p.read_bytes() for p in (project / "runs" / experiment.plan_id / "local").rglob("files/*")]
    assert Path("deep/input.jsonl").read_bytes() in uploaded


def test_start_without_setup_sets_up(manager: ExperimentManager) -> None:
    experiment = simple(manager)
    experiment.start()
    assert [row["state"] for row in experiment.get_results()] == ["ok"]
    assert experiment.status == "finished"


def test_results_before_the_start_are_an_error_that_says_what_to_call(manager: ExperimentManager) -> None:
    with pytest.raises(UsageError, match="was not started"):
        simple(manager).get_results()


def test_experiments_are_found_again(manager: ExperimentManager) -> None:
    for experiment_id in ("one", "two"):
        simple(manager, experiment_id, description=f"the {experiment_id}").start()
    again = ExperimentManager()
    assert [e.experiment_id for e in again.list_experiments()] == ["one", "two"]
    loaded = again.load_experiment("one")
    assert loaded.description == "the one" and loaded.status == "waiting"
    loaded.start()
    assert len(loaded.get_results()) == 1 and loaded.status == "finished"
    with pytest.raises(UsageError, match="no experiment 'three'"):
        again.load_experiment("three")


def test_parameters_a_schema_and_a_limit_go_into_the_requests(manager: ExperimentManager) -> None:
    experiment = manager.start_experiment(
        experiment_id="full",
        model="gpt-4o-mini",
        provider="local",
        template_messages=[{"role": "user", "content": "Hello {name}"}],
        placeholders=[{"name": "Ada"}],
        input_file_path="input.jsonl",
        output_schema={"label": {"enum": ["a", "b"]}},
        params={"temperature": 0},
        max_output_tokens=50,
    )
    experiment.setup()
    body = json.loads(Path("input.jsonl").read_text())["body"]
    assert body["temperature"] == 0 and body["max_completion_tokens"] == 50
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["a", "b"]
    experiment.start()
    (answer,) = experiment.get_results().objects()
    assert answer["label"] in ("a", "b")


def test_what_is_wrong_is_said_at_the_start(manager: ExperimentManager) -> None:
    with pytest.raises(ConfigError, match="gpt-4o-mni"):
        manager.start_experiment("x", "gpt-4o-mni", [{"role": "user", "content": "Hi"}], [{"a": 1}])
    with pytest.raises(ConfigError, match="name"):
        simple(manager, "not a name!")


def test_a_key_error_leaves_the_input_file_but_no_plan(manager: ExperimentManager, project: Path) -> None:
    experiment = manager.start_experiment(
        "keyless", "gpt-4o-mini", [{"role": "user", "content": "Hi {a}"}], [{"a": 1}], input_file_path="input.jsonl"
    )
    experiment.setup()
    with pytest.raises(ProviderError, match="OPENAI_API_KEY"):
        experiment.start()
    assert Path("input.jsonl").is_file() and experiment.status == "new"
    assert not list((project / "runs").glob("*/plan.json"))


def test_setup_warns_of_what_plan_notes(manager: ExperimentManager) -> None:
    experiment = manager.start_experiment(
        "noted",
        model="gpt-4o-mini",
        provider="local",
        template_messages=[{"role": "user", "content": "Greet {{name}} of {name}"}],
        placeholders=[{"name": "a"}, {"name": ""}],
    )
    with pytest.warns(NoteWarning) as told:
        experiment.setup()
    assert {Path(warning.filename) for warning in told} == {Path(__file__)}
    assert any("{name} is empty or null in 1 of 2 rows" in str(warning.message) for warning in told)
