"""Thirty texts that would take the machine with them: each ends by itself with exit 2 (or 4), or at Ctrl-C with 130.

One process each, as a person starts it. Memory is what the kernel counted for it and every process that it started; the sum
of the largest of both stays below 1 GB. The few that are quick always run, all of them with `--long`.
"""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.scripted import Request, Wire, drip
from tests.spreadsheets import MAIN, OFFICE, PACKAGE, element
from tests.workbench import Workbench, bench, hands

__all__ = ["bench", "hands"]

MOST_MB = 1000
PATIENCE = 15.0  # seconds that one may run before Ctrl-C; most end long before
OBEYED = 5.0  # seconds from Ctrl-C to the end, on a machine that does other things

CONFIG = """\
name: bomb
defaults: [/base, override /model: simulated, _self_]
data: {data}
prompt: {{engine: {engine}, messages: [{{role: user, content: {content}}}]}}
metrics: {metrics}
{more}
"""
ROWS = "{rows: [{x: aaa, n: 1}, {x: bbb, n: 2}]}"
PLAN = ("plan", "bomb")


@dataclass(frozen=True)
class Bomb:
    """What an experiment is made of, and the command that meets it. `codes`: how it may end by itself."""

    data: str = ROWS
    content: str = "'say {x}'"
    engine: str = "format"
    metrics: str = "{}"
    more: str = ""
    command: tuple[str, ...] = PLAN
    codes: tuple[int, ...] = (2,)
    files: Callable[[Path], None] = lambda folder: None
    quick: bool = False


def sql(text: str, **more: object) -> Bomb:
    return Bomb(data='{sql: "' + text + '", id: x}', content="'say {x}'", **more)  # type: ignore[arg-type]


def jinja(text: str, **more: object) -> Bomb:
    return Bomb(engine="jinja", content="'" + text.replace("'", "''") + "'", **more)  # type: ignore[arg-type]


def metric(text: str, **more: object) -> Bomb:
    return Bomb(metrics='{m: "' + text + '"}', **more)  # type: ignore[arg-type]


def query(text: str) -> Bomb:
    return Bomb(command=("query", text))


def data(name: str, write: Callable[[Path], None], **more: object) -> Bomb:
    return Bomb(data=f"{{path: {name}}}", files=lambda folder: write(folder / name), **more)  # type: ignore[arg-type]


def long_line(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'x,n\n"')
        file.seek(2_000_000_000)  # a hole: nothing on the disk, two gigabytes to whoever reads it
        file.write(b'",1\n')


def long_json(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"x": "')
        file.seek(2_000_000_000)
        file.write(b'"}\n')


def long_gzip(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"x": "')
        for _ in range(1000):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')


def frames(path: Path) -> None:
    """A zstandard file of 40,000 blocks, each one byte that stands for 128 kB of empty lines."""
    head = b'{"x": "aaa"}\n'
    with path.open("wb") as file:
        file.write((0xFD2FB528).to_bytes(4, "little") + b"\x00\x58" + (len(head) << 3).to_bytes(3, "little") + head)
        for left in reversed(range(40_000)):
            file.write((((128 << 10) << 3) | 2 | (left == 0)).to_bytes(3, "little") + b"\n")


def members(path: Path) -> None:
    """A gzip file of many members, each small: only their sum is large."""
    member = gzip.compress(b'{"x": "' + b"x" * 10_000_000 + b'"}\n', 9)
    path.write_bytes(member * 130)


def long_header(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(150):
            file.write(b"x" * 1_000_000)


def deep_json(path: Path) -> None:
    path.write_text('{"x": ' + "[" * 200_000 + "]" * 200_000 + "}\n")


def sheet(path: Path) -> None:
    """A spreadsheet of a megabyte that unpacks to a gigabyte."""
    part = "worksheet"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{PACKAGE}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        book.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r" Type="{OFFICE}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        book.writestr(
            "xl/workbook.xml",
            element(
                "workbook",
                '<sheets><sheet name="s" sheetId="1" r:id="r1"/></sheets>',
                f'xmlns="{MAIN}" xmlns:r="{OFFICE}"',
            ),
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            f'<Relationships xmlns="{PACKAGE}/relationships"><Relationship Id="r1" Type="{"/".join([OFFICE, part])}" '
            'Target="worksheets/sheet1.xml"/></Relationships>',
        )
        with book.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as file:
            file.write(f'<{part} xmlns="{MAIN}"><sheetData><row r="1"><c t="str"><v>x</v></c></row>'.encode())
            row = b"<row>" + b'<c t="str"><v>' + b"x" * 30_000 + b"</v></c></row>"
            for _ in range(33_000):
                file.write(row)
            file.write(f"</sheetData></{part}>".encode())


def parquet(path: Path) -> None:
    from batchling import duck

    with duck.connect(memory_mb=None, threads=1) as con:  # 1.5 GB in one row group, and nothing of it on the disk
        con.execute(
            "COPY (SELECT repeat('x', 5000000) || range AS x FROM range(300)) "
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 2048)"
        )


def base(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        conf = folder.parent.parent / "conf"
        conf.mkdir(exist_ok=True)
        (conf / "base.yaml").write_text(text)

    return write


def schema(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "schema.json").write_text(text) and None


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9)
)
DOUBLING = (
    "model: {params: {x0: aaaaaaaaaa"
    + "".join(f", x{i + 1}: '${{model.params.x{i}}}${{model.params.x{i}}}'" for i in range(40))
    + "}}"
)
FAN_OUT = (
    '{"type": "object", "required": ["a"], "additionalProperties": false, "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {'
    + ", ".join(
        f'"d{i}": {{"type": "object", "additionalProperties": false, "required": ["a", "b"], '
        f'"properties": {{"a": {{"$ref": "#/$defs/d{i + 1}"}}, "b": {{"$ref": "#/$defs/d{i + 1}"}}}}}}'
        for i in range(40)
    )
    + ', "d40": {"type": "string"}}}'
)
DEEP_SCHEMA = '{"type": "array", "items": ' * 5000 + '{"type": "string"}' + "}" * 5000
PATTERN = (
    '{"type": "object", "required": ["a"], "additionalProperties": false, '
    '"properties": {"a": {"type": "string", "pattern": "^(a{1000}){1000}$"}}}'
)

BOMBS = {
    "sql repeat": sql("select length(repeat('x', 1000000000)) as x", quick=True),
    "sql range": sql("select range as x from range(1000000000000)", codes=(2, 4)),
    "sql recursive": sql("with recursive t(x) as (select 1 union all select x + 1 from t) select x from t"),
    "sql doubling": sql("with recursive t(x) as (select 'xx' union all select x || x from t) select x from t"),
    "sql string_agg": sql("select string_agg(repeat('x', 1000000), '') as x from range(3000)"),
    "sql cross join": sql("select count(*) as x from range(100000) a, range(100000) b, range(100000) c"),
    "sql list": sql("select list_sort(range(300000000)) as x"),
    "sql where": Bomb(data='{rows: [{x: a}], where: "length(repeat(x, 2000000000)) > 0"}'),
    "query repeat": query("select repeat('x', 1000000000) from range(300)"),
    "query cross join": query("select count(*) from range(100000) a, range(100000) b, range(100000) c"),
    "metric repeat": metric("length(repeat('x', 1000000000)) > 0", quick=True),
    "metric lpad": metric("sum(length(lpad(data.x, (500000000 + data.n)::INT, 'x')))"),
    "metric list": metric("list_aggregate(range(1000000000), 'sum') > 0"),
    "metric regexp": metric("length(regexp_replace(repeat(data.x, 10000000), 'a', repeat('b', 1000), 'g')) > 0"),
    "metric printf": metric("length(printf('%2000000000d', data.n)) > 0"),
    "jinja times": jinja("{{ x * 10**10 }}", quick=True),
    "jinja loops": jinja(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}{{ x }}",
        quick=True,
    ),
    "jinja doubling": jinja(
        "{% set ns = namespace(x=x) %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
    ),
    "jinja macros": jinja("{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}{{ x }}"),
    "jinja width": jinja("{{ '{:>{w}}'.format(x, w=10**10) }}"),
    "yaml aliases": Bomb(files=base(LAUGHS), command=("status",), quick=True),
    "yaml depth": Bomb(files=base("a: " + "[" * 20_000 + "]" * 20_000)),
    "yaml interpolations": Bomb(more=DOUBLING),
    "schema fan-out": Bomb(more="schema: {json_schema: schema.json}", files=schema(FAN_OUT)),
    "schema depth": Bomb(more="schema: {json_schema: schema.json}", files=schema(DEEP_SCHEMA)),
    "schema pattern": Bomb(more="schema: {json_schema: schema.json}", files=schema(PATTERN), codes=(0, 2)),
    "data csv line": data("rows.csv", long_line),
    "data json line": data("rows.jsonl", long_json),
    "data json gz": data("rows.jsonl.gz", long_gzip),
    "data gz members": data("rows.jsonl.gz", members),
    "data zst": data("rows.jsonl.zst", frames, quick=True),
    "data csv header": data("rows.csv.gz", long_header),
    "data json depth": data("rows.jsonl", deep_json, codes=(0, 2)),
    "data sheet": data("rows.xlsx", sheet),
    "data parquet": data("rows.parquet", parquet, codes=(2, 4)),
}
"""Replies that are bombs meet the tests of the decoder and of the embedded server."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if bomb.quick else pytest.mark.long) for name, bomb in BOMBS.items()]
)
def test_it_ends(name: str, tmp_path: Path) -> None:
    bomb = BOMBS[name]
    folder = tmp_path / "experiments" / "bomb"
    folder.mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    text = CONFIG.format(data=bomb.data, engine=bomb.engine, content=bomb.content, metrics=bomb.metrics, more=bomb.more)
    (folder / "config.yaml").write_text(text)
    bomb.files(folder)
    if bomb.command[0] == "query":
        assert run(tmp_path, "run", "bomb", "--yes", patience=600)[0] == 0  # a catalog to ask
    code, out, waited, peak = run(tmp_path, *bomb.command)
    figures = f"exit {code}  Ctrl-C {'' if waited is None else f'{waited:.2f} s'}  {peak} MB"
    sys.stdout.write(f"BOMB {name:20} {figures}  {' '.join(out.split())[:150]}\n")
    if code == -signal.SIGINT:  # it had told its error and was on its way out: to a shell that is 130 as well
        code = 130
    assert code in (*bomb.codes, 130), out
    assert code != 130 or waited is not None, out
    assert "bug" not in out and "Traceback" not in out and "unexpected" not in out, out
    assert waited is None or waited < OBEYED
    assert peak < MOST_MB


def run(folder: Path, *args: str, patience: float = PATIENCE) -> tuple[int, str, float | None, int]:
    """Exit code, what it said, seconds from Ctrl-C to the end (None: it ended by itself), and the peak in MB."""
    marker = folder / "out.txt"
    with marker.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "batchling", *args], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
        peaks: dict[int, int] = {}
        begun = time.monotonic()
        told: float | None = None
        while process.poll() is None:
            for pid in family(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), high_water(pid))
            if told is None and time.monotonic() - begun > patience:
                told = time.monotonic()
                process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
    waited = None if told is None else time.monotonic() - told
    return process.returncode, marker.read_text(errors="replace"), waited, peak_of(peaks, process.pid)


def peak_of(peaks: dict[int, int], parent: int) -> int:
    """MB of the process itself and of the largest that it started, which run at the same time."""
    return (peaks.get(parent, 0) + max((mb for pid, mb in peaks.items() if pid != parent), default=0)) // 1024


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *map(int, children)]


def high_water(pid: int) -> int:
    """kB that a process held at most."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)


@pytest.mark.parametrize("start", [b"", b'{"id": "x"'], ids=["headers", "body"])
@pytest.mark.parametrize(
    "route",
    [
        "POST /v1/batches",
        *(pytest.param(route, marks=pytest.mark.long) for route in ("POST /v1/files", "GET /v1/batches/*")),
        pytest.param("GET /v1/files/*/content", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_is_obeyed_while_a_reply_drips(bench: Workbench, route: str, start: bytes) -> None:
    method, pattern = route.split()
    stop, arrived = threading.Event(), threading.Event()
    slow = drip(stop, start)

    def seen(request: Request) -> Wire:
        arrived.set()
        return slow(request)

    bench.server.on(method, pattern, seen)
    process = bench.start("run", *bench.arguments("limits.poll_seconds=0.1"), "--yes", stdin=subprocess.DEVNULL)
    try:
        assert arrived.wait(120)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)  # it reads the reply
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)  # the reply would take a day
        waited = time.monotonic() - begun
    finally:
        stop.set()
        process.kill()
    sys.stdout.write(f"DRIP {route} {'body' if start else 'headers'}: Ctrl-C {waited:.2f} s\n")
    assert process.returncode in (130, -signal.SIGINT), err
    assert "Traceback" not in err and "bug" not in err


def test_where_ctrl_c_is_ignored_on_purpose_sigterm_ends_it(tmp_path: Path) -> None:
    # A shell's background job: SIGINT is ignored, so it is not ours to obey.
    folder = tmp_path / "experiments" / "bomb"
    folder.mkdir(parents=True)
    text = BOMBS["sql cross join"]
    (folder / "config.yaml").write_text(
        CONFIG.format(data=text.data, engine="format", content=text.content, metrics="{}", more="")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "batchling", "plan", "bomb"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    deadline = time.monotonic() + 60
    while len(family(process.pid)) < 2 and process.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):  # until the statement runs in its own process
            process.wait(0.02)
    child = family(process.pid)[-1]
    assert child != process.pid
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped watching" in err
    assert not Path(f"/proc/{child}").exists() or "batchling" not in Path(f"/proc/{child}/cmdline").read_text()
