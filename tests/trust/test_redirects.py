"""Where a server points to is not where anybody said that keys and rows may go; a bad certificate is not waited out."""

from __future__ import annotations

import io
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from batchling.errors import CallAmbiguous, CallError, CallRefused, CallStopped
from batchling.models import Submission
from batchling.providers import Client, connect
from batchling.spec import ProviderConfig
from tests.servers.batches import BatchServer
from tests.servers.scripted import Scripted, reply

from .conftest import Cli, arrived

KEY = "sk-" + "redirect0123456789abcdef"
CODES = (300, 301, 302, 303, 304, 305, 306, 307, 308, 310)
SUBMISSION = Submission(
    plan="3f9ac1", shard=1, attempt=1, sha256="ab" * 32, endpoint="/v1/chat/completions", requests=1
)

CALLS: dict[str, Callable[[Client], object]] = {
    "upload": lambda p: p.upload(SUBMISSION, io.BytesIO(b"{}\n")),
    "create": lambda p: p.create(SUBMISSION, "file-1", io.BytesIO(), "24h"),
    "poll": lambda p: p.poll("batch_1"),
    "find": lambda p: list(p.find(0.0)),
    "fetch": lambda p: p.fetch("file-1", io.BytesIO()),
    "size": lambda p: p.file_bytes("file-1"),
    "fence": lambda p: p.fence("file-1"),
    "cancel": lambda p: p.cancel("batch_1"),
}


def provider(url: str) -> Client:
    config = ProviderConfig(name="mine", base_url=url, api_key_env="MINE_KEY", headers={"X-Tenant": "acme"})
    return connect(config, environ={"MINE_KEY": KEY})


@pytest.fixture
def elsewhere() -> Iterator[Scripted]:
    with Scripted() as server:
        for method in ("GET", "POST", "DELETE"):
            server.on(method, "*", reply({"id": "file-1", "status": "completed", "data": []}))
        yield server


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("call", list(CALLS))
def test_no_call_follows_a_redirect(elsewhere: Scripted, code: int, call: str) -> None:
    with Scripted() as server:
        target = elsewhere.url.replace("127.0.0.1", "localhost") + "/files?sig=hunter22hunter22"
        for method in ("GET", "POST", "DELETE"):
            server.on(method, "*", reply(b"", code, {"location": target}))
        with pytest.raises(CallError) as caught:
            CALLS[call](provider(server.url))
        assert len(server.log) == 1
    assert elsewhere.log == []
    expected = CallStopped if call not in ("upload", "create") else CallRefused
    if call == "create" and code in (302, 303):  # how a web server says that a POST was carried out
        expected = CallAmbiguous
    assert type(caught.value) is expected
    assert caught.value.code == "redirected" and "localhost" in caught.value.message
    assert "hunter22" not in caught.value.message


def test_a_redirect_to_another_path_of_the_same_server_is_not_followed_either() -> None:
    with Scripted() as server:
        server.on("GET", "*", reply(b"", 307, {"location": "/admin?confirm=1"}))
        with pytest.raises(CallStopped):
            provider(server.url).poll("batch_1")
        assert [request.path for request in server.log] == ["/v1/batches/batch_1"]


@pytest.mark.parametrize(
    "route", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/*", "GET /v1/files/*/content"]
)
def test_a_run_that_is_sent_elsewhere_stops_with_exit_5(
    cli: Cli, server: BatchServer, elsewhere: Scripted, route: str
) -> None:
    method, pattern = route.split()
    server.on(method, pattern, reply(b"", 307, {"location": elsewhere.url}))
    answer = cli("run", "ask", "--yes", "provider=compatible", f"provider.base_url={server.url}")
    assert answer.code == 5, answer.err
    assert "sends us to" in answer.err and elsewhere.log == []


def test_what_was_redirected_goes_on_when_the_server_is_put_right(cli: Cli, server: BatchServer) -> None:
    server.on("GET", "/v1/batches/*", reply(b"", 302, {"location": "https://login.example"}), server.normal)
    arguments = ("run", "ask", "--yes", "provider=compatible", f"provider.base_url={server.url}")
    assert cli(*arguments).code == 5
    answer = cli(*arguments)
    assert answer.code == 0, answer.err
    assert server.creates == 1 and server.times_answered() == {1}
    assert "login.example" not in arrived(server)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[str]:
    """A server whose certificate nobody vouches for."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [tool, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1", "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    served: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.append(self.path)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    assert served == []


@pytest.mark.parametrize("call", list(CALLS))
def test_a_certificate_that_fails_is_a_refusal(impostor: str, call: str) -> None:
    with pytest.raises((CallStopped, CallRefused)) as caught:
        CALLS[call](provider(impostor))
    assert caught.value.code == "certificate_refused" and "not the one it should be" in caught.value.message


def test_an_upstream_whose_certificate_fails_stops_with_exit_5(cli: Cli, impostor: str) -> None:
    engine = ("provider=local", "provider.engine.kind=http", f"provider.engine.upstream={impostor}")
    answer = cli("run", "ask", "--yes", *engine)
    assert answer.code == 5, answer.err
    assert "not the one it should be" in answer.err


def test_a_run_with_a_server_whose_certificate_fails_stops_with_exit_5(cli: Cli, impostor: str) -> None:
    answer = cli("run", "ask", "--yes", "provider=compatible", f"provider.base_url={impostor}")
    assert answer.code == 5, answer.err
    assert "not the one it should be" in answer.err
