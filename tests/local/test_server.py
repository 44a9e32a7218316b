from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from batchling.errors import ConfigError, LockedError
from batchling.local.options import ServerOptions
from batchling.local.server import start_in_process
from batchling.spec import EngineConfig

from .conftest import Lab, chat_lines

ECHO = EngineConfig(kind="echo")


def test_two_servers_never_share_a_state_folder(lab: Lab) -> None:
    lab.start(engine=ECHO)
    with pytest.raises(LockedError, match="another server"):
        start_in_process(ServerOptions(state_dir=lab.state_dir, engine=ECHO))
    lab.server.stop()
    lab.start(engine=ECHO)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_beyond_loopback_only_when_told(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        ServerOptions(state_dir=tmp_path, host=host)
    assert ServerOptions(state_dir=tmp_path, host=host, allow_remote=True).host == host


def test_a_port_in_use_is_an_error_that_names_it(lab: Lab) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            lab.start(engine=ECHO, port=port)


def test_stopping_is_quick_may_be_repeated_and_leaves_no_thread(lab: Lab) -> None:
    before = threading.active_count()
    client = lab.start(engine=ECHO)
    client.models.list()  # a connection that stays open
    lab.server.stop()
    lab.server.stop()
    assert not lab.server.alive
    names = {thread.name for thread in threading.enumerate()}
    assert not {name for name in names if name.startswith("batchling")}
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "[broken"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "Cross-Site", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "of a later standard"},
    ],
)
def test_a_web_page_cannot_use_the_server(echo: Lab, headers: dict[str, str]) -> None:
    reply = echo.client._client.get(f"{echo.server.base_url}/batches", headers={**echo.client.auth_headers, **headers})
    assert reply.status_code == 403


def test_every_reply_has_a_request_id(lab: Lab) -> None:
    client = lab.start(engine=ECHO)
    first = client.models.with_raw_response.list().headers["x-request-id"]
    second = client.models.with_raw_response.list().headers["x-request-id"]
    assert first.startswith("req_") and first != second


def test_http_stays_responsive_while_a_batch_runs(lab: Lab) -> None:
    lab.start()
    batch = lab.submit(chat_lines(5_000))
    asked = 0

    def count(_: object) -> bool:
        nonlocal asked
        asked += 1
        return False

    lab.until(batch, lambda b: count(b) or b.status == "completed")
    assert asked > 5


def test_no_http_client_library_is_imported() -> None:
    program = (
        "import sys, batchling.local.server, batchling.local.engines.http;"
        "print([m for m in ('httpx', 'httpx2', 'openai', 'duckdb', 'hydra') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
