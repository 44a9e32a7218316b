"""The site that `mkdocs build` makes: no warnings, nothing loaded from elsewhere, everything listed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed")

LOADS = {
    "script": "src",
    "img": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "iframe": "src",
    "embed": "src",
}
"""Tags that make a browser fetch what they name. Of `link`, every kind but those that only name a page does."""
NAMES_A_PAGE = {"canonical", "prev", "next", "alternate", "author", "license"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


class Loads(HTMLParser):
    """Collects the addresses that a browser fetches for a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in LOADS:
            self.found.append(given.get(LOADS[tag], ""))
            self.found += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        if tag == "link" and not set(given.get("rel", "").split()) & NAMES_A_PAGE:
            self.found.append(given.get("href", ""))
        if tag in ("image", "use"):  # inside an SVG
            self.found += [given.get("href", ""), given.get("xlink:href", "")]
        self.found += addresses_in_css(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "style":
            self.found += addresses_in_css(data)


def addresses_in_css(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)


def loads(site: Path) -> Iterator[tuple[Path, str]]:
    for path in site.rglob("*"):
        if path.suffix == ".html":
            yield from ((path, address) for address in Loads(path.read_text(encoding="utf-8")).found)
        if path.suffix == ".css":
            yield from ((path, address) for address in addresses_in_css(path.read_text(encoding="utf-8")))
        if path.suffix == ".svg":
            text = path.read_text(encoding="utf-8")
            yield from ((path, a) for a in [*addresses_in_css(text), *re.findall(r"""href=["'](.*?)["']""", text)])


def elsewhere(address: str) -> bool:
    return re.match(r"(https?:)?//", address) is not None


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    everything = list(loads(site))
    assert len(everything) > 500, "the pages were read"
    assert [(path.name, address) for path, address in everything if elsewhere(address)] == []


def test_the_theme_is_given_nothing_for_which_it_would_ask_elsewhere(site: Path) -> None:
    """Its script fetches mermaid for diagrams and numbers of stars for a repository's link: no page may have them."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text, path
        assert 'data-md-component="source"' not in text, path


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example.com/a.js"></script>',
        '<link rel="preconnect stylesheet" href="//fonts.example.com/css">',
        '<img src="x.png" srcset="https://example.com/x2.png 2x">',
        "<style>@font-face { src: url('https://example.com/f.woff2') }</style>",
        '<p style="background: url(https://example.com/b.png)">',
    ],
)
def test_what_would_be_loaded_from_elsewhere_is_seen(tag: str) -> None:
    assert any(elsewhere(address) for address in Loads(tag).found)


def test_links_to_other_sites_are_fine() -> None:
    links = '<a href="https://example.com">x</a><link rel="canonical" href="https://example.com/">'
    assert not any(elsewhere(address) for address in Loads(links).found)


def test_the_search_knows_every_page(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    known = {entry["location"].partition("#")[0] for entry in index["docs"]}
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).as_posix().removesuffix(".md")
        assert ("" if name == "index" else f"{name.removesuffix('index').rstrip('/')}/") in known


def test_every_decision_is_listed_and_in_the_navigation(site: Path) -> None:
    html = (site / "decisions" / "index.html").read_text(encoding="utf-8")
    navigation, _, page = html.partition('<article class="md-content__inner')
    for record in (DOCS / "decisions").glob("[0-9]*.md"):
        assert f'href="{record.stem}/"' in page
        assert f'href="{record.stem}/"' in navigation


def test_sections_come_in_the_order_in_which_they_are_read(site: Path) -> None:
    html = (site / "index.html").read_text(encoding="utf-8")
    tabs = html.partition('class="md-tabs__list"')[2].partition("</ul>")[0]
    names = [re.sub(r"<.*?>", "", found).strip() for found in re.findall(r"<a.*?</a>", tabs, re.S)]
    assert names == ["Start", "Tutorials", "How-to", "Providers", "Reference", "Explanation", "Decisions"]


def test_pages_have_search_a_switch_for_dark_mode_and_copy_buttons(site: Path) -> None:
    html = (site / "quickstart" / "index.html").read_text(encoding="utf-8")
    assert 'data-md-component="search"' in html
    assert 'data-md-color-scheme="slate"' in html
    assert "content.code.copy" in html
