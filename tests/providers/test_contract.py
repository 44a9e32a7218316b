"""The contract suite for adapters: ours passes it against the embedded server, and adapters with a flaw do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import openai
import pytest

from batchling.errors import CallAmbiguous, CallRefused
from batchling.local.options import ServerOptions
from batchling.local.server import start_in_process
from batchling.models import Batch, Submission
from batchling.providers import Client
from batchling.providers import connect as connect_provider
from batchling.providers.openai.client import OpenAIClient
from batchling.spec import ProviderConfig
from batchling.testing.contract import ProviderContract
from batchling.testing.gateway import Fault, Gateway

CONFIG = ProviderConfig(name="compatible", api_key_env="KEY")


class TestTheOpenAIAdapter(ProviderContract):
    @pytest.fixture
    def upstream(self, tmp_path: Path) -> Iterator[str]:
        server = start_in_process(ServerOptions(state_dir=tmp_path / "server", token=None))
        yield server.base_url
        server.stop()

    def connect(self, base_url: str) -> Client:
        return connect_provider(CONFIG, base_url=base_url, environ={"KEY": "none"})


class Repeating(OpenAIClient):
    """What the SDK does by itself."""

    def __init__(self, base_url: str):
        super().__init__(CONFIG, base_url, "none", {})
        self._client = self._client.with_options(max_retries=2)


class Hopeful(OpenAIClient):
    """Takes every failure for a refusal."""

    def __init__(self, base_url: str):
        super().__init__(CONFIG, base_url, "none", {})

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        try:
            return super().create(submission, file_id, content, window)
        except CallAmbiguous as error:
            raise CallRefused(error.message) from error


class Forgetful(OpenAIClient):
    """Says that a file is fenced and leaves it there."""

    def __init__(self, base_url: str):
        super().__init__(CONFIG, base_url, "none", {})

    def fence(self, file_id: str) -> bool:
        return True


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    server = start_in_process(ServerOptions(state_dir=tmp_path / "server", token=None))
    with Gateway(server.base_url) as gateway:
        yield gateway
    server.stop()


@pytest.mark.parametrize("fault", [Fault.UNHEARD, Fault.ERROR_500, Fault.CONFLICT_409])
def test_an_adapter_that_repeats_the_create_fails(
    gateway: Gateway, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.0)
    suite = ProviderContract()
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        suite.test_a_create_without_a_clear_answer_is_sent_once_and_ambiguous(Repeating(gateway.url), gateway, fault)


def failing() -> Iterator[Any]:
    yield (
        Hopeful,
        lambda suite, it, gw: suite.test_a_create_without_a_clear_answer_is_sent_once_and_ambiguous(
            it, gw, Fault.UNHEARD
        ),
    )
    yield Hopeful, lambda suite, it, gw: suite.test_a_batch_whose_reply_was_lost_is_found_in_the_list(it, gw)
    yield Forgetful, lambda suite, it, gw: suite.test_a_fenced_file_makes_no_batch_any_more(it)


@pytest.mark.parametrize(("adapter", "attempt"), list(failing()))
def test_an_adapter_with_a_flaw_fails(adapter: Any, attempt: Any, gateway: Gateway) -> None:
    with pytest.raises((pytest.fail.Exception, AssertionError, CallRefused)):
        attempt(ProviderContract(), adapter(gateway.url), gateway)
