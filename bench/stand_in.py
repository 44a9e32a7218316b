"""A provider in the process itself: it answers every batch at once, from a formula, with files on the disk.

It comes in by the same door as a third party's adapter (an entry point), and counts the calls it gets. What is
measured with it is batchling, not a server.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from batchling.models import Batch, ResultFile, Submission
from batchling.providers import Adapter
from batchling.providers.openai import ADAPTER
from batchling.spec import ProviderConfig
from bench import workload

NAME = "bench"
HOST = "http://stand-in.invalid"
CONFIG = {"name": "bench", "adapter": NAME, "api_key_env": None}

calls: Counter[str] = Counter()
"""Calls by name, of this process."""


def install(folder: Path) -> None:
    """Makes the adapter known to this process, as an installed package would."""
    info = folder / "bench_stand_in-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-stand-in\nVersion: 0\n", encoding="utf-8")
    entry = f"[batchling.providers]\n{NAME} = bench.stand_in:STAND_IN\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def answer_line(custom_id: str, content: str) -> bytes:
    """One line of an output file, in the shape that OpenAI gives it (about 800 bytes)."""
    number = zlib.crc32(custom_id.encode())
    prompt_tokens, completion_tokens = 680 + number % 61, 25 + number // 61 % 37
    return json.dumps(
        {
            "id": f"batch_req_{number:032x}",
            "custom_id": custom_id,
            "response": {
                "status_code": 200,
                "request_id": f"{number:032x}",
                "body": {
                    "id": f"chatcmpl-{number:029x}",
                    "object": "chat.completion",
                    "created": 1_790_000_000,
                    "model": workload.MODEL,
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": content, "refusal": None, "annotations": []},
                            "logprobs": None,
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {
                        "prompt_tokens": prompt_tokens,
                        "completion_tokens": completion_tokens,
                        "total_tokens": prompt_tokens + completion_tokens,
                        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
                    },
                    "service_tier": "default",
                    "system_fingerprint": "fp_0123456789",
                },
            },
            "error": None,
        },
        separators=(",", ":"),
    ).encode()


def connect(config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]) -> StandIn:
    """A client. `base_url` ends in its folder; nothing listens there."""
    return StandIn(config, Path(base_url.removeprefix(HOST)))


class StandIn:
    """Implements `batchling.providers.Client`. While the file `waiting` is in its folder no batch ends."""

    def __init__(self, facts: ProviderConfig, folder: Path):
        self.facts = facts
        self.folder = folder
        self._said: dict[str, Batch] = {}

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        calls["upload"] += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        file_id = f"file-{submission.plan}-{submission.shard:04d}-{submission.attempt}"
        with (self.folder / f"{file_id}.out").open("wb", buffering=1 << 20) as out:
            for number, line in enumerate(content):
                custom_id = line[14 : line.index(b'"', 14)].decode()
                out.write(answer_line(custom_id, json.dumps(workload.answer(number))) + b"\n")
        return file_id

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        calls["create"] += 1
        batch = Batch(
            id=f"batch-{file_id}",
            status="in_progress",
            input_file_id=file_id,
            metadata=submission.metadata(),
            total=submission.requests,
            completed=0,
        )
        document = {**batch.metadata, "id": batch.id, "file": file_id, "total": submission.requests}
        (self.folder / f"{batch.id}.json").write_text(json.dumps(document), encoding="utf-8")
        return batch

    def _view(self, batch_id: str) -> Batch:
        known = self._said.get(batch_id)
        if known is None:
            document = json.loads((self.folder / f"{batch_id}.json").read_text(encoding="utf-8"))
            names = {name: value for name, value in document.items() if name.startswith("batchling_")}
            total = document["total"]
            known = Batch(batch_id, "in_progress", document["file"], metadata=names, total=total, completed=0)
            self._said[batch_id] = known
        if (self.folder / "waiting").exists():
            return known
        return replace(known, status="completed", output_file_id=f"{known.input_file_id}.out", completed=known.total)

    def poll(self, batch_id: str) -> Batch:
        calls["poll"] += 1
        return self._view(batch_id)

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        names = sorted((path.stem for path in self.folder.glob("batch-*.json")), reverse=True)
        for start in range(0, len(names), page_size):
            calls["list"] += 1
            for name in names[start : start + page_size]:
                yield self._view(name)

    def result_files(self, batch: Batch) -> tuple[ResultFile, ...]:
        return batch.files

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        calls["fetch"] += 1
        with (self.folder / file_id).open("rb") as file:
            shutil.copyfileobj(file, sink, 1 << 16)
            return file.tell()

    def file_bytes(self, file_id: str) -> int | None:
        calls["file"] += 1
        return (self.folder / file_id).stat().st_size

    def fence(self, file_id: str) -> bool:
        calls["fence"] += 1
        return True

    def cancel(self, batch_id: str) -> Batch:
        calls["cancel"] += 1
        return self._view(batch_id)

    def fingerprint(self) -> str | None:
        return None


STAND_IN = Adapter(ADAPTER.envelope, ADAPTER.dialects, connect)
"""The entry point's object."""


def config(folder: Path) -> dict[str, Any]:
    """The `provider:` section of an experiment that is answered here."""
    return {**CONFIG, "base_url": HOST + str(folder)}
