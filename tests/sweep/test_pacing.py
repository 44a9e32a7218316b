"""Enqueued-token limits: shards wait their turn, what a refusal teaches is kept, and nothing is lost or asked twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from batchling import catalog
from tests.sweep.conftest import Lab


def waiting_tokens(lab: Lab, folder: Path) -> int:
    """The most input tokens, as planned, that were at the provider at one time."""
    sizes = {s["shard"]: s["input_tokens"] for e in lab.events(folder, "planned") for s in e["shards"]}
    refused = {(e["shard"], e["attempt"]) for e in lab.events(folder, "throttled")}
    now = most = 0
    for event in lab.events(folder):
        place = (event.get("shard"), event.get("attempt"))
        if event["kind"] == "created" and place not in refused:
            now += sizes[event["shard"]]
            most = max(most, now)
        elif event["kind"] == "ended" and place not in refused:
            now -= sizes[event["shard"]]
    return most


def test_a_plan_ten_times_over_the_limit_finishes_without_losing_a_row_or_an_attempt(lab: Lab) -> None:
    lab.rows(200, words=40)
    total = lab.plan().lanes[0].input_tokens
    assert total is not None
    lab.serve(enqueued_tokens=total // 10)
    outcome = lab.run()
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 200})
    assert lab.query("select distinct attempts from records") == [(1,)]
    assert set(Counter(lab.sent_keys(outcome.folder)).values()) == {1}
    assert outcome.batches >= 10


def test_a_provider_that_counts_more_tokens_than_we_do_is_served_in_smaller_pieces(lab: Lab) -> None:
    lab.rows(40, words=40)
    ours = lab.plan("model.token_factor=0.25").lanes[0].input_tokens
    assert ours is not None
    lab.serve(enqueued_tokens=ours)  # as the provider counts, the plan is several times over it
    outcome = lab.run("model.token_factor=0.25")
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 40})
    assert [e for e in lab.events(outcome.folder, "learned") if e.get("guessed")]
    assert lab.query("select distinct attempts from records") == [(1,)]
    assert len(catalog.learned(lab.runs, now=lab.clock.time())) == 1  # only what the provider said is kept


def test_published_limits_hold_shards_back_until_they_fit(lab: Lab) -> None:
    lab.rows(60, words=40)
    total = lab.plan().lanes[0].input_tokens
    assert total is not None
    lab.serve()
    outcome = lab.run(f"limits.enqueued_tokens={total // 4}")
    assert outcome.states == {"ok": 60}
    assert waiting_tokens(lab, outcome.folder) <= total // 4
    assert not lab.events(outcome.folder, "throttled")


def test_a_plan_below_the_limit_is_sent_at_once(lab: Lab) -> None:
    lab.serve()
    outcome = lab.run("limits.enqueued_tokens=1000000", "limits.max_requests=1")
    kinds = [e["kind"] for e in lab.events(outcome.folder) if e["kind"] in ("created", "ended")]
    assert kinds[:6] == ["created"] * 6


def test_a_learned_limit_is_used_by_the_next_plan_of_that_connection_and_model_only(lab: Lab) -> None:
    lab.rows(60, words=40)
    total = lab.plan().lanes[0].input_tokens
    assert total is not None
    server = lab.serve(enqueued_tokens={"m-1": total // 2})
    first = lab.run()
    assert lab.events(first.folder, "learned")
    known = catalog.learned(lab.runs, now=lab.clock.time())
    assert known == {(f"local {server.base_url}", "m-1"): total // 2}

    lab.rows(60, words=40, first=100)
    report = lab.plan("model.id=m-1,m-2")
    assert {lane.model: lane.enqueued_tokens for lane in report.lanes} == {"m-1": total // 2, "m-2": None}
    second = lab.run("model.id=m-1,m-2")
    assert second.states == {"ok": 120}
    first_shards = lab.events(second.folder, "planned")[0]["shards"]
    assert all(s["input_tokens"] <= total // 2 for s in first_shards if s["lane"] == 0)


def test_a_learned_limit_is_forgotten_after_a_month(lab: Lab) -> None:
    lab.rows(60, words=40)
    total = lab.plan().lanes[0].input_tokens
    assert total is not None
    lab.serve(enqueued_tokens=total // 2)
    lab.run()
    assert catalog.learned(lab.runs, now=lab.clock.time() + 29 * 86_400)
    assert not catalog.learned(lab.runs, now=lab.clock.time() + 31 * 86_400)


def test_creations_per_hour_are_waited_for(lab: Lab) -> None:
    lab.serve(creations_per_hour=2, now=lab.clock.time)
    outcome = lab.run("limits.max_requests=1")
    assert outcome.states == {"ok": 6}
    assert lab.clock.passed >= 7200
    assert lab.query("select distinct attempts from records") == [(1,)]


def test_known_creations_per_hour_are_kept_without_a_refusal(lab: Lab) -> None:
    lab.serve(creations_per_hour=2, now=lab.clock.time)
    outcome = lab.run("limits.max_requests=1", "limits.creations_per_hour=2")
    assert outcome.states == {"ok": 6}
    assert not lab.events(outcome.folder, "rejected")


def test_a_plan_that_fits_waits_for_somebody_else_s_batches_and_is_not_cut_up(lab: Lab) -> None:
    lab.rows(12, words=40)
    total = lab.plan().lanes[0].input_tokens
    assert total is not None
    server = lab.serve_slowly(enqueued_tokens=int(total * 1.7))
    lab.rows(12, words=40, first=100)
    in_the_way = lab.run("name=other", detach=True)
    assert in_the_way.batches == 1
    lab.rows(12, words=40)
    outcome = lab.run()
    assert (outcome.exit_code, outcome.states) == (0, {"ok": 12})
    assert not [e for e in lab.events(outcome.folder, "learned") if e.get("guessed")]
    assert len(lab.events(outcome.folder, "planned")) == 1
    assert server is lab.servers[0]
