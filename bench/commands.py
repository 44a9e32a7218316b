"""P8 and P10: what a person waits for at the prompt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench import workload
from bench.measure import Work
from bench.planning import _specs


def compose(experiment: str, points: int) -> Work:
    """P8: a sweep's points, each composed, resolved and validated; the first one (imports, files) is not counted."""
    from batchling import config
    from batchling.config import find_project

    folder = Path(experiment)
    project = find_project(folder)
    config.expand(str(folder), ["model.max_output_tokens=299,298"], multirun=True, project=project)

    def work() -> int:
        values = ",".join(str(n) for n in range(300, 300 + points))
        return len(config.expand(str(folder), [f"model.max_output_tokens={values}"], multirun=True, project=project))

    return work


def command(words: list[str], runs: str) -> Work:
    """A whole process of the command line, start of Python included; without words only Python's start."""
    program = [sys.executable, "-m", "batchling", *words] if words else [sys.executable, "-c", "pass"]

    def work() -> int:
        environ = {**os.environ, "BATCHLING_RUNS": runs}
        done = subprocess.run(program, capture_output=True, check=False, env=environ)
        if done.returncode:
            raise RuntimeError(done.stderr.decode()[-2000:])
        return len(done.stdout)

    return work


def many_plans(folder: Path, plans: int) -> Path:
    """A runs folder of finished plans: one is made by a real run on the embedded server, the others are copies of what
    is small in it, each with an id of its own."""
    from batchling.api.verbs import run_specs
    from batchling.journal import encode

    experiment = workload.experiment(
        folder / "experiment",
        folder / "none.csv",
        data={"rows": [{"id": "1", "text": "one"}, {"id": "2", "text": "two"}]},
    )
    specs, runs = _specs(str(experiment), ["provider=local", "tokens=off"])
    first = run_specs(specs, runs, command="bench").folder
    files = {path.name: path.read_bytes() for path in first.iterdir() if path.is_file() and path.suffix != ".parquet"}
    for number in range(1, plans):
        name = f"20260101-{number // 3600:02d}{number // 60 % 60:02d}{number % 60:02d}-bench-{number:06x}"
        (runs / name).mkdir()
        for file, content in files.items():
            content = content.replace(first.name.encode(), name.encode())
            if file == "journal.jsonl":  # its lines carry checksums
                events = [json.loads(line) for line in content.splitlines()]
                content = b"".join(encode({k: v for k, v in e.items() if k != "crc"}) for e in events)
            (runs / name / file).write_bytes(content)
    return runs
