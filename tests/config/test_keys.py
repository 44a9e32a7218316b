"""Every key of the config tree is read by some code: a key that nothing reads would be a promise that nobody keeps."""

from __future__ import annotations

import ast
from pathlib import Path

from batchling.config import keys

ROOT = Path(__file__).parent.parent.parent / "batchling"

FOR_PEOPLE = {"provider.checked", "provider.source", "description"}
"""Kept with a plan and shown; nothing depends on them."""


def read_names() -> set[str]:
    """Attributes that are read, and texts that name what is read (`config["name"]`, `getattr(x, "name")`)."""
    found = set()
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and id(node) not in prose and path.name not in ("spec.py", "keys.py"):
                found.add(str(node.value))
    return found


def unread(names: set[str]) -> list[str]:
    aliases = {"schema": "output_schema"}
    missing = []
    for key in keys.all_keys():
        name = key.rpartition(".")[2]
        if aliases.get(name, name) not in names and key not in FOR_PEOPLE:
            missing.append(key)
    return missing


def test_no_key_of_the_tree_is_unread() -> None:
    assert unread(read_names()) == []


def test_the_search_finds_a_key_that_nobody_reads() -> None:
    names = read_names()
    assert "provider.capabilities.expires" in unread(names - {"expires"})


def test_retired_keys_are_no_keys_of_the_tree() -> None:
    assert not set(keys.RETIRED) & set(keys.all_keys())
