"""Journals of every format: older ones are upgraded as they are read, later ones are refused by name."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from batchling.errors import JournalError
from batchling.journal import Journal, encode, parse, read
from batchling.ledger import EVENTS, CollectedFile, event_of, line_of, replay
from batchling.ledger.events import (
    Closed,
    Collected,
    Created,
    Ended,
    Event,
    PlanCreated,
    Planned,
    PlannedShard,
    Rejected,
    TakingOver,
    Unlisted,
)
from batchling.ledger.upgrade import FORMAT, upgrade
from batchling.models import ResultFile
from batchling.runner.folder import file_names
from batchling.testing import SimDisk
from batchling.testing.chaos import Chaos

JOURNAL = Path("/plan/journal.jsonl")
OLD_END = {"seq": 6, "ts": 1.0, "kind": "ended", "shard": 1, "attempt": 1, "reason": "completed"}


def test_the_first_line_says_the_format() -> None:
    disk = SimDisk(Chaos("format"))
    disk.make_folder(JOURNAL.parent)
    journal = Journal(disk, JOURNAL)
    journal.append(map(line_of, [PlanCreated("p", "i"), Planned(())]), ts=1.0)
    first, second = read(disk, JOURNAL)
    assert first["format"] == FORMAT and "format" not in second


@pytest.mark.parametrize("format", [FORMAT + 1, 0, "2", None])
def test_a_format_that_is_not_known_is_an_error_that_names_the_file_and_what_to_do(format: object) -> None:
    data = encode({"seq": 1, "ts": 1.0, "kind": "plan_created", "format": format})
    with pytest.raises(JournalError, match="later version of batchling") as caught:
        parse(data, where="runs/p/journal.jsonl")
    assert caught.value.exit_code == 2
    assert caught.value.where == "runs/p/journal.jsonl" and "a later one" in (caught.value.next_command or "")


def test_the_two_files_of_an_older_journal_are_references() -> None:
    end = event_of(upgrade({**OLD_END, "output_file_id": "o", "error_file_id": "e"}))
    assert isinstance(end, Ended) and end.results == (ResultFile("o", "output"), ResultFile("e", "errors"))
    none = event_of(upgrade({**OLD_END, "output_file_id": None}))
    assert isinstance(none, Ended) and none.results == ()


def test_an_older_journal_that_this_version_continues_keeps_both_kinds_of_lines() -> None:
    new = line_of(Ended(1, 1, "completed", results=(ResultFile("https://host/1", "output"),)))
    shard = {"shard": 1, "lane": 0, "rows": 3, "bytes": 9, "sha256": "x", "input_tokens": 3, "max_usd": "1"}
    about = {"shard": 1, "attempt": 1}
    said = [
        {"kind": "planned", "shards": [{**shard, "row_attempt": 1, "kind": "first"}]},
        {"kind": "upload_intent", **about},
        {"kind": "uploaded", **about, "file_id": "f"},
        {"kind": "create_intent", **about, "file_id": "f"},
        {"kind": "created", **about, "batch_id": "b"},
        new,
    ]
    data = b"".join(encode({"seq": n, "ts": 1.0, **line}) for n, line in enumerate(said, 1))
    state = replay(parse(data, where="journal")[0])
    assert state.shards[1].current.results == (ResultFile("https://host/1", "output"),)


SHARD = PlannedShard(1, 0, 3, 9, "x", None, Decimal("0.5"), 1, "first")


@pytest.mark.parametrize(
    "event",
    [
        PlanCreated("p", "i", ("q",), {"plan.json": "0"}),
        Planned((SHARD,), replaces=(1,), left={"1": {"ok": 2}}, refused=("k",), why="again"),
        Created(1, 2, "b", adopted=True, by="person"),
        Rejected(1, 1, status=429, code="c", retry_at=5.0),
        TakingOver("q~2"),
        Unlisted("openai", 503, "down"),
        Ended(1, 1, "completed", results=tuple(ResultFile(str(n), "output") for n in range(3)), completed=3),
        Collected(1, 1, (CollectedFile("a", "f", "0", 1, 2, False, "output"), CollectedFile(note="gone"))),
        Closed(1, 1, {"ok": 3}, Decimal("0.10"), unsure=True),
    ],
    ids=lambda event: event.kind,
)
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    line = parse(encode({"seq": 1, "ts": 0.0, **line_of(event)}), where="")[0][0]
    read_again = event_of({**line, "seq": 0})
    assert read_again == event


def test_kinds_are_distinct_and_keep_the_names_that_people_read() -> None:
    kinds = [event.kind for event in EVENTS]
    assert len(set(kinds)) == len(kinds) and {"ended", "collected"} < set(kinds) and "rejected" in kinds


def test_each_file_of_a_batch_has_a_name_of_its_own() -> None:
    results = [ResultFile(str(n), "output") for n in range(3)] + [ResultFile("e", "errors")]
    assert [name for name, _ in file_names(results)] == ["output", "output-2", "output-3", "errors"]
