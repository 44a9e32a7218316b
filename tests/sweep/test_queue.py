"""What `plan` says of batches, rounds and time."""

from __future__ import annotations

import pytest

from batchling.cli import main
from tests.sweep.conftest import Lab

AWAY = ["provider=compatible", "provider.base_url=https://away.example/v1", "provider.api_key_env=AWAY_KEY"]


def test_points_of_one_model_are_merged_and_split_by_the_limit_that_binds(lab: Lab) -> None:
    (lane,) = lab.plan(*AWAY, "prompt=plain,polite,brief", "limits.max_requests=5").lanes
    assert (lane.runs, lane.requests, lane.shards, lane.split_by) == (3, 18, 4, ("max_requests",))
    assert (lane.waves, lane.waits_for) == (1, None)
    assert (lane.best_seconds, lane.worst_seconds) == (3600.0, 86_400.0) and lane.assumes == "a batch takes 60 min"


def test_tokens_that_may_wait_make_rounds(lab: Lab) -> None:
    tokens = lab.plan(*AWAY).lanes[0].input_tokens
    assert tokens is not None
    (lane,) = lab.plan(*AWAY, f"limits.enqueued_tokens={tokens // 3 + 1}").lanes
    assert (lane.waves, lane.waits_for, lane.split_by) == (3, "enqueued_tokens", ("enqueued_tokens",))
    assert (lane.best_seconds, lane.worst_seconds) == (3 * 3600.0, 3 * 86_400.0)


def test_batches_at_once_and_creations_an_hour_are_shared_by_the_models_of_a_provider(lab: Lab) -> None:
    lanes = lab.plan(*AWAY, "model.id=m-1,m-2", "limits.max_requests=2", "limits.concurrent_batches=2").lanes
    assert [(lane.shards, lane.waves, lane.waits_for) for lane in lanes] == [(3, 3, "concurrent_batches")] * 2
    lanes = lab.plan(*AWAY, "model.id=m-1,m-2", "limits.max_requests=1", "limits.creations_per_hour=4").lanes
    assert [lane.best_seconds for lane in lanes] == [2 * 3600.0 + 3600.0] * 2


def test_the_http_engine_says_what_it_keeps_and_how_long_that_takes(lab: Lab) -> None:
    engine = ["provider.engine.kind=http", "provider.engine.upstream=http://127.0.0.1:9/v1"]
    (lane,) = lab.plan(*engine, "provider.engine.rpm=2", "provider.engine.tpm=1000000").lanes
    assert (lane.rpm, lane.tpm, lane.concurrency, lane.pacing_seconds) == (2, 1_000_000, 8, 120.0)


def test_the_command_says_it_in_words(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = lab.plan(*AWAY).lanes[0].input_tokens
    assert tokens is not None
    assert main(["plan", "ask", *AWAY, f"limits.enqueued_tokens={tokens // 3 + 1}"]) == 0
    shown = capsys.readouterr().out
    assert "3 rounds, one after another: enqueued_tokens is" in shown
    assert "done in 3 h 0 min at best (if a batch takes 60 min), 3 d 0 h at worst" in shown
    engine = ["provider.engine.kind=http", "provider.engine.upstream=http://127.0.0.1:9/v1", "provider.engine.rpm=2"]
    assert main(["plan", "ask", *engine]) == 0
    assert "keeps 2 RPM, 8 requests at a time: 2 min at least" in capsys.readouterr().out
