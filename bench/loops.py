"""The plain loops: what a careful person writes in an afternoon for one run on one machine. Nothing is kept safe."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from bench import workload

_BATCH = 2048  # rows fetched at once
_BUFFER = 1 << 20


def compile_rows(data: str, *, tokens: bool, target: str | None = None) -> Any:
    """DuckDB reader, str.format, dict, orjson, hashlib, tiktoken; with `target` also a buffered write and fsync."""
    import duckdb
    import orjson

    counted: Any = None
    if tokens:
        from batchling.tokens import vocabulary  # where the vocabulary comes from without a network

        encoding, reason = vocabulary.encoding("o200k_base")
        if encoding is None:
            raise RuntimeError(f"no vocabulary: {reason}")
        counted = encoding.encode_ordinary
    schema = {"name": "output", "schema": workload.json_schema(), "strict": True}
    prefix = b"openai https://api.openai.com/v1 /v1/chat/completions "

    def work() -> dict[str, int]:
        con = duckdb.connect()
        rows = con.execute(f"SELECT id, text FROM read_csv('{data}')")
        seen: set[str] = set()
        system_tokens = len(counted(workload.SYSTEM)) if counted else 0
        schema_tokens = len(counted(orjson.dumps(schema).decode())) if counted else 0
        total = size = 0
        file = Path(target).open("wb", buffering=_BUFFER) if target else None  # noqa: SIM115 (closed below)
        while chunk := rows.fetchmany(_BATCH):
            for _, text in chunk:
                user = workload.USER.format(text=text)
                body = orjson.dumps(
                    {
                        "model": workload.MODEL,
                        "temperature": 0,
                        "max_completion_tokens": workload.MAX_OUTPUT_TOKENS,
                        "response_format": {"type": "json_schema", "json_schema": schema},
                        "messages": [
                            {"role": "system", "content": workload.SYSTEM},
                            {"role": "user", "content": user},
                        ],
                    }
                )
                key = hashlib.sha256(prefix + body).hexdigest()[:40]
                if key in seen:
                    continue
                seen.add(key)
                size += len(body)
                if counted:
                    total += system_tokens + schema_tokens + len(counted(user)) + 11
                if file is not None:
                    line = {
                        "custom_id": key,
                        "method": "POST",
                        "url": "/v1/chat/completions",
                        "body": orjson.Fragment(body),
                    }
                    file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if file is not None:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        return {"requests": len(seen), "bytes": size, "tokens": total}

    return work
