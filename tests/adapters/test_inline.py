"""A provider of another shape: its adapter passes the contract suite, and everything above it works unchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchling.providers import Client
from batchling.providers import connect as connect_provider
from batchling.spec import Capabilities, ProviderConfig
from batchling.testing.contract import ProviderContract
from tests.adapters import inline
from tests.adapters.jobs import KEY, JobServer
from tests.workbench import Workbench

HERE = Path(__file__).parent
FACTS = ProviderConfig(
    name="jobs",
    adapter="inline",
    api_key_env="JOBS_KEY",
    endpoints=["chat"],
    capabilities=Capabilities(metadata=False, fence="none"),
)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter as an installed package would make it known."""
    info = tmp_path / "packages" / "inline_adapter-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: inline-adapter\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[batchling.providers]\ninline = tests.adapters.inline:ADAPTER\n")
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.setenv("JOBS_KEY", KEY)


@pytest.mark.usefixtures("installed")
class TestTheInlineAdapter(ProviderContract):
    adapter = inline.ADAPTER
    path = "/jobs"
    body = b'{"model":"m","max_tokens":20,"messages":[{"role":"user","content":"row {n} {hard}"}]}'
    refuses_unknown_files = False

    @pytest.fixture
    def upstream(self) -> Iterator[str]:
        with JobServer() as server:
            yield server.url

    def connect(self, base_url: str) -> Client:
        return connect_provider(FACTS, base_url=base_url, environ={"JOBS_KEY": KEY})


PROVIDER = """\
name: jobs
adapter: inline
base_url: {url}
api_key_env: JOBS_KEY
endpoints: [chat]
endpoint_paths: {{chat: /jobs}}
poll_seconds: 1
capabilities: {{list: true, metadata: false, fence: none}}
"""


@pytest.fixture
def jobs(bench: Workbench, installed: None) -> Iterator[JobServer]:
    with JobServer() as server:
        (bench.root / "conf/provider").mkdir(parents=True, exist_ok=True)
        (bench.root / "conf/provider/jobs.yaml").write_text(PROVIDER.format(url=server.url))
        yield server


def test_a_run_is_planned_sent_collected_and_repaired(bench: Workbench, jobs: JobServer) -> None:
    """Plan, packing, submission, following, results, errors and repairs: nothing of it knows the shape."""
    bench.rows([{"id": f"r{n}", "text": word} for n, word in enumerate(("plain", "STUBBORN", "FAIL", 'quo"te \u2028'))])
    here = (f"provider.base_url={jobs.url}", "provider.api_key_env=JOBS_KEY")  # not the bench's own server
    arguments = ("provider=jobs", *here, "retry.repair=true", "retry.attempts=2", "limits.max_requests=3")
    assert bench.run(*arguments).exit_code == 3
    records = bench.records()
    assert {row: record["state"] for row, record in records.items()} == {
        "r0": "ok",
        "r1": "ok",
        "r2": "error",
        "r3": "ok",
    }
    assert "this one cannot be said" in records["r2"]["error"]
    assert set(jobs.answered.values()) == {1}
    sent = [request for job in jobs.jobs.values() for request in job["requests"]]
    assert sorted(len(job["requests"]) for job in jobs.jobs.values()) == [1, 1, 3]  # two batches, and the repair
    assert all(request["params"]["format"]["type"] == "json_schema" for request in sent)
    repair = next(request for request in sent if len(request["params"]["messages"]) > 1)
    assert [message["role"] for message in repair["params"]["messages"]] == ["user", "assistant", "user"]
    bench.run(*arguments)
    assert set(jobs.answered.values()) == {1}, "a second time nothing is bought"


def test_the_page_shows_this_adapter_letter_by_letter() -> None:
    page = (HERE.parent.parent / "docs/howto/adapter.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M)
    assert (HERE / "inline.py").read_text(encoding="utf-8") in blocks


def test_the_adapter_has_fewer_than_150_lines() -> None:
    lines = (HERE / "inline.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) < 150


def test_the_answer_of_one_request_is_what_was_asked() -> None:
    line = json.dumps({"custom_id": "k", "result": {"message": {"text": "x", "usage": {"in": 1, "out": 1}}}}).encode()
    decoded = inline.ADAPTER.envelope.decode(line)
    assert (decoded.custom_id, decoded.text) == ("k", "x")  # type: ignore[union-attr]
