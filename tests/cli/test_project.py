"""`init`, `config`, `completion`, `serve`: the commands around an experiment."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from batchling.cli.commands.serve import _token_limits, serve_command
from batchling.cli.program import program
from tests.cli.conftest import Cli, environment

DEADLINE_SECONDS = 60.0


def test_init_writes_a_project_in_which_hello_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = cli("init", str(tmp_path / "new"))
    assert answer.code == 0
    assert (tmp_path / "new" / "experiments" / "hello" / "config.yaml").is_file()
    assert "batchling run hello" in answer.err
    assert cli("init", str(tmp_path / "new")).code == 2
    assert cli("--project", str(tmp_path / "new"), "run", "hello").code == 0
    assert (tmp_path / "new" / "runs").is_dir()


def test_config_shows_the_composition_and_where_each_value_came_from(cli: Cli) -> None:
    assert "name: names" in cli("config", "names").out
    resolved = cli("config", "names", "--resolve", "repeats=7", "--json")
    assert resolved.json["repeats"] == 7
    origins = cli("config", "names", "--origins", "repeats=7").out
    assert re.search(r"^repeats +7 +override: repeats=7$", origins, re.M)
    assert re.search(r"^name +\"names\" +experiments/names/config.yaml:4$", origins, re.M)
    assert "config.yaml" in cli("config", "names", "--defaults").out


def test_config_schema_needs_no_experiment(cli: Cli) -> None:
    assert "properties" in cli("config", "--schema").json
    assert cli("config").code == 2
    assert cli("config", "names", "--origins", "--resolve").code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(cli: Cli, shell: str) -> None:
    answer = cli("completion", shell)
    assert answer.code == 0
    assert "_BATCHLING_COMPLETE" in answer.out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("batchling ru", "run"),
        ("batchling run na", "names"),
        ("batchling run names model=sim", "model=simulated"),
        ("batchling run names retry.att", "retry.attempts="),
        ("batchling run names --det", "--detach"),
    ],
)
def test_tab_completes_commands_experiments_groups_choices_and_keys(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, words: str, found: str
) -> None:
    for name, value in environment(
        _BATCHLING_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1)
    ).items():
        monkeypatch.setenv(name, value)
    assert f"plain,{found}" in cli().out.splitlines()


def test_serve_listens_until_it_is_told_to_stop(started: Callable[..., subprocess.Popen[str]], project: Path) -> None:
    process = started("serve", "--port", "0", "--engine", "echo")
    assert process.stderr is not None
    line = process.stderr.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
    assert url, line
    token = process.stderr.readline().split()[1]
    asked = urllib.request.Request(f"{url[0]}/batches", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=DEADLINE_SECONDS) as reply:
        assert json.load(reply)["data"] == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_SECONDS) == 0
    assert (project / "runs" / "server").is_dir()


def test_serve_has_an_option_for_everything_that_a_server_can_be_told() -> None:
    from dataclasses import fields

    from batchling.local.options import ServerOptions
    from batchling.spec import EngineConfig

    told = {param.name for param in serve_command.params}
    options = {field.name for field in fields(ServerOptions)} - {
        "now",
        "upstream_key",  # the key is named, by --api-key-env
        "token",  # made, kept in the state folder, and turned off with --no-token
    }
    assert options <= told
    assert set(EngineConfig.model_fields) - {"kind", "pretend"} <= told, "prices are the client's"


@pytest.mark.parametrize("faults", ["invalid", "odd=0.1", "invalid=2", "error=x"])
def test_serve_names_a_share_that_it_does_not_understand(cli: Cli, faults: str) -> None:
    answer = cli("serve", "--port", "0", "--faults", faults)
    assert answer.code == 2 and "KIND=SHARE" in answer.err


def test_serve_refuses_to_listen_beyond_loopback_unasked(cli: Cli) -> None:
    answer = cli("serve", "--host", "0.0.0.0", "--port", "0")
    assert answer.code == 2 and "--allow-remote" in answer.err
    assert "--upstream" in cli("serve", "--engine", "http").err


def test_token_limits_are_for_every_model_or_by_model() -> None:
    assert _token_limits([]) is None
    assert _token_limits(["5000"]) == 5000
    assert _token_limits(["a=1", "b=2"]) == {"a": 1, "b": 2}


def test_the_version_is_the_packages(cli: Cli) -> None:
    import importlib.metadata

    assert cli("--version").out == f"batchling {importlib.metadata.version('batchling')}\n"
    assert program.name == "batchling"
