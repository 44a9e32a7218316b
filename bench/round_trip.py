"""P6 and P12: 20,000 rows to a server and back. The server is the embedded one, in a process of its own, for both sides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import workload
from bench.measure import Work
from bench.planning import _specs, warm


@contextmanager
def serving(state: Path) -> Iterator[str]:
    """`batchling serve --engine echo` on a free port; gives its base URL."""
    command = [
        sys.executable,
        "-m",
        "batchling",
        "serve",
        "--no-token",
        "--engine",
        "echo",
        "--port",
        "0",
        "--state-dir",
        str(state),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "http://" in line:
                yield next(word for word in line.split() if word.startswith("http://"))
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait(timeout=30)


def experiment(folder: Path, rows: int) -> Path:
    """Plain text answers: an echo fits no schema."""
    data = folder / "rows.csv"
    workload.write_rows(data, rows)
    return workload.experiment(folder / "experiment", data, schema={"fields": None})


def product(experiment: str, base_url: str) -> Work:
    """`batchling run`: plan, files, journal, upload, create, wait, download, decode, Parquet, catalog."""
    import openai  # noqa: F401

    from batchling.api.verbs import run_specs

    warm()
    specs, runs = _specs(experiment, ["provider=local", f"provider.base_url={base_url}"])

    def work() -> dict[str, int]:
        outcome = run_specs(specs, runs, command="bench", fresh=True)
        return outcome.states  # type: ignore[return-value]

    return work


def script(data: str, base_url: str, target: str) -> Work:
    """The plain script on the openai SDK: write the file, upload, create, poll, download, join, write a CSV."""
    import csv

    import openai
    import orjson

    def work() -> dict[str, int]:
        import time

        place = Path(target)
        place.mkdir(parents=True, exist_ok=True)
        client = openai.OpenAI(base_url=base_url, api_key="none")
        with Path(data).open(newline="", encoding="utf-8") as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        requests = place / "requests.jsonl"
        with requests.open("wb") as out:
            for name, row in rows.items():
                body = {
                    "model": workload.MODEL,
                    "temperature": 0,
                    "max_completion_tokens": workload.MAX_OUTPUT_TOKENS,
                    "messages": [
                        {"role": "system", "content": workload.SYSTEM},
                        {"role": "user", "content": workload.USER.format(text=row["text"])},
                    ],
                }
                line = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}
                out.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        with requests.open("rb") as upload:
            sent = client.files.create(file=upload, purpose="batch")
        batch = client.batches.create(input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h")
        while batch.status not in ("completed", "failed", "expired", "cancelled"):
            time.sleep(0.2)
            batch = client.batches.retrieve(batch.id)
        assert batch.output_file_id is not None, batch
        answers = place / "answers.jsonl"
        client.files.content(batch.output_file_id).write_to_file(answers)
        ok = 0
        with (place / "results.csv").open("w", newline="", encoding="utf-8") as file, answers.open("rb") as lines:
            writer = csv.writer(file)
            for raw in lines:
                data_ = orjson.loads(raw)
                text = data_["response"]["body"]["choices"][0]["message"]["content"]
                writer.writerow((data_["custom_id"], rows[data_["custom_id"]]["label"], text))
                ok += 1
        return {"ok": ok}

    return work


def server_alone(data: str, base_url: str) -> Work:
    """P12: create to completed, as the server's client sees it; the upload is over before the clock starts."""
    import csv
    import time

    import openai
    import orjson

    client = openai.OpenAI(base_url=base_url, api_key="none")
    lines: list[bytes] = []
    with Path(data).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            messages: list[dict[str, Any]] = [{"role": "system", "content": workload.SYSTEM}]
            messages.append({"role": "user", "content": workload.USER.format(text=row["text"])})
            body = {"model": workload.MODEL, "messages": messages}
            request = {"custom_id": row["id"], "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.append(orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE))
    sent = client.files.create(file=("requests.jsonl", b"".join(lines)), purpose="batch")

    def work() -> str:
        batch = client.batches.create(input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h")
        while batch.status not in ("completed", "failed", "expired", "cancelled"):
            time.sleep(0.05)
            batch = client.batches.retrieve(batch.id)
        return batch.status

    return work
