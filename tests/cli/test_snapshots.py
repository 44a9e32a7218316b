"""What every command prints in a terminal of 80, 100 and 160 columns, as snapshots.

`just snapshots` accepts what they print now; the diff of `__snapshots__` shows what a change does to people's screens.
Ids, times, sizes and paths are replaced by fixed ones of the same width.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchling.cli import main
from batchling.cli.program import COMMANDS
from batchling.shipped import claims, shipped_conf
from tests.cli.conftest import CONFIG

pytest.importorskip("syrupy", reason="syrupy comes with the dev extra")

COMMAND_LINES = [
    "plan names",
    "plan names -m repeats=1,2,3",
    "plan names provider=openai",
    "run names --yes",
    "watch",
    "status",
    "status SINGLE",
    "status SWEEP",
    "results SINGLE",
    "results SINGLE --format csv",
    "compare SINGLE",
    "compare SWEEP",
    "query 'select row_id, state, output from records where plan_id = (select min(plan_id) from plans) order by row'",
    "query --format csv 'select state, count(*) as n from records group by 1'",
    "cancel SINGLE",
    "du",
    "doctor --offline",
    "providers",
    "providers zhipu",
    "models",
    "models ovhcloud",
    "models litellm",
]

ERRORS = [
    "",
    "frob",
    "pln names",
    "plan",
    "plan nmes",
    "plan names modle.id=x",
    "plan names repeats=0",
    "plan names data.id=nothing",
    "plan names prompt.messages.0.content='{nobody}'",
    "plan names metrics.m='output.lable'",
    "run names provider=openai",
    "run names provider=openai budget.usd=0 model.id=gpt-5-mini",
    "run names provider=openai budget.usd=0 model.id=gpt-5-mini model.max_output_tokens=10",
    "status nothing",
    "results nothing",
    "query 'select nothing from records'",
    "query 'drop table records'",
    "rm nothing",
    "providers opnai",
    "models opnai",
    "resolve SINGLE",
    "resolve SINGLE --resubmit",
    "--frob",
    "plan names --frob",
]


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal and keeps what was written."""

    def __init__(self, *, terminal: bool) -> None:
        self.kept = io.BytesIO()
        self.terminal = terminal
        super().__init__(self.kept, encoding="utf-8", newline="", write_through=True)

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        return self.kept.getvalue().decode()


@dataclass
class World:
    """A project with two finished plans: one run of `names`, and a sweep of two."""

    folder: Path
    single: str
    sweep: str

    def fixed(self, text: str) -> str:
        """The text without what differs from one machine, or one run of the tests, to another; columns keep their width."""
        text = text.replace(str(self.folder), "/project").replace(str(shipped_conf()), "/conf")
        for number, plan_id in enumerate((self.single, self.sweep), 1):
            stands_for = f"2026010{number}-000000-names-00000{number}"
            text = text.replace(plan_id, stands_for).replace(plan_id[-6:], stands_for[-6:])
            text = text.replace(plan_id[:15], stands_for[:15])  # where a narrow column cut it
        text = re.sub(r"\b\d{4}-\d\d-\d\d \d[\d:]*", lambda found: re.sub(r"\d", "0", found[0]), text)
        text = re.sub(r"\bbatch_[0-9a-f]+", lambda found: "batch_" + "0" * (len(found[0]) - 6), text)
        text = re.sub(r"(?<=  ) ?\d{1,3} (s|min)\b", " 0 s", text)
        text = re.sub(r"\(\d+ (s|min)\)", "(0 s)", text)
        return re.sub(r'"k1-[0-9a-f]{40}"', '"k1-…"', text)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("screens") / "project"
    (folder / "experiments" / "names").mkdir(parents=True)
    (folder / "experiments" / "names" / "config.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TZ", "UTC")
        patch.setenv("NO_COLOR", "1")
        for name in ("BATCHLING_RUNS", "FORCE_COLOR", *claims().by_variable):
            patch.delenv(name, raising=False)
        made = []
        for args in (["run", "names", "--yes"], ["run", "names", "--yes", "-m", "repeats=1,2"]):
            code, _, err = printed(patch, 100, args)
            assert code == 0, err
            made.append(next(p.name for p in (folder / "runs").iterdir() if p.name[:2] == "20" and p.name not in made))
        yield World(folder, *made)


def printed(patch: pytest.MonkeyPatch, width: int, args: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout of a terminal so wide, and stderr that is none: with plain lines, without cursor movements."""
    out, err = Terminal(terminal=True), Terminal(terminal=False)
    with patch.context() as during:
        during.setenv("COLUMNS", str(width))
        during.setattr(sys, "stdout", out)
        during.setattr(sys, "stderr", err)
        code = main(args)
    return code, out.text, err.text


def screen(world: World, line: str, width: int) -> str:
    """The command line, its exit code and what it printed."""
    import shlex

    args = [{"SINGLE": world.single, "SWEEP": world.sweep}.get(arg, arg) for arg in shlex.split(line)]
    with pytest.MonkeyPatch.context() as patch:
        code, out, err = printed(patch, width, args)
    shown = world.fixed(f"$ batchling {line}\n{out}--- stderr\n{err}--- exit code {code}\n")
    return _without_sizes(shown) if line in ("du", "doctor --offline") else shown


def _without_sizes(text: str) -> str:
    """Lines of `du` and `doctor` without the figures of this machine; what they found is cut where the terminal ends."""
    text = re.sub(r"\d[\d.,]* [kMG]?B\b", "N B", text)
    lines = []
    for line in text.splitlines():
        known = re.match(r"(ok|warn|fail) +(versions|project|disk|tokenizer|embedded server) ", line)
        if known and known[2] == "tokenizer":
            line = "…  tokenizer …"  # whether this machine has the vocabulary
        elif known:
            line = known[0] + "…"
        lines.append(re.sub(" {2,}", "  ", line))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_commands_output(world: World, line: str, width: int, snapshot: Any) -> None:
    assert screen(world, line, width) == snapshot


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("line", ["--help", *(f"{name} --help" for name in COMMANDS)])
def test_a_commands_help(world: World, line: str, width: int, snapshot: Any) -> None:
    shown = screen(world, line, width)
    assert max(map(len, shown.splitlines())) <= width
    assert shown == snapshot


@pytest.mark.parametrize("line", ERRORS)
def test_a_commands_error(world: World, line: str, snapshot: Any) -> None:
    assert screen(world, line, 100) == snapshot


def test_every_command_is_shown(world: World) -> None:
    shown = {line.split()[0] for line in [*COMMAND_LINES, *ERRORS] if line}
    assert set(COMMANDS) - shown == {
        "init",
        "serve",
        "config",
        "completion",
    }  # files, a server, and what others' tests read
