"""P4, P5 and P11: from the answers' bytes to validated tables."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from bench import stand_in, workload
from bench.measure import Work
from bench.planning import _specs

OVERRIDES = ["tokens=off", "model.price={input: 0.075, output: 0.3}"]


def submitted(folder: Path, rows: int) -> tuple[Path, str]:
    """A plan whose batches have just ended: its runs folder and its id."""
    from batchling.api.verbs import run_specs

    stand_in.install(folder / "adapter")
    provider = stand_in.config(folder / "provider")
    data = folder / "rows.csv"
    workload.write_rows(data, rows)
    experiment = workload.experiment(folder / "experiment", data, provider=provider)
    specs, runs = _specs(str(experiment), OVERRIDES)
    outcome = run_specs(specs, runs, command="bench", detach=True)
    return runs, outcome.plan_id


def collect(adapter: str, runs: str, plan: str) -> Work:
    """`batchling watch` of batches that have ended: download, decode, validate, join, journal, Parquet, catalog."""
    import duckdb  # noqa: F401

    from batchling.api import verbs

    stand_in.install(Path(adapter))

    def work() -> dict[str, int]:
        (outcome,) = verbs.watch(plan, runs=Path(runs))
        return outcome.states  # type: ignore[return-value]

    return work


def rebuild(adapter: str, runs: str, plan: str) -> Work:
    """`batchling doctor --rebuild`: the journal replayed, the raw files decoded again, the catalog made anew."""
    import duckdb  # noqa: F401

    from batchling.api.workspace import Workspace

    stand_in.install(Path(adapter))

    def work() -> int:
        workspace = Workspace(Path(runs))
        (Path(runs) / "catalog.duckdb").unlink(missing_ok=True)
        refreshed = workspace.rebuild(workspace.find(plan))
        return sum(run.rows for run in refreshed.runs)

    return work


def again(experiment: str, runs: str) -> Work:
    """P7: `batchling run` once more; every row is answered."""
    import duckdb  # noqa: F401

    from batchling.api.verbs import run_specs

    stand_in.install(Path(experiment).parent / "adapter")
    specs, _ = _specs(experiment, OVERRIDES)
    stand_in.calls.clear()

    def work() -> dict[str, Any]:
        outcome = run_specs(specs, Path(runs), command="bench")
        assert not stand_in.calls, stand_in.calls
        return {"created": outcome.created, "states": outcome.states}

    return work


def plan_anew(experiment: str, runs: str) -> Work:
    """What P7 is compared with: `batchling plan` where nothing is answered yet."""
    import duckdb  # noqa: F401

    from batchling.api.verbs import plan_specs

    stand_in.install(Path(experiment).parent / "adapter")
    specs, _ = _specs(experiment, OVERRIDES)
    return lambda: plan_specs(specs, Path(runs)).requests


def loop(provider: str, folder: str, target: str) -> Work:
    """The plain loop: copy, orjson, pydantic, dict join, an Arrow table into DuckDB and Parquet."""
    import shutil

    import duckdb
    import orjson
    import pyarrow as pa
    from pydantic import BaseModel, Field

    class Answer(BaseModel):
        rationale: str
        label: str = Field(json_schema_extra={"enum": list(workload.LABELS)})
        confidence: float = Field(ge=0, le=1)

    labels = frozenset(workload.LABELS)

    def work() -> dict[str, int]:
        place = Path(target)
        place.mkdir(parents=True, exist_ok=True)
        rows: dict[str, str] = {}
        for manifest in sorted((Path(folder) / "manifest").iterdir()):
            with manifest.open(newline="", encoding="utf-8") as table:
                rows = {key: row for row, _, key in csv.reader(table)}
        con = duckdb.connect(str(place / "answers.duckdb"))
        names = ("row", "key", "label", "confidence", "rationale", "error", "text", "given", "made", "cost")
        con.execute(
            "CREATE TABLE answers (row BIGINT, key VARCHAR, label VARCHAR, confidence DOUBLE, rationale VARCHAR,"
            " error VARCHAR, text VARCHAR, given BIGINT, made BIGINT, cost DOUBLE)"
        )
        columns: list[list[Any]] = [[] for _ in names]

        def flush() -> None:
            piece = pa.table(dict(zip(names, columns, strict=True)))  # noqa: F841 (DuckDB finds it by its name)
            con.execute("INSERT INTO answers SELECT * FROM piece")
            for column in columns:
                column.clear()

        for source in sorted(Path(provider).glob("*.out")):
            copy = place / source.name
            shutil.copyfile(source, copy)
            with copy.open("rb") as lines:
                for line in lines:
                    data = orjson.loads(line)
                    body = data["response"]["body"]
                    text = body["choices"][0]["message"]["content"]
                    key = data["custom_id"][:43]
                    error = None
                    answer: Answer | None = None
                    try:
                        answer = Answer.model_validate_json(text)
                        if answer.label not in labels:
                            error = "label"
                    except ValueError as problem:
                        error = str(problem)
                    usage = body["usage"]
                    given, made = usage["prompt_tokens"], usage["completion_tokens"]
                    values = (
                        int(rows[key]),
                        key,
                        answer and answer.label,
                        answer and answer.confidence,
                        answer and answer.rationale,
                        error,
                        text,
                        given,
                        made,
                        (given * 0.075 + made * 0.3) / 1e6,
                    )
                    for column, value in zip(columns, values, strict=True):
                        column.append(value)
                    if len(columns[0]) >= 20_000:
                        flush()
        if columns[0]:
            flush()
        con.execute(f"COPY (SELECT * FROM answers ORDER BY row) TO '{place / 'answers.parquet'}' (FORMAT parquet)")
        with (place / "answers.parquet").open("rb") as file:
            os.fsync(file.fileno())
        count = con.execute("SELECT count(*) FROM answers WHERE error IS NULL").fetchone()
        con.close()
        return {"ok": count[0] if count else 0}

    return work
