"""`batchling run` with a provider of its own shape, against its emulator: rows, repairs, lost replies, kill and resume."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from batchling.api import verbs
from tests.adapters.emulators import EMULATORS, Emulated
from tests.servers.emulated import Answer, Emulator
from tests.workbench import Workbench

EXPERIMENT = """\
defaults:
  - /base
  - override /model: custom
  - override /provider: {name}
  - _self_

name: ask
data:
  path: rows.jsonl
  id: id
model:
  id: {model}
  max_output_tokens: 50
  price: {{input: 1.0, output: 2.0}}
prompt:
  messages:
    - {{role: system, content: "You classify."}}
    - {{role: user, content: "Which one is {{text}}?"}}
schema:
  fields: {{rationale: string, label: {{enum: [a, b]}}}}
tokens: off
"""


@dataclass
class Table:
    """A workbench whose provider is an emulator."""

    bench: Workbench
    emulated: Emulated
    server: Emulator
    arguments: list[str] = field(default_factory=list)

    def run(self, *overrides: str) -> Any:
        return verbs.run("ask", [*self.arguments, *overrides], project=self.bench.project)

    def start(self, *overrides: str, **environ: str) -> subprocess.Popen[str]:
        given = {self.emulated.variable: self.emulated.key, **environ}
        return self.bench.start("run", "ask", *self.arguments, *overrides, "-y", environ=given)


@pytest.fixture(params=EMULATORS, ids=lambda emulated: emulated.name)
def table(request: pytest.FixtureRequest, bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    emulated: Emulated = request.param
    monkeypatch.setenv(emulated.variable, emulated.key)
    with emulated.start() as server:
        bench.write({"experiments/ask/config.yaml": EXPERIMENT.format(name=emulated.name, model=emulated.model)})
        base = server.url + emulated.base_path
        # A variable of one's own: the vendor's belongs to the vendor's address and is not sent to a server on this machine.
        yield Table(bench, emulated, server, [f"provider.base_url={base}", f"provider.api_key_env={emulated.variable}"])


def test_every_row_has_one_answer_and_nothing_is_bought_twice(table: Table) -> None:
    words = ["plain", "STUBBORN", "FAIL", 'quo"te \u2028 \U0001f600', "CUT"]
    table.bench.rows([{"id": f"r{n}", "text": word} for n, word in enumerate(words)])
    outcome = table.run("retry.repair=true", "limits.max_requests=3")
    assert outcome.exit_code == 3
    states = {row: record["state"] for row, record in table.bench.records().items()}
    assert states == {"r0": "ok", "r1": "ok", "r2": "error", "r3": "ok", "r4": "truncated"}
    assert "this one cannot be said" in table.bench.records()["r2"]["error"]
    assert table.bench.records()["r0"]["output"] == {"rationale": "text", "label": "a"}
    assert set(table.server.bought.values()) == {1} and len(table.server.bought) == 6, "five rows and one repair"
    costs = [record["cost_usd"] for record in table.bench.records().values()]
    assert sum(cost is not None and cost > 0 for cost in costs) == 4, "what failed costs nothing"
    table.run("retry.repair=true", "limits.max_requests=3")
    assert len(table.server.bought) == 6, "a second time nothing is bought"


def test_a_lost_reply_of_a_create_is_found_and_not_bought_again(table: Table) -> None:
    """The batch was made and the line died: it is recognised, by its mark or by its results."""
    lost = 0

    def lose(call: Any) -> Answer | None:
        nonlocal lost
        if not lost and table.emulated.creates(call):
            lost += 1
            answer = table.server.answer(call)
            assert answer.status < 300
            return Answer(answer.status, answer.body, cut=5)
        return None

    table.server.faults.append(lose)
    outcome = table.run()
    assert lost == 1 and outcome.exit_code == 0
    assert set(table.bench.states()) == {"ok"}
    assert set(table.server.bought.values()) == {1}
    (created,) = table.bench.events(kind="created")
    assert created["adopted"] is True


def test_a_batch_that_shows_late_is_waited_for(table: Table) -> None:
    table.server.unseen = 3
    assert table.run().exit_code == 0
    assert set(table.server.bought.values()) == {1}


@pytest.mark.parametrize("status", [429, 413])
def test_a_create_that_is_refused_for_now_is_sent_again_or_cut(table: Table, status: int) -> None:
    table.server.faults.append(lambda call: table.emulated.refusal(status) if table.emulated.creates(call) else None)
    assert table.run().exit_code == 0
    assert set(table.bench.states()) == {"ok"} and set(table.server.bought.values()) == {1}
    if status == 413:
        assert len(table.server.batches) == 2, "in two smaller batches"


def test_a_cut_download_is_fetched_again(table: Table) -> None:
    def cut(call: Any) -> Answer | None:
        if not table.emulated.downloads(call):
            return None
        answer = table.server.answer(call)
        return Answer(answer.status, answer.body, answer.headers, cut=40) if answer.status == 200 else None

    table.server.faults.append(cut)
    assert table.run().exit_code == 0
    assert table.server.faults == type(table.server.faults)()
    assert set(table.bench.states()) == {"ok"}


def test_a_killed_run_resumes_where_it_was(table: Table) -> None:
    """kill -9 right after the create was carried out, before its reply is read; then the same command again."""
    table.server.looks = 1
    table.bench.rows(4)
    killed: list[subprocess.Popen[str]] = []

    def kill(call: Any) -> Answer | None:
        if not table.emulated.creates(call) or not killed:
            return None
        answer = table.server.answer(call)
        killed[0].send_signal(signal.SIGKILL)
        killed[0].wait(30)
        return answer

    with table.server.guard:  # no call is answered before the process is known
        table.server.faults.append(kill)
        killed.append(table.start("limits.max_requests=2", "provider.poll_seconds=0.2"))
    killed[0].communicate(timeout=120)
    assert killed[0].returncode == -signal.SIGKILL
    again = table.run("limits.max_requests=2", "provider.poll_seconds=0.2")
    assert again.exit_code == 0, again
    assert table.bench.states() == {"ok": 4}
    assert set(table.server.bought.values()) == {1} and len(table.server.bought) == 4


def test_the_key_stands_in_no_file(table: Table) -> None:
    table.run()
    for path in table.bench.root.rglob("*"):
        if path.is_file():
            assert table.emulated.key.encode() not in path.read_bytes(), path
    assert json.dumps(table.bench.events())
