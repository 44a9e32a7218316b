"""Writes docs/architecture.md from the imports: `python docs/generate_architecture.py`. A test fails when it is out of date."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.test_layers import DOORS, LAYERS, LEVEL, ROOT, imports, modules

PAGE = Path(__file__).with_name("architecture.md")

MEANS = {
    "base": "values: the config tree, errors, what modules hand each other",
    "pure": "computation: no disk, network, clock or randomness",
    "edges": "disk, network, clock, DuckDB; one module for each",
    "runner": "performs what the ledger decides, and journals it first",
    "config": "composes configs with Hydra",
    "api": "what programs use",
    "cli": "parses, prints, sets exit codes",
}

HEAD = """\
# Architecture

Generated from the imports by `python docs/generate_architecture.py`.

A module imports from its own layer or from one further down, never from one above; `tests/test_layers.py` checks it. An arrow is an import.
Arrows that follow from others are left out, and so are those to `base`, which everything imports.

"""

DECIDES = """
## How a row walks

1. `config` composes the experiment into a spec for each run; `source` takes a snapshot of the rows.
2. `runner` compiles them: `prompt` and `schema` give the text and the schema, `request` the bytes of a line and its key, `packing` the shards.
3. `ledger` decides what to do next from the journal's events; `runner` writes the intent to `journal`, then acts through `providers`.
4. What came back is stored as it came. `collect` decodes it and joins it to the rows; `schema` validates the answers.
5. `catalog` is a view of the plan folders: it can be deleted and rebuilt. `metrics` and `comparison` say how good the answers are, and how sure that is.

[The ledger](ledger.md) explains why nothing is paid twice, [the plan folder](reference/plan-folder.md) where everything is written.
"""


def graph() -> dict[str, set[str]]:
    """Top-level module → those that it imports, itself and `base` left out."""
    found: dict[str, set[str]] = {part: set() for part, _ in modules()}
    base = LAYERS[0][1]
    for part, path in modules():
        for _, name in imports(path):
            target = name.split(".")[1] if name.startswith("batchling.") else part
            if target in LEVEL and target != part and target not in base:
                found[part].add(target)
    return found


def reduced(edges: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from others. Where modules import each other, all of theirs are kept."""
    below = {part: _reach(edges, part) for part in edges}
    kept = []
    for part, targets in sorted(edges.items()):
        for target in sorted(targets):
            others = (other for other in targets - {target} if part not in below[other])
            if not any(target in below[other] and other not in below[target] for other in others):
                kept.append((part, target))
    return kept


def _reach(edges: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for target in edges.get(left.pop(), ()):
            if target not in found:
                found.add(target)
                left.append(target)
    return found


def purpose(part: str) -> str:
    """The first sentence of a module's docstring."""
    path = ROOT / part / "__init__.py" if (ROOT / part).is_dir() else ROOT / f"{part}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split()).replace("|", "\\|")


def page() -> str:
    """The whole page."""
    edges = graph()
    shown = {part for part in edges if not part.startswith("__")}
    lines = ["```mermaid", "flowchart TD"]
    for name, members in reversed(LAYERS):
        present = sorted(members & shown)
        lines += [f"  subgraph {name}_layer[{name}]", *(f"    {part}_[{part}]" for part in present), "  end"]
    lines += [f"  {part}_ --> {target}_" for part, target in reduced(edges) if {part, target} <= shown]
    lines.append("```")
    tables = []
    for name, members in reversed(LAYERS):
        tables.append(f"\n## {name}: {MEANS[name]}\n\n| module | what it is for |\n|---|---|")
        tables += [f"| `{part}` | {purpose(part)} |" for part in sorted(members & shown)]
    doors = ["\n## One door for each heavy library\n", "| library | imported by |", "|---|---|"]
    doors += [
        f"| {name} | {', '.join(f'`{part}`' for part in sorted(parts))} |" for name, parts in sorted(DOORS.items())
    ]
    return HEAD + "\n".join([*lines, *tables, *doors]) + "\n" + DECIDES


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
