"""A sweep's points: Hydra's grammar and order, the `sweep:` section, equal points once, invalid ones named."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.config import Composition, compose, expand
from batchling.config.composition import Workbench
from batchling.config.sweep import literal
from batchling.errors import ConfigError

from .conftest import HELLO, Write


def values(points: list[Composition], *keys: str) -> list[tuple[Any, ...]]:
    found = []
    for point in points:
        row = []
        for key in keys:
            node: Any = point.document
            for name in key.split("."):
                node = node[name]
            row.append(node)
        found.append(tuple(row))
    return found


def test_the_order_is_hydras_the_first_override_changes_slowest(write: Write) -> None:
    write({})
    points = expand("hello", ["model=gpt-5-mini,groq-gpt-oss-20b", "tokens=off", "repeats=range(1,4)"], multirun=True)
    assert values(points, "model.id", "repeats", "tokens") == [
        (model, n, "off") for model in ("gpt-5-mini", "openai/gpt-oss-20b") for n in (1, 2, 3)
    ]
    assert points[3].spec.overrides == ("model=groq-gpt-oss-20b", "tokens=off", "repeats=1")
    assert points[3].config.provider.name == "groq"


def test_choice_and_glob(write: Write) -> None:
    write({})
    assert values(expand("hello", ["repeats=choice(3,1)"], multirun=True), "repeats") == [(3,), (1,)]
    ids = values(expand("hello", ["model=glob(groq-llama*)"], multirun=True), "model.id")
    assert ids == [("llama-3.1-8b-instant",), ("llama-3.3-70b-versatile",)]


def test_without_a_sweep_there_is_one_point(write: Write) -> None:
    write({})
    assert len(expand("hello")) == len(expand("hello", ["repeats=2"], multirun=True)) == 1


def test_equal_points_are_one_run(write: Write) -> None:
    write({})
    points = expand("hello", ["repeats=1,2,1", "tokens=auto,auto"], multirun=True)
    assert values(points, "repeats") == [(1,), (2,)]


def test_grid_zip_points_and_exclude(write: Write) -> None:
    section = """
sweep:
  grid: {model: [simulated, gpt-5-mini], tokens: [auto, "off"]}
  zip: {repeats: [1, 2], data.limit: [10, 20]}
  points:
    - {model: gpt-5, repeats: 9}
  exclude:
    - {model: gpt-5-mini, tokens: "off"}
    - {repeats: 2, model: simulated}
"""
    write({"experiments/hello/config.yaml": HELLO + section})
    points = expand("hello")
    assert values(points, "model.id", "tokens", "repeats", "data.limit") == [
        ("simulated", "auto", 1, 10),
        ("simulated", "off", 1, 10),
        ("gpt-5-mini", "auto", 1, 10),
        ("gpt-5-mini", "auto", 2, 20),
        ("gpt-5", "auto", 9, None),
    ]
    assert all(point.config.sweep is None for point in points)


def test_the_command_line_takes_the_place_of_the_sections_key(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "sweep: {grid: {model: [simulated, gpt-5], repeats: [1, 2]}}\n"})
    assert values(expand("hello", ["model=gpt-5-mini"]), "model.id", "repeats") == [
        ("gpt-5-mini", 1),
        ("gpt-5-mini", 2),
    ]
    assert len(expand("hello", ["sweep=null"])) == 1


def test_the_section_multiplies_with_the_command_lines_sweeps(write: Write) -> None:
    write({})
    points = expand("hello", ["repeats=1,2"], multirun=True, sweep={"grid": {"model": ["gpt-5", "gpt-5-nano"]}})
    assert values(points, "repeats", "model.id") == [(1, "gpt-5"), (1, "gpt-5-nano"), (2, "gpt-5"), (2, "gpt-5-nano")]


def test_an_excluded_point_need_not_be_valid(write: Write) -> None:
    write({})
    sweep = {"grid": {"model": ["simulated", "text-embedding-3-small"]}, "exclude": [{"model.endpoint": "embeddings"}]}
    assert values(expand("hello", sweep=sweep), "model.id") == [("simulated",)]


@pytest.mark.parametrize(
    ("overrides", "sweep", "expected"),
    [
        (["repeats=1,0"], None, "point repeats=0: repeats: expected greater than 0, got 0"),
        (["model=gpt-5,gpt-5-mni"], None, "did you mean gpt-5-mini"),
        (["repeats=1,2", "budget.usd=3"], None, "every one of the 2 points: model.max_output_tokens"),
        (["repeats=interval(1,2)"], None, "an interval has no list of values"),
        (["model=glob(zzz*)"], None, "matches nothing"),
        (["repeats=range(0,200000)"], None, "100,000 are allowed"),
        (
            [],
            {"zip": {"repeats": [1, 2], "data.limit": [1]}},
            "the lists must have the same length (repeats has 2, data.limit has 1)",
        ),
        ([], {"grid": {"repaets": [1]}}, "no such key repaets; did you mean repeats?"),
        ([], {"grid": {"repeats": []}}, "an empty list of values makes no points"),
        ([], {"gird": {}}, "a sweep has grid, zip, points and exclude"),
        ([], {"grid": {"repeats": [1, 2]}, "exclude": [{"name": "hello"}]}, "leaves out all 2 points"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(
    write: Write, overrides: list[str], sweep: dict[str, Any] | None, expected: str
) -> None:
    write({})
    with pytest.raises(ConfigError) as caught:
        expand("hello", overrides, multirun=True, sweep=sweep)
    assert expected in str(caught.value)


def test_every_invalid_point_is_named(write: Write) -> None:
    write({})
    with pytest.raises(ConfigError) as caught:
        expand("hello", ["repeats=1,0,-1", "model=gpt-5,text-embedding-3-small"], multirun=True)
    text = str(caught.value)
    assert "point repeats=1 model=text-embedding-3-small: prompt.input" in text
    assert (
        "2 points repeats=0 model=gpt-5; repeats=0 model=text-embedding-3-small: repeats: expected greater than 0"
        in text
        and "got -1" in text
    )


def test_a_point_is_what_composing_it_alone_gives(write: Write) -> None:
    write({"experiments/hello/prompt/a.yaml": "messages: [{role: user, content: 'A {name}'}]\n"})
    pool = ["model=gpt-5", "model=groq-llama-3.1-8b", "provider=local", "repeats=3", "model.params={a: {b: 1}}", "+data.where=x",
            "++limits.max_requests=4", "schema=sentiment", "schema.fields.label={enum: [x]}", "model.params.a.b=2", "data.rows=[{name: z}]"]  # fmt: skip
    draw = random.Random(7)
    bench = Workbench("hello")
    for _ in range(25):
        overrides = draw.sample(pool, k=draw.randint(0, 6))
        try:
            expected = compose("hello", overrides).document
        except ConfigError as e:
            with pytest.raises(ConfigError) as caught:
                bench.compose(overrides)
            assert str(caught.value) == str(e)
        else:
            assert bench.compose(overrides).document == expected


def test_files_are_read_once_for_all_points(write: Write, tmp_path: Path) -> None:
    write({"experiments/hello/p.md": "first {name}"})
    bench = Workbench("hello")
    overrides = ["prompt.messages.0.content='file:p.md'"]
    first = bench.compose(overrides)
    (tmp_path / "experiments/hello/p.md").write_text("second {name}")
    assert bench.compose([*overrides, "repeats=2"]).spec.messages == first.spec.messages


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(json_values)
def test_a_value_written_as_an_override_is_read_back(value: Any) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"key={literal(value)}").value()
    assert parsed == value and type(parsed) is type(value)
