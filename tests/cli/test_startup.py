"""Starting is quick because nothing is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from batchling.cli.program import COMMANDS, program
from tests.cli.conftest import Cli, environment

HEAVY = {
    "openai",
    "duckdb",
    "tiktoken",
    "hydra",
    "omegaconf",
    "starlette",
    "uvicorn",
    "genai_prices",
    "pandas",
    "pyarrow",
}
LATER = HEAVY | {"pydantic", "rich", "yaml", "jinja2", "jsonschema_rs", "orjson"}


def imported(code: str, *args: str) -> set[str]:
    """Top-level modules that a Python process has when the code is done."""
    script = f"{code}\nimport sys\nsys.stderr.write(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return set(done.stderr.splitlines()[-1].split())


MAIN = "import sys; from batchling.cli import main; assert main(sys.argv[1:]) == 0"


def test_help_imports_click_and_nothing_heavy() -> None:
    found = imported(MAIN, "--help")
    assert "click" in found
    assert not found & LATER


def test_version_imports_nothing_heavy() -> None:
    assert not imported(MAIN, "--version") & LATER


def test_status_and_du_read_small_files_only(cli: Cli) -> None:
    cli("run", "names")
    calls = "; ".join(f"assert main({args!r}) == 0" for args in (["status"], ["status", "names"], ["du", "--json"]))
    assert not imported(f"from batchling.cli import main; {calls}") & (HEAVY | {"pydantic", "jsonschema_rs", "jinja2"})


def test_import_batchling_imports_nothing() -> None:
    assert not imported("import batchling") & (LATER | {"click"})


def test_completion_of_commands_needs_no_hydra() -> None:
    code = "import os, sys; os.environ.update(_BATCHLING_COMPLETE='bash_complete', COMP_WORDS='batchling st', COMP_CWORD='1')"
    assert not imported(f"{code}; from batchling.cli import main; assert main([]) == 0") & HEAVY


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_list_of_commands_names_commands_that_are_there(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert command is not None and command.name == name
    assert command.help, "a command says what it is for"
    names = {param.name for param in command.params}
    assert {"json", "verbose", "config_dir", "project"} <= names, "options of every command"
