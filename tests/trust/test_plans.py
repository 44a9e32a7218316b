"""A plan that somebody else made runs no code and gets no key; one that was changed is not used at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import batchling
from batchling import consent
from batchling.consent import MOST_PLANS, Plans
from batchling.errors import ChangedError, RefusedError
from tests.servers.batches import BatchServer, answered

from .conftest import CONFIG, Cli, arrived, reseal, travelled, unseal

SCHEMA = """\
import os, pathlib
pathlib.Path(os.environ["MARK"]).touch()
from pydantic import BaseModel
class Answer(BaseModel):
    label: str
"""


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once a plan's code was run."""
    path = tmp_path / "code-was-run"
    monkeypatch.setenv("MARK", str(path))
    monkeypatch.setattr("batchling.config.module._LOADED", {})  # as in a process of its own
    return path


@pytest.fixture
def classed(project: Path, mark: Path) -> Path:
    """An experiment whose schema is a pydantic class."""
    folder = project / "experiments" / "ask"
    (folder / "schema.py").write_text(SCHEMA)
    (folder / "system.md").write_text("Be short.\n")
    text = CONFIG.replace("messages: [", "messages: [{role: system, content: 'file:system.md'}, ")
    (folder / "config.yaml").write_text(text + "schema: {pydantic: schema.py:Answer}\nretry: {repair: false}\n")
    return project


def forget_code(mark: Path) -> None:
    """As if a new process began."""
    from batchling.config import module

    module._LOADED.clear()
    mark.unlink(missing_ok=True)


def detached(cli: Cli, project: Path, server: BatchServer, *more: str) -> Path:
    where = ("provider=compatible", f"provider.base_url={server.url}", *more)
    answer = cli("run", "ask", "--yes", "--detach", *where)
    assert answer.code == 75, answer.err
    (path,) = (project / "runs").glob("*/plan.json")
    return path.parent


def finished(cli: Cli, project: Path, *more: str) -> Path:
    answer = cli("run", "ask", "--yes", "provider=local", "model.id=simulated", *more)
    assert answer.code == 0, answer.err
    (path,) = (project / "runs").glob("*/plan.json")
    return path.parent


CHANGES = {
    "plan.json": lambda plan: (plan / "plan.json").write_bytes((plan / "plan.json").read_bytes() + b"\n"),
    "source/schema.py": lambda plan: (plan / "source" / "schema.py").write_text(SCHEMA + "\n"),
    "source/system.md": lambda plan: (plan / "source" / "system.md").unlink(),
    "source/config.yaml": lambda plan: (plan / "source" / "config.yaml").write_text(""),
    "source/pydantic.py": lambda plan: (plan / "source" / "pydantic.py").write_text("raise SystemExit"),
    "source/more/deep.txt": lambda plan: (
        (plan / "source" / "more").mkdir(),
        (plan / "source" / "more" / "deep.txt").write_text("x"),
    ),
    "source/link.md": lambda plan: (plan / "source" / "link.md").symlink_to("/etc/passwd"),
    "source/pipe": lambda plan: os.mkfifo(plan / "source" / "pipe"),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_one_changed_missing_or_added_file_is_named_and_nothing_is_sent_or_imported(
    cli: Cli, classed: Path, server: BatchServer, mark: Path, name: str
) -> None:
    plan = detached(cli, classed, server)
    CHANGES[name](plan)  # type: ignore[no-untyped-call]
    forget_code(mark)
    before = len(server.log)
    where = ("provider=compatible", f"provider.base_url={server.url}")
    using = [
        ("watch", "--yes"),
        ("watch", plan.name, "--yes", "--trust"),
        ("cancel", plan.name),
        ("resolve", plan.name, "--drop"),
        ("resolve", plan.name, "--drop", "--force"),
        ("doctor", "--rebuild", plan.name),
        ("doctor", "--rebuild"),
    ]
    for command in using:
        answer = cli(*command)
        assert answer.code == 2, (command, answer.err)
        assert name in answer.err
    assert not mark.exists() and len(server.log) == before
    for again in (("run", "ask", "--yes", *where), ("run", "ask", "--yes", "--retry", "invalid", *where)):
        answer = cli(*again)
        assert answer.code == 2 and name in answer.err, (again, answer.err)
    assert len(server.log) == before
    forget_code(mark)
    for command in (("status",), ("status", plan.name), ("results", plan.name), ("du",), ("compare",)):
        answer = cli(*command)
        assert name in answer.err + answer.out, command
        assert plan.name in answer.err + answer.out, command
    assert cli("status", plan.name).code == 0
    assert not mark.exists() and len(server.log) == before
    # And there is a way out that does not need the file.
    assert cli("rm", plan.name, "--force", "--yes").code == 0
    assert not plan.exists()


def test_a_finished_plan_that_was_changed_is_not_used_either(cli: Cli, classed: Path, mark: Path) -> None:
    plan = finished(cli, classed)
    with (plan / "source" / "schema.py").open("a") as file:
        file.write("#")
    forget_code(mark)
    for command in (("watch", plan.name), ("doctor", "--rebuild", plan.name)):
        answer = cli(*command)
        assert answer.code == 2 and "source/schema.py was changed" in answer.err, command
    with pytest.raises(ChangedError, match=r"source/schema\.py was changed"):
        list(batchling.load(plan.name).objects())
    with pytest.raises(ChangedError):
        batchling.watch(plan.name)
    assert not mark.exists()


def test_a_plan_that_travelled_runs_no_code_and_gets_no_key_until_it_is_taken(
    cli: Cli, classed: Path, server: BatchServer, mark: Path
) -> None:
    plan = detached(cli, classed, server)
    travelled(classed)
    forget_code(mark)
    before = len(server.log)
    for command in (
        ("watch", "--yes"),
        ("watch", plan.name, "--yes"),
        ("watch", plan.name, "--yes", "--trust-host", "127.0.0.1"),
        ("cancel", plan.name),
        ("resolve", plan.name, "--drop"),
    ):
        answer = cli(*command)
        assert answer.code == 4, (command, answer.err)
        assert f"batchling watch {plan.name} --trust" in answer.err
        assert f"OPENAI_API_KEY to {server.url.removesuffix('/v1')}" in answer.err and "schema.py" in answer.err
    for command in (("status",), ("status", plan.name), ("results", plan.name), ("query", "select * from plans")):
        assert cli(*command).code == 0
    assert "not known to be yours" in cli("status", plan.name).out
    assert json.loads(cli("status", plan.name, "--json").out)["own"] is False
    assert cli("doctor", "--rebuild").code == 0
    assert not mark.exists() and len(server.log) == before
    answer = cli("watch", plan.name, "--yes", "--trust")
    assert answer.code in (0, 3) and len(server.log) > before, answer.err
    assert mark.exists()
    # It is remembered.
    consent._HERE.clear()
    assert json.loads(cli("status", plan.name, "--json").out)["own"] is True


def test_python_raises_the_same(cli: Cli, classed: Path, server: BatchServer, mark: Path) -> None:
    plan = detached(cli, classed, server)
    travelled(classed)
    forget_code(mark)
    before = len(server.log)
    for call in (batchling.watch, batchling.cancel):
        try:
            (found,) = call(plan.name)  # type: ignore[operator]
        except RefusedError as error:
            assert error.exit_code == 4 and f"batchling watch {plan.name} --trust" in str(error)
        else:
            raise AssertionError(found)
    (outcome,) = batchling.watch()
    assert outcome.exit_code == 4 and "not known to be yours" in " ".join(outcome.outcome.details)
    assert not mark.exists() and len(server.log) == before
    (outcome,) = batchling.watch(trust=True)
    assert outcome.exit_code in (0, 3) and mark.exists()


def test_the_schema_that_plan_json_keeps_judges_where_nothing_leaves(cli: Cli, classed: Path, mark: Path) -> None:
    answer = cli("run", "ask", "--yes", "--detach", "provider=local", "model.id=simulated")
    assert answer.code == 75, answer.err
    (plan,) = (path.parent for path in (classed / "runs").glob("*/plan.json"))
    travelled(classed)
    forget_code(mark)
    answer = cli("watch", "--yes")
    assert answer.code == 0, answer.err
    first = cli("results", plan.name, "--format", "jsonl").out
    assert '"label"' in first
    for path in (plan / "responses").glob("*.decoded.jsonl"):
        path.unlink()  # so that nothing is left of what was judged before
    assert cli("doctor", "--rebuild").code == 0
    assert cli("results", plan.name, "--format", "jsonl").out == first
    with pytest.raises(RefusedError, match=r"runs schema\.py"):
        list(batchling.load(plan.name).objects())
    assert not mark.exists()
    assert [answer.label for answer in batchling.load(plan.name, trust=True).objects()]
    assert mark.exists()


def test_an_answer_that_does_not_fit_the_kept_schema_is_invalid(
    cli: Cli, classed: Path, server: BatchServer, mark: Path
) -> None:
    server.row = lambda request: answered(request, "no JSON at all")  # type: ignore[assignment,misc]
    where = ("provider=compatible", f"provider.base_url={server.url}")
    assert cli("run", "ask", "--yes", *where).code == 3
    (plan,) = (path.parent for path in (classed / "runs").glob("*/plan.json"))
    travelled(classed)
    for path in (plan / "responses").glob("*.decoded.jsonl"):
        path.unlink()
    forget_code(mark)
    answer = cli("doctor", "--rebuild", "--json")
    assert json.loads(answer.out)["rebuilt"][0]["states"] == {"invalid": 2}
    assert not mark.exists()


@pytest.mark.parametrize("same_id", [True, False])
def test_a_folder_with_the_id_of_a_plan_of_ones_own_and_other_content_is_a_strangers(
    cli: Cli, classed: Path, server: BatchServer, mark: Path, same_id: bool
) -> None:
    plan = detached(cli, classed, server)
    with (plan / "source" / "schema.py").open("a") as file:
        file.write("\n# and more\n")
    reseal(plan)
    if not same_id:
        plan = plan.rename(plan.with_name(plan.name[:-6] + "abcdef"))
    forget_code(mark)
    before = len(server.log)
    answer = cli("watch", plan.name, "--yes")
    assert answer.code == 4 and "not known to be yours" in answer.err
    where = ("provider=compatible", f"provider.base_url={server.url}")
    (classed / "experiments" / "ask" / "schema.py").write_text(SCHEMA)
    answer = cli("run", "ask", "--yes", *where)
    assert answer.code == 4 and "not known to be yours" in answer.err
    assert len(server.log) == before


def test_a_plan_without_hashes_is_taken_after_a_question_or_where_it_is_the_experiment_itself(
    cli: Cli, classed: Path, server: BatchServer, mark: Path
) -> None:
    plan = detached(cli, classed, server)
    unseal(plan)
    travelled(classed)
    shutil.copytree(classed / "runs", classed.parent / "as-it-was")
    answer = cli("watch", plan.name, "--yes")
    assert answer.code == 4 and "--trust" in answer.err
    where = ("provider=compatible", f"provider.base_url={server.url}")
    answer = cli("run", "ask", "--yes", *where)
    assert answer.code in (0, 3), answer.err
    assert json.loads(cli("status", plan.name, "--json").out)["own"] is True
    assert [path.name for path in (classed / "runs").glob("2*")] == [plan.name], "it was resumed, not made anew"


@pytest.mark.parametrize("what", ["code", "address", "more code"])
def test_a_plan_without_hashes_that_says_it_is_the_experiment_and_is_not_is_a_strangers(
    cli: Cli, classed: Path, server: BatchServer, mark: Path, what: str
) -> None:
    plan = detached(cli, classed, server)
    unseal(plan)
    travelled(classed)
    with BatchServer() as evil:
        if what == "code":
            with (plan / "source" / "schema.py").open("a") as file:
                file.write("\nraise SystemExit('the stranger’s')\n")
        elif what == "more code":
            (plan / "source" / "pydantic.py").write_text("raise SystemExit")
        else:
            path = plan / "plan.json"
            path.write_text(path.read_text().replace(server.url, evil.url))
        before = len(server.log)
        answer = cli("run", "ask", "--yes", "provider=compatible", f"provider.base_url={server.url}")
        assert answer.code == 4 and "not known to be yours" in answer.err, answer.err
        assert arrived(evil) == "" and len(server.log) == before


def test_an_adapter_of_another_package_is_not_loaded_for_a_strangers_plan(
    cli: Cli, project: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = detached(cli, project, server)
    path = plan / "plan.json"
    path.write_text(path.read_text().replace('"adapter": "openai"', '"adapter": "evil"'))
    reseal(plan)
    monkeypatch.setattr("batchling.providers.registry.adapters", lambda: pytest.fail("adapters were looked for"))
    for command in (("watch", plan.name, "--yes"), ("doctor", "--rebuild", plan.name), ("cancel", plan.name)):
        answer = cli(*command)
        assert answer.code == 4 and "adapter evil" in answer.err, (command, answer.err)


def test_ones_own_plans_ask_nothing_in_another_process(cli: Cli, classed: Path, server: BatchServer) -> None:
    plan = detached(cli, classed, server)
    consent._HERE.clear()
    moved = classed.rename(classed.with_name("moved"))
    os.chdir(moved)
    answer = cli("watch", plan.name, "--yes")
    assert answer.code in (0, 3), answer.err


@pytest.mark.parametrize("home", ["read-only", "a file", "unset"])
def test_a_container_without_a_home_knows_what_was_planned_in_it(
    cli: Cli, classed: Path, server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    place = tmp_path / "home"
    if home == "a file":
        place.write_text("")
    elif home == "read-only":
        monkeypatch.setenv("XDG_CONFIG_HOME", "/proc/nowhere")
    else:
        for name in ("XDG_CONFIG_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    plan = detached(cli, classed, server)
    consent._HERE.clear()
    answer = cli("watch", plan.name, "--yes")
    assert answer.code in (0, 3), answer.err
    assert not list((classed / "runs").rglob("plans"))


def test_a_list_of_plans_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    plans = Plans(tmp_path / "mine", instead=tmp_path / "machine")
    plans.remember("20260101-000000-ask-abcdef", "a" * 64)
    consent._HERE.clear()
    assert plans.knows("a" * 64) and not plans.knows("b" * 64)
    (tmp_path / "mine" / "plans").chmod(0o666)
    assert not plans.knows("a" * 64)
    plans.remember("20260101-000000-ask-abcdef", "a" * 64)
    consent._HERE.clear()
    assert plans.knows("a" * 64), "in the other folder"
    (tmp_path / "machine").chmod(0o777)
    assert not plans.knows("a" * 64)


def test_the_list_stays_small_and_survives_a_torn_line(tmp_path: Path) -> None:
    plans = Plans(tmp_path / "mine", instead=tmp_path / "machine")
    (tmp_path / "mine").mkdir(mode=0o700)
    path = tmp_path / "mine" / "plans"
    path.write_text("".join(f"{n:064x} p{n}\n" for n in range(MOST_PLANS * 3 // 2)) + "1234")
    path.chmod(0o600)
    plans.remember("new", "f" * 64)
    consent._HERE.clear()
    assert plans.knows("f" * 64) and plans.knows(f"{MOST_PLANS * 3 // 2 - 1:064x}") and not plans.knows(f"{0:064x}")
    assert len(path.read_text().splitlines()) <= MOST_PLANS + 1
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_processes_remember_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from batchling.consent import Plans\n"
        "plans = Plans(pathlib.Path(sys.argv[1]))\n"
        "for n in range(40): plans.remember('p', f'{int(sys.argv[2]) * 1000 + n:064x}')\n"
    )
    folder = tmp_path / "mine"
    running = [subprocess.Popen([sys.executable, "-c", script, str(folder), str(n)]) for n in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    consent._HERE.clear()
    found = Plans(folder, instead=tmp_path / "machine")
    assert all(found.knows(f"{p * 1000 + n:064x}") for p in range(4) for n in range(40))
    assert len((folder / "plans").read_text().splitlines()) == 160


def test_a_kill_between_remembering_a_plan_and_its_appearance_leaves_no_plan_that_is_nobodys(
    cli: Cli, classed: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's folder hears of a plan first: what appears is known, and what did not appear harms nobody."""
    seen: list[tuple[str, bool]] = []
    remember = Plans.remember

    def watched(self: Plans, plan_id: str, mark: str) -> None:
        seen.append((plan_id, (classed / "runs" / plan_id).exists()))
        remember(self, plan_id, mark)

    monkeypatch.setattr(Plans, "remember", watched)
    plan = detached(cli, classed, server)
    assert seen == [(plan.name, False)]
