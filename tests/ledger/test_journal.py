"""The journal: what was said to be written is there after a crash, and damage is told from a torn line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from batchling.disk import RealDisk
from batchling.errors import DiskError, DiskFullError, JournalError
from batchling.journal import RESERVE_BYTES, Journal, encode, parse, read
from batchling.testing import Chaos, Killed, SimDisk

JOURNAL = Path("/runs/plan/journal.jsonl")


def journal(disk: SimDisk, *kinds: str) -> Journal:
    opened = Journal(disk, JOURNAL)
    for kind in kinds:
        opened.append([{"kind": kind}], ts=1.0)
    return opened


@pytest.fixture
def disk() -> SimDisk:
    return SimDisk(Chaos("journal"))


def test_an_event_is_durable_when_append_returns(disk: SimDisk) -> None:
    journal(disk, "planned", "create_intent")
    disk.next_process(power_loss=True)
    assert [event["kind"] for event in Journal(disk, JOURNAL).events] == ["planned", "create_intent"]


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_torn_last_line_is_cut_off_and_written_over(disk: SimDisk, cut: int) -> None:
    journal(disk, "planned", "created")
    disk.truncate(JOURNAL, disk.size(JOURNAL) - cut)
    again = journal(disk, "upload_intent")
    assert [event["kind"] for event in again.events] == ["planned", "upload_intent"]
    assert [event["kind"] for event in read(disk, JOURNAL)] == ["planned", "upload_intent"]
    assert [event["seq"] for event in again.events] == [1, 2]


def test_a_reader_leaves_a_torn_line_to_the_process_that_is_writing_it(disk: SimDisk) -> None:
    journal(disk, "planned", "created")
    disk.truncate(JOURNAL, disk.size(JOURNAL) - 5)
    before = disk.read(JOURNAL)
    assert len(read(disk, JOURNAL)) == 1
    assert disk.read(JOURNAL) == before


def test_a_journal_that_is_not_there_yet_has_no_events(disk: SimDisk) -> None:
    assert read(disk, JOURNAL) == []


@pytest.mark.parametrize("damage", [b"X", b"\x00", b""])
def test_damage_before_the_last_line_stops_everything_and_says_where(disk: SimDisk, damage: bytes) -> None:
    journal(disk, "planned", "create_intent", "created")
    lines = disk.read(JOURNAL).split(b"\n")
    lines[1] = lines[1][:30] + damage + lines[1][31:]
    with pytest.raises(JournalError, match="line 2") as caught:
        parse(b"\n".join(lines), where=str(JOURNAL))
    assert caught.value.exit_code == 2
    assert caught.value.where == f"{JOURNAL}:2"
    assert caught.value.next_command


def test_a_line_that_is_missing_in_the_middle_is_damage() -> None:
    data = encode({"seq": 1, "ts": 0.0, "kind": "a"}) + encode({"seq": 3, "ts": 0.0, "kind": "c"})
    with pytest.raises(JournalError, match="sequence number 3"):
        parse(data, where="journal")


def test_on_a_full_disk_the_reserve_lets_the_batch_id_be_written(disk: SimDisk) -> None:
    opened = journal(disk, "planned", "create_intent")
    disk.capacity = sum(len(inode.seen) for inode in disk.seen.values())
    opened.append([{"kind": "created", "batch_id": "batch_1"}], ts=2.0)
    disk.next_process(power_loss=True)
    disk.capacity = None
    events = Journal(disk, JOURNAL).events
    assert events[-1]["batch_id"] == "batch_1"
    assert len(events) == 3


def test_when_the_reserve_is_used_up_too_nothing_more_is_written(disk: SimDisk) -> None:
    opened = journal(disk, "planned")
    disk.remove(opened.reserve)
    disk.capacity = sum(len(inode.seen) for inode in disk.seen.values())
    with pytest.raises(DiskFullError):
        opened.append([{"kind": "create_intent"}], ts=2.0)
    with pytest.raises(DiskError, match="start again"):
        opened.append([{"kind": "created"}], ts=2.0)


def test_the_reserve_is_kept_again_by_the_next_process(disk: SimDisk) -> None:
    opened = journal(disk, "planned")
    disk.remove(opened.reserve)
    assert disk.size(journal(disk).reserve) == RESERVE_BYTES


def test_after_a_failed_fsync_the_journal_takes_no_more_events(disk: SimDisk) -> None:
    opened = journal(disk, "planned")
    disk.fsync_fails = 1.0
    with pytest.raises(DiskError, match="fsync"):
        opened.append([{"kind": "create_intent"}], ts=2.0)
    disk.fsync_fails = 0.0
    with pytest.raises(DiskError, match="start again"):
        opened.append([{"kind": "created"}], ts=2.0)


def test_a_power_loss_at_any_step_leaves_a_journal_that_can_be_opened() -> None:
    def write(chaos: Chaos, disk: SimDisk) -> None:
        opened = Journal(disk, JOURNAL)
        opened.append([{"kind": "a"}, {"kind": "b"}], ts=1.0)
        opened.append([{"kind": "c"}], ts=1.0)

    quiet = Chaos("steps")
    write(quiet, SimDisk(quiet))
    for step in range(1, quiet.steps + 1):
        for seed in range(5):
            chaos = Chaos(f"{step}/{seed}", kill_at=(step,))
            disk = SimDisk(chaos)
            with pytest.raises(Killed):
                write(chaos, disk)
            chaos.revive()
            disk.next_process(power_loss=True)
            assert [event["kind"] for event in Journal(disk, JOURNAL).events] in (
                [],
                ["a"],
                ["a", "b"],
                ["a", "b", "c"],
            )


def test_on_the_real_disk_a_journal_survives_a_second_opening(tmp_path: Path) -> None:
    disk = RealDisk()
    path = tmp_path / "journal.jsonl"
    first = Journal(disk, path)
    recorded = first.append([{"kind": "planned"}], ts=1.25)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"crc":"00000000","seq":2,"ki')
    second = Journal(disk, path)
    assert second.events == recorded
    assert second.last_ts == 1.25
    second.close()


def test_a_full_real_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RealDisk().create(tmp_path / "file")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError, match="No space left"):
        writer.write(b"x")
