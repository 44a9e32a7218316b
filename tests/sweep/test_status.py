"""`status` of a sweep: a row for each point, one for each provider and model, totals."""

from __future__ import annotations

import pytest

from batchling.api import verbs
from batchling.cli import main
from tests.sweep.conftest import Lab


def test_an_unfinished_sweep_shows_points_and_models(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.serve_slowly()
    outcome = lab.run("model.id=m-1,m-2", "prompt=plain,polite", detach=True)
    found = verbs.status(runs=lab.runs)
    assert [(p.records, dict(p.states)) for p in found.points] == [(6, {"pending": 6})] * 4
    assert [(lane.model, lane.out, lane.done, lane.requests) for lane in found.lanes] == [
        ("m-1", 1, 0, 12),
        ("m-2", 1, 0, 12),
    ]
    assert main(["status", outcome.plan_id]) == 0
    shown = capsys.readouterr().out
    assert "prompt=polite" in shown and "batches to send" in shown and "0/24" in shown

    lab.run("model.id=m-1,m-2", "prompt=plain,polite")
    found = verbs.status(runs=lab.runs)
    assert [dict(p.states) for p in found.points] == [{"ok": 6}] * 4
    assert [(lane.out, lane.done, dict(lane.states)) for lane in found.lanes] == [(0, 1, {"ok": 12})] * 2


def test_a_sweep_with_one_model_has_a_row_for_each_point(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.run("prompt=plain,polite")
    capsys.readouterr()
    assert main(["status", "ask"]) == 0
    shown = capsys.readouterr().out
    assert "prompt=plain" in shown and "batches to send" not in shown


def test_a_refused_lane_says_why(lab: Lab) -> None:
    from tests.servers.batches import BatchServer
    from tests.servers.scripted import refuse

    with BatchServer() as server:
        server.on("POST", "/v1/batches", refuse(404, "model_not_found", "no such model"))
        lab.write({"conf/provider/away.yaml": f"name: away\nbase_url: {server.url}\n"})
        lab.run("provider=local,away")
    lanes = {lane.provider: lane for lane in verbs.status(runs=lab.runs).lanes}
    assert lanes["local"].refused is None and lanes["local"].states == {"ok": 6}
    assert "model_not_found" in (lanes["away"].refused or "") and lanes["away"].waiting == 1
