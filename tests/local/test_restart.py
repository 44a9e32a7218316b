"""Killed, stopped and started again: every row is answered, none twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai import OpenAI
from openai.types import Batch

from batchling.local.batch_run import BatchRun
from batchling.local.engines import make_engine
from batchling.local.options import ServerOptions
from batchling.local.store import Store, output_id
from batchling.spec import EngineConfig

from .conftest import Clock, Lab, Upstream, chat_lines, completion

ONE_BY_ONE = EngineConfig(kind="echo", concurrency=1)
PROGRAM = """
import sys
from pathlib import Path
from batchling.local.options import ServerOptions
from batchling.local.server import serve
from batchling.spec import EngineConfig
options = ServerOptions(
    token=None, state_dir=Path(sys.argv[1]), engine=EngineConfig.model_validate_json(sys.argv[2]), row_seconds=float(sys.argv[3])
)
sys.exit(serve(options))
"""


class Process:
    """`serve` in a process of its own."""

    def __init__(self, state_dir: Path, engine: EngineConfig, row_seconds: float = 0.0):
        arguments = [str(state_dir), engine.model_dump_json(), str(row_seconds)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        assert self.process.stderr is not None
        self.greeting = self.process.stderr.readline()
        url = self.greeting.split("listening on ")[1].split()[0]
        self.client = OpenAI(base_url=url, api_key="none", max_retries=0)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.close()

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(20)
        self.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


def custom_ids(path: Path) -> list[str]:
    """Of the complete lines of a file of answers."""
    data = path.read_bytes() if path.exists() else b""
    return [orjson.loads(line)["custom_id"] for line in data.split(b"\n")[:-1]]


def answered_once(lab: Lab, batch: Batch, rows: int) -> None:
    lines = lab.lines(batch.output_file_id) + lab.lines(batch.error_file_id)
    assert Counter(line["custom_id"] for line in lines) == Counter(f"row-{i}" for i in range(rows))
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed) == (rows, rows)
    used = sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
    assert batch.usage is not None and batch.usage.total_tokens == used


def test_killed_in_the_middle_again_and_again_every_row_is_answered_once(lab: Lab) -> None:
    engine = EngineConfig(kind="simulated", concurrency=10)
    process = Process(lab.state_dir, engine, row_seconds=0.02)
    lab.client = process.client
    batch = lab.submit(chat_lines(300))
    for rows in (20, 90, 170):
        lab.client = process.client
        seen = lab.until(batch, lambda b, rows=rows: b.request_counts.completed >= rows)  # type: ignore[misc]
        process.kill()
        # On a busy machine the batch may be over before the kill: then its answers are an output file, whole.
        there = [lab.state_dir / "batches" / batch.id / "output.jsonl", *(lab.state_dir / "files").iterdir()]
        part = {custom_id for path in there for custom_id in custom_ids(path) if path.name != batch.input_file_id}
        assert seen.request_counts is not None
        assert len(part) >= seen.request_counts.completed >= rows  # what was counted is on disk
        process = Process(lab.state_dir, engine, row_seconds=0.02)
    lab.client = process.client
    batch = lab.ended(lab.client.batches.retrieve(batch.id))
    assert batch.status == "completed"
    answered_once(lab, batch, 300)
    assert process.end(signal.SIGTERM) == 0


def test_a_row_whose_answer_is_on_disk_is_not_asked_of_the_upstream_again(lab: Lab, upstream: Upstream) -> None:
    gate = threading.Semaphore(40)

    def reply(number: int, body: Any) -> tuple[int, dict[str, str], Any]:
        gate.acquire(timeout=20)
        return 200, {}, completion(body)

    upstream.reply = reply
    engine = EngineConfig(kind="http", upstream=upstream.url, concurrency=4)
    process = Process(lab.state_dir, engine)
    lab.client = process.client
    batch = lab.submit(chat_lines(100))
    lab.until(batch, lambda b: b.request_counts is not None and b.request_counts.completed == 40)
    process.kill()
    kept = custom_ids(lab.state_dir / "batches" / batch.id / "output.jsonl")
    assert len(kept) == 40
    for _ in range(200):
        gate.release()
    process = Process(lab.state_dir, engine)
    lab.client = process.client
    batch = lab.ended(lab.client.batches.retrieve(batch.id))
    answered_once(lab, batch, 100)
    asked = Counter(body["messages"][0]["content"].replace("text ", "row-") for _, _, body in upstream.seen)
    assert all(asked[custom_id] == 1 for custom_id in kept)
    process.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_cleanly(tmp_path: Path, how: signal.Signals) -> None:
    process = Process(tmp_path / "state", ONE_BY_ONE)
    assert process.greeting.startswith("listening on http://127.0.0.1:")
    assert process.end(how) == 0


def half_done(lab: Lab, clock: Clock, done: int = 3, rows: int = 6) -> Batch:
    """A stopped server's batch of `rows` rows of which `done` are answered."""
    lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10)
    batch = lab.until(lab.submit(chat_lines(rows)), lambda b: b.status == "in_progress")
    clock.advance(10 * done)
    batch = lab.until(batch, lambda b: b.request_counts is not None and b.request_counts.completed == done)
    lab.server.stop()
    return batch


def test_a_stopped_server_does_nothing_until_it_is_started_again(lab: Lab, clock: Clock) -> None:
    batch = half_done(lab, clock)
    clock.advance(1_000)
    assert custom_ids(lab.state_dir / "batches" / batch.id / "output.jsonl") == ["row-0", "row-1", "row-2"]
    lab.start(engine=ONE_BY_ONE, now=clock)
    batch = lab.ended(lab.client.batches.retrieve(batch.id))
    assert batch.status == "completed"
    answered_once(lab, batch, 6)


@pytest.mark.parametrize("tail", [b'{"id":"batch_req_', b"\0" * 100, b'{"id":"x"}\n', b"\0\0\0\n", b"[]\n{}\n"])
def test_a_line_that_a_dying_machine_spoilt_is_cut_off(lab: Lab, clock: Clock, tail: bytes) -> None:
    batch = half_done(lab, clock)
    with (lab.state_dir / "batches" / batch.id / "output.jsonl").open("ab") as handle:
        handle.write(tail)
    lab.start(engine=ONE_BY_ONE, now=clock)
    answered_once(lab, lab.ended(batch), 6)


def test_the_window_goes_on_while_the_server_is_down(lab: Lab, clock: Clock) -> None:
    batch = half_done(lab, clock)
    clock.advance(86_400)
    lab.start(engine=ONE_BY_ONE, now=clock)
    batch = lab.ended(batch)
    assert batch.status == "expired"
    assert len(lab.lines(batch.output_file_id)) == len(lab.lines(batch.error_file_id)) == 3


class Stop(Exception):
    """Stands for the kill."""


@pytest.mark.parametrize("ending", ["completed", "cancelled", "expired"])
@pytest.mark.parametrize("moment", ["before the ending", "before the files", "after the files"])
def test_dying_while_a_batch_is_ended_loses_nothing(
    lab: Lab, clock: Clock, monkeypatch: pytest.MonkeyPatch, ending: str, moment: str
) -> None:
    batch = half_done(lab, clock)
    store = Store(lab.state_dir, clock)
    if ending == "cancelled":
        store.move(batch.id, ("in_progress",), "cancelling")
    elif ending == "expired":
        clock.advance(86_400)

    def die(*_: object, **__: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        # The disk dies at a chosen call: what comes after it never happens, as with a kill.
        if moment == "before the ending":
            patch.setattr(Store, "move", die)
        elif moment == "before the files":
            patch.setattr(Path, "replace", die)
        else:
            patch.setattr(Store, "_insert_file", die)
        options = ServerOptions(state_dir=lab.state_dir, engine=ONE_BY_ONE, now=clock)
        run = BatchRun(store, options, make_engine(ONE_BY_ONE), None, lambda: None, batch.id)
        with pytest.raises(Stop):
            list(run.life())
    store.close()
    lab.start(engine=ONE_BY_ONE, now=clock)
    batch = lab.ended(batch)
    assert batch.status == ending
    lines = lab.lines(batch.output_file_id) + lab.lines(batch.error_file_id)
    assert Counter(line["custom_id"] for line in lines) == Counter(f"row-{i}" for i in range(6))
    assert batch.output_file_id == output_id(batch.id, "output")
    assert list((lab.state_dir / "batches").iterdir()) == []


def test_uploads_that_were_never_finished_are_removed_at_the_start(lab: Lab) -> None:
    lab.start()
    lab.server.stop()
    (lab.state_dir / "files" / "file-half").write_bytes(b"half")
    lab.start()
    assert list((lab.state_dir / "files").iterdir()) == []


def test_expired_files_are_removed_at_the_start(lab: Lab, clock: Clock) -> None:
    lab.start(now=clock)
    lab.upload(b"x")
    lab.server.stop()
    clock.advance(30 * 86_400)
    lab.start(now=clock)
    assert list((lab.state_dir / "files").iterdir()) == []


def test_a_full_disk_keeps_the_answers_until_there_is_room(
    lab: Lab, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = os.fsync, [2]

    def fsync(descriptor: int) -> None:
        if threading.current_thread().name == "batchling-worker" and failures[0]:
            name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            if name.endswith("output.jsonl"):
                failures[0] -= 1
                raise OSError(28, "No space left on device")
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell which file is synced")
    monkeypatch.setattr(os, "fsync", fsync)
    lab.start(engine=ONE_BY_ONE, now=clock)
    batch = lab.submit(chat_lines(5))
    lab.until(batch, lambda b: failures[0] < 2)
    clock.advance(5)
    lab.until(batch, lambda b: failures[0] < 1)
    clock.advance(5)
    answered_once(lab, lab.ended(batch), 5)
