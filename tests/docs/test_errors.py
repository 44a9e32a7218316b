"""The page of errors has every exception, state and code that there is, and none that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from batchling import errors
from batchling.ledger import events
from batchling.models import NOT_UNDERSTOOD
from batchling.models import RowState as State
from tests.docs.pages import DOCS, ROOT

PAGE = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "batchling"

ELSEWHERE = {"batchling/local", "batchling/testing"}
"""Servers, which speak a provider's codes."""


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading, cells without backticks."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [re.split(r" \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| `")]
    return [[row[0].strip("`"), *row[1:]] for row in rows]


def family(base: type[Exception]) -> set[type[Exception]]:
    return {base}.union(*(family(one) for one in base.__subclasses__() if one.__module__ == errors.__name__))


def constants(node: ast.AST | None) -> Iterator[str]:
    for inner in ast.walk(node) if node is not None else ():
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def nodes() -> Iterator[ast.AST]:
    """The syntax of all our code but the servers'."""
    for path in PACKAGE.rglob("*.py"):
        if not any(path.is_relative_to(ROOT / folder) for folder in ELSEWHERE):
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def codes_of_calls() -> set[str]:
    """What our own code gives as the code of a refusal, or as the reason that a batch was not taken."""
    found = set()
    for node in nodes():
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("Call", "Rejected")):
            found.update(word for key in node.keywords if key.arg == "code" for word in constants(key.value))
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            given = [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "code"]
            found.update(word for value in given if not isinstance(value, ast.Subscript) for word in constants(value))
        elif (
            isinstance(node, ast.Assign)
            and ast.unparse(node).startswith("reason = ")
            and ast.unparse(node).endswith(".kind")
        ):
            found.add(getattr(events, ast.unparse(node.value).removesuffix(".kind")).kind)
    return found


def codes_of_rows() -> set[str]:
    """The codes that the decoder gives an answer by itself."""
    found = {NOT_UNDERSTOOD}
    for node in nodes():
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Explained":
            found.update(word for arg in node.args[1:2] for word in constants(arg))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Response":
            place = next((key.value for key in node.keywords if key.arg == "error_code"), None)
            place = place or (node.args[6] if len(node.args) > 6 else None)
            found.update(constants(place))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("._replace"):
            found.update(word for key in node.keywords if key.arg == "error_code" for word in constants(key.value))
    return found


def test_every_exception_is_on_the_page_with_its_exit_code() -> None:
    listed = {name: int(code) for name, code, *_ in table("Exit codes and exceptions")}
    assert listed == {one.__name__: one.exit_code for one in family(errors.BatchlingError)}  # type: ignore[attr-defined]


def test_every_exception_of_a_call_is_on_the_page() -> None:
    assert {row[0] for row in table("Calls to a provider")} == {one.__name__ for one in family(errors.CallError)}


def test_every_state_is_on_the_page() -> None:
    assert [row[0] for row in table("States of a row")] == [state.value for state in State]


def test_every_code_that_the_decoder_gives_is_on_the_page() -> None:
    assert {row[0] for row in table("Codes of ours in a row's error")} == codes_of_rows()


def test_every_code_that_we_give_a_call_is_on_the_page() -> None:
    assert {row[0] for row in table("Codes of ours about a batch or a call")} == codes_of_calls()


def test_every_row_says_what_to_do() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.M)
    assert [row for heading in headings for row in table(heading) if len(row) < 3 or not all(row)] == []
