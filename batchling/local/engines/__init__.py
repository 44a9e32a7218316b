"""Engines: what answers a request. Chosen by name, behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from batchling.models import Usage
from batchling.spec import EngineConfig

NO_USAGE = Usage()


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: HTTP status; 200 goes into the output file, anything else into the error file.
        body: a JSON object on one line, safe to put into a JSONL file.
        usage: tokens, for the batch's totals.
        retry_after: seconds, where the answer says so.
    """

    status: int
    body: bytes
    usage: Usage = NO_USAGE
    retry_after: float | None = None


class Engine(Protocol):
    """Answers requests. `answer` may be called from several threads at once and must not raise for what a request holds.

    Attributes:
        name: as configured.
        parallel: requests that run side by side on threads; 0: answers come at once, no thread is needed.
    """

    name: str
    parallel: int

    def answer(self, endpoint: str, body: dict[str, Any], key: str = "") -> Answer:
        """Answers a request to `endpoint` (e.g. `/v1/chat/completions`).

        Args:
            key: the request's key, which tells repeats apart; "": not known. Only made-up answers depend on it.
        """
        ...

    def models(self) -> list[str] | None:
        """Ids of the models there are; None: any name is answered."""
        ...

    def close(self) -> None:
        """Lets calls that are under way fail soon."""
        ...


def make_engine(config: EngineConfig, key: str | None = None) -> Engine:
    """The engine that the config names.

    Args:
        key: the upstream's, once it passed the gate; None: the engine asks the gate itself.

    Raises:
        ConfigError: what the engine needs is missing.
        ProviderError, RefusedError: the upstream's key is no key, or may not go there, or its certificate fails.
    """
    return _FACTORIES[config.kind](config, key)


def _simulated(config: EngineConfig, key: str | None) -> Engine:
    from batchling.local.engines.simulated import SimulatedEngine

    return SimulatedEngine(config.seed, config.faults)


def _echo(config: EngineConfig, key: str | None) -> Engine:
    from batchling.local.engines.echo import EchoEngine

    return EchoEngine()


def _http(config: EngineConfig, key: str | None) -> Engine:
    from batchling.local.engines.http import HttpEngine

    engine = HttpEngine(config, key)
    engine.verify()
    return engine


_FACTORIES: dict[str, Callable[[EngineConfig, str | None], Engine]] = {
    "simulated": _simulated,
    "echo": _echo,
    "http": _http,
}
