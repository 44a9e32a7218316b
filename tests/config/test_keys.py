"""Every key of the config is read by some code: one that promises something and does nothing misleads."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from batchling.config.keys import RETIRED, all_keys, key_types

PACKAGE = Path(__file__).parents[2] / "batchling"

FOR_PEOPLE = {"description", "provider.checked", "provider.source", "model.checked", "model.source"}
"""Keys that are there to be read by people, in the file and in the plan's copy of it."""

CALLED = {
    "": {"config", "run"},
    "data": {"data"},
    "limits": {"limits", "own", "run"},
    "model.price": {"price", "own"},
    "prompt.messages": {"message", "template"},
    "provider": {"provider", "config"},
    "provider.engine": {"engine", "config"},
    "provider.limits": {"limits"},
    "schema": {"output_schema", "config"},
    "sweep": {"section"},
}
"""What the code calls a section, where that is not the last part of its key."""


@cache
def reads() -> frozenset[tuple[str, str]]:
    """(name of what is read from, attribute or key) in all our code."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add((_name(node.value), node.attr))
            elif isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                given = node.args[1:] if name == "getattr" else node.args[:1]
                if name in ("get", "getattr", "pop"):
                    found.update(("*", arg.value) for arg in given if isinstance(arg, ast.Constant))
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add(("*", node.slice.value))
    return frozenset(found)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return _name(node.func)
    return node.id if isinstance(node, ast.Name) else ""


def is_read(key: str) -> bool:
    section, _, name = key.rpartition(".")
    called = CALLED.get(section, {section.rpartition(".")[2]})
    field = "output_schema" if key == "schema" else name
    return any((caller, field) in reads() for caller in called) or ("*", field) in reads()


@pytest.mark.parametrize("key", sorted(set(all_keys()) - FOR_PEOPLE))
def test_some_code_reads_every_key(key: str) -> None:
    assert is_read(key), f"{key} does nothing: read it, or retire it (config/keys.py)"


@pytest.mark.parametrize("key", RETIRED)
def test_a_key_that_no_code_reads_is_found(key: str) -> None:
    assert not is_read(key)
    assert key not in key_types()
