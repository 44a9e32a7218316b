"""A provider whose batches say nothing of whose they are: their results decide, or a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchling.api import verbs
from batchling.errors import UnfinishedError, UsageError
from tests.adapters.emulators import EMULATORS
from tests.adapters.test_end_to_end import EXPERIMENT, Table
from tests.servers.anthropic import AnthropicServer
from tests.servers.emulated import Answer
from tests.workbench import Workbench

(ANTHROPIC,) = [emulated for emulated in EMULATORS if emulated.name == "anthropic"]


@pytest.fixture
def table(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    monkeypatch.setenv(ANTHROPIC.variable, ANTHROPIC.key)
    with AnthropicServer() as server:
        bench.write({"experiments/ask/config.yaml": EXPERIMENT.format(name="anthropic", model=ANTHROPIC.model)})
        here = [f"provider.base_url={server.url}", f"provider.api_key_env={ANTHROPIC.variable}"]
        yield Table(bench, ANTHROPIC, server, here)


def lost(call: Any) -> Answer | None:
    """The create never arrived, and nobody says so."""
    return Answer(502, b"<html>bad gateway</html>") if ANTHROPIC.creates(call) else None


def strangers(server: AnthropicServer, count: int = 3, at: float | None = None) -> str:
    """Somebody else's batch of the same size, in the same workspace, made just now."""
    params = {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    return server.make([{"custom_id": f"theirs-{n}", "params": params} for n in range(count)], at=at)


def test_what_is_not_there_is_for_a_person_however_cheap_it_is(table: Table) -> None:
    table.server.faults.append(lost)
    outcome = table.run()
    assert outcome.exit_code == 75 and not table.server.batches
    (parked,) = table.bench.events(kind="parked")
    assert "no mark" in parked["why"]
    verbs.resolve(runs=table.bench.runs, decision="resubmit")
    assert table.run().exit_code == 0
    assert set(table.server.bought.values()) == {1} and table.bench.states() == {"ok": 3}


def test_somebody_else_s_batch_of_the_same_size_is_never_taken(table: Table) -> None:
    table.server.faults.append(lost)
    theirs = strangers(table.server)
    assert table.run().exit_code == 75
    assert not table.bench.events(kind="created")
    with pytest.raises(UsageError, match="is not of shard 1"):
        verbs.resolve(runs=table.bench.runs, decision="adopt", batch_id=theirs)
    verbs.resolve(runs=table.bench.runs, decision="resubmit")
    assert table.run().exit_code == 0
    assert table.bench.states() == {"ok": 3} and set(table.server.bought.values()) == {1}


def test_ours_is_found_among_strangers_when_it_has_ended(table: Table) -> None:
    table.server.looks = 5

    def unheard(call: Any) -> Answer | None:
        if not ANTHROPIC.creates(call):
            return None
        strangers(table.server)
        table.server.answer(call)
        strangers(table.server)
        return Answer(504, b"timeout")

    table.server.faults.append(unheard)
    assert table.run().exit_code == 0
    (created,) = table.bench.events(kind="created")
    ours = [n for n, b in table.server.batches.items() if not b["requests"][0]["custom_id"].startswith("theirs")]
    assert [created["batch_id"]] == ours and created["adopted"]
    assert table.bench.states() == {"ok": 3}
    assert {n for name, n in table.server.bought.items() if not name.startswith("theirs")} == {1}


def test_a_person_may_name_the_batch_before_it_has_ended(table: Table) -> None:
    table.server.faults.append(lost)
    assert table.run().exit_code == 75
    # It did arrive, later than anything waits for.
    (create,) = [call for call in table.server.calls if ANTHROPIC.creates(call)]
    batch = table.server.make(create.json()["requests"])
    verbs.resolve(runs=table.bench.runs, decision="adopt", batch_id=batch)
    assert table.run().exit_code == 0
    assert table.bench.states() == {"ok": 3} and set(table.server.bought.values()) == {1}


def test_what_arrives_late_and_runs_is_not_sent_again_without_force(table: Table) -> None:
    table.server.faults.append(lost)
    table.server.looks = 1000
    assert table.run().exit_code == 75
    (create,) = [call for call in table.server.calls if ANTHROPIC.creates(call)]
    batch = table.server.make(create.json()["requests"])
    with pytest.raises(UnfinishedError, match=f"{batch} may be this submission"):
        verbs.resolve(runs=table.bench.runs, decision="resubmit")
    table.server.end(batch)
    verbs.resolve(runs=table.bench.runs, decision="resubmit")
    assert table.run().exit_code == 0
    assert table.bench.states() == {"ok": 3} and set(table.server.bought.values()) == {1}


def test_a_person_may_send_again_although_a_batch_runs_that_may_be_it(table: Table) -> None:
    table.server.faults.append(lost)
    assert table.run().exit_code == 75
    table.server.looks = 1000
    strangers(table.server)
    verbs.resolve(runs=table.bench.runs, decision="resubmit", force=True)
    assert [event["by"] for event in table.bench.events(kind="absent")] == ["person"]


def test_strangers_that_come_all_day_keep_no_plan_waiting(table: Table) -> None:
    """Somebody makes a batch of our size each hour; each runs for longer than that."""
    table.server.faults.append(lost)
    table.server.looks = 1_000_000
    normal, made = table.server.answer, list[tuple[float, str]]()

    def answer(call: Any) -> Answer:
        now = table.bench.clock.time()
        if not made or now - made[-1][0] > 3600:
            made.append((now, strangers(table.server, at=now)))
            for moment, name in made:
                if now - moment > 7000:
                    table.server.end(name)
        return normal(call)

    table.server.answer = answer  # type: ignore[method-assign]
    assert table.run().exit_code == 75
    assert table.bench.events(kind="parked") and table.bench.clock.passed < 4 * 3600
