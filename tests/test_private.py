"""Whose files are: modes whatever the umask, lock files that are links, temporary folders of killed processes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchling.catalog import access
from batchling.consent import Consent
from batchling.disk import RealDisk, open_lock, write_file
from batchling.errors import DiskError
from batchling.scratch import scratch, sweep
from batchling.trust import Origin

UMASKS = (0o000, 0o022, 0o077, 0o277)


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Of all files, and of all folders with the outermost one."""
    files = {mode(path) for path in folder.rglob("*") if path.is_file()}
    return files, {mode(path) for path in (folder, *folder.rglob("*")) if path.is_dir()}


def everything(folder: Path) -> None:
    """What the ledger's disk, SQLite's and DuckDB's doors can make."""
    disk = RealDisk()
    disk.make_folder(folder / "plan" / "deeper")
    write_file(disk, folder / "plan" / "file", b"x")
    appended = disk.append(folder / "plan" / "deeper" / "journal")
    appended.write(b"x")
    appended.close()
    disk.lock(folder / "plan" / "lock").release()
    with access.writing(folder) as con:
        con.execute("INSERT INTO catalog.plans (plan_id) VALUES ('p')")


def test_files_and_folders_are_the_users_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    everything(tmp_path / "above" / "runs")
    assert modes(tmp_path / "above") == ({0o600}, {0o700})


def test_in_a_shared_folder_the_group_has_a_part_and_others_have_none(tmp_path: Path, umask: int) -> None:
    RealDisk().share(tmp_path / "runs")
    everything(tmp_path / "runs")
    assert modes(tmp_path / "runs") == ({0o660}, {0o2770})


def test_a_folder_that_others_can_read_makes_nothing_shared(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o2775)  # a group's project folder passes its bit on
    everything(tmp_path / "runs")
    (tmp_path / "runs").chmod(0o700)
    assert modes(tmp_path / "runs") == ({0o600}, {0o700})


def test_a_file_that_is_there_keeps_the_mode_that_its_owner_gave_it(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(b"")
    journal.chmod(0o640)
    RealDisk().append(journal).close()
    assert mode(journal) == 0o640


def test_the_folder_of_consents_too(tmp_path: Path, umask: int) -> None:
    Consent(tmp_path / "config" / "batchling").remember([("KEY", Origin.of("https://llm.example.com"))])
    assert modes(tmp_path / "config") == ({0o600}, {0o700})


PROGRAM = """
import os, sys
os.umask(int(sys.argv[1]))
from batchling.cli.process import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize(("shared", "expected"), [(False, (0o600, 0o700)), (True, (0o660, 0o2770))])
def test_a_whole_run_with_its_server_records_and_catalog(
    tmp_path: Path, shared: bool, expected: tuple[int, int]
) -> None:
    experiment = tmp_path / "experiments" / "e"
    experiment.mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    (experiment / "config.yaml").write_text(
        "defaults: [/base, _self_]\nname: e\ndata: {rows: [{a: x}, {a: y}]}\n"
        "prompt: {messages: [{role: user, content: 'say {a}'}]}\nmetrics: {n: count(*)}\n"
        + ("paths: {mode: shared}\n" if shared else "")
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.pop("BATCHLING_RUNS", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "0", "run", "e", "--yes"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "runs").rglob("*")}
    assert {"catalog.duckdb", "records.parquet", "server.sqlite", "journal.jsonl", "plan.json"} <= names
    assert modes(tmp_path / "runs") == ({expected[0]}, {expected[1]})


@pytest.mark.parametrize("what", ["symbolic link", "hard link", "dangling link", "folder", "pipe"])
def test_a_lock_that_is_no_plain_file_is_refused_and_what_it_leads_to_is_whole(tmp_path: Path, what: str) -> None:
    precious, lock = tmp_path / "precious", tmp_path / "lock"
    precious.write_bytes(b"precious")
    match what:
        case "symbolic link":
            lock.symlink_to(precious)
        case "hard link":
            lock.hardlink_to(precious)
        case "dangling link":
            lock.symlink_to(tmp_path / "made")
        case "folder":
            lock.mkdir()
        case _:
            os.mkfifo(lock)
    with pytest.raises(DiskError) as told:
        RealDisk().lock(lock)
    assert str(lock) in (told.value.where or "")
    assert "remove it" in (told.value.next_command or "")
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "made").exists()


def test_the_catalogs_lock_is_no_link_either(tmp_path: Path) -> None:
    (tmp_path / (access.FILE + ".lock")).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DiskError, match="a link"), access.writing(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_somebody_elses_lock_is_refused_but_in_a_shared_folder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    os.chown(lock, 12_345, -1)
    with pytest.raises(DiskError, match="somebody else's"):
        open_lock(lock)
    RealDisk().share(tmp_path)
    os.close(open_lock(lock))


KILLED = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from batchling.scratch import scratch
with scratch("plan") as folder:
    (folder / "rows").write_text("private")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / "batchling-analysis"  # a name like ours, made by a person
    theirs.mkdir()
    with scratch() as used:
        (tmp_path / "batchling-linked").symlink_to(used)
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
        assert killed.returncode == -signal.SIGKILL
        left = [path for path in tmp_path.glob("batchling-plan-*") if (path / "rows").exists()]
        assert len(left) == 1
        assert sweep() == left
        assert not left[0].exists()
        assert theirs.exists() and used.exists()
        assert mode(used) == 0o700
    assert not used.exists()


def test_making_a_temporary_folder_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert list(tmp_path.glob("batchling-plan-*"))
    with scratch("export") as used:
        assert list(tmp_path.iterdir()) == [used]
