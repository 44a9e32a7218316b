"""The pages say what there is, and nothing that is not."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from batchling.cli.program import COMMANDS
from batchling.spec import Config
from tests.docs.pages import DOCS, ROOT, pages

README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "__pycache__")


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["generate_architecture", "generate_config", "generate_catalog", "generate_picture"])
def test_generated_pages_are_current(name: str) -> None:
    module = generator(name)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), f"run: python docs/{name}.py"


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^\| `batchling (\w+)", README, re.M)
    assert listed == list(dict.fromkeys(listed))
    assert set(listed) == set(COMMANDS)


def test_every_command_is_used_on_a_page_beside_the_lists() -> None:
    text = "\n".join(
        p.read_text(encoding="utf-8") for p in pages() if p.name not in ("cli.md", "README.md", "CONTRIBUTING.md")
    )
    assert [name for name in COMMANDS if f"batchling {name}" not in text] == []


@pytest.mark.parametrize("group", GROUPS)
def test_every_config_group_has_a_page_and_its_choices_are_in_the_reference(group: str) -> None:
    assert (DOCS / "howto" / f"{group}.md").is_file()
    reference = (DOCS / "reference" / "config.md").read_text(encoding="utf-8")
    section = reference.partition(f"\n## {group}\n")[2].partition("\n## ")[0]
    for choice in (ROOT / "conf" / group).glob("*.yaml"):
        assert f"| `{choice.stem}` |" in section


def test_every_config_key_says_what_it_is() -> None:
    silent = []

    def walk(model: type, prefix: str) -> None:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            section = generator_.section_of(field.annotation)
            if section is not None:
                walk(section, f"{prefix}{field.alias or name}.")
            elif not field.description:
                silent.append(prefix + name)

    generator_ = generator("generate_config")
    walk(Config, "")
    assert silent == []


def exit_codes(text: str) -> dict[str, str]:
    table = text.partition("| code | meaning |")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| (\d+) \| (.*?) \|$", table, re.M))


def test_the_exit_codes_are_the_same_everywhere() -> None:
    from batchling import errors

    known = set(exit_codes(README))
    for page in (DOCS / "cli.md", DOCS / "reference" / "exit-codes.md"):
        assert set(exit_codes(page.read_text(encoding="utf-8"))) == known
    raised = {str(c.exit_code) for c in vars(errors).values() if isinstance(c, type) and hasattr(c, "exit_code")}
    assert raised | {"0", "3"} == known


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        assert path.exists(), f"{target} is not there"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{target}: no such heading"


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("[0-9]*.md")), ids=lambda p: p.stem)
def test_a_decision_says_context_choice_and_what_was_given_up(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
    assert text.startswith("# ")
    for part in ("**Context.**", "**Choice.**", "**Given up.**"):
        assert part in text


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in (DOCS / "decisions").glob("[0-9]*.md")]
    assert len(numbers) == len(set(numbers))


def test_the_changelog_begins_with_what_is_not_released_and_knows_this_version() -> None:
    from importlib.metadata import version

    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert headings[0] == "Unreleased"
    assert version("batchling") in headings


def test_the_readme_has_the_two_commands_that_ci_copies() -> None:
    for mark in ("run", "test"):
        found = re.search(rf"<!-- ci: {mark} -->\n```sh\n(.+)\n```", README)
        assert found and "\n" not in found[1], "one shell line in a block of its own"
