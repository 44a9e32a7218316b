"""Imports go down only, and each heavy library has one door (docs/concepts: layers)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "batchling"

LAYERS: list[tuple[str, set[str]]] = [
    ("base", {"errors", "limits", "models", "plan_document", "spec", "written"}),
    (
        "pure",
        {
            "prompt",
            "sandbox",
            "dialects",
            "request",
            "schema",
            "packing",
            "ledger",
            "waiting",
            "collect",
            "cost",
            "metrics",
            "comparison",
            "placeholders",
            "printable",
            "trust",
            "scrub",
            "tame",
        },
    ),
    (
        "edges",
        {
            "disk",
            "scratch",
            "clock",
            "duck",
            "journal",
            "catalog",
            "source",
            "tokens",
            "providers",
            "local",
            "export",
            "shipped",
            "consent",
            "confined",
        },
    ),
    ("runner", {"runner"}),
    ("config", {"config"}),
    ("api", {"api", "experiments", "manager", "project", "results", "testing"}),
    ("cli", {"cli", "__main__", "__init__"}),
]
LEVEL = {name: level for level, (_, names) in enumerate(LAYERS) for name in names}

DOORS = {
    "hydra": {"config"},
    "omegaconf": {"config"},
    "openai": {"providers"},
    "httpx2": {"providers"},
    "anthropic": set(),  # vendors' clients judge our emulators, in tests only
    "google": set(),
    "mistralai": set(),
    "duckdb": {"duck", "source", "catalog", "results", "export"},
    "tiktoken": {"tokens"},
    "tokenizers": {"tokens"},
    "starlette": {"local"},
    "uvicorn": {"local"},
    "genai_prices": {"cost"},
    "jsonschema_rs": {"schema"},
    "python_calamine": {"source"},
    "psycopg": {"source"},
    "charset_normalizer": {"source"},
    "jinja2": {"sandbox"},
}

IMPURE = {"os", "io", "time", "random", "socket", "subprocess", "tempfile", "shutil", "threading", "urllib", "http"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        yield relative.parts[0].removesuffix(".py"), path


@cache
def imports(path: Path) -> list[tuple[int, str]]:
    """Every imported module with its line, those inside functions and under TYPE_CHECKING too."""
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "batchling":
                for name in node.names:
                    yield node.lineno, f"batchling.{name.name}"
            else:
                yield node.lineno, node.module


def test_every_module_has_a_layer() -> None:
    unknown = {part for part, _ in modules() if part not in LEVEL}
    assert not unknown, f"say in LAYERS where these belong: {unknown}"


def test_imports_go_down_only() -> None:
    wrong = []
    for part, path in modules():
        for line, name in imports(path):
            if name.startswith("batchling."):
                target = name.split(".")[1]
                if target in LEVEL and LEVEL[target] > LEVEL[part]:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_heavy_library_has_one_door(library: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for part, path in modules()
        for line, name in imports(path)
        if name.split(".")[0] == library and part not in DOORS[library]
    ]
    assert not wrong, f"{library} is imported at {wrong}"


def test_pure_modules_do_no_input_or_output() -> None:
    pure = next(names for layer, names in LAYERS if layer == "pure")
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for part, path in modules()
        if part in pure
        for line, name in imports(path)
        if name.split(".")[0] in IMPURE and name != "urllib.parse"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_is_a_drawer() -> None:
    names = {"utils", "util", "common", "helpers", "misc", "base"}
    assert not [path for _, path in modules() if path.stem in names]
