"""YAML that stands for more than it says is refused by its place, before anything builds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchling.config import door
from batchling.config.tree import resolve
from batchling.errors import ConfigError

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(f"m{i + 1}: &m{i + 1}\n  <<: [{', '.join([f'*m{i}'] * 10)}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (LAUGHS, "has more than 200,000 values", 6),
        (MERGES, "has more than 200,000 values", None),
        ("a: 1\nb: " + "[" * 5000 + "]" * 5000, "nested more than 60 deep", 2),
        ("- " * 5000 + "x", "nested more than 60 deep", 1),
        ("\n".join(" " * i + "a:" for i in range(500)), "nested more than 60 deep", None),
        ("a: &a [1, *a]", r"\*a is inside the value that it refers to", 1),
        ("a: " + "9" * 5000, "a number of 5,000 characters", 1),
        ("a: 1" + ":59" * 5000, "a number of 15,001 characters", 1),
    ],
)
def test_a_text_that_stands_for_too_much(text: str, message: str, line: int | None, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        door.load(path)
    where = caught.value.where or ""
    assert where.startswith(str(path)) and (line is None or where == f"{path}:{line}")


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(door.BYTES + 1)
    with pytest.raises(ConfigError, match="rows belong in a file"):
        door.load(path)


@pytest.mark.parametrize(
    "text",
    [
        "base: &base {a: 1, b: [1, 2]}\nother:\n  <<: *base\n  c: *base\n",
        "a: '" + "9" * 5000 + "'",
        "a: |\n" + "  0123456789\n" * 500,
        "x: " + "[" * 50 + "]" * 50,
        "not: [closed",
        "",
    ],
)
def test_an_ordinary_text_passes_and_a_broken_one_is_somebody_elses(text: str) -> None:
    door.check(text, "here")


def test_interpolations_are_counted_before_they_are_resolved() -> None:
    doubling = {"x0": "abcdefghij", **{f"x{i + 1}": f"${{x{i}}}${{x{i}}}" for i in range(40)}}
    lists = {"x0": ["a"] * 10, **{f"x{i + 1}": [f"${{x{i}}}"] * 10 for i in range(12)}}
    relative = {"p": {"x0": "abcdefghij", **{f"x{i + 1}": f"${{.x{i}}}${{..p.x{i}}}" for i in range(40)}}}
    selected = {"x0": "abcdefghij", **{f"x{i + 1}": f"${{oc.select:x{i}}}${{oc.select:x{i}}}" for i in range(40)}}
    for bomb in (doubling, lists, relative, selected):
        with pytest.raises(ConfigError, match=r"interpolations .* expand to more than"):
            resolve(bomb)
    with pytest.raises(ConfigError, match="within interpolations"):
        resolve({"k": "x", "x": 1, **{f"y{i}": "${${k}}" for i in range(20)}})
    assert resolve({"a": "x", "b": "${a}-${.a}", "c": ["${b}"]}) == {"a": "x", "b": "x-x", "c": ["x-x"]}


def test_a_chain_of_interpolations_ends() -> None:
    with pytest.raises(ConfigError, match="refer to each other more than"):
        resolve({"x0": "a", **{f"x{i + 1}": f"${{x{i}}}" for i in reversed(range(900))}})
