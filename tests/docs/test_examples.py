"""What readers are told to type works: configs compose, commands parse, Python compiles and names what there is."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml

import batchling
from batchling.cli.program import COMMANDS, program
from batchling.config import compose, expand, find_project
from tests.docs.pages import ROOT, Block, blocks, commands, followed

TICKET_MODEL = """
from pydantic import BaseModel

class Ticket(BaseModel):
    label: str
"""
FILES = {
    "experiments/tickets/tickets.csv": "ticket,text,label\n1,It broke.,technical\n",
    "experiments/tickets/system.md": "Sort the ticket.",
    "experiments/tickets/schema.py": TICKET_MODEL,
    "experiments/tickets/ticket.schema.json": '{"type": "object", "properties": {"label": {"type": "string"}}}',
}
"""Files that the configs on the pages name."""

QUICKSTART = next(
    b for b in blocks("yaml") if b.where.startswith("docs/quickstart.md") and b.text.startswith("# experiments/tickets")
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the shipped experiments and `tickets`."""
    for folder in sorted((ROOT / "experiments").iterdir()):
        if (folder / "config.yaml").is_file():
            target = tmp_path / "experiments" / folder.name
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.csv", "*.jsonl", "*.parquet"))
    for name, text in {**FILES, "experiments/tickets/config.yaml": QUICKSTART.text}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    return tmp_path


def name_of(block: Block) -> str:
    return block.where


def test_there_are_configs_to_check() -> None:
    assert len(list(blocks("yaml"))) >= 30


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if not followed(block.where)], ids=name_of)
def test_every_config_on_a_page_composes(block: Block, project: Path) -> None:
    first = block.text.partition("\n")[0]
    choice = re.match(r"# conf/(\w+)/(\S+)\.yaml", first)
    if choice:
        page = block.where.partition(":")[0]
        for other in blocks("yaml"):  # files on one page may name each other
            if other.where.startswith(page) and (named := re.match(r"# (conf/\w+/\S+\.yaml)", other.text)):
                path = project / named[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(other.text, encoding="utf-8")
        compose("hello", [f"{choice[1]}={choice[2]}"], project=find_project(project))
        return
    text = block.text
    if "defaults:" not in text:
        given = yaml.safe_load(text)
        text = "defaults: [/base, _self_]\n" + ("" if "name" in given else "name: page\n")
        text += "" if "data" in given or "sweep" in given else "data: {rows: [{text: a, label: b}]}\n"
        text += "" if "prompt" in given or "sweep" in given else "prompt: {messages: [{role: user, content: x}]}\n"
        text += block.text
        if "sweep" in given:
            text = text.replace("defaults: [/base, _self_]", "defaults: [/base, override /prompt: zero_shot, _self_]")
            text += "data: {rows: [{text: a}]}\n"
            shutil.copytree(project / "experiments/intent/prompt", project / "experiments/tickets/prompt")
    (project / "experiments" / "tickets" / "config.yaml").write_text(text, encoding="utf-8")
    assert expand("tickets", project=find_project(project))


def test_there_are_commands_to_check() -> None:
    assert len(list(commands())) > 50


@pytest.mark.parametrize(("where", "command"), [found for found in commands() if not followed(found[0])])
def test_every_command_on_a_page_is_understood(where: str, command: str, project: Path) -> None:
    words = shlex.split(command.replace("[OPTIONS] ", ""))[1:]
    if not words or any(re.match(r"[\[\"(]|\w+\|\w|…|\.\.\.|SQL$|NAME=", word) or "…" in word for word in words):
        pytest.skip("a synopsis")
    name, rest = words[0], words[1:]
    if name.startswith("-"):
        return
    assert name in COMMANDS, f"there is no command {name}"
    found = program.get_command(click.Context(program), name)
    assert found is not None
    context = found.make_context(name, [*rest], resilient_parsing=False)
    experiment = context.params.get("experiment")
    if name in ("plan", "run", "config") and experiment and experiment.upper() != experiment:
        overrides = [o for o in context.params["overrides"] if not re.search(r"=[A-Z_]+$", o)]
        assert expand(experiment, overrides, multirun=True, project=find_project(project))


@pytest.mark.parametrize("block", list(blocks("python")), ids=name_of)
def test_python_on_a_page_compiles_and_imports_what_there_is(block: Block) -> None:
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "batchling":
            for alias in node.names:
                assert hasattr(batchling, alias.name)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "batchling":
            assert hasattr(batchling, node.attr)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "results":
            assert hasattr(batchling.Results, node.attr)
