"""Rows that live in databases and on the hub: SQLite, DuckDB, PostgreSQL, `hf://`."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batchling import source
from batchling.errors import DataError
from batchling.spec import DataConfig


def rows(root: Path, **data: Any) -> list[tuple[Any, ...]]:
    """(row_id, *values) of a source that lies in `root`."""
    made = source.snapshot(DataConfig.model_validate(data), root, root / "snapshot")
    return [row[1:] for chunk in source.read(made.path, [c.name for c in made.columns]) for row in chunk]


def sha(root: Path, **data: Any) -> str:
    return source.snapshot(DataConfig.model_validate(data), root, root / "snapshot").sha256


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A SQLite file with two tables and a view."""
    with sqlite3.connect(tmp_path / "shop.sqlite") as con:
        con.executescript(
            "CREATE TABLE tickets (id INTEGER PRIMARY KEY, text TEXT, price, photo BLOB);"
            "CREATE TABLE people (name TEXT, ticket INTEGER);"
            "CREATE VIEW dear AS SELECT id, text FROM tickets WHERE price > 2"
        )
        con.executemany(
            "INSERT INTO tickets VALUES (?, ?, ?, ?)",
            [
                (1, "one\u2028line", 1, b"\x01\xff"),
                (2, 'quo"ted', 2.5, None),
                (3, None, "n/a", None),
                (4, "", 2**62, None),
            ],
        )
        con.executemany("INSERT INTO people VALUES (?, ?)", [("Ada", 1), ("Bob", 2)])
    con.close()
    return tmp_path


def test_a_table_of_sqlite_keeps_each_value_s_own_text(shop: Path) -> None:
    assert rows(shop, path="shop.sqlite", table="tickets", id="id") == [
        ("1", 1, "one\u2028line", 1, "01FF"),
        ("2", 2, 'quo"ted', 2.5, None),
        ("3", 3, None, "n/a", None),
        ("4", 4, "", 2**62, None),
    ]
    assert rows(shop, path="shop.sqlite", table="dear", limit=1) == [("0", 2, 'quo"ted')]


def test_a_row_more_changes_no_other_row_and_the_hash_is_of_the_content(shop: Path) -> None:
    one = {"path": "shop.sqlite", "table": "tickets", "id": "id"}
    before, kept = sha(shop, **one), rows(shop, **one)
    shutil.copy(shop / "shop.sqlite", shop / "copy.db")
    assert sha(shop, **{**one, "path": "copy.db"}) == before
    with sqlite3.connect(shop / "shop.sqlite") as con:
        con.execute("INSERT INTO tickets VALUES (5, 'five', 0.1, NULL)")
    con.close()
    assert sha(shop, **one) != before
    assert rows(shop, **one)[:4] == kept


def test_sql_reads_tables_of_declared_databases_of_both_kinds(shop: Path) -> None:
    with duckdb.connect(str(shop / "more.duckdb")) as con:
        con.execute("CREATE TABLE labels AS SELECT * FROM (VALUES (1, 'a'), (2, 'b')) t(ticket, label)")
        con.execute("CREATE SCHEMA old; CREATE TABLE old.labels AS SELECT 9 AS ticket, 'z' AS label")
    found = rows(
        shop,
        sql="SELECT t.id, name, label FROM shop.tickets t JOIN shop.people ON people.ticket = t.id "
        "JOIN more.labels ON labels.ticket = t.id WHERE t.price IS NOT NULL ORDER BY t.id",
        databases={"shop": "shop.sqlite", "more": {"path": "more.duckdb"}},
    )
    assert found == [("0", 1, "Ada", "a"), ("1", 2, "Bob", "b")]
    assert rows(
        shop, sql="SELECT more.old.labels.label FROM more.old.labels", id="label", databases={"more": "more.duckdb"}
    ) == [("z", "z")]
    qualified = rows(
        shop,
        sql="SELECT shop.people.name FROM shop.people ORDER BY shop.people.name",
        databases={"shop": "shop.sqlite"},
    )
    assert [name for _, name in qualified] == ["Ada", "Bob"]


def test_a_table_of_an_existing_duckdb_file_keeps_its_values_and_is_not_written(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "x.duckdb")) as con:
        con.execute(
            "CREATE TABLE t AS SELECT 1 AS id, 1.10::DECIMAL(9,2) AS price, 0.1::FLOAT AS f, uuid() AS u, "
            "{'a': [1, 2]} AS s, 170141183460469231731687303715884105727::HUGEINT AS h, 'x'::ENUM('x', 'y') AS e"
        )
        (uuid,) = con.execute("SELECT u::VARCHAR FROM t").fetchone() or ("",)
    before = (tmp_path / "x.duckdb").read_bytes()
    (row,) = rows(tmp_path, path="x.duckdb", where="id = 1", sample=1)
    assert [str(value) for value in row[2:]] == ["1.10", "0.1", uuid, "{'a': [1, 2]}", str(2**127 - 1), "x"]
    assert (tmp_path / "x.duckdb").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snapshot", "x.duckdb"]


def test_a_view_in_a_strangers_file_reads_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("word\nhidden\n")
    with duckdb.connect(str(tmp_path / "x.duckdb")) as con:
        con.execute(f"CREATE VIEW v AS SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")
    for data in ({"path": "x.duckdb"}, {"sql": "SELECT * FROM x.v ORDER BY 1", "databases": {"x": "x.duckdb"}}):
        with pytest.raises(DataError, match=r"[Pp]ermission|disabled") as failed:
            rows(tmp_path, **data)
        assert "hidden" not in str(failed.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"path": "shop.sqlite"}, "has 3 tables"),
        ({"path": "shop.sqlite", "table": "tiket"}, "did you mean 'tickets'"),
        ({"path": "text.db"}, "no database of SQLite or DuckDB"),
        ({"path": "cut.sqlite", "table": "t"}, "cannot be read"),
        ({"path": "rows.csv", "table": "t"}, "is no database"),
        ({"sql": "SELECT * FROM shp.tickets ORDER BY 1", "databases": {"shop": "shop.sqlite"}}, "did you mean 'shop'"),
        ({"sql": "SELECT * FROM other.tickets ORDER BY 1"}, "data.databases"),
        ({"sql": "SELECT * FROM shop.nobody ORDER BY 1", "databases": {"shop": "shop.sqlite"}}, "no table 'nobody'"),
        ({"sql": "SELECT 1 AS id ORDER BY 1", "databases": {"shop": "none.sqlite"}}, "there is no file none.sqlite"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(shop: Path, data: dict[str, Any], said: str) -> None:
    (shop / "text.db").write_text("this is text, not a database")
    (shop / "cut.sqlite").write_bytes((shop / "shop.sqlite").read_bytes()[:3000])
    (shop / "rows.csv").write_text("id\n1\n")
    with pytest.raises(DataError) as failed:
        rows(shop, **data)
    assert said in f"{failed.value} {failed.value.next_command}"


# -- PostgreSQL: a real server, where the machine has one


def _server_programs() -> Path | None:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    programs = _server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine")
    pytest.importorskip("psycopg")
    base = Path(tempfile.mkdtemp(prefix="batchling-postgres-"))  # pytest's own folders are closed to the server's user
    asked: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if shutil.which("runuser") is None:
            pytest.skip("no way to start the server as another user")
        asked = ["runuser", "-u", "nobody", "--"]
        base.chmod(0o777)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (base / "password").write_text("s3cret-pass")
    (base / "password").chmod(0o644)
    made = [*asked, str(programs / "initdb"), "-D", str(base / "data"), "-U", "ann", "-A", "scram-sha-256"]
    subprocess.run([*made, f"--pwfile={base / 'password'}", "--no-sync"], check=True, capture_output=True, cwd=base)
    served = [*asked, str(programs / "postgres"), "-D", str(base / "data"), "-p", str(port), "-k", str(base), "-F"]
    process = subprocess.Popen([*served, "-h", "127.0.0.1"], stderr=subprocess.PIPE, text=True, cwd=base)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "ready to accept connections" in line:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield f"postgresql://ann:s3cret-pass@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def orders(dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as con:
        con.execute("DROP TABLE IF EXISTS orders; DROP SCHEMA IF EXISTS old CASCADE; CREATE SCHEMA old")
        con.execute(
            "CREATE TABLE orders (id bigint, price numeric, note text, tags text[], extra jsonb, at timestamptz)"
        )
        con.execute("CREATE TABLE old.orders AS SELECT 7 AS id, 'seven' AS note")
        con.execute(
            "INSERT INTO orders VALUES (2, 1.10, 'b\u2028c', '{x,y}', '{\"k\": 1}', '2026-01-02 03:04:05+00'), "
            "(1, 12345678901234567890.12, NULL, NULL, NULL, NULL)"
        )
    monkeypatch.setenv("SHOP_DSN", dsn)
    return dsn


def test_a_table_of_postgresql_keeps_every_digit_and_is_ordered_by_its_id(orders: str, tmp_path: Path) -> None:
    first, second = rows(tmp_path, dsn_env="SHOP_DSN", table="orders", id="id")
    assert [first[0], *map(str, first[1:4])] == ["1", "1", "12345678901234567890.12", "None"]
    assert [second[0], str(second[2]), second[3], second[4], second[5]] == [
        "2",
        "1.10",
        "b\u2028c",
        ["x", "y"],
        {"k": 1},
    ]
    assert rows(tmp_path, dsn_env="SHOP_DSN", table="old.orders", id="id") == [("7", 7, "seven")]


def test_sql_joins_a_table_of_postgresql_with_a_file(orders: str, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("id,name\n1,Ada\n2,Bob\n")
    found = rows(
        tmp_path,
        sql="SELECT o.id, name FROM pg.orders o JOIN 'names.csv' n ON n.id = o.id ORDER BY o.id",
        databases={"pg": {"dsn_env": "SHOP_DSN"}},
    )
    assert [row[2] for row in found] == ["Ada", "Bob"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is not set"),
        ("sk-abcdefghijklmnop", "holds no connection string"),
        ("host=127.0.0.1 nonsense=s3cret-pass", "cannot be read"),
        ("postgresql://ann:wrong-pass@{host}/postgres", "cannot be reached"),
        ("postgresql://ann:wrong-pass@127.0.0.1:1/postgres", "cannot be reached"),
    ],
)
def test_a_connection_string_is_in_no_message(
    orders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("SHOP_DSN", value.replace("{host}", orders.split("@")[1].split("/")[0]))
    with pytest.raises(DataError) as failed:
        rows(tmp_path, dsn_env="SHOP_DSN", table="orders", id="id")
    text = f"{failed.value} {failed.value.where} {failed.value.next_command}"
    assert said in text and "SHOP_DSN" in text
    assert not any(secret in text for secret in ("sk-abc", "s3cret", "wrong-pass"))


def test_without_psycopg_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("SHOP_DSN", "postgresql://127.0.0.1:1/x")
    with pytest.raises(DataError, match="psycopg") as failed:
        rows(tmp_path, dsn_env="SHOP_DSN", id="id")
    assert "pip install" in str(failed.value.next_command)


# -- the hub


class Hub:
    """A hub on loopback: two pages of a listing, files behind a redirect to another host name."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.files = {
            "data/train/a.csv": b"id,text\n1,one\n",
            "data/train/b.csv": b"id,text\n2,two\n",
            "README.md": b"#",
        }
        self.private = False
        self.short = False
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        import json

        self.seen.append((request.path, request.headers.get("authorization")))
        body, code, headers = b"", 200, {}
        if request.path.startswith("/cdn/"):
            body = self.files[request.path.removeprefix("/cdn/")]
        elif self.private and request.headers.get("authorization") != "Bearer hf_token":
            code = 401
        elif "/tree/" in request.path:
            names = sorted(self.files)
            page = names[2:] if "cursor=2" in request.path else names[:2]
            body = json.dumps(
                [{"type": "directory", "path": "data"}, *({"type": "file", "path": n} for n in page)]
            ).encode()
            if "cursor=2" not in request.path:
                headers["Link"] = f'<http://elsewhere.invalid{request.path}&cursor=2>; rel="next"'
        else:
            name = request.path.split("/resolve/")[-1].split("/", 1)[-1]
            code = 302 if name in self.files else 404
            headers["Location"] = f"http://localhost:{self.port}/cdn/{name}"
        request.send_response(code)
        headers["Content-Length"] = str(len(body) + (5 if self.short and body else 0))
        for header, value in headers.items():
            request.send_header(header, value)
        request.end_headers()
        request.wfile.write(body)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{made.port}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_file_of_the_hub_is_read_and_so_are_wildcards_and_revisions(hub: Hub, tmp_path: Path) -> None:
    assert rows(tmp_path, path="hf://datasets/ann/shop/data/train/a.csv", id="id") == [("1", "1", "one")]
    assert len(rows(tmp_path, path="hf://datasets/ann/shop/data/**/*.csv", id="id")) == 2
    assert len(rows(tmp_path, path="hf://datasets/ann/shop/data/train/[ab].csv", id="id")) == 2
    assert rows(tmp_path, path="hf://datasets/ann/shop@v1.0/data/train/b.csv", id="id") == [("2", "2", "two")]
    assert any("/resolve/v1.0/" in path for path, _ in hub.seen)


def test_the_token_goes_to_the_hub_and_not_to_whom_it_redirects(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.private = True
    with pytest.raises(DataError, match="refuses") as failed:
        rows(tmp_path, path="hf://datasets/ann/shop/data/train/a.csv", id="id")
    assert "HF_TOKEN" in str(failed.value.next_command)
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    assert rows(tmp_path, path="hf://datasets/ann/shop/data/train/a.csv", id="id")
    assert [key for path, key in hub.seen if path.startswith("/cdn/")] == [None]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hf://datasets/ann/shop", "expected hf://datasets/OWNER/NAME/FILE"),
        ("hf://models/ann/shop/x.csv", "expected hf://datasets/OWNER/NAME/FILE"),
        ("hf://datasets/ann/shop/none.csv", "there is no"),
        ("hf://datasets/ann/shop/data/*.csv", "no file matches"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub: Hub, tmp_path: Path, path: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        rows(tmp_path, path=path)


def test_a_download_that_ends_early_is_an_error(hub: Hub, tmp_path: Path) -> None:
    hub.short = True
    with pytest.raises(DataError, match="ended early"):
        rows(tmp_path, path="hf://datasets/ann/shop/data/train/a.csv", id="id")


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DataError, match="cannot be reached") as failed:
        rows(tmp_path, path="hf://datasets/ann/shop/a.csv")
    assert "download the file" in str(failed.value.next_command)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"rows": [{"a": 1}], "table": "t"}, "data.table"),
        ({"path": "x.db", "databases": {"x": "x.db"}}, "data.databases"),
        ({"dsn_env": "X", "table": "t"}, "data.id"),
        ({"dsn_env": "X", "path": "x.csv"}, "exactly one"),
        ({"sql": "SELECT 1", "databases": {"x": {}}}, "exactly one of path, dsn_env"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(data: dict[str, Any], said: str) -> None:
    from batchling.spec import Config

    with pytest.raises(ValueError, match=said):
        Config.model_validate({"name": "x", "provider": {"name": "local"}, "model": {"id": "m"}, "data": data})


# -- what strangers put there


def _lite(path: Path, *statements: str) -> None:
    con = sqlite3.connect(path)
    for one in statements:
        con.execute(one)
    con.commit()
    con.close()


def test_a_file_of_a_database_is_read_in_a_process_that_can_be_ended() -> None:
    from batchling.source.bounds import wild

    for data in (
        {"path": "x.sqlite"},
        {"path": ["x.DUCKDB"]},
        {"path": "x", "format": "database"},
        {"path": "hf://datasets/a/b/x.db"},
        {"sql": "SELECT 1 AS a ORDER BY 1", "databases": {"x": "x.db"}},
    ):
        assert wild(DataConfig.model_validate(data)), data
    assert not wild(DataConfig(path="x.csv"))


def test_a_view_that_never_ends_obeys_ctrl_c(tmp_path: Path) -> None:
    import signal
    import sys
    import time

    _lite(
        tmp_path / "x.db",
        "CREATE VIEW v AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) AS n FROM c",
    )
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path; from batchling import source; from batchling.spec import DataConfig\n"
        "root = Path(sys.argv[1]); print('reading', flush=True)\n"
        "source.snapshot(DataConfig(path='x.db'), root, root / 'snapshot')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == b"reading\n"
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        process.wait(10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGINT


def test_a_view_of_duckdb_that_never_ends_stops_at_the_bound(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "x.duckdb")) as con:
        con.execute("CREATE VIEW v AS SELECT md5(i::VARCHAR) AS n FROM range(1000000000) t(i)")
    with pytest.raises(source.TooLarge) as failed:
        source.snapshot(
            DataConfig(path="x.duckdb"), tmp_path, tmp_path / "snapshot", bounds=source.Bounds(1000, 30_000_000)
        )
    assert failed.value.key == "limits.plan_bytes"


def test_who_said_yes_is_not_stopped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from batchling.source import bounds, databases

    _lite(tmp_path / "x.db", "CREATE TABLE t (a)", f"INSERT INTO t VALUES ('{'x' * 3_000_000}')")
    monkeypatch.setattr(bounds, "free_bytes", lambda _: 2_000_000)
    found = databases.of_file(str(tmp_path / "x.db"))
    with pytest.raises(source.TooLarge):
        found.copy(None, tmp_path / "copies")
    assert found.copy(None, tmp_path / "copies", sys.maxsize).stat().st_size > 3_000_000


def test_reading_a_sqlite_file_with_a_wal_leaves_nothing_beside_it(tmp_path: Path) -> None:
    _lite(tmp_path / "w.db", "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    assert rows(tmp_path, path="w.db") == [("0", 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snapshot", "w.db"]
    with sqlite3.connect(tmp_path / "w.db") as con:  # a program has it open: what it wrote is read
        con.execute("INSERT INTO t VALUES (2)")
        con.commit()
        assert rows(tmp_path, path="w.db") == [("0", 1), ("1", 2)]
    con.close()


def test_a_view_that_groups_gives_the_same_ids_each_time(tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "v.duckdb")) as con:
        con.execute("CREATE TABLE b AS SELECT i % 50000 AS k FROM range(600000) t(i)")
        con.execute("CREATE VIEW v AS SELECT k, count(*) AS n FROM b GROUP BY k")
    assert len({sha(tmp_path, path="v.duckdb", table="v") for _ in range(5)}) == 1


def test_errors_about_a_table_name_the_database_and_no_copy(tmp_path: Path) -> None:
    _lite(tmp_path / "x.db", 'CREATE TABLE odd ("" INT)', "INSERT INTO odd VALUES (1)", "CREATE TABLE none (a)")
    for table, said in (("odd", "a column without a name"), ("none", "no rows")):
        with pytest.raises(DataError, match=said) as failed:
            rows(tmp_path, path="x.db", table=table)
        assert "x.db" in str(failed.value.where) and ".reading" not in str(failed.value)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://u:first@s3cret@127.0.0.1:1/db", "postgres://u:first/s3cret@h/db", "postgresql://u:p@h,s3cret@h/d"],
)
def test_a_password_with_an_at_sign_is_refused_before_it_is_a_host(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DSN", dsn)
    with pytest.raises(DataError, match="more than one @") as failed:
        rows(tmp_path, dsn_env="SHOP_DSN", table="t", id="a")
    assert "s3cret" not in f"{failed.value}" and "%40" in str(failed.value.next_command)


def test_a_time_of_postgresql_does_not_depend_on_who_reads_it(
    orders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"dsn_env": "SHOP_DSN", "table": "orders", "id": "id"}
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    there = sha(tmp_path, **one)
    monkeypatch.setenv("PGTZ", "UTC")
    assert sha(tmp_path, **one) == there


@pytest.mark.parametrize("name", ["{outside}", "data/" + "../" * 30 + "{outside}", "data//x.csv", "data/./x.csv"])
def test_a_hub_that_lists_a_file_outside_its_data_set_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside.csv"
    hub.files[name.replace("{outside}", str(outside))] = b"id\n1\n"
    for pattern in ("**/*.csv", "data/**/*.csv"):
        with pytest.raises(DataError, match="outside its data set"):
            rows(tmp_path, path=f"hf://datasets/ann/shop/{pattern}")
    assert not outside.exists()


@pytest.mark.parametrize("path", ["../../x.csv", "ann/shop/../x.csv", "ann/shop//etc/x.csv", "ann/shop/./x.csv"])
def test_a_path_does_not_leave_its_data_set(tmp_path: Path, path: str) -> None:
    with pytest.raises(DataError, match="leaves its data set"):
        rows(tmp_path, path=f"hf://datasets/{path}")


@pytest.mark.parametrize(
    "page", [b"{}x", b'{"error": 1}', b"[1]", b"null", b'[{"type": "file"}]', b"[" * 5000, b"\xff", b" " * 16_000_001]
)
def test_a_hub_that_answers_with_no_list_is_an_error(page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchling.source import hub as module

    with pytest.raises(DataError, match="is not a list of files"):
        list(module._files(page, "hf://datasets/ann/shop/*.csv"))


def test_a_list_without_an_end_is_an_error(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchling.source import hub as module

    monkeypatch.setattr(module, "_PAGES", 1)
    with pytest.raises(DataError, match="more than 1 pages"):
        rows(tmp_path, path="hf://datasets/ann/shop/data/**/*.csv")


def test_a_glob_s_own_words_and_a_wrong_one(hub: Hub, tmp_path: Path) -> None:
    assert rows(tmp_path, path="hf://datasets/ann/shop/data/train/[!a].csv", id="id") == [("2", "2", "two")]
    with pytest.raises(DataError, match="no pattern"):
        rows(tmp_path, path="hf://datasets/ann/shop/data/train/[z-a].csv")


@pytest.mark.parametrize("token", ["hf_s3cret\nx: y", "hf_s3cret\u2026", "hf_s3\rcret"])
def test_a_token_that_is_no_line_is_in_no_message(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    from batchling.errors import ProviderError

    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ProviderError, match="HF_TOKEN") as failed:
        rows(tmp_path, path="hf://datasets/ann/shop/data/train/a.csv")
    assert "cret" not in str(failed.value) and not hub.seen


@pytest.mark.parametrize(
    "address", ["https://ann:s3cret@h", "http://h:s3cret", "http://[s3cret", "https://s3 cret", "http://h/?s3cret"]
)
def test_an_address_of_the_hub_that_is_none_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(DataError, match="HF_ENDPOINT does not hold") as failed:
        rows(tmp_path, path="hf://datasets/ann/shop/x.csv")
    assert "cret" not in str(failed.value)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc", "broke off"),
        (b"garbage\r\n\r\n", "cannot be reached"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1:1/x\r\n\r\n", "not followed"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[x/\r\n\r\n", "cannot be reached"),
    ],
)
def test_a_reply_that_is_none_is_an_error_about_the_data(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes, said: str
) -> None:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(reply)
        request.close_connection = True

    monkeypatch.setattr(hub, "answer", answer)
    with pytest.raises(DataError, match=said):
        rows(tmp_path, path="hf://datasets/ann/shop/x.csv")


def test_no_redirect_goes_from_https_to_http() -> None:
    import urllib.error
    import urllib.request

    from batchling.source import hub as module

    asked = urllib.request.Request("https://h/x")
    with pytest.raises(urllib.error.URLError, match="not followed"):
        module._Redirects().redirect_request(asked, None, 302, "", {}, "http://h/x")


@pytest.mark.parametrize("price", [float("inf"), float("nan"), -1.0])
def test_a_price_is_a_number_that_can_be_added_up(price: float) -> None:
    from batchling.spec import PriceConfig

    for key in ("input", "output", "cached"):
        with pytest.raises(ValueError, match=key):
            PriceConfig.model_validate({"input": 1.0, key: price})


def test_a_function_of_a_missing_extension_names_the_extension(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DuckDB's extension sqlite_scanner"):
        rows(tmp_path, sql="SELECT * FROM sqlite_scan('x.db', 't') ORDER BY 1")
