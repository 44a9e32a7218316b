"""The SQL that we write means the same on every version of DuckDB that is allowed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WRAPPED = re.compile(r"""\(\s*[\w."{}:]+\s*->>?\s*('[^']*'|\{\})\s*\)""")
ARROW = re.compile(r"""->>|->\s*'""")


def bare_arrows(text: str) -> list[str]:
    """The lines of a text in which a JSON arrow stands without parentheses of its own. Its mere name is no SQL."""
    if text in ("->", "->>"):
        return []
    return [line.strip() for line in WRAPPED.sub("", text).splitlines() if ARROW.search(line)]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every text in a module, f-strings with `{}` for what is filled in; docstrings are prose."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in prose | inside:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)


def test_a_json_arrow_has_parentheses_of_its_own() -> None:
    # Before DuckDB 2, `->>` binds more loosely than AND, =, IS and the comparisons:
    # `a AND j->>'k' IS NOT NULL` is `(a AND j)->>('k' IS NOT NULL)` there.
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {found}"
        for path in sorted((ROOT / "batchling").rglob("*.py"))
        for line, text in texts(path)
        for found in bare_arrows(text)
    ]
    assert not wrong, "put parentheses around it:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("WHERE kind = 'x' AND detail->>'group' IS NOT NULL", True),
        ("WHERE kind = 'x' AND (detail->>'group') IS NOT NULL", False),
        ("coalesce(detail->>'guessed', 'false')", True),
        ("SELECT (r.detail ->> 'a')::BIGINT, (detail->'b')", False),
        ("WHERE e.detail -> 'b' = '1'", True),
        ("list_transform(xs, x -> x + 1)", False),
    ],
)
def test_the_search_tells_bare_arrows_from_wrapped_ones(sql: str, found: bool) -> None:
    assert bool(bare_arrows(sql)) is found
