"""Disks that are full or read-only, a damaged journal, clocks that are wrong: each has its answer."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchling.errors import BatchlingError, DiskError, RefusedError
from tests.servers.scripted import reset
from tests.workbench import Workbench

FULL = """\
import errno, os, sys
from pathlib import Path
import batchling.disk
from batchling.__main__ import main

allowed = int(sys.argv.pop(1))
write = os.write

class Full:
    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, descriptor, data):
        global allowed
        if allowed <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        n = write(descriptor, data[:allowed])
        allowed -= n
        return n

batchling.disk.os = Full()
sys.exit(main())
"""
"""A process that may write so many bytes through our disk before the disk is full."""


def run_with(bench: Workbench, allowed: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", FULL, str(allowed), "run", "--yes", *bench.arguments("limits.poll_seconds=0.02")],
        cwd=bench.root,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("allowed", [500, 12_000, 90_000, 92_000])
def test_a_full_disk_stops_the_run_and_nothing_is_bought_twice(bench: Workbench, allowed: int) -> None:
    stopped = run_with(bench, allowed)
    if stopped.returncode != 0:
        assert stopped.returncode == 1, stopped.stderr
        assert "No space left" in stopped.stderr
        assert "Traceback" not in stopped.stderr
    assert bench.run().exit_code == 0
    assert (bench.server.creates, bench.server.times_answered()) == (1, {1})


def test_files_may_not_grow_beyond_a_limit_of_the_system(bench: Workbench) -> None:
    """RLIMIT_FSIZE: the kernel's own refusal, in the middle of a write."""
    bench.rows([{"id": f"r{n}", "text": f"number {n} " + "x" * 2000} for n in range(40)])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))

    stopped = bench.start("run", "--yes", *bench.arguments("limits.poll_seconds=0.02"), preexec_fn=limit)
    _, told = stopped.communicate(timeout=120)
    assert stopped.returncode == 1, told
    assert "Traceback" not in told
    assert bench.server.creates == 0
    assert bench.run().exit_code == 0
    assert bench.server.times_answered() == {1}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_says_so(bench: Workbench) -> None:
    bench.runs.mkdir()
    bench.runs.chmod(0o555)
    with pytest.raises(DiskError, match="BATCHLING_RUNS"):
        bench.run()


def test_a_runs_folder_that_is_a_file_says_so(bench: Workbench) -> None:
    bench.runs.write_text("not a folder")
    with pytest.raises(BatchlingError) as caught:
        bench.run()
    assert str(bench.runs) in str(caught.value)
    assert bench.server.log == []


def test_a_journal_that_is_damaged_before_its_end_stops_and_sends_nothing(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    journal = plan.folder / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"session", b"sessiom")
    journal.write_bytes(b"\n".join(lines))
    sent = len(bench.server.log)
    with pytest.raises(RefusedError) as caught:
        bench.run()
    assert "journal.jsonl:3" in str(caught.value)
    assert len(bench.server.log) == sent
    status = bench.cli("status")
    assert "Traceback" not in status.stderr


def test_a_torn_last_line_of_the_journal_is_cut_off(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    journal = plan.folder / "journal.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"crc":"12345678","seq":99,"ki')
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1


def test_a_clock_that_was_set_back_does_not_shorten_the_settling(bench: Workbench) -> None:
    bench.server.on("POST", "/v1/batches", reset(), bench.server.normal)
    bench.clock.wall = time.time() + 30 * 86_400
    plan = bench.run("retry.resubmit_usd=0")
    assert plan.exit_code == 75
    bench.clock.wall = time.time()
    bench.cli("resolve", plan.plan_id, "--resubmit")
    assert bench.run("retry.resubmit_usd=0").exit_code == 0
    ts = [event["ts"] for event in bench.events()]
    assert ts == sorted(ts), "times in the journal never go back"
    assert bench.server.creates == 1


def test_request_bytes_that_were_changed_on_the_disk_are_not_sent(bench: Workbench) -> None:
    bench.rows(4)
    plan = bench.run("limits.max_requests=2", "limits.concurrent_batches=1", detach=True)
    second = Path(plan.folder / "requests/0002.jsonl")
    second.write_bytes(second.read_bytes().replace(b"number", b"nomber"))
    with pytest.raises(DiskError, match="not the bytes that were planned"):
        bench.run("limits.max_requests=2", "limits.concurrent_batches=1")
    assert bench.server.creates == 1


def flip(plan: Path) -> None:
    """One byte in the middle of a journal."""
    journal = plan / "journal.jsonl"
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(bytes(data))


def test_a_finished_plan_whose_journal_is_damaged_blocks_no_other(bench: Workbench) -> None:
    first = bench.run()
    flip(first.folder)
    bench.rows(5)
    outcome = bench.run()
    assert (outcome.exit_code, outcome.reused, outcome.bought) == (0, 3, 2)
    assert bench.watch() == []
    doctor = bench.cli("doctor")
    assert f"{first.plan_id}/journal.jsonl:" in doctor.stdout and "damaged before its end" in doctor.stdout
    refused = bench.cli("rm", first.plan_id, "--yes")
    assert refused.returncode == 2 and f"batchling rm {first.plan_id} --force" in refused.stderr
    assert bench.cli("rm", first.plan_id, "--force", "--yes").returncode == 0
    assert not first.folder.exists()


def test_nothing_of_an_unfinished_plan_whose_journal_is_damaged_is_bought_again(bench: Workbench) -> None:
    first = bench.run(detach=True)
    flip(first.folder)
    config = (bench.root / "experiments/ask/config.yaml").read_text()
    bench.write({"experiments/other/config.yaml": config.replace("name: ask", "name: other")})
    bench.rows([{"id": "x", "text": "something else"}], name="other")
    assert bench.run(name="other").exit_code == 0
    bench.rows(4)
    with pytest.raises(RefusedError) as caught:
        bench.run()
    assert first.plan_id in str(caught.value.where)
    assert len(bench.server.sent()) == 3 + 1, "what it may have out is not sent again"
    watched = {outcome.plan_id: outcome for outcome in bench.watch()}
    assert (watched[first.plan_id].exit_code, watched[first.plan_id].state) == (2, "damaged")
