"""Writes docs/reference/licences.md from the metadata of the installed libraries.

python docs/generate_licences.py
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
PAGE = HERE / "reference" / "licences.md"

INTRODUCTION = """\
# Licences of the libraries

Written by `python docs/generate_licences.py` from what the installed libraries say of themselves. batchling is under Apache-2.0 and contains none
of them: pip installs each from its own project.
"""

CLASSIFIERS = {
    "MIT License": "MIT",
    "BSD License": "BSD",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def normal(name: str) -> str:
    """A project's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def named() -> tuple[list[str], list[str]]:
    """What pyproject.toml names: for every install, and for the extra `frames`."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    both = project["dependencies"], project["optional-dependencies"]["frames"]
    plain, frames = (sorted(normal(Requirement(text).name) for text in texts) for texts in both)
    return plain, frames


def needed(names: list[str]) -> list[str]:
    """What the libraries need in turn, here."""
    seen = set(names)
    todo = list(names)
    while todo:
        for text in metadata.requires(todo.pop()) or []:
            requirement = Requirement(text)
            name = normal(requirement.name)
            if name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                seen.add(name)
                todo.append(name)
    return sorted(seen - set(names))


def licence(name: str) -> str:
    """A library's own word: its SPDX expression, the line of that field, or its classifiers."""
    about = metadata.metadata(name)
    expression = about.get("License-Expression")
    if expression:
        return expression
    line = (about.get("License") or "").strip().split("\n")[0]
    if line and len(line) < 30:
        return line.removesuffix(" License")
    kinds = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or [] if text.startswith("License ::")]
    if not kinds:
        raise SystemExit(f"{name} does not say what its licence is")
    return " and ".join(CLASSIFIERS.get(kind, kind) for kind in kinds)


def text() -> str:
    plain, frames = named()
    parts = [INTRODUCTION]
    for title, names in (
        ("Named by batchling", plain),
        ("What those need", needed(plain)),
        ("The extra `frames`, and what it needs", [*frames, *(n for n in needed(frames) if n not in needed(plain))]),
    ):
        rows = "\n".join(f"| {name} | {licence(name)} |" for name in names)
        parts.append(f"## {title}\n\n| library | licence |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
