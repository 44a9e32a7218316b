"""No command sends a variable to a pair that was not confirmed, whoever wrote the URL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batchling.consent import Consent
from batchling.trust import Origin
from tests.servers.batches import BatchServer

from .conftest import CANARIES, CONFIG, Cli, arrived, reseal

COMMANDS = [
    ("config", "ask"),
    ("plan", "ask"),
    ("run", "ask", "--yes"),
    ("run", "ask", "--yes", "--fresh", "--detach"),
    ("run", "ask", "-m", "--yes", "repeats=1,2"),
    ("watch", "--yes"),
    ("status",),
    ("doctor",),
    ("doctor", "--json"),
]


def elsewhere(server: BatchServer) -> str:
    """The server by an address that is not loopback, although it leads to this machine."""
    return server.url.replace("127.0.0.1", "0.0.0.0")


def conf(project: Path, url: str, variable: str) -> list[str]:
    folder = project / "conf" / "provider"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("openai", "azure", "zz"):
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\nbase_url: {url}\napi_key_env: {variable}\nallow_http: true\nkey_origins: ['{url}']\n"
        )
    return []


def config(project: Path, url: str, variable: str) -> list[str]:
    text = CONFIG + f"provider: {{base_url: '{url}', api_key_env: {variable}, allow_http: true}}\n"
    (project / "experiments" / "ask" / "config.yaml").write_text(text)
    return []


def override(project: Path, url: str, variable: str) -> list[str]:
    return [f"provider.base_url={url}", f"provider.api_key_env={variable}", "provider.allow_http=true"]


def engine(project: Path, url: str, variable: str) -> list[str]:
    where = f"provider.engine.upstream={url}", f"provider.engine.api_key_env={variable}"
    return ["provider=local", "provider.engine.kind=http", *where, "provider.allow_http=true"]


def header(project: Path, url: str, variable: str) -> list[str]:
    return [f"provider.base_url={url}", f"+provider.headers_env.X-Key={variable}", "provider.allow_http=true"]


def compatible(project: Path, url: str, variable: str) -> list[str]:
    """A project's own file that calls itself compatible."""
    folder = project / "conf" / "provider"
    folder.mkdir(parents=True, exist_ok=True)
    text = f"name: compatible\nbase_url: {url}\napi_key_env: {variable}\nallow_http: true\n"
    (folder / "compatible.yaml").write_text(text)
    return ["provider=compatible"]


@pytest.mark.parametrize("way", [conf, config, override, engine, header, compatible], ids=lambda way: way.__name__)
@pytest.mark.parametrize("variable", list(CANARIES))
def test_no_command_sends_a_variable_where_nobody_said_it_may_go(
    cli: Cli, project: Path, server: BatchServer, way: object, variable: str
) -> None:
    url = server.url if variable != "AWS_SECRET_ACCESS_KEY" else elsewhere(server)
    overrides = way(project, url, variable)  # type: ignore[operator]
    for name, *rest in COMMANDS:
        more = overrides if "ask" in rest else []
        answer = cli(name, *rest, *more)
        if name == "run":
            assert answer.code == 4, answer.err
            assert "--trust-host" in answer.err and variable in answer.err
        elif name == "plan":
            assert answer.code == 0 and "--trust-host" in answer.out + answer.err
    assert arrived(server) == ""
    assert not list((project / "runs").glob("*/plan.json")), "a plan that was refused is not left behind"


def test_a_variable_that_no_vendor_claims_goes_to_this_machine_without_a_question_but_not_by_doctor(
    cli: Cli, project: Path, server: BatchServer
) -> None:
    overrides = override(project, server.url, "AWS_SECRET_ACCESS_KEY")
    (project / "conf" / "provider").mkdir(parents=True)
    (project / "conf" / "provider" / "zz.yaml").write_text(
        f"name: zz\nbase_url: {server.url}\napi_key_env: AWS_SECRET_ACCESS_KEY\n"
    )
    assert cli("doctor").code == 0
    assert arrived(server) == ""
    assert cli("run", "ask", "--yes", *overrides).code == 0


def made(cli: Cli, project: Path, server: BatchServer, evil: str, *, seal: bool) -> str:
    """A plan with batches that are out, of which somebody changed the address; `seal`: and the hashes with it."""
    answer = cli("run", "ask", "--yes", "--detach", "--trust-host", "127.0.0.1", f"provider.base_url={server.url}")
    assert answer.code == 75, answer.err
    (path,) = (project / "runs").glob("*/plan.json")
    path.write_text(path.read_text().replace(server.url, evil).replace('"allow_http": false', '"allow_http": true'))
    if seal:
        reseal(path.parent)
    return path.parent.name


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "changed"])
@pytest.mark.parametrize("place", ["loopback", "elsewhere"])
def test_a_plan_that_names_another_host_gets_no_key(
    cli: Cli, project: Path, server: BatchServer, place: str, seal: bool
) -> None:
    with BatchServer() as evil:
        plan = made(cli, project, server, evil.url if place == "loopback" else elsewhere(evil), seal=seal)
        before = len(server.log)
        for command in (
            ("watch", "--yes"),
            ("watch", plan, "--yes"),
            ("cancel", plan),
            ("resolve", plan, "--drop"),
            ("resolve", plan, "--adopt", "batch_1"),
        ):
            answer = cli(*command)
            assert answer.code == (4 if seal else 2), (command, answer.err)
            assert f"batchling watch {plan} --trust" in answer.err if seal else "plan.json was changed" in answer.err
        for command in (
            ("status", plan),
            ("results", plan),
            ("doctor",),
            ("doctor", "--rebuild"),
            ("du",),
            ("compare",),
        ):
            cli(*command)
        # To trust the plan is not to trust the host: of this provider's key that is another question.
        assert cli("watch", plan, "--yes", "--trust").code == (4 if seal else 2)
        assert arrived(evil) == "" and len(server.log) == before


def test_serve_asks_before_its_upstream_gets_a_key(cli: Cli, server: BatchServer) -> None:
    serve = ("serve", "--port", "0", "--engine", "http", "--api-key-env", "OPENAI_API_KEY", "--upstream")
    answer = cli(*serve, server.url)
    assert answer.code == 4 and "--trust-host 127.0.0.1" in answer.err
    answer = cli(*serve, "http://llm.example.com/v1")
    assert answer.code == 2 and "unencrypted" in answer.err
    assert arrived(server) == ""


def test_a_pair_that_was_confirmed_is_used_by_every_command(cli: Cli, project: Path, server: BatchServer) -> None:
    Consent().remember([("OPENAI_API_KEY", Origin.of(server.url))])
    conf(project, server.url, "OPENAI_API_KEY")
    assert "answers in" in cli("doctor").out
    answer = cli("run", "ask", "--yes")
    assert answer.code == 0, answer.err
    assert f"key: OPENAI_API_KEY goes to {server.url.removesuffix('/v1')}" in answer.err
    assert {r.headers["authorization"] for r in server.log} == {f"Bearer {CANARIES['OPENAI_API_KEY']}"}


def test_plan_run_and_status_name_the_host(cli: Cli, server: BatchServer) -> None:
    host = server.url.removesuffix("/v1")
    named = {"variable": "OPENAI_API_KEY", "host": host}
    arguments = ("ask", "--trust-host", "127.0.0.1", f"provider.base_url={server.url}")
    plain = [word for word in arguments if word not in ("--trust-host", "127.0.0.1")]
    assert f"key: OPENAI_API_KEY goes to {host}" in cli("plan", *plain).out
    assert json.loads(cli("plan", *plain, "--json").out)["lanes"][0]["recipients"] == [named]
    assert json.loads(cli("run", *arguments, "--yes", "--json").out)["recipients"] == [named]
    assert f"key: OPENAI_API_KEY goes to {host}" in cli("status", "ask").out
    assert json.loads(cli("status", "ask", "--json").out)["recipients"] == [named]


def test_compatible_on_this_machine_asks_nothing(cli: Cli, server: BatchServer) -> None:
    answer = cli("run", "ask", "--yes", "provider=compatible", f"provider.base_url={server.url}")
    assert answer.code == 0, answer.err


def test_the_users_own_base_url_is_honoured_as_by_the_official_client(
    cli: Cli, project: Path, server: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = json.loads(cli("plan", "ask", "--show", "1", "--json").out)["shown"][0]["key"]
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    shown = json.loads(cli("plan", "ask", "--show", "1", "--json").out)
    assert shown["shown"][0]["key"] != key, "another server's answers are not this one's"
    assert shown["lanes"][0]["recipients"] == [{"variable": "OPENAI_API_KEY", "host": server.url.removesuffix("/v1")}]
    assert not any("trust-host" in note for note in shown["notes"])
    assert "variable: OPENAI_BASE_URL" in cli("config", "ask", "--origins").out
    answer = cli("run", "ask", "--yes")
    assert answer.code == 0, answer.err
    assert server.requests("POST", "/v1/batches")
    assert "answers in" in next(line for line in cli("doctor").out.splitlines() if "provider openai" in line)
    # An address that somebody wrote down wins over the variable.
    with BatchServer() as other:
        refused = cli("run", "ask", "--yes", f"provider.base_url={other.url}")
        assert refused.code == 4 and arrived(other) == ""
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert json.loads(cli("plan", "ask", "--show", "1", "--json").out)["shown"][0]["key"] == key


@pytest.mark.parametrize("url", ["https://me:hunter22@llm.example.com/v1", "https://llm.example.com/v1?key=hunter22"])
def test_a_base_url_with_a_secret_in_it_is_refused_and_not_repeated(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    answer = cli("plan", "ask")
    assert answer.code == 2 and "OPENAI_BASE_URL" in answer.err and "hunter22" not in answer.err + answer.out


def test_a_key_goes_over_plain_http_to_this_machine_only(cli: Cli, server: BatchServer) -> None:
    url = elsewhere(server)
    arguments = ("ask", "--yes", "--trust-host", "0.0.0.0", f"provider.base_url={url}")
    answer = cli("run", *arguments)
    assert answer.code == 2 and "unencrypted" in answer.err and arrived(server) == ""
    assert cli("run", *arguments, "provider.allow_http=true").code == 0
