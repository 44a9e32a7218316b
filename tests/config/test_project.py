"""Finding projects and experiments, starting one, completion, and the JSON Schema for editors."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchling.config import complete, compose, find_project, init_project, json_schema, locate, project_of
from batchling.errors import ConfigError

from .conftest import HELLO, Write


def test_the_project_is_found_from_below(write: Write, tmp_path: Path) -> None:
    write({"conf/budget/x.yaml": "usd: null\n"})
    project = find_project(tmp_path / "experiments" / "hello")
    assert (project.root, project.conf) == (tmp_path, tmp_path / "conf")
    assert project.runs == tmp_path / "runs"


def test_a_folder_that_only_has_the_name_is_no_project(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "below").mkdir()
    assert find_project(tmp_path / "below").root == tmp_path / "below"


def test_an_experiment_named_by_its_path_brings_its_project_where_there_is_none(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write({"conf/budget/own.yaml": "usd: null\n", "experiments/one.yaml": HELLO})
    outside = tmp_path_factory.mktemp("outside")
    monkeypatch.chdir(outside)
    folder = tmp_path / "experiments"
    for path in (folder / "hello", folder / "hello/config.yaml", folder / "one.yaml", folder / "one"):
        assert project_of(path).runs == tmp_path / "runs"
        assert compose(str(path), ["budget=own"]).choices["budget"] == "own"
    assert project_of(folder / "hello", outside).runs == outside / "runs"  # whoever says where is obeyed
    assert project_of("hello").root == outside
    write({})
    monkeypatch.chdir(outside)
    (outside / "experiments").mkdir()
    (outside / "experiments/two.yaml").write_text(HELLO)
    assert project_of(folder / "hello").runs == outside / "runs"  # in a project, plans go there


def test_where_runs_go(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = write({})
    assert compose("hello", ["paths.runs=elsewhere"]).runs(project) == tmp_path / "elsewhere"
    monkeypatch.setenv("BATCHLING_RUNS", str(tmp_path / "env"))
    assert find_project().runs == tmp_path / "env"
    assert compose("hello", ["paths.runs=elsewhere"]).runs(find_project()) == tmp_path / "env"
    monkeypatch.delenv("BATCHLING_RUNS")
    write({"conf/base.yaml": "paths: {runs: big/disk}\n"})
    assert find_project().runs == tmp_path / "big/disk"


@pytest.mark.parametrize("text", ["one", "one.yaml", "experiments/one.yaml", "experiments/one"])
def test_an_experiment_file_is_found_by_any_of_its_names(write: Write, tmp_path: Path, text: str) -> None:
    project = write({"experiments/one.yaml": HELLO})
    assert locate(text, project).path == tmp_path / "experiments" / "one.yaml"
    assert compose(text).config.name == "hello"


def test_an_experiment_folder_is_found_by_name_and_path(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write({})
    monkeypatch.chdir(tmp_path / "experiments")
    for text in ("hello", "experiments/hello", str(tmp_path / "experiments/hello"), "hello/config.yaml"):
        assert locate(text, project).path == tmp_path / "experiments/hello/config.yaml"
        assert locate(text, project).name == "hello"


def test_a_new_project_composes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = init_project(tmp_path / "new")
    assert {str(path.relative_to(tmp_path / "new")) for path in written} == {
        ".gitignore",
        "conf/prompt/greet.yaml",
        "experiments/hello/config.yaml",
        "experiments/hello/names.csv",
    }
    monkeypatch.chdir(tmp_path / "new")
    composition = compose("hello")
    assert composition.config.provider.name == "local"
    assert composition.spec.messages[1] == ("user", "What is your name? Mine is {name}")
    assert composition.runs(find_project()) == tmp_path / "new" / "runs"
    assert "runs/" in (tmp_path / "new" / ".gitignore").read_text().splitlines()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    with pytest.raises(ConfigError, match="nothing was written"):
        init_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".gitignore"]
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["hello", "intent"]),
        (["in"], ["intent"]),
        (["hello", "mod"], ["model=", "model."]),
        (["hello", "model.pa"], ["model.params."]),
        (["hello", "model=azure"], ["model=azure-gpt-4.1-mini"]),
        (["hello", "prompt=mi"], ["prompt=mine"]),
        (["hello", "repeats=2", "tokens="], ["tokens=auto", "tokens=off"]),
        (["hello", "dedupe=f"], ["dedupe=false"]),
        (["hello", "model=simulated,cus"], ["model=simulated,custom"]),
        (["hello", "++retry.at"], ["++retry.attempts="]),
        (["nothing", "mod"], []),
    ],
)
def test_completion(write: Write, words: list[str], expected: list[str]) -> None:
    write({"experiments/intent/config.yaml": HELLO, "experiments/hello/prompt/mine.yaml": "input: x\n"})
    assert complete(words) == expected


def test_completion_of_paths(write: Write) -> None:
    write({})
    assert complete(["./exp"]) == ["./experiments/"]
    assert complete(["./experiments/h"]) == ["./experiments/hello"]


def test_the_json_schema_accepts_every_config_that_ships() -> None:
    import yaml

    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    root = Path(__file__).parents[2]
    for path in [root / "conf/base.yaml", *sorted(root.glob("experiments/*/config.yaml"))]:
        document = yaml.safe_load(path.read_text())
        errors = [e for e in validator.iter_errors(document) if "???" not in str(e.instance) and e.instance is not None]
        assert not errors, (path, errors)
    assert list(validator.iter_errors({"nmae": "x"}))
    assert schema["properties"]["schema"]["$ref"] and "defaults" in schema["properties"]
