"""The grid can be changed later: what is new is bought, what is in flight is waited for, what nobody wants can be cancelled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from batchling.api import verbs
from batchling.api.outcome import Outcome
from batchling.disk import RealDisk
from tests.sweep.conftest import Lab


def models_sent(lab: Lab, outcome: Outcome) -> Counter[str]:
    """Requests that a plan had made batches of, by model."""
    lanes = {lane["lane"]: lane["model"] for lane in lab.document(outcome)["lanes"]}
    sent: Counter[str] = Counter()
    shards = {s["shard"]: s for e in lab.events(outcome.folder, "planned") for s in e["shards"]}
    for event in lab.events(outcome.folder, "created"):
        shard = shards[event["shard"]]
        sent[lanes[shard["lane"]]] += shard["rows"]
    return sent


def batches(lab: Lab) -> list[dict[str, Any]]:
    """What the server has, oldest first."""
    documents, more = lab.servers[0]._store.list_batches(after=None, limit=100) or ([], False)
    assert not more
    return list(reversed(documents))


def keys_bought(lab: Lab) -> Counter[str]:
    """Key → batches it went out in, over all plans."""
    return Counter(key for folder in sorted(lab.runs.glob("*/plan.json")) for key in lab.sent_keys(folder.parent))


def test_one_model_more_sends_only_its_requests(lab: Lab) -> None:
    lab.serve()
    lab.run("model.id=m-1,m-2")
    again = lab.run("model.id=m-1,m-2,m-3")
    assert models_sent(lab, again) == {"m-3": 6}
    assert (again.reused, again.states) == (12, {"ok": 18})


def test_rows_added_are_the_only_ones_sent(lab: Lab) -> None:
    lab.serve()
    lab.run("model.id=m-1,m-2")
    lab.rows(8)
    again = lab.run("model.id=m-1,m-2")
    assert models_sent(lab, again) == {"m-1": 2, "m-2": 2}
    assert again.states == {"ok": 16}


def test_the_same_command_on_an_unfinished_sweep_goes_on_with_it(lab: Lab) -> None:
    lab.serve_slowly()
    first = lab.run("model.id=m-1,m-2", detach=True)
    second = lab.run("model.id=m-1,m-2")
    assert (first.exit_code, second.exit_code) == (75, 0)
    assert (second.plan_id, second.created) == (first.plan_id, False)
    assert set(keys_bought(lab).values()) == {1}


def test_amending_an_unfinished_sweep_buys_nothing_that_is_in_flight(lab: Lab) -> None:
    lab.serve_slowly()
    first = lab.run("model.id=m-1,m-2", detach=True)
    second = lab.run("model.id=m-1,m-2,m-3", "prompt=plain,polite")
    assert second.plan_id != first.plan_id
    assert (second.exit_code, second.states) == (0, {"ok": 36})
    assert set(keys_bought(lab).values()) == {1} and len(keys_bought(lab)) == 36
    assert models_sent(lab, second) == {"m-1": 6, "m-2": 6, "m-3": 12}


def test_the_batches_of_a_point_that_is_removed_are_left_alone(lab: Lab) -> None:
    lab.serve_slowly()
    lab.run("model.id=m-1,m-2", detach=True)
    second = lab.run("model.id=m-1")
    assert second.states == {"ok": 6} and second.bought == 0
    assert [batch["status"] for batch in batches(lab)] == ["completed", "completed"]


def test_prune_cancels_what_no_plan_wants_and_nothing_else(lab: Lab) -> None:
    lab.serve_slowly()
    first = lab.run("model.id=m-1,m-2", detach=True)
    asked: list[str] = []
    second = lab.run("model.id=m-1", prune=lambda what: asked.append(what) is None)
    assert second.states == {"ok": 6} and second.bought == 0
    assert {b["model"]: b["status"] for b in batches(lab)} == {"m-1": "completed", "m-2": "cancelled"}
    assert asked == [f"1 batch (6 requests) of {first.plan_id}, which no plan needs any more"]
    assert any(text.startswith("cancelled: 1 batch (6 requests)") for text in second.warnings)
    assert verbs.status(first.plan_id, runs=lab.runs).state == "finished"


def test_prune_asks_and_takes_no_for_an_answer(lab: Lab) -> None:
    lab.serve_slowly()
    lab.run("model.id=m-1,m-2", detach=True)
    second = lab.run("model.id=m-1", prune=lambda what: False)
    assert any(text.startswith("not cancelled: 1 batch") for text in second.warnings)
    assert {batch["status"] for batch in batches(lab)} == {"completed"}


def test_prune_lets_go_of_what_was_not_sent_yet(lab: Lab) -> None:
    lab.serve_slowly()
    first = lab.run("model.id=m-1,m-2", "limits.concurrent_batches=1", detach=True)
    assert [batch["model"] for batch in batches(lab)] == ["m-1"]
    lab.run("model.id=m-1", prune=True)
    assert [batch["model"] for batch in batches(lab)] == ["m-1"]
    assert [event["why"] for event in lab.events(first.folder, "dropped")] == ["no longer wanted"]


def test_prune_leaves_what_another_unfinished_plan_waits_for(lab: Lab) -> None:
    lab.serve_slowly()
    lab.run("model.id=m-1,m-2", detach=True)
    other = lab.run("model.id=m-2", "name=other", detach=True)
    assert other.exit_code == 75
    lab.run("model.id=m-1", prune=True)
    assert {batch["status"] for batch in batches(lab)} == {"completed"}


def test_prune_respects_the_lock_of_another_process(lab: Lab) -> None:
    lab.serve_slowly()
    first = lab.run("model.id=m-1,m-2", detach=True)
    with held(first.folder / "lock"):
        second = lab.run("model.id=m-3", prune=True)
    assert any("is held by" in text and "not cancelled" in text for text in second.warnings)
    assert "cancelled" not in {batch["status"] for batch in batches(lab)}


class held:
    """A plan's lock, taken by somebody else."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        self.lock = RealDisk().lock(self.path)

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_rows_of_a_cancelled_batch_are_bought_when_somebody_wants_them_again(lab: Lab) -> None:
    lab.serve_slowly()
    lab.run("model.id=m-1,m-2", detach=True)
    lab.run("model.id=m-1", prune=True)
    again = lab.run("model.id=m-2")
    assert again.states == {"ok": 6}


@pytest.mark.parametrize("grid", ["model.id=m-1,m-2", "prompt=plain,polite"])
def test_a_request_that_two_points_share_is_bought_once_and_recorded_in_each(lab: Lab, grid: str) -> None:
    lab.serve()
    outcome = lab.run(grid, "metrics={}", "+metrics.x=\"state = 'ok'\",\"state <> 'ok'\"")
    assert len(outcome.runs) == 4 and outcome.states == {"ok": 24}
    assert outcome.bought == 12
