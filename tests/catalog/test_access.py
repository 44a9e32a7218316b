from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchling import catalog, duck
from batchling.catalog import Condition, access
from batchling.catalog.lookup import plans
from batchling.duck import literal
from batchling.errors import CatalogBusyError, CatalogDamagedError

from .conftest import PLAN, Plan, Run, answer


@contextmanager
def held(runs: Path, operation: int) -> Iterator[None]:
    """The catalog's lock, as another process would hold it (locks belong to the open file, not the process)."""
    runs.mkdir(exist_ok=True)
    descriptor = os.open(runs / "catalog.duckdb.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, operation)
    try:
        yield
    finally:
        os.close(descriptor)


def test_a_missing_catalog_is_made(runs: Path) -> None:
    runs.mkdir()
    with pytest.raises(CatalogDamagedError, match="no catalog yet"):
        plans(runs)
    assert catalog.ensure(runs).condition is Condition.MISSING
    assert catalog.ensure(runs).condition is Condition.READY
    assert plans(runs) == []


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000], ids=["empty", "garbage"])
def test_a_file_that_is_no_catalog_is_moved_aside_and_kept(plan: Plan, content: bytes) -> None:
    file = plan.root / "catalog.duckdb"
    file.write_bytes(content)
    with pytest.raises(CatalogDamagedError, match="doctor --rebuild"):
        plans(plan.root)
    ensured = catalog.ensure(plan.root)
    assert ensured.condition is Condition.DAMAGED
    assert ensured.aside is not None
    assert ensured.aside.read_bytes() == content
    assert catalog.stale(plan.root).moved_on == (plan.path,)


def test_a_truncated_catalog_is_moved_aside_with_its_log_and_rebuilt_from_the_folders(plan: Plan) -> None:
    plan.decoded("0001.1", answer(0))
    catalog.refresh(plan.root, plan.path, state="waiting")
    file = plan.root / "catalog.duckdb"
    os.truncate(file, file.stat().st_size // 2)
    (plan.root / "catalog.duckdb.wal").write_bytes(b"log")
    refreshed = catalog.refresh(plan.root, plan.path, state="waiting")
    assert refreshed.runs[0].states == {"ok": 1, "pending": 2}
    assert (plan.root / "catalog.duckdb.damaged-1").exists()
    assert (plan.root / "catalog.duckdb.damaged-1.wal").read_bytes() == b"log"
    assert [p.state for p in plans(plan.root)] == ["waiting"]


def test_a_second_damaged_file_does_not_overwrite_the_first(runs: Path) -> None:
    runs.mkdir()
    for number in (1, 2):
        (runs / "catalog.duckdb").write_bytes(b"%d" % number)
        assert catalog.ensure(runs).aside == runs / f"catalog.duckdb.damaged-{number}"
    assert (runs / "catalog.duckdb.damaged-1").read_bytes() == b"1"


@pytest.mark.parametrize("sql", ["UPDATE catalog_version SET version = 999", "DROP TABLE catalog_version"])
def test_a_catalog_of_another_version_is_set_aside(plan: Plan, sql: str) -> None:
    catalog.ensure(plan.root)
    with duck.connect(plan.root / "catalog.duckdb") as con:
        con.execute(sql)
    assert catalog.ensure(plan.root).condition is Condition.OUTDATED
    assert catalog.ensure(plan.root).condition is Condition.READY


def test_a_catalog_that_lost_a_table_is_damaged(plan: Plan) -> None:
    catalog.ensure(plan.root)
    with duck.connect(plan.root / "catalog.duckdb") as con:
        con.execute("DROP TABLE events")
    assert catalog.ensure(plan.root).condition is Condition.DAMAGED


def test_the_log_of_a_deleted_catalog_is_not_replayed_into_a_new_one(runs: Path) -> None:
    runs.mkdir()
    (runs / "catalog.duckdb.wal").write_bytes(b"left over")
    assert catalog.ensure(runs).condition is Condition.MISSING
    assert (runs / "catalog.duckdb.wal.orphan").read_bytes() == b"left over"


def test_a_writer_waits_for_readers_and_says_so_when_it_takes_too_long(plan: Plan) -> None:
    catalog.ensure(plan.root)
    with (
        held(plan.root, fcntl.LOCK_SH),
        pytest.raises(CatalogBusyError, match="more than 0 s"),
        access.writing(plan.root, wait=0.0),
    ):
        pass
    with access.writing(plan.root, wait=0.0) as con:
        assert con.execute("SELECT count(*) FROM catalog.plans").fetchall() == [(0,)]


def test_readers_wait_for_a_writer_but_not_for_each_other(plan: Plan) -> None:
    catalog.ensure(plan.root)
    with (
        held(plan.root, fcntl.LOCK_EX),
        pytest.raises(CatalogBusyError),
        access.reading(plan.root, wait=0.0),
    ):
        pass
    with held(plan.root, fcntl.LOCK_SH), access.reading(plan.root, wait=0.0) as one, access.reading(plan.root) as two:
        assert one.execute("SELECT 1").fetchall() == two.execute("SELECT 1").fetchall()


def test_a_program_that_ignores_our_lock_is_named_busy_not_damaged(plan: Plan) -> None:
    catalog.ensure(plan.root)
    file = literal(str(plan.root / "catalog.duckdb"))
    script = f"import duckdb; con = duckdb.connect({file}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(CatalogBusyError, match="another program has the catalog open"):
            plans(plan.root)
        with pytest.raises(CatalogBusyError):
            catalog.ensure(plan.root)
        other.communicate("\n")
    assert catalog.ensure(plan.root).condition is Condition.READY


def test_a_write_that_fails_half_way_leaves_nothing(plan: Plan) -> None:
    catalog.ensure(plan.root)
    with pytest.raises(KeyboardInterrupt), access.writing(plan.root) as con:
        con.execute("INSERT INTO catalog.plans (plan_id) VALUES ('half')")
        raise KeyboardInterrupt
    assert plans(plan.root) == []
    assert catalog.ensure(plan.root).condition is Condition.READY


def test_no_commit_is_lost_when_processes_write_at_once(runs: Path) -> None:
    made = [Plan(runs / PLAN.replace("3f9ac1", f"3f9a0{n}"), [Run([{"t": 1}])]).write() for n in range(4)]
    script = (
        "import sys; from pathlib import Path; from batchling import catalog\n"
        "for _ in range(5): catalog.refresh(Path(sys.argv[1]).parent, Path(sys.argv[1]), state='waiting', force=True)"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, str(plan.path)]) for plan in made]
    assert [process.wait(timeout=120) for process in started] == [0] * 4
    assert sorted(p.plan_id for p in plans(runs)) == sorted(plan.path.name for plan in made)
    assert not list(runs.glob("*damaged*"))
    with catalog.query(runs, "SELECT count(*) FROM records") as result:
        assert list(result) == [(4,)]


def test_the_catalog_does_not_grow_with_every_refresh(plan: Plan) -> None:
    plan.decoded("0001.1", answer(0, text="x" * 100_000))
    sizes = []
    for _ in range(8):
        catalog.refresh(plan.root, plan.path, state="waiting", force=True)
        sizes.append((plan.root / "catalog.duckdb").stat().st_size)
    assert sizes[-1] <= 3 * sizes[0]
