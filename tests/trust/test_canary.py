"""A server that repeats the key wherever it can: none of it on the screen, in a log, a journal or a table."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, STDOUT
from urllib.parse import quote

import duckdb
import pytest

from batchling.cli.program import COMMANDS
from tests.servers.batches import BatchServer, answered, failed
from tests.servers.scripted import Request, refuse, reply
from tests.workbench import Hands

from .conftest import Cli

KEYS = {
    "plain": "sk-" + "canaryQ7w3Zt9XkP2mVb8Nf4Ld",
    "quotes": "sk-\"canary\\'Q7w3{Zt9}Xk/P2",
    "spaces": "canary Q7w3 Zt9X kP2m Vb8N",
    "percent": "%63anary%%20<b>&amp;Q7w3Zt9",
}


def shapes(key: str) -> Iterator[bytes]:
    yield key.encode()
    yield json.dumps(key)[1:-1].encode()
    yield json.dumps(json.dumps(key))[1:-1].strip('\\"').encode()
    yield repr(key)[1:-1].encode()
    yield key.encode("utf-16-le")
    yield key.encode().hex().encode()
    yield quote(key, safe="").encode()
    yield "".join(f"\\u{ord(c):04x}" for c in key).encode()
    for shift in range(3):
        encoded = base64.b64encode(b"x" * shift + key.encode())
        yield encoded[4 if shift else 0 : 4 * (len(key) // 3 - 1)]


def unpacked(data: bytes) -> Iterator[bytes]:
    yield data
    for found in re.finditer(rb"\x1f\x8b\x08", data):
        try:
            yield zlib.decompressobj(31).decompress(data[found.start() :])
        except zlib.error:
            continue


def leaks(key: str, data: bytes) -> list[bytes]:
    return [shape for content in unpacked(data) for shape in shapes(key) if shape in content]


def saying(key: str) -> str:
    """An answer with the key in it, in many shapes."""
    return f"key {key} {base64.b64encode(key.encode()).decode()} {key.encode().hex()} {json.dumps(key)} {key!r} end"


@pytest.fixture(params=list(KEYS))
def key(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    value: str = KEYS[request.param]
    monkeypatch.setenv("OPENAI_API_KEY", value)
    return value


def sweep(cli: Cli, project: Path, key: str) -> None:
    """Every command that reads, and every file, searched."""
    (plan,) = [path.parent.name for path in (project / "runs").glob("*/plan.json")]
    out = project / "out"
    out.mkdir(exist_ok=True)
    tables = ("plans", "runs", "requests", "batches", "responses", "records", "metrics", "events")
    commands = [
        ("status",),
        ("status", plan),
        ("status", plan, "--json"),
        ("results", plan),
        ("results", plan, "--format", "jsonl"),
        ("results", plan, "--format", "csv", "-o", str(out / "rows.csv")),
        ("results", plan, "--format", "parquet", "-o", str(out / "rows.parquet")),
        ("compare", plan),
        ("config", "ask"),
        ("doctor", "-v"),
        ("doctor", "--json"),
        ("doctor", "--rebuild"),
        ("du",),
        *(("query", f"select * from {table}") for table in tables),
    ]
    for command in commands:
        answer = cli(*command)
        assert not leaks(key, (answer.out + answer.err).encode("utf-8", "surrogatepass")), command
    for path in [*(project / "runs").rglob("*"), *out.iterdir()]:
        if path.is_file():
            raw = re.fullmatch(r"\d+\.\d+\.(?:output|errors)\.jsonl", path.name)
            found = leaks(key, path.read_bytes())
            assert not found or raw, (path, found)
    for parquet in [*(project / "runs").rglob("*.parquet"), out / "rows.parquet"]:
        rows = duckdb.sql(f"select * from '{parquet}'").fetchall()
        assert not leaks(key, repr(rows).encode()) and not leaks(key, str(rows).encode()), parquet


def test_a_key_in_answers_is_kept_in_the_raw_bytes_only_and_told(
    cli: Cli, project: Path, server: BatchServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def row(request: dict[str, object]) -> object:
        nonlocal seen
        seen += 1
        return answered(request, saying(key)) if seen == 1 else failed(request, "invalid_prompt", saying(key))

    server.row = row  # type: ignore[assignment]
    arguments = ("ask", "--yes", "-v", "provider=compatible", f"provider.base_url={server.url}")
    answer = cli("run", *arguments, "retry.attempts=1")
    assert answer.code == 3, answer.err
    assert "2 answers repeat a key" in answer.err or "repeats a key" in answer.err
    assert not leaks(key, (answer.out + answer.err).encode())
    raw = b"".join(path.read_bytes() for path in (project / "runs").glob("*/responses/*.output.jsonl"))
    assert any(shape in raw for shape in shapes(key)), "what was received is kept as it was"
    sweep(cli, project, key)
    # Neither a rebuild without the key, nor a plan that reuses the answer, brings it back.
    text = cli("results", "ask", "--format", "jsonl").out
    assert "***" in text
    monkeypatch.setenv("OPENAI_API_KEY", "another-key-0123456789")
    assert cli("doctor", "--rebuild").code == 0
    assert cli("results", "ask", "--format", "jsonl").out == text
    sweep_of_reuse = cli("run", *arguments, "name=again")
    assert sweep_of_reuse.code == 3, sweep_of_reuse.err
    for path in (project / "runs").rglob("*"):
        if path.is_file() and not re.fullmatch(r"\d+\.\d+\.(?:output|errors)\.jsonl", path.name):
            assert not leaks(key, path.read_bytes()), path


@pytest.mark.parametrize("route", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/*"])
def test_a_key_in_a_refusal_is_nowhere(cli: Cli, project: Path, server: BatchServer, key: str, route: str) -> None:
    method, pattern = route.split()
    server.on(method, pattern, refuse(401, "invalid_api_key", f"Incorrect API key provided: {saying(key)}"))
    server.on("GET", "/v1/batches", refuse(401, "invalid_api_key", f"Incorrect API key provided: {saying(key)}"))
    answer = cli("run", "ask", "--yes", "-v", "--detach", "provider=compatible", f"provider.base_url={server.url}")
    assert answer.code in (5, 75), answer.err
    assert not leaks(key, (answer.out + answer.err).encode())
    if method == "POST":
        assert key[:12] not in answer.err, "a part of it neither"
    sweep(cli, project, key)


def test_a_key_in_the_errors_of_a_failed_batch_is_nowhere(
    cli: Cli, project: Path, server: BatchServer, key: str
) -> None:
    def view(request: Request) -> object:
        batch = json.loads(server.normal(request).body)
        error = {"code": "invalid_request", "message": f"no such key: {saying(key)}", "line": 1, "param": key}
        batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}, "metadata": {"key": key}}
        return reply(batch)(request)

    server.on("GET", "/v1/batches/*", view)  # type: ignore[arg-type]
    where = ("provider=compatible", f"provider.base_url={server.url}", "retry.attempts=1")
    answer = cli("run", "ask", "--yes", "-v", *where)
    assert not leaks(key, (answer.out + answer.err).encode())
    sweep(cli, project, key)


def test_every_command_keeps_a_key_to_itself_that_is_refused_again_and_again(
    cli: Cli, project: Path, server: BatchServer, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server repeats the key in every refusal, and after it has come to its senses; nothing beside the project."""
    monkeypatch.setattr("batchling.clock.time", Hands())
    for name in ("tmp", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = ("provider=compatible", f"provider.base_url={server.url}")
    tried: list[str] = []

    def quiet(code: int | None, *args: str) -> None:
        answer = cli(*args)
        tried.append(args[0])
        assert code is None or answer.code == code, (args, answer.err)
        assert not leaks(key, (answer.out + answer.err).encode("utf-8", "surrogatepass")), args
        assert key[:12] not in answer.out + answer.err, args

    quiet(75, "run", "ask", "--yes", "--detach", *where)
    (plan,) = [path.parent.name for path in (project / "runs").glob("*/plan.json")]
    for method in ("GET", "POST", "DELETE"):
        server.on(method, "*", refuse(401, "invalid_api_key", f"Incorrect API key provided: {saying(key)}"))
    quiet(5, "watch", plan)
    quiet(5, "cancel", plan)
    quiet(None, "resolve", plan, "--adopt", "batch_x", "-v")
    quiet(None, "resolve", plan, "--drop")
    quiet(2, "rm", plan, "--yes")
    quiet(None, "run", "ask", "--yes", "--detach", "-v", "name=more", *where)
    quiet(0, "plan", "ask", *where)
    quiet(0, "providers", "openai")
    quiet(0, "models", "openai")
    quiet(None, "doctor", "-v", "--json")
    for method in ("GET", "POST", "DELETE"):
        server.on(method, "*", server.normal)
    quiet(0, "cancel", plan)
    for command in ("status", "results", "compare"):
        quiet(0, command, plan)
    for args in (("query", "select * from events"), ("du",), ("config", "ask", *where), ("completion", "bash")):
        quiet(0, *args)
    quiet(0, "init", str(tmp_path / "new"))
    quiet(0, "rm", plan, "--yes")
    assert {*tried, "serve"} == set(COMMANDS), "serve: below"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not leaks(key, path.read_bytes()), path


def test_serve_keeps_an_upstreams_key_to_itself(project: Path, server: BatchServer, key: str, tmp_path: Path) -> None:
    for method in ("GET", "POST"):
        server.on(method, "*", refuse(401, "invalid_api_key", f"Incorrect API key provided: {saying(key)}"))
    command = (
        "serve",
        "--port",
        "0",
        "--no-token",
        "--engine",
        "http",
        "--upstream",
        server.url,
        "--api-key-env",
        "OPENAI_API_KEY",
        "--trust-host",
        "127.0.0.1",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "batchling", *command], cwd=project, stdout=PIPE, stderr=STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline() + process.stdout.readline()
        found = re.search(r"(?<=listening on )http://127\.0\.0\.1:\d+", first)
        assert found and "error" not in first, first
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        asked = urllib.request.Request(found[0] + "/v1/chat/completions", body, {"content-type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(asked, timeout=60)
        reply_to_it = caught.value.read()
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert server.log, "the upstream was asked"
    assert not leaks(key, (first + rest).encode() + reply_to_it)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert not leaks(key, path.read_bytes()), path


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sk-one\nsk-two", "holds 2 lines"),
        ("sk-one\r\nsk-two\r\nsk-three", "holds 3 lines"),
        ("sk-\x1b[31mred", "holds a control character"),
        ("sk-“quoted”", "holds a character beyond ASCII"),
        ("sk-one\u200btwo", "holds a character beyond ASCII"),
        ("sk-one\ttwo", "holds a control character"),
    ],
)
def test_a_key_that_is_not_one_printable_line_is_refused_and_not_shown(
    cli: Cli, project: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch, value: str, words: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    where = ("provider=compatible", f"provider.base_url={server.url}")
    for command in (("run", "ask", "--yes", "-v", *where), ("doctor", "-v")):
        answer = cli(*command)
        assert answer.code == (5 if command[0] == "run" else 1)
        assert words in answer.err + answer.out
        assert not any(part in answer.err + answer.out for part in ("sk-one", "two", "red", "quoted"))
    assert server.log == [] and not list((project / "runs").glob("*/plan.json"))
