"""Composition: search path, groups, overrides; the same on Hydra 1.3 and 1.4."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from batchling.config import Project, compose, find_project
from batchling.config.composer import Composer
from batchling.config.project import locate, search_path, shipped_conf
from batchling.errors import ConfigError

from .conftest import HELLO, Write

MODELS = sorted(path.stem for path in (shipped_conf() / "model").glob("*.yaml"))
PROVIDERS = sorted(path.stem for path in (shipped_conf() / "provider").glob("*.yaml"))


def composer(project: Project, experiment: str = "hello") -> Composer:
    found = locate(experiment, project)
    return Composer(found, search_path(found, project))


def with_hydra(composer: Composer, overrides: list[str]) -> Any:
    """What Hydra itself composes, from the same search path."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.plugins import Plugins
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    Plugins.instance()
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    for label, folder in composer.search_path:
        path.append(label, f"file://{folder}")
    path.append("schema", "structured://")
    loader = ConfigLoaderImpl(path)
    config = loader.load_configuration("config", overrides, RunMode.RUN)
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    plain.pop("hydra")
    return plain


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"model={model}"] for model in MODELS),
        *(["model=gpt-5-mini", f"provider={provider}"] for provider in PROVIDERS),
        ["prompt=classify", "schema=sentiment", "budget=small", "retry=none", "limits=small_batches", "data=csv"],
        ["repeats=3", "provider.limits={max_requests: 5}", "retry.repair=false", "description='a b'"],
        ["+model.params.a=1", "++model.params.b=2", "~provider.source", "prompt.messages=[]"],
        ["schema=sentiment", "schema.fields={label: {enum: [a, b]}}", "data.rows=[{name: x}]"],
    ],
    ids=" ".join,
)
def test_the_values_are_what_hydra_composes(project: Project, overrides: list[str]) -> None:
    ours = composer(project)
    assert ours.compose(overrides).unresolved == with_hydra(ours, overrides)


def test_a_sweep_over_groups_is_what_hydra_composes(write: Write) -> None:
    own = {"prompt/a": "messages: [{role: user, content: a}]\n", "prompt/b": "defaults: [a, _self_]\nengine: jinja\n"}
    placed = {"schema/c": "# @package _global_\nrepeats: 4\n", "data/d": "limit: 3\n"}
    write({f"experiments/hello/{name}.yaml": text for name, text in {**own, **placed}.items()})
    project = write(
        {"experiments/hello/config.yaml": HELLO.replace("  - _self_", "  - override /prompt: a\n  - _self_")}
    )
    ours = composer(project)
    axes = [
        ["model=simulated", "model=gpt-5", "model=groq-llama-3.1-8b"],
        ["prompt=a", "prompt=b", "prompt=classify"],
        ["schema=text", "schema=score", "schema=c"],
        ["data=d", "budget=small"],
    ]
    for overrides in random.Random(1).sample(list(itertools.product(*axes)), 14):
        composed = ours.compose(overrides)
        assert composed.unresolved == with_hydra(ours, list(overrides)), overrides
        fresh = composer(project)
        assert composed.merged == fresh._defaults(fresh.parse(overrides)), overrides


def test_a_second_composition_is_not_changed_by_the_first(project: Project) -> None:
    ours = composer(project)
    plain = ours.compose([]).tree
    ours.compose(["model=groq-llama-3.3-70b", "data.rows=[]", "+model.params.x=1", "provider.limits.max_requests=1"])
    assert ours.compose([]).tree == plain


def test_a_model_selects_its_provider(project: Project) -> None:
    assert compose("hello", ["model=groq-gpt-oss-20b"]).config.provider.name == "groq"
    assert compose("hello", ["model=gpt-5-mini"]).config.provider.base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize("order", [["provider=local", "model=gpt-5-mini"], ["model=gpt-5-mini", "provider=local"]])
def test_a_provider_on_the_command_line_wins_over_the_models(project: Project, order: list[str]) -> None:
    config = compose("hello", order).config
    assert (config.model.id, config.provider.name) == ("gpt-5-mini", "local")


def test_the_experiments_folder_wins_over_the_projects_and_that_over_the_shipped(write: Write) -> None:
    write({"conf/budget/small.yaml": "confirm_usd: 7\n", "conf/budget/default.yaml": "confirm_usd: 8\n"})
    assert compose("hello", ["budget=small"]).config.budget.confirm_usd == 7
    assert compose("hello").config.budget.confirm_usd == 8
    write({"experiments/hello/budget/small.yaml": "confirm_usd: 9\n"})
    assert compose("hello", ["budget=small"]).config.budget.confirm_usd == 9


def test_config_dir_wins_over_all_but_the_experiments_own_config(write: Write, tmp_path: Path) -> None:
    write({"experiments/hello/budget/small.yaml": "confirm_usd: 9\n", "team/budget/small.yaml": "confirm_usd: 5\n"})
    write({"team/config.yaml": "name: not_me\n"})
    composition = compose("hello", ["budget=small"], config_dir=tmp_path / "team")
    assert (composition.config.budget.confirm_usd, composition.config.name) == (5, "hello")


def test_no_override_of_a_known_key_needs_a_plus(project: Project) -> None:
    typed = [
        "model.params.temperature=0",
        "model.price.input=0.5",
        "metrics.words='length(text)'",
        "provider.headers.x=y",
    ]
    config = compose("hello", [*typed, "schema.fields.label.enum=[a,b]", "prompt.messages.0.content=Hi"]).config
    assert config.model.params == {"temperature": 0}
    assert config.model.price is not None and config.model.price.input == 0.5
    assert config.output_schema.fields == {"label": {"enum": ["a", "b"]}}
    assert config.prompt.messages[0].content == "Hi"


def test_base_lists_every_key_of_the_tree(project: Project) -> None:
    from batchling.config.keys import all_keys

    inside_a_null = ("model.price.", "provider.engine.", "sweep.", "prompt.messages.")
    tree = composer(project).merged([]).tree
    for key in all_keys():
        if not key.startswith(inside_a_null):
            node: Any = tree
            for name in key.split("."):
                assert name in node, key
                node = node[name]


def test_interpolation_works_outside_of_prompts(project: Project) -> None:
    assert compose("hello", ["description='about ${name}'"]).config.description == "about hello"


def test_off_stays_a_word(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "tokens: off\n"})
    assert compose("hello").config.tokens == "off"


def test_an_empty_section_has_its_defaults(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "budget:\nmetrics:\n"})
    assert compose("hello").config.budget.confirm_usd == 1.0


def test_origins_name_file_and_line_or_the_override(write: Write, tmp_path: Path) -> None:
    write({})
    origins = compose("hello", ["model=gpt-5-mini", "repeats=2", "model.params={top_p: 1}"]).origins
    assert str(origins["name"]) == "experiments/hello/config.yaml:6"
    assert str(origins["data.rows.1.name"]) == "experiments/hello/config.yaml:10"
    assert str(origins["repeats"]) == "override: repeats=2"
    assert str(origins["model.params.top_p"]) == "override: model.params={top_p: 1}"
    assert origins["model.id"].file == shipped_conf() / "model" / "gpt-5-mini.yaml"
    assert origins["provider.strict_schema"].line is not None
    assert "default" not in {str(origin) for origin in origins.values()}


def test_the_defaults_list_names_each_config_in_order(project: Project) -> None:
    shown = compose("hello", ["model=gpt-5-mini"]).defaults
    assert [line.split(" ")[0] for line in shown][:3] == ["base", "provider/openai", "model/gpt-5-mini"]
    assert shown[-1].startswith("config ")


def test_the_yaml_is_the_document(project: Project) -> None:
    import yaml

    composition = compose("hello")
    assert yaml.safe_load(composition.yaml) == composition.document


def test_composing_in_threads_and_inside_a_hydra_app(project: Project, tmp_path: Path) -> None:
    from hydra import initialize_config_dir

    names: list[str] = []
    with initialize_config_dir(config_dir=str(shipped_conf()), **_version_base()):
        threads = [
            threading.Thread(target=lambda m=m: names.append(compose("hello", [f"model={m}"]).config.model.id))  # type: ignore[misc]
            for m in ("gpt-5", "gpt-5-mini", "gpt-5-nano", "simulated") * 3
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(names) == sorted(["gpt-5", "gpt-5-mini", "gpt-5-nano", "simulated"] * 3)


def _version_base() -> dict[str, Any]:
    import hydra

    return {"version_base": None} if hydra.__version__.startswith("1.3") else {}


def test_importing_the_package_does_not_import_hydra() -> None:
    code = "import sys, batchling.config as c; c.find_project(); c.complete(['h']); print('hydra' in sys.modules, 'omegaconf' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_an_experiment_of_another_project_uses_that_projects_conf(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write({"conf/budget/small.yaml": "confirm_usd: 7\n"})
    elsewhere = tmp_path / "elsewhere" / "experiments"
    elsewhere.mkdir(parents=True)
    (elsewhere / "x.yaml").write_text("name: x\n")
    here = find_project(elsewhere)
    assert compose(str(tmp_path / "experiments/hello"), ["budget=small"], project=here).config.budget.confirm_usd == 7


def test_an_experiment_cannot_take_the_name_of_base(write: Write) -> None:
    write({"experiments/base.yaml": HELLO})
    with pytest.raises(ConfigError, match="cannot be called base"):
        compose("base")
