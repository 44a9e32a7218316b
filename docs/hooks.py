"""mkdocs hook: decision records and providers are listed from their folders, in the navigation; the records on their index too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DECISIONS = Path(__file__).parent / "decisions"
PROVIDERS = Path(__file__).parent / "providers"


def _records() -> list[tuple[str, str]]:
    """(file name, title) of every record, by number."""
    found = []
    for path in sorted(DECISIONS.glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        found.append((path.name, title.removeprefix(f"{path.name[:4]}. ")))
    return found


def on_config(config: Any, **_: Any) -> Any:
    """Fills the navigation's sections of decisions and providers."""
    pages: list[Any] = ["decisions/index.md"]
    pages += [{f"{name[:4]} {title}": f"decisions/{name}"} for name, title in _records()]
    names = sorted(path.name for path in PROVIDERS.glob("*.md") if path.name != "index.md")
    providers = ["providers/index.md", *(f"providers/{name}" for name in names)]
    for section in config["nav"]:
        if "Decisions" in section:
            section["Decisions"] = pages
        if "Providers" in section:
            section["Providers"] = providers
    return config


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Adds the list of decisions to their index."""
    if page.file.src_uri != "decisions/index.md":
        return markdown
    lines = [f"* [{name[:4]}]({name}) {title}" for name, title in _records()]
    return markdown + "\n" + "\n".join(lines) + "\n"
