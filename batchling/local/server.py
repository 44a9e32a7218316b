"""Starts and stops the embedded server: on a thread of a synchronous program, or in the foreground."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

import uvicorn

from batchling.disk import RealDisk, make_folders
from batchling.errors import BatchlingError, ConfigError, DiskError, LockedError
from batchling.local.app import Service, make_app
from batchling.local.engines import make_engine
from batchling.local.options import ServerOptions
from batchling.local.store import Store
from batchling.local.worker import Worker

START_SECONDS = 30.0


class LocalServer:
    """A running server. Made by `start_in_process`.

    Attributes:
        base_url: what an OpenAI client is given, e.g. `http://127.0.0.1:40123/v1`.
        options: as started.
    """

    def __init__(self, options: ServerOptions):
        self.options = options
        try:
            make_folders(options.state_dir)
        except OSError as error:
            raise DiskError(
                f"the server cannot save its state: {error.strerror}",
                where=str(options.state_dir),
                next_command="make the folder writable, or give the server another --state-dir",
            ) from error
        try:
            self._lock = RealDisk().lock(options.state_dir / "lock")
        except LockedError as error:
            raise LockedError(
                f"another server uses this state folder: {error.message}",
                where=str(options.state_dir),
                next_command="stop it, or give this one another --state-dir",
            ) from None
        try:
            self._socket = _listen(options)
            try:
                self._engine = make_engine(options.engine, options.upstream_key)
                self._store = Store(options.state_dir, options.now)
            except BaseException:
                self._socket.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self.base_url = _url(options.host, self._socket)
        self._worker = Worker(self._store, options, self._engine)
        self._uvicorn: _Uvicorn | None = None
        self._started = threading.Event()
        self._stopping = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="batchling-server", daemon=True)

    def _start(self) -> None:
        self._worker.start()
        self._thread.start()
        if not self._started.wait(START_SECONDS) or not self._thread.is_alive():
            self.stop()
            raise BatchlingError("the embedded server did not start", where=str(self.options.state_dir))

    def _serve(self) -> None:
        try:
            service = Service(self._store, self._worker, self._engine, self.options)
            config = uvicorn.Config(
                make_app(service, self.options.host, self.options.token),
                lifespan="off",
                ws="none",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=75,
                backlog=1024,
            )
            self._uvicorn = _Uvicorn(config, self._started)
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self._started.set()

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stops listening, keeps what is answered, frees the state folder. Nothing advances until the next start. May be repeated."""
        with self._stopping:
            if self._stopped:
                return
            self._stopped = True
            if self._uvicorn is not None:
                self._uvicorn.leave()
            if self._worker.running:
                self._worker.stop()
            if self._thread.ident is not None:
                self._thread.join()
            self._socket.close()
            self._store.close()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Uvicorn(uvicorn.Server):
    """Tells when it listens, and leaves at once when told to. Signals are the embedding program's business."""

    def __init__(self, config: uvicorn.Config, started: threading.Event):
        super().__init__(config)
        self._listening = started
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def leave(self) -> None:
        """Called from other threads."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: it has left already
                self._loop.call_soon_threadsafe(self._told.set)

    async def main_loop(self) -> None:
        """Uvicorn's own loop looks every 0.1 s whether it should leave; this one is woken."""
        self._loop = asyncio.get_running_loop()
        ticks = 0
        while not await self.on_tick(ticks):
            ticks = (ticks + 10) % 864_000
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 1.0)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._listening.set()


def start_in_process(options: ServerOptions) -> LocalServer:
    """Starts a server on its own threads and returns when it answers.

    Batches found unfinished in `options.state_dir` go on at once.

    Raises:
        LockedError: another server uses the state folder.
        ConfigError: the address can't be listened on, or the engine lacks something.
    """
    server = LocalServer(options)
    server._start()
    return server


def serve(options: ServerOptions) -> int:
    """Runs a server until SIGINT or SIGTERM; prints its base URL and token on stderr. Returns the exit code.

    Must be called on the main thread.

    Raises:
        LockedError, ConfigError: as `start_in_process`.
    """
    over = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        over.set()

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with start_in_process(options) as server:
            engine = options.engine.kind
            sys.stderr.write(f"listening on {server.base_url} (engine: {engine}, state: {options.state_dir})\n")
            if options.token is not None:
                sys.stderr.write(f"token: {options.token}   (the API key that clients have to send; see --no-token)\n")
            sys.stderr.flush()
            while server.alive and not over.wait(0.5):
                pass
        return 0 if over.is_set() else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(options: ServerOptions) -> socket.socket:
    host = options.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, options.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, options.port))
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror or error}",
            next_command="choose another --port (0: a free one)",
        ) from None
    return listener


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}/v1"
