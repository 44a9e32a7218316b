"""Records of any width: written and exported in the memory that a few of them take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from batchling import catalog, duck
from batchling.duck import literal

from .conftest import PLAN, Plan, Run, answer

MEASURED = """
import re, resource, sys
from pathlib import Path
from batchling import export
from batchling.catalog import Reference
rows = export.export(Reference(Path(sys.argv[1]), None), Path(sys.argv[2]), sys.argv[3])
status = Path("/proc/self/status")
if status.exists():  # getrusage counts what the process that started this one held, too
    print(rows, int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) >> 10)
else:
    print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20)
"""


def exported(plan: Plan, target: Path) -> tuple[int, float]:
    """Rows of an export in a process of its own, and the most MB that this held."""
    command = [sys.executable, "-c", MEASURED, str(plan.path), str(target), target.suffix.removeprefix(".")]
    rows, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(rows), int(peak)


def order_of(records: Path) -> list[tuple[str, str]]:
    with duck.connect() as con:
        return con.execute(f"SELECT run_id, row_id FROM read_parquet({literal(str(records))})").fetchall()


def test_wide_records_are_in_small_row_groups_and_in_order(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchling.catalog.staging._GROUPS_A_FILE", 3)
    rows = [{"text": str(i) + "x" * 100_000} for i in range(130)]
    plan = Plan(runs / PLAN, [Run(rows, run_id="r-b"), Run(rows, run_id="r-a", names=range(130))]).write()
    plan.decoded("0001.1", *(answer(i, text="y" * 100_000) for i in range(130)))
    refreshed = catalog.refresh(plan.root, plan.path, state="finished")
    assert refreshed.records is not None
    assert order_of(refreshed.records) == [(run, f"row-{i}") for run in ("r-b", "r-a") for i in range(130)]
    with duck.connect() as con:
        sql = f"SELECT max(row_group_num_rows) FROM parquet_metadata({literal(str(refreshed.records))})"
        assert con.execute(sql).fetchall()[0][0] < 100


@pytest.mark.long
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_of_40_kb_are_exported_within_500_mb(runs: Path, tmp_path: Path, form: str) -> None:
    rows = [{"text": (f"{i:06d} äb" * 4_000)} for i in range(2_500)]
    plan = Plan(runs / PLAN, [Run(rows, output_type=None)]).write()
    plan.decoded("0001.1", *(answer(i, output=None, text=row["text"]) for i, row in enumerate(rows)))
    catalog.refresh(plan.root, plan.path, state="finished")
    rows_written, peak = exported(plan, tmp_path / f"out.{form}")
    assert rows_written == 2_500
    assert peak < 500


@pytest.mark.long
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_hundred_thousand_embeddings_are_exported_within_500_mb(runs: Path, tmp_path: Path, form: str) -> None:
    count = 100_000
    plan = Plan(runs / PLAN, [Run([{"text": "t"}] * count, output_type="FLOAT[]")]).write()
    template = answer(0, text=None)
    names = ", ".join(
        f"{literal(value)} AS {duck.identifier(name)}"
        for name, value in template.items()
        if name not in ("key", "output")
    )
    decoded = plan.path / "responses" / "0001.1.decoded.jsonl"
    with duck.connect(memory_mb=1024, threads=1) as con:
        con.execute(
            f"COPY (SELECT 'k1-' || lpad(i::VARCHAR, 40, '0') AS key, {names},"
            " list_transform(range(1536), lambda x: round(random() - 0.5, 8)) AS output"
            f" FROM range({count}) AS t(i)) TO {literal(str(decoded))} (FORMAT json)"
        )
    catalog.refresh(plan.root, plan.path, state="finished")
    decoded.unlink()
    rows_written, peak = exported(plan, tmp_path / f"out.{form}")
    assert rows_written == count
    assert peak < 500
