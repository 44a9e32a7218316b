"""The database in memory that a process keeps: whoever borrows it finds nothing of whoever had it before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from batchling import catalog, duck
from batchling.catalog import access
from batchling.catalog.lookup import plans


def databases(con: duckdb.DuckDBPyConnection) -> set[str]:
    return {
        name for (name,) in con.execute("SELECT database_name FROM duckdb_databases() WHERE NOT internal").fetchall()
    }


def test_a_look_into_the_catalog_leaves_nothing_attached_and_no_file_open(runs: Path) -> None:
    catalog.ensure(runs)
    assert plans(runs) == []
    with duck.borrowed() as con:
        assert databases(con) == {"memory"}
        assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)
    if sys.platform == "linux":
        opened = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
        assert not [path for path in opened if path.is_relative_to(runs)]


def test_one_that_is_lent_already_is_lent_to_nobody_else(runs: Path) -> None:
    """A plan looks into the catalog while it streams answers out of it."""
    catalog.ensure(runs)
    with access.reading(runs) as first, access.reading(runs) as second:
        first.execute("CREATE TEMP TABLE mine AS SELECT 1")
        assert second.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'mine'").fetchone() == (0,)
        assert first.execute("SELECT count(*) FROM plans").fetchone() == (0,)
        assert second.execute("SELECT count(*) FROM plans").fetchone() == (0,)


def test_it_is_read_only(runs: Path) -> None:
    catalog.ensure(runs)
    with pytest.raises(duckdb.Error, match="read-only"), access.reading(runs) as con:
        con.execute("DELETE FROM plans")


def test_after_an_error_the_next_one_gets_a_new_one(runs: Path) -> None:
    catalog.ensure(runs)
    with pytest.raises(ZeroDivisionError), access.reading(runs) as con:
        con.execute("CREATE TABLE memory.left_behind AS SELECT 1")
        raise ZeroDivisionError
    with duck.borrowed() as con:
        assert databases(con) == {"memory"}
        assert con.execute("SELECT count(*) FROM duckdb_tables()").fetchone() == (0,)
    assert plans(runs) == []


def test_two_catalogs_in_turn_are_not_mixed_up(tmp_path: Path) -> None:
    for name in ("one", "two"):
        catalog.ensure(tmp_path / name)
        with access.writing(tmp_path / name) as con:
            con.execute(f"UPDATE {access.SCHEMA}.catalog_version SET version = version")
    for name in ("one", "two", "one"):
        with access.reading(tmp_path / name) as con:
            (path,) = con.execute("SELECT path FROM duckdb_databases() WHERE database_name = 'catalog'").fetchone() or (
                "",
            )
            assert Path(path).parent.name == name


def test_a_forked_process_makes_its_own(runs: Path) -> None:
    """The threads of a database are not there after a fork: a statement would wait for them for ever."""
    catalog.ensure(runs)
    code = """
import os, sys
from pathlib import Path
from batchling import duck
from batchling.catalog.lookup import plans
assert plans(Path(sys.argv[1])) == []
child = os.fork()
if child == 0:
    with duck.borrowed() as con:
        found = con.execute("SELECT sum(range) FROM range(1000000)").fetchone()
    sys.exit(0 if found == (499999500000,) and plans(Path(sys.argv[1])) == [] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code, str(runs)], timeout=100).returncode == 0
