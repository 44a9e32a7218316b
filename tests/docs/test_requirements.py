"""requirements.txt: the versions and the hashes of everything that an install brings along."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from .test_committed import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = re.compile(r"([a-z0-9-]+)==([0-9][a-zA-Z0-9.+!]*)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, tuple[str, list[str]]]:
    """Library → version and hashes, of a requirements file in which every line is understood."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    entries = re.split(r"\n(?! )", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).rstrip("\n"))
    found = {}
    for entry in entries:
        match = LOCKED.fullmatch(entry)
        assert match, entry
        assert match[1] not in found, f"{match[1]} is there twice"
        found[match[1]] = (match[2], re.findall(r"[0-9a-f]{64}", match[3]))
    return found


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_the_locked_version_is_one_that_the_project_allows(text: str) -> None:
    requirement = Requirement(text)
    version, hashes = locked()[normal(requirement.name)]
    assert requirement.specifier.contains(version), f"{version} is not {requirement.specifier}: run .ci/requirements.py"
    assert len(hashes) == len(set(hashes))


def test_what_is_compiled_has_the_hashes_of_several_machines() -> None:
    for name in ("duckdb", "orjson", "pydantic-core", "tiktoken", "jsonschema-rs", "python-calamine"):
        assert len(locked()[name][1]) >= 3, name


def test_what_the_locked_libraries_need_is_locked_too() -> None:
    """pip refuses a file with hashes in which one is missing."""
    direct = {normal(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert {"pydantic-core", "anyio", "markupsafe", "antlr4-python3-runtime"} <= locked().keys() - direct


def test_no_place_is_named_from_which_to_install() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|--index|--find-links|--extra|@ ", text)
