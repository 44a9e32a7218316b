"""Lanes: what takes minutes runs with `--long`, what needs other people's servers with `--thirdparty`.

A folder, or everything, runs in four processes; files that are named run in this one, which starts at once. `-n` decides otherwise.

The fault schedules of the simulation: `--schedules N` plays more of them, `--seed WORLD:NUMBER` only that one.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

LONGEST = (
    "dst/test_mutants.py",
    "dst/test_schedules.py",
    "crash/test_kill.py",
    "trust/test_canary.py",
    "conformance/test_broken_plans.py",
    "e2e/",
    "cli/test_terminal.py",
    "sweep/",
    "conformance/",
    "trust/",
    "cli/",
)
"""What takes tens of seconds is begun first: a worker takes a whole file, and the last one should not leave the others idle."""

SUMMARY = pytest.StashKey[list[str]]()
"""Lines that the fault schedules want printed at the end."""

PROCESSES = 4
"""More than two cores, because many tests wait for a process or a server of theirs."""

settings.register_profile("quick", max_examples=20)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("batchling")
    group.addoption("--schedules", type=int, default=300, help="seeded fault schedules to play (default 300)")
    group.addoption("--seed", default=None, help="play this one schedule only: WORLD:NUMBER, as a failure prints it")
    group.addoption(
        "--workers", type=int, default=None, help="processes for the schedules (default: one per core from 2,000)"
    )
    group.addoption("--long", action="store_true", help="run the lanes that take minutes too")
    group.addoption(
        "--thirdparty", action="store_true", help="run the round trips against installed third-party servers"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Comes before the hook of pytest-xdist that reads the number of processes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # one of the processes: it starts no others
    option = config.option
    unsaid = hasattr(option, "numprocesses") and option.numprocesses is None and not option.tx
    if unsaid and not option.usepdb and any(Path(arg.partition("::")[0]).is_dir() for arg in config.args):
        option.numprocesses = PROCESSES
        option.dist = "loadfile" if option.dist == "no" else option.dist


_IN_MEMORY = Path("/dev/shm")
_ROOM = 8 << 30


def pytest_configure(config: pytest.Config) -> None:
    # The tests fsync some hundred thousand times. Where there is room for it, their folders are in memory, where that is free;
    # what a crash of the machine leaves is a matter of the simulated disk.
    if os.access(_IN_MEMORY, os.W_OK) and shutil.disk_usage(_IN_MEMORY).free > _ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))
    config.stash[SUMMARY] = []
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores Ctrl-C, and so would the programs that the tests start and interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What whoever runs the tests confirmed, and where their own OpenAI client goes, must not decide a test.
    os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir()) / f"batchling-tests-{os.getpid()}" / "config")
    os.environ.pop("OPENAI_BASE_URL", None)
    # The programs that the tests start, and the workers of pytest-xdist, run what was compiled once, as an installed program
    # does: compiling the whole source again costs each of them 0.2 to 5 s of processor time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_turn)  # stable: all workers of pytest-xdist see the same order
    for lane in ("long", "thirdparty"):
        if not config.getoption(f"--{lane}"):
            skip = pytest.mark.skip(reason=f"runs with --{lane}")
            for item in items:
                if lane in item.keywords:
                    item.add_marker(skip)


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(Path(__file__).parent).as_posix()
    return next((n for n, start in enumerate(LONGEST) if name.startswith(start)), len(LONGEST))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its lines to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["summary"] = session.config.stash[SUMMARY]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[SUMMARY].extend(getattr(node, "workeroutput", {}).get("summary", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash[SUMMARY]
    if lines:
        terminalreporter.section("fault schedules")
        for line in lines:
            terminalreporter.write_line(line)
