"""Round trips against servers that we did not write. `.ci/thirdparty` installs them and runs this.

Each is looked for in `$BATCHLING_THIRDPARTY/<name>/bin`, then in PATH. What was seen of them (2026-11):

llmock 0.2.2: cuts the input file with `str.splitlines()`, so U+2028 in a line would break it (ours are escaped); its
    output file's last line has no line feed; a batch whose rows all fail is `failed`, with an error file; sends no usage
    for cached tokens; ignores `response_format`, so answers do not fit a schema.
aibrix 0.8.0 (`--dry-run`): ids are bare UUIDs; the window is echoed as `1d`; absent properties instead of nulls; the
    response's body is the request's body, so a row has status 200 and no answer.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchling.errors import CallNotFound
from batchling.providers import connect
from batchling.spec import ProviderConfig
from tests.workbench import KEY, KEY_VARIABLE, Workbench, clean_environ

pytestmark = pytest.mark.thirdparty

HARD = "Ünï \u2028 two \u2029 three \u0085 four \x0c five \U0001f600 {brace}"
ROWS = 300


@dataclass
class Running:
    name: str
    url: str


COMMANDS = {
    "llmock": ["llmock", "serve", "--host", "127.0.0.1", "--port", "{port}", "--response-style", "echo"],
    "aibrix": ["aibrix_metadata", "--host", "127.0.0.1", "--port", "{port}", "--dry-run"],
}


def executable(name: str, command: str) -> str:
    folder = os.environ.get("BATCHLING_THIRDPARTY")
    inside = Path(folder or ".", name, "bin", command)
    found = str(inside) if folder and inside.exists() else shutil.which(command)
    if found is None:
        pytest.skip(f"{command} is not installed (.ci/thirdparty installs it)")
    return found


@pytest.fixture(params=sorted(COMMANDS))
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    name = request.param
    command, *arguments = COMMANDS[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp(name)
    process = subprocess.Popen(
        [executable(name, command), *(a.format(port=port) for a in arguments)],
        cwd=folder,
        env=clean_environ({"HOME": str(folder), "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    said: list[str] = []
    for text in process.stdout:
        said.append(text)
        if re.search(r"Uvicorn running|Application startup complete", text):
            break
    else:
        raise AssertionError(f"{name} did not start: {''.join(said)[-2000:]}")
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    # It says so a moment before it listens.
    assert listens(port), f"{name} does not listen"
    yield Running(name, f"http://127.0.0.1:{port}/v1")
    process.kill()
    process.wait()
    drain.join()


def listens(port: int) -> bool:
    """Waits until something listens; each refused connection is an answer of the kernel's, not a pause."""
    for _ in range(200_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
    return False


def test_a_round_trip(bench: Workbench, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files up, batch made, polled, files down: every row has a state, and a second time nothing is sent."""
    monkeypatch.undo()  # the machine's own clock: these servers take their time
    monkeypatch.chdir(bench.root)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    bench.rows([{"id": f"r{n:03}", "text": f"number {n} {HARD}"} for n in range(ROWS)])
    arguments = (
        f"provider.base_url={server.url}",
        "schema.fields=null",
        "model.id=gpt-4o",
        "limits.max_requests=200",
        "limits.poll_seconds=0.2",
    )
    outcome = bench.run(*arguments)
    assert outcome.requests == ROWS
    assert outcome.batches == 2
    if server.name == "aibrix":
        assert (outcome.exit_code, bench.states()) == (3, {"error": ROWS})
        assert bench.records()["r007"]["error"].startswith("not_understood: not an answer that batchling understands")
    else:
        assert (outcome.exit_code, bench.states()) == (0, {"ok": ROWS})
        # This server puts all white space in its echo together.
        assert " ".join(f"number 7 {HARD}".split()) in " ".join(bench.records()["r007"]["text"].split())
    received = b"".join(path.read_bytes() + b"\n" for path in (outcome.folder / "responses").glob("*.output.jsonl"))
    assert received.count(b'"custom_id"') == ROWS
    again = bench.run(*arguments)
    assert (again.created, again.plan_id) == (False, outcome.plan_id)
    assert not bench.server.log


def test_the_port_s_calls_mean_what_the_protocol_needs(server: Running) -> None:
    provider = connect(
        ProviderConfig(name="compatible", api_key_env="KEY"), base_url=server.url, environ={"KEY": "none"}
    )
    with pytest.raises(CallNotFound):
        provider.poll("batch_nobody_made")
    assert list(provider.find(0.0)) == []
    assert provider.fence("file-nobody-uploaded") is True
