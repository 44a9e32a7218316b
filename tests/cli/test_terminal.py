"""What a person at a terminal sees: a display that redraws itself, a question before spending, Ctrl-C that lets go."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batchling.cli import screen
from batchling.cli.progress import Lines, observing
from batchling.local.server import LocalServer
from tests.cli.conftest import environment, plan_ids

Start = Callable[..., "subprocess.Popen[str]"]
DEADLINE_SECONDS = 60.0
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-7]|9[0-7])[;m]")


class Terminal:
    """The master side of a pseudo-terminal."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = ""

    def streams(self) -> dict[str, int]:
        return {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read_until(self, wanted: str | None, process: subprocess.Popen[str]) -> str:
        """Reads until the text is on the screen, or (None) until the process is over."""
        os.set_blocking(self.master, False)
        while True:
            ready, _, _ = select.select([self.master], [], [], 0.2 if process.poll() is None else 0.0)
            if ready:
                try:
                    self.seen += os.read(self.master, 65_536).decode("utf-8", "replace")
                except OSError:
                    return self.seen
                if wanted is not None and wanted in self.seen:
                    return self.seen
            elif process.poll() is not None:
                assert wanted is None, f"{wanted!r} never came: {self.seen}"
                return self.seen


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def at_provider(project: Path, server: LocalServer) -> list[str]:
    """Arguments of a run whose batch the server never finishes."""
    return ["run", "names", "--trust-host", "127.0.0.1", f"provider.base_url={server.base_url}"]


def test_the_display_shows_batches_rows_and_money_and_is_gone_in_the_end(started: Start, terminal: Terminal) -> None:
    process = started("run", "names", env=environment(TERM="xterm", NO_COLOR="1"), **terminal.streams())
    shown = terminal.read_until(None, process)
    assert process.returncode == 0, shown
    assert "planning" in shown
    assert "rows" in shown and "USD so far" in shown and "Ctrl-C stops watching" in shown
    assert "\x1b[1A\x1b[2K" in shown  # it erased itself
    assert shown.rstrip().endswith('group by 1"')
    assert not COLOUR.search(shown), "NO_COLOR is respected"


def test_a_dumb_terminal_gets_plain_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", os.fdopen(terminal.slave, "w"))
    monkeypatch.setenv("TERM", "xterm")
    assert screen.live()
    monkeypatch.setenv("TERM", "dumb")
    assert not screen.live()
    with observing() as display:
        assert isinstance(display, Lines)


def test_run_asks_before_it_spends_and_no_sends_nothing(
    started: Start, terminal: Terminal, project: Path, slow_server: LocalServer
) -> None:
    args = ["model=gpt-4o-mini", "model.max_output_tokens=100", "tokens=auto", "budget.confirm_usd=0"]
    env = environment(TERM="xterm", OPENAI_API_KEY="none")
    process = started(*at_provider(project, slow_server), *args, env=env, **terminal.streams())
    terminal.read_until("[y/N]", process)
    assert re.search(
        r"Send 3 requests in 1 batch(, and repairs of all answers,)? for at most 0\.\d+ USD\?", terminal.seen
    )
    terminal.type("n\n")
    shown = terminal.read_until(None, process)
    assert process.returncode == 4
    assert "nothing was sent" in shown
    assert plan_ids(project) == []


def wait_for_batch(project: Path, process: subprocess.Popen[str]) -> str:
    """The plan's id, once its batch is created."""
    while process.poll() is None:
        for plan in plan_ids(project):
            if b'"kind":"created"' in (project / "runs" / plan / "journal.jsonl").read_bytes():
                return plan
        select.select([], [], [], 0.02)
    raise AssertionError(f"it ended with {process.returncode} and made no batch: {process.communicate()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_let_go_with_130_and_the_line_that_goes_on(
    started: Start, project: Path, slow_server: LocalServer, number: signal.Signals
) -> None:
    process = started(*at_provider(project, slow_server))
    plan = wait_for_batch(project, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, err
    assert "nothing is cancelled" in err
    assert err.splitlines()[-1].strip() == f"next: batchling watch {plan} --trust-host 127.0.0.1"
    assert "Traceback" not in err and out == ""


def computing(process: subprocess.Popen[str]) -> None:
    """Returns when the process that a command computes in has used far more time of a processor than it takes to start."""
    while process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        stats = [Path(f"/proc/{pid}/stat") for pid in children]
        ticks = [int(stat.read_text().rpartition(")")[2].split()[11]) for stat in stats if stat.exists()]
        if max(ticks, default=0) > 1.5 * os.sysconf("SC_CLK_TCK"):
            return
        select.select([], [], [], 0.05)
    raise AssertionError(f"it ended with {process.returncode}: {process.communicate()}")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_inside_a_query_is_no_bug(started: Start, project: Path, number: signal.Signals) -> None:
    started("run", "names").communicate(timeout=DEADLINE_SECONDS)
    endless = "select sum(a * b) from range(10000000) t(a), range(10000000) u(b)"
    process = started("query", endless)
    computing(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, err
    assert "bug" not in err and "Traceback" not in err and out == ""
    assert "stopped watching" in err
    assert err.splitlines()[-1].strip().startswith("next: batchling query ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_while_modules_are_imported_end_it_quietly(project: Path, number: signal.Signals) -> None:
    code = (
        "import os, sys\n"
        "class Importing:\n"
        "    def find_spec(self, name, *rest):\n"
        f"        if name == 'click': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Importing())\n"
        "from batchling.cli import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "names"], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "error: stopped watching; nothing is cancelled at the provider\n  next: batchling run names\n"


def test_another_ctrl_c_ends_it_on_the_spot_with_the_line_that_resumes(project: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from batchling.cli import main, stopping\n"
        "from batchling.cli import process\n"
        "def stuck(args, shell):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "process._invoke = stuck\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "watch"], cwd=project, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "  next: batchling watch")
    assert "Traceback" not in done.stderr


def test_a_second_process_on_one_plan_says_who_holds_it(
    started: Start, project: Path, slow_server: LocalServer
) -> None:
    args = at_provider(project, slow_server)
    first = started(*args)
    plan = wait_for_batch(project, first)
    second = started(*args)
    _, err = second.communicate(timeout=DEADLINE_SECONDS)
    assert second.returncode == 75
    assert f"plan {plan} is held by process {first.pid}" in err
    status = started("status", plan)
    out, _ = status.communicate(timeout=DEADLINE_SECONDS)
    assert f"held by process {first.pid}" in out and status.returncode == 0


def test_a_reader_that_goes_away_is_no_error(started: Start, project: Path) -> None:
    started("run", "names", "repeats=1000").communicate(timeout=DEADLINE_SECONDS)
    process = started("query", "select * from records, range(20)", "--format", "jsonl")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(DEADLINE_SECONDS) == 0
    assert process.stderr.read() == ""
    process.stdout = None
