"""mkdocs hook: the page of decisions lists what is in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DECISIONS = Path(__file__).parent / "decisions"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Adds the list of decisions, by number, to their index."""
    if page.file.src_uri != "decisions/index.md":
        return markdown
    lines = []
    for path in sorted(DECISIONS.glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"* [{path.name[:4]}]({path.name}) {title}")
    return markdown + "\n" + "\n".join(lines) + "\n"
