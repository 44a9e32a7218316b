"""A run is made of files: prompts, schemas and modules are read, copied, and found again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from batchling.config import Composition, compose, from_values, load_spec
from batchling.errors import ConfigError
from batchling.spec import Spec

from .conftest import HELLO, Write

SCHEMA = """\
from __future__ import annotations
from pydantic import BaseModel
from labels import LABEL

class Tree(BaseModel):
    label: str = LABEL
    children: list[Tree] = []
"""


def rebuilt(composition: Composition, folder: Path) -> Spec:
    """The run made again from nothing but its record."""
    for source in composition.spec.sources:
        path = folder / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.content)
    return load_spec(json.loads(json.dumps(composition.document)), folder, composition.overrides)


def json_schema(spec: Spec) -> Any:
    source = spec.schema_source
    return source.model_json_schema() if isinstance(source, type) and issubclass(source, BaseModel) else source


def assert_same(spec: Spec, other: Spec) -> None:
    assert spec.document == other.document and spec.config == other.config
    assert spec.messages == other.messages and spec.input == other.input and spec.overrides == other.overrides
    assert json_schema(spec) == json_schema(other)


def test_a_reference_is_relative_to_the_config_that_names_it(write: Write, tmp_path: Path) -> None:
    write(
        {
            "experiments/hello/prompt/mine.yaml": "messages: [{role: system, content: 'file:mine.md'}, {role: user, content: '{name}'}]\n",
            "experiments/hello/prompt/mine.md": "beside the prompt\r\nline {two}\n",
            "experiments/hello/mine.md": "wrong",
            "conf/prompt/ours.yaml": "messages: [{role: system, content: 'file:texts/ours.md'}]\n",
            "conf/prompt/texts/ours.md": "beside the project's prompt",
        }
    )
    mine = compose("hello", ["prompt=mine"])
    assert mine.spec.messages == (("user", "Hello {name}"),)  # the experiment's own messages come after the group's
    write({"experiments/hello/config.yaml": HELLO.partition("prompt:")[0]})
    mine = compose("hello", ["prompt=mine"])
    assert mine.spec.messages[0] == ("system", "beside the prompt\nline {two}")
    assert mine.document["prompt"]["messages"][0]["content"] == "file:prompt/mine.md"
    ours = compose("hello", ["prompt=ours"])
    assert ours.spec.messages == (("system", "beside the project's prompt"),)
    assert ours.document["prompt"]["messages"][0]["content"] == "file:conf/prompt/texts/ours.md"
    for n, composition in enumerate((mine, ours)):
        assert_same(rebuilt(composition, tmp_path / f"source{n}"), composition.spec)


def test_files_outside_of_the_experiment_are_copied_under_names_of_their_own(write: Write, tmp_path: Path) -> None:
    write({"shared/system.md": "shared", "experiments/shared.md": "also"})
    overrides = [
        f"prompt.messages=[{{role: system, content: 'file:{tmp_path}/shared/system.md'}}, {{role: user, content: 'file:../shared.md'}}]"
    ]
    composition = compose("hello", overrides)
    assert composition.spec.messages == (("system", "shared"), ("user", "also"))
    assert all(not name.startswith(("/", "..")) for name in (s.name for s in composition.spec.sources))
    assert str(tmp_path) not in json.dumps(composition.document)
    assert_same(rebuilt(composition, tmp_path / "source"), composition.spec)


def test_the_record_holds_the_configs_it_was_composed_from(write: Write) -> None:
    write({"conf/budget/small.yaml": "confirm_usd: 7\n"})
    names = [source.name for source in compose("hello", ["budget=small"]).spec.sources]
    assert {"config.yaml", "conf/base.yaml", "conf/budget/small.yaml", "conf/model/simulated.yaml"} <= set(names)
    assert len(names) == len(set(names))


def test_a_pydantic_model_beside_the_config(write: Write, tmp_path: Path) -> None:
    write({"experiments/hello/schema.py": SCHEMA, "experiments/hello/labels.py": "LABEL = 'first'\n"})
    composition = compose("hello", ["schema.pydantic=schema.py:Tree"])
    assert json_schema(composition.spec)["$defs"]["Tree"]["properties"]["label"]["default"] == "first"
    assert_same(rebuilt(composition, tmp_path / "source"), composition.spec)
    assert not list(tmp_path.rglob("__pycache__")), "nothing is written beside the experiment"
    assert "labels" not in sys.modules and "schema" not in sys.modules


def test_experiments_do_not_see_each_others_modules(write: Write, tmp_path: Path) -> None:
    other = {
        "experiments/other/config.yaml": HELLO,
        "experiments/other/schema.py": SCHEMA,
        "experiments/other/labels.py": "LABEL = 'other'\n",
    }
    write({"experiments/hello/schema.py": SCHEMA, "experiments/hello/labels.py": "LABEL = 'first'\n", **other})
    found = [
        compose(name, ["schema.pydantic=schema.py:Tree"]).spec.schema_source for name in ("hello", "other", "hello")
    ]
    assert [model().label for model in found] == ["first", "other", "first"]
    (tmp_path / "experiments/hello/labels.py").write_text("LABEL = 'edited'\n")
    assert compose("hello", ["schema.pydantic=schema.py:Tree"]).spec.schema_source().label == "edited"


def test_a_model_of_an_importable_package_is_recorded_as_it_was(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from pydantic import BaseModel\nclass Answer(BaseModel):\n    {field}: int\n"
    write({"lib_of_this_test/__init__.py": "", "lib_of_this_test/answers.py": code.format(field="old")})
    composition = compose("hello", ["schema.pydantic=lib_of_this_test.answers:Answer"])
    assert composition.document["schema"]["pydantic"] == "lib_of_this_test.answers:Answer"
    (tmp_path / "lib_of_this_test/answers.py").write_text(code.format(field="new"))
    for name in [name for name in sys.modules if name.startswith("lib_of_this_test")]:
        monkeypatch.delitem(sys.modules, name)
    assert_same(rebuilt(composition, tmp_path / "source"), composition.spec)


def test_a_json_schema_file(write: Write, tmp_path: Path) -> None:
    write({"experiments/hello/answer.schema.json": '{"type": "object", "properties": {"b": {}, "a": {}}}'})
    composition = compose("hello", ["schema.json_schema=answer.schema.json"])
    assert list(composition.spec.schema_source["properties"]) == ["b", "a"]
    assert_same(rebuilt(composition, tmp_path / "source"), composition.spec)


def test_inline_fields_stay_as_written(write: Write) -> None:
    write({})
    fields = "{rationale: string, label: {enum: [a, b]}, p: {type: number, minimum: 0}}"
    spec = compose("hello", [f"schema.fields={fields}"]).spec
    assert spec.schema_source is None
    assert spec.config.output_schema.fields == {
        "rationale": "string",
        "label": {"enum": ["a", "b"]},
        "p": {"type": "number", "minimum": 0},
    }
    assert list(spec.document["schema"]["fields"]) == ["rationale", "label", "p"]


@pytest.mark.parametrize(
    ("code", "reference", "expected"),
    [
        (SCHEMA.replace("Tree", "Other"), "schema.py:Tree", "has no Tree; it has: Other"),
        ("Tree = 1\n", "schema.py:Tree", "is not a pydantic model"),
        ("\n\nraise RuntimeError('no')\n", "schema.py:Tree", "schema.py:3: RuntimeError: no"),
        ("def f(:\n", "schema.py:Tree", "schema.py:1: SyntaxError"),
        ("import not_there_at_all\n", "schema.py:Tree", "schema.py:1: ModuleNotFoundError"),
        ("", "missing.py:Tree", "no file 'missing.py'"),
        ("", "not_there_at_all.models:Tree", "cannot import not_there_at_all.models"),
        ("", "schema.py", "expected schema.py:Model or package.module:Model"),
    ],
)
def test_a_model_that_cannot_be_had_says_why(write: Write, code: str, reference: str, expected: str) -> None:
    write({"experiments/hello/schema.py": code, "experiments/hello/labels.py": "LABEL = ''\n"})
    with pytest.raises(ConfigError) as caught:
        compose("hello", [f"schema.pydantic='{reference}'"])
    assert expected in str(caught.value) and "schema.pydantic: " in str(caught.value)


def test_broken_files_name_their_line(write: Write, tmp_path: Path) -> None:
    write({"experiments/hello/bad.json": '{\n"a": }'})
    (tmp_path / "experiments/hello/latin.md").write_bytes("one\ntwo \xe9".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        compose("hello", ["schema.json_schema=bad.json", "prompt.messages.0.content='file:latin.md'"])
    assert "bad.json:2 is not JSON" in str(caught.value) and "latin.md:2 is not UTF-8" in str(caught.value)


def test_from_values_is_what_composing_gives(write: Write, tmp_path: Path) -> None:
    write({})
    values = {
        "name": "hello",
        "model": "gpt-4o-mini",
        "data": {"rows": [{"name": "John Doe"}, {"name": "Jane Doe"}]},
        "prompt": {"messages": [{"role": "user", "content": "Hello {name}"}]},
    }
    assert from_values(values, tmp_path).document == compose("hello", ["model=gpt-4o-mini"]).document
    values["model"] = "groq-llama-3.1-8b"
    assert from_values(values, tmp_path).document == compose("hello", ["model=groq-llama-3.1-8b"]).document
    local = from_values({**values, "provider": "local"}, tmp_path)
    assert local.document == compose("hello", ["model=groq-llama-3.1-8b", "provider=local"]).document
    assert values["model"] == "groq-llama-3.1-8b", "the caller's values are left alone"


def test_from_values_takes_any_model_of_a_named_provider(write: Write, tmp_path: Path) -> None:
    write({})
    values = {"name": "x", "data": {"rows": [{}]}, "prompt": {"messages": [{"role": "user", "content": "Hi"}]}}
    spec = from_values({**values, "model": "gpt-9", "provider": "openai"}, tmp_path)
    assert (spec.config.model.id, spec.config.provider.api_key_env) == ("gpt-9", "OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="did you mean gpt-5"):
        from_values({**values, "model": "gpt-6"}, tmp_path)
    with pytest.raises(ConfigError, match=r"model\.id: expected a valid string, got 5"):
        from_values({**values, "model": {"id": 5}, "provider": "openai"}, tmp_path)
    with pytest.raises(ConfigError, match="no provider 'opnai'; did you mean openai"):
        from_values({**values, "model": "gpt-9", "provider": "opnai"}, tmp_path)
