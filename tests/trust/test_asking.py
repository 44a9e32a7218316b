"""On a terminal a new pair is asked about once, and remembered for the user, not in the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import batchling
from batchling import ExperimentManager
from batchling.errors import RefusedError
from batchling.manager import Experiment
from tests.cli.conftest import environment
from tests.cli.test_terminal import Terminal
from tests.servers.batches import BatchServer

from .conftest import arrived


def run(project: Path, server: BatchServer, terminal: Terminal, *more: str) -> subprocess.Popen[str]:
    arguments = ["run", "ask", "--yes", f"provider.base_url={server.url}", *more]
    env = environment(TERM="xterm", NO_COLOR="1")
    return subprocess.Popen(
        [sys.executable, "-m", "batchling", *arguments], text=True, cwd=project, env=env, **terminal.streams()
    )


def test_no_sends_nothing_and_yes_is_asked_for_once(project: Path, server: BatchServer, tmp_path: Path) -> None:
    terminal = Terminal()
    process = run(project, server, terminal)
    terminal.read_until("[y/N]", process)
    assert f"Send OPENAI_API_KEY to {server.url.removesuffix('/v1')}" in terminal.seen.replace("\r\n", "")
    terminal.type("n\n")
    terminal.read_until(None, process)
    assert process.wait() == 4 and arrived(server) == ""
    assert not (tmp_path / "home").exists() and not list((project / "runs").glob("*/plan.json"))

    terminal = Terminal()
    process = run(project, server, terminal)
    terminal.read_until("[y/N]", process)
    terminal.type("y\n")
    shown = terminal.read_until(None, process)
    assert process.wait() == 0, shown
    remembered = json.loads((tmp_path / "home" / "batchling" / "hosts.json").read_text())
    assert [pair["variable"] for pair in remembered["pairs"]] == ["OPENAI_API_KEY"]
    assert not any("hosts.json" in path.name for path in project.rglob("*"))

    before = len(server.log)
    terminal = Terminal()
    process = run(project, server, terminal, "repeats=2")
    shown = terminal.read_until(None, process)
    assert process.wait() == 0 and "[y/N]" not in shown and len(server.log) > before


def test_python_asks_nobody_and_names_hosts(project: Path, server: BatchServer) -> None:
    overrides = [f"provider.base_url={server.url}"]
    with pytest.raises(RefusedError, match="not confirmed"):
        batchling.run("ask", overrides)
    assert arrived(server) == ""
    results = batchling.run("ask", overrides, trust_hosts=["127.0.0.1"])
    assert results.exit_code == 0


def test_the_quick_start_passes_the_gate_too(project: Path, server: BatchServer) -> None:
    folder = project / "conf" / "provider"
    folder.mkdir(parents=True)
    (folder / "openai.yaml").write_text(
        f"name: openai\nbase_url: {server.url}\napi_key_env: OPENAI_API_KEY\npoll_seconds: 0.01\n"
    )

    def experiment(manager: ExperimentManager) -> Experiment:
        return manager.start_experiment(
            experiment_id="quick",
            model="gpt-4o-mini",
            template_messages=[{"role": "user", "content": "Hello {name}"}],
            placeholders=[{"name": "Ada"}],
        )

    refused = experiment(ExperimentManager(project))
    refused.setup()
    with pytest.raises(RefusedError, match="not confirmed"):
        refused.start()
    assert arrived(server) == "" and not list((project / "runs").glob("*/plan.json"))
    trusted = experiment(ExperimentManager(project, trust_hosts=["127.0.0.1"]))
    trusted.start()
    assert trusted.plan_id is not None and server.creates == 1
