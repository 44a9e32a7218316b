"""Strangers' SQL and files in a process of their own, which can be ended at any moment and holds no more than it may.

A thread cannot be stopped while one call builds a gigabyte, and a library that counts its own memory does not count all
of it (DuckDB: the texts and lists that functions make). A process can be killed, and the system refuses it memory. Starting
one takes a third of a second, so it is for work that `tame.tame` or the size of a file does not vouch for.

What holds where: the time limit and Ctrl-C everywhere. On Linux the system itself refuses memory beyond the limit
(`RLIMIT_AS`); on macOS, which does not, the process looks at its own size 20 times a second and ends itself, which
stops what grows step by step and not one single huge allocation.
"""

from __future__ import annotations

import importlib
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from types import GeneratorType
from typing import Any, Literal

from batchling import duck
from batchling.scratch import scratch

MEMORY_MB = 768
"""MiB that a confined process may take beside what Python and its libraries need; `limits.memory_mb` where nothing else is said."""

_HEADER = struct.Struct(">cQ")
_VALUE, _NEXT, _ERROR, _MEMORY = b"v", b"n", b"e", b"m"
_TOO_LARGE = 71  # exit code of a process that saw itself grow beyond its limit
_LOOK_SECONDS = 0.05
_ROOM_MB = 512
"""Address space that is reserved and never used: DuckDB's threads and its allocator's arenas."""

_START = "import sys; sys.path.append(sys.argv[1]); from batchling.confined import serve; serve()"


class Exceeded(Exception):
    """A confined call was ended because it went beyond a limit.

    Args:
        kind: `time` or `memory`; `crash` when its process died of something else (a stack that overflows).
    """

    def __init__(self, kind: Literal["time", "memory", "crash"], limit: float):
        super().__init__(kind)
        self.kind = kind
        self.limit = limit

    @property
    def reason(self) -> str:
        """`it took more than 5 s`, to be followed by what raises the limit."""
        if self.kind == "time":
            return f"it took more than {self.limit:g} s"
        if self.kind == "memory":
            return f"it needs more than {self.limit:,.0f} MiB of memory"
        return "its process died: it is nested too deeply, or too large"


def call(
    function: Callable[..., Any],
    *args: Any,
    seconds: float | None = None,
    memory_mb: int = MEMORY_MB,
    library: str = "duckdb",
) -> Any:
    """What a function of a module returns, computed in a process of its own.

    Args:
        function: found again by its module and name; arguments and result are pickled.
        seconds: how long it may take; None: as long as it likes, until Ctrl-C.
        memory_mb: MiB it may take.
        library: what it needs anyhow, imported before its memory is counted.

    Raises:
        Exceeded: it was ended at a limit. What the function raises is raised here.
    """
    found = None
    for kind, value in _conversation(function, args, seconds, memory_mb, library):
        if kind == _VALUE:
            found = value
    return found


def stream(
    function: Callable[..., Iterator[Any]], *args: Any, memory_mb: int = MEMORY_MB
) -> Generator[Any, None, None]:
    """The same for a generator: its values one by one. Closing this ends the process."""
    for kind, value in _conversation(function, args, None, memory_mb, "duckdb"):
        if kind == _NEXT:
            yield value


def _conversation(
    function: Callable[..., Any], args: tuple[Any, ...], seconds: float | None, memory_mb: int, library: str
) -> Generator[tuple[bytes, Any], None, None]:
    deadline = None if seconds is None else time.monotonic() + seconds
    # -P: the folder that happens to be the current one is no place to import from.
    command = [sys.executable, "-P", "-c", _START, str(Path(__file__).parent.parent)]
    with (
        scratch("confined") as spill,  # what a killed process leaves behind goes with it
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        ) as process,
    ):
        try:
            assert process.stdin is not None and process.stdout is not None
            job = pickle.dumps((function.__module__, function.__qualname__, args, memory_mb, library, spill, sys.path))
            with suppress(BrokenPipeError):
                _send(process.stdin.fileno(), _VALUE, job)
            while True:
                kind, content = _receive(process.stdout.fileno(), deadline, seconds)
                if kind == _ERROR:
                    raise pickle.loads(content)
                if kind == _MEMORY:
                    raise Exceeded("memory", memory_mb)
                if kind is None:
                    code = process.wait()
                    died_of_memory = code in (_TOO_LARGE, -signal.SIGABRT, -signal.SIGKILL)
                    raise Exceeded("memory" if died_of_memory else "crash", memory_mb)
                yield kind, pickle.loads(content)
                if kind == _VALUE:
                    return
        finally:
            process.kill()


def _send(descriptor: int, kind: bytes, content: bytes) -> None:
    view = memoryview(_HEADER.pack(kind, len(content)) + content)
    while view:
        view = view[os.write(descriptor, view) :]


def _receive(descriptor: int, deadline: float | None, seconds: float | None) -> tuple[bytes | None, bytes]:
    """The next message; (None, b"") when the other side is gone."""
    header = _read(descriptor, _HEADER.size, deadline, seconds)
    if len(header) < _HEADER.size:
        return None, b""
    kind, size = _HEADER.unpack(header)
    content = _read(descriptor, size, deadline, seconds)
    return (kind, content) if len(content) == size else (None, b"")


def _read(descriptor: int, size: int, deadline: float | None, seconds: float | None) -> bytes:
    parts: list[bytes] = []
    while size:
        if deadline is not None:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise Exceeded("time", seconds or 0.0)
        part = os.read(descriptor, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# -- the other process


def serve() -> None:
    """The whole life of a confined process: one job from stdin, its values and its result on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    out = os.dup(1)
    os.dup2(2, 1)  # nothing that a library prints gets among the messages
    _, job = _receive(0, None, None)
    module, name, args, memory_mb, library, duck.SPILL, path = pickle.loads(job)
    sys.path[:] = path
    threading.Thread(target=_until_parent_is_gone, daemon=True).start()
    function: Any = importlib.import_module(module)
    with suppress(ImportError):
        importlib.import_module(library)  # before the limit: what it needs by itself is not the job's
    for part in name.split("."):
        function = getattr(function, part)
    limit(memory_mb)
    kind, content = _outcome(out, function, args)
    with suppress(OSError):  # the parent is gone
        _send(out, kind, content)
    os._exit(0)


def _outcome(out: int, function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bytes, bytes]:
    try:
        result = function(*args)
        if isinstance(result, GeneratorType):
            for value in result:
                _send(out, _NEXT, pickle.dumps(value))
            result = None
        return _VALUE, pickle.dumps(result)
    except BaseException as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryException":
            return _MEMORY, b""
        try:
            content = pickle.dumps(error)
            pickle.loads(content)
        except Exception:
            content = pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return _ERROR, content


def limit(memory_mb: int) -> None:
    """From here on this process may take `memory_mb` MiB more than it has."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ((memory_mb + _ROOM_MB) << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    threading.Thread(target=_watch_size, args=(_size() + (memory_mb << 20),), daemon=True).start()


def _watch_size(most: int) -> None:
    while _size() <= most:
        time.sleep(_LOOK_SECONDS)
    os._exit(_TOO_LARGE)


def _size() -> int:
    """Bytes that this process holds; where the system does not say (macOS), the most that it ever held."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _until_parent_is_gone() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
