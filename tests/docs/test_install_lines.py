"""No text tells anybody to install `batchling` by name: in the public registry that name is another project's."""

from __future__ import annotations

import re

import pytest

from .test_committed import ROOT, committed

BY_NAME = re.compile(
    r"(?:pipx?|uv|uvx|poetry|conda|pdm)[\w./\"' -]*?\b(?:install|add|run|tool)\s(?:[^\n|;&`]*?[\s\"'])??batchling(?![\w/.-])|\buvx\s+batchling\b"
)
WHY = {"docs/decisions/0052-a-name-to-publish-under.md", "tests/docs/test_install_lines.py"}


def test_install_lines_name_a_clone_or_a_wheel() -> None:
    found = []
    for path in committed():
        name = str(path.relative_to(ROOT))
        if name in WHY or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{name}:{number}: {match[0]}"
            for number, line in enumerate(text.split("\n"), 1)
            if len(line) < 2_000 and (match := BY_NAME.search(line)) and " && " not in match[0]
        ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["pip install batchling", "pip install 'batchling[frames]'", "pip3 install -q -U batchling", "uv add batchling"],
)
def test_the_pattern_sees_what_it_looks_for(line: str) -> None:
    assert BY_NAME.search(line)


@pytest.mark.parametrize(
    "line",
    ["pip install .", "pip install -q . && .venv/bin/batchling run", "pip install batchling-1.0-py3-none-any.whl"],
)
def test_clones_and_wheels_are_fine(line: str) -> None:
    assert not BY_NAME.search(line)
