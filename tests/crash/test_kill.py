"""kill -9 of the real process at every write point of a run, against a real server process that remembers.

Whatever the point: run again until done, every row has its answer, no row was answered twice, no shard has two batches.
"""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from batchling.catalog import ensure, query
from tests.commands import PROCESSES
from tests.crash import dying
from tests.workbench import clean_environ

EXPERIMENT = """\
defaults:
  - /base
  - override /model: simulated
  - _self_

name: crash
data:
  path: rows.jsonl
  id: id
prompt:
  messages:
    - {role: user, content: "{text}"}
schema:
  fields: {label: {enum: [a, b]}}
tokens: off
"""

REAPING = threading.Lock()
"""`start` reaps the processes of other threads too; one that two threads reap at once has lost its exit code (255)."""


class Server:
    """`batchling serve` in a process of its own, and what it remembers."""

    def __init__(self, folder: Path):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "batchling",
                "serve",
                "--no-token",
                "--port",
                "0",
                "--state-dir",
                str(folder / "state"),
            ],
            cwd=folder,
            env=clean_environ(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.url = next(line for line in self.process.stderr if "listening on " in line).split()[2]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def get(self, path: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + path, timeout=20) as reply:
            return reply.read()

    def batches(self, tails: set[str]) -> list[dict[str, Any]]:
        """Batches of these plans."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = json.loads(self.get(f"/batches?limit=100{after}"))
            found += [b for b in page["data"] if (b["metadata"] or {}).get("batchling_plan") in tails]
            if not page["has_more"]:
                return found
            after = f"&after={page['last_id']}"

    def answered(self, batches: list[dict[str, Any]]) -> Counter[str]:
        """Request key → times that it was answered."""
        total: Counter[str] = Counter()
        for batch in batches:
            for name in ("output_file_id", "error_file_id"):
                if batch[name]:
                    for line in self.get(f"/files/{batch[name]}/content").split(b"\n"):
                        if line:
                            total[json.loads(line)["custom_id"][:43]] += 1
        return total


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"))
    yield started
    started.stop()


class Project:
    """A project whose rows no other project has, so that the server can tell them apart."""

    def __init__(self, folder: Path, server: Server, rows: int = 3):
        self.folder = folder
        self.server = server
        self.arguments = [
            "run",
            "crash",
            "--yes",
            f"provider.base_url={server.url}",
            "limits.max_requests=2",
            "limits.poll_seconds=0.01",
            "limits.settle_seconds=0",
        ]
        (folder / "experiments/crash").mkdir(parents=True)
        (folder / "experiments/crash/config.yaml").write_text(EXPERIMENT)
        self.rows(rows)

    def rows(self, n: int) -> None:
        lines = [json.dumps({"id": f"r{i}", "text": f"{self.folder.name} {i}"}) + "\n" for i in range(n)]
        (self.folder / "experiments/crash/rows.jsonl").write_text("".join(lines))
        self.count = n

    def run(self, at: int = 0, log: Path | None = None, distinct: bool = False) -> int:
        """One process; its exit code, -9 when it killed itself."""
        arguments = (str(self.folder), self.arguments, at, str(log) if log else None, distinct)
        process = PROCESSES.Process(target=dying.main, args=arguments)
        with REAPING:
            process.start()
        multiprocessing.connection.wait([process.sentinel], 60)
        with REAPING:
            process.join(0)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"does not end: {self.output()}")
        return process.exitcode

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()[-3000:]

    def verify(self, context: str) -> None:
        """Nothing lost, nothing twice."""
        runs = self.folder / "runs"
        tails = {path.name[-6:] for path in runs.glob("*-crash-*")}
        batches = self.server.batches(tails)
        shards = Counter((b["metadata"]["batchling_plan"], b["metadata"]["batchling_shard"]) for b in batches)
        assert set(shards.values()) <= {1}, f"{context}: a shard has two batches: {shards}"
        answered = self.server.answered(batches)
        assert set(answered.values()) <= {1}, f"{context}: answered twice: {answered}"
        assert len(answered) == self.count, f"{context}: {len(answered)} of {self.count} rows were answered"
        ensure(runs)
        newest = max(runs.glob("*-crash-*")).name[-6:]
        states = Counter(
            dict(query(runs, f"select state, count(*) from records where run_id like '{newest}%' group by 1"))
        )
        assert states == {"ok": self.count}, f"{context}: {states}"
        left = [path.name for path in runs.iterdir() if path.name.startswith(".making-")]
        assert not left, f"{context}: {left} left behind"

    def finish(self, context: str) -> None:
        """Runs it again until it is done: once is enough."""
        code = self.run()
        assert code == 0, f"{context}: exit {code} when run again: {self.output()}"
        self.verify(context)


def first_plan(folder: Path, server: Server) -> Project:
    """A plan of two shards, from nothing."""
    folder.mkdir()
    return Project(folder, server)


def grown_plan(folder: Path, server: Server) -> Project:
    """A second plan: two answers are reused, one row is new."""
    folder.mkdir()
    project = Project(folder, server, rows=2)
    assert project.run() == 0, project.output()
    project.rows(3)
    return project


SCENARIOS = {"first": first_plan, "grown": grown_plan}


def points(folder: Path, server: Server, scenario: str) -> list[str]:
    """The write points of a run that nobody kills."""
    project = SCENARIOS[scenario](folder / f"{scenario}-counted", server)
    log = folder / f"{scenario}.log"
    assert project.run(log=log) == 0, project.output()
    project.verify("uninterrupted")
    return log.read_text().splitlines()


def in_parallel(jobs: list[Any], workers: int = os.cpu_count() or 2) -> None:
    """Every job; the first failure is raised when all are done."""
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_at_any_write_point_loses_nothing_and_buys_nothing_twice(
    scenario: str, server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every point with `--long`; else the points around the calls to the provider, and every twentieth of the others."""
    names = points(tmp_path, server, scenario)
    assert len(names) > 40
    every = request.config.getoption("--long")
    chosen = [n for n, name in enumerate(names, 1) if every or n % 20 == 5 or "provider" in name]

    def killed_at(n: int) -> None:
        project = SCENARIOS[scenario](tmp_path / f"{scenario}{n}", server)
        context = f"killed at point {n} ({names[n - 1]})"
        assert project.run(at=n) == -9, f"{context}: {project.output()}"
        project.finish(context)

    in_parallel([lambda n=n: killed_at(n) for n in chosen])


def one_shard(folder: Path, server: Server) -> Project:
    """The least plan: one shard, one row."""
    folder.mkdir()
    return Project(folder, server, rows=1)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["sending", "making"])
def test_a_kill_at_any_pair_of_points_loses_nothing_and_buys_nothing_twice(
    stage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second process goes on after the first kill, and dies as well, at each of the points that it has before it is
    done. Points that leave the same behind are one (see `Countdown`): both stages together take about an hour on two cores.
    """
    log = tmp_path / "counted.log"
    first = Server(tmp_path)
    assert one_shard(tmp_path / "counted", first).run(log=log, distinct=True) == 0
    first.stop()
    names = log.read_text().splitlines()
    pairs: list[tuple[int, int]] = []

    def killed_at(n: int) -> None:
        folder = tmp_path / f"point{n}"
        folder.mkdir()
        server = Server(folder)  # one for each, so that no list of batches grows long
        try:
            for second in count(1):
                project = one_shard(folder / f"pair{n}-{second}", server)
                assert project.run(at=n, distinct=True) == -9
                code = project.run(at=second, distinct=True)
                context = f"killed at point {n} ({names[n - 1]}), and again at point {second}"
                assert code in (0, -9), f"{context}: exit {code}: {project.output()}"
                project.finish(context)
                if code == 0:
                    break
                pairs.append((n, second))
        finally:
            server.stop()
        with capfd.disabled():
            sys.stdout.write(f"  point {n} of {len(names)} ({names[n - 1]}): {second - 1} second kills\n")
        shutil.rmtree(folder)

    # The plan's folder gets its name when all of it is there; until then a kill leaves nothing that counts.
    there = next(n for n, name in enumerate(names, 1) if re.match(r"after replace \d{8}-\d{6}-", name))
    chosen = range(1, there) if stage == "making" else range(there, len(names) + 1)
    in_parallel([lambda n=n: killed_at(n) for n in chosen])
    with capfd.disabled():
        sys.stdout.write(f"  {len(pairs):,} pairs of kills: nothing lost, nothing twice\n")
    assert len(pairs) > 5 * len(chosen)
