"""The real disk: locks that name their holder and die with it, files that are whole or absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchling.disk import RealDisk, write_file
from batchling.errors import DiskError, LockedError

HOLD = """
import sys
from pathlib import Path
from batchling.disk import RealDisk
held = RealDisk().lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_process_is_told_who_holds_the_plan(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(LockedError, match=f"held by process {holder.pid} on ") as caught:
        RealDisk().lock(tmp_path / "lock")
    assert caught.value.exit_code == 75


def test_a_lock_is_free_when_its_process_was_killed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    RealDisk().lock(tmp_path / "lock").release()


def test_a_lock_that_was_given_back_can_be_taken_again(tmp_path: Path) -> None:
    disk = RealDisk()
    disk.lock(tmp_path / "lock").release()
    second = disk.lock(tmp_path / "lock")
    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        disk.lock(tmp_path / "lock")
    second.release()


def test_a_file_is_written_whole_and_leaves_no_part_behind(tmp_path: Path) -> None:
    write_file(RealDisk(), tmp_path / "plan.json", b"{}")
    assert RealDisk().names(tmp_path) == ["plan.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_names_the_setting_that_moves_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="BATCHLING_RUNS"):
        RealDisk().create(tmp_path / "file")
    tmp_path.chmod(0o700)


def test_an_absent_folder_has_no_names(tmp_path: Path) -> None:
    assert RealDisk().names(tmp_path / "absent") == []
