"""Several processes at once: one plan is held by one of them, and no key is bought by two."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest

from batchling.disk import RealDisk
from batchling.errors import LockedError
from tests.servers.batches import Ending
from tests.servers.scripted import Request, Wire, refuse
from tests.workbench import KEY, KEY_VARIABLE, Workbench

QUICK = ("limits.poll_seconds=0.02", "limits.settle_seconds=0")


def numbered(first: int, last: int) -> list[dict[str, str]]:
    return [{"id": f"r{n}", "text": f"number {n}"} for n in range(first, last)]


def other_experiment(bench: Workbench, name: str) -> None:
    config = (bench.root / "experiments/ask/config.yaml").read_text()
    bench.write({f"experiments/{name}/config.yaml": config.replace("name: ask", f"name: {name}")})


def test_two_processes_with_overlapping_data_never_buy_one_key_twice(bench: Workbench) -> None:
    other_experiment(bench, "other")
    bench.rows(numbered(0, 12))
    bench.rows(numbered(6, 18), name="other")
    bench.server.endings = [Ending(statuses=("in_progress",) * 10)]
    both = [
        bench.start("run", "--yes", *bench.arguments(*QUICK, "limits.max_requests=4", name=name))
        for name in ("ask", "other")
    ]
    results = [process.communicate(timeout=100) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert (len(bench.server.keys), bench.server.times_answered()) == (18, {1})
    assert bench.query(
        "select experiment, state, sum(1)::int from records join runs using (run_id) group by all order by 1"
    ) == [
        ("ask", "ok", 12),
        ("other", "ok", 12),
    ]


def test_the_same_command_in_two_processes_makes_one_plan_and_buys_once(bench: Workbench) -> None:
    bench.server.endings = [Ending(statuses=("in_progress",) * 10)]
    both = [bench.start("run", "--yes", *bench.arguments(*QUICK)) for _ in range(2)]
    results = [process.communicate(timeout=100) for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 75], [0, 0]), results
    assert (len(bench.plans), bench.server.creates) == (1, 1)


def test_the_second_process_on_a_plan_says_who_holds_it(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    lock = RealDisk().lock(plan.folder / "lock")
    try:
        for arguments in (("run", "--yes", *bench.arguments()), ("watch", plan.plan_id), ("cancel", plan.plan_id)):
            second = bench.cli(*arguments)
            assert second.returncode == 75, second.stderr
            assert "held by process" in second.stderr
        for arguments in (("status",), ("status", plan.plan_id), ("results", plan.plan_id, "--format", "jsonl")):
            reader = bench.cli(*arguments)
            assert reader.returncode == 0, reader.stderr
        assert "held by process" in bench.cli("status", plan.plan_id).stdout
        with pytest.raises(LockedError):
            bench.watch(plan.plan_id)
    finally:
        lock.release()
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1


def test_detach_in_one_process_and_watch_in_another(bench: Workbench) -> None:
    detached = bench.cli("run", "--yes", "--detach", *bench.arguments(*QUICK))
    assert detached.returncode == 75, detached.stderr
    last = detached.stderr.strip().splitlines()[-1]
    assert "batchling watch" in last
    watched = bench.cli("watch", "--json")
    assert watched.returncode == 0, watched.stderr
    assert json.loads(watched.stdout)["outcomes"][0]["states"] == {"ok": 3}
    assert bench.server.creates == 1


def test_the_embedded_server_goes_on_when_another_process_watches(bench: Workbench) -> None:
    local = ("run", "--yes", "--detach", "ask", "provider=local", "limits.poll_seconds=0.02")
    assert bench.cli(*local).returncode == 75
    watched = bench.cli("watch")
    assert watched.returncode == 0, watched.stderr
    assert bench.states() == {"ok": 3}


def test_ctrl_c_detaches_at_once_and_says_how_to_go_on(bench: Workbench) -> None:
    polled = threading.Event()

    def look(request: Request) -> Wire:
        polled.set()
        return bench.server.normal(request)

    bench.server.endings = [Ending(statuses=("in_progress",) * 1000), Ending()]
    bench.server.on("GET", "/v1/batches/*", look)
    process = bench.start("run", "--yes", *bench.arguments("limits.poll_seconds=20"))
    assert polled.wait(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "batchling watch" in err.strip().splitlines()[-1]
    assert not bench.server.requests("POST", "*/cancel"), "nothing is cancelled"
    bench.server.made["batch_0001"].left = []
    assert bench.run().exit_code == 0
    assert bench.server.creates == 1


def test_the_command_line_twice_buys_once_and_makes_one_plan(bench: Workbench) -> None:
    first = bench.cli("run", "--yes", *bench.arguments(*QUICK))
    assert first.returncode == 0, first.stderr
    second = bench.cli("run", "--yes", *bench.arguments(*QUICK))
    assert second.returncode == 0, second.stderr
    assert (len(bench.plans), bench.server.creates) == (1, 1)
    exported = bench.cli("results", "ask", "--format", "csv", "-o", "out.csv")
    assert exported.returncode == 0, exported.stderr
    assert len(Path(bench.root / "out.csv").read_text().splitlines()) == 4


ROTATED = {KEY_VARIABLE: KEY + "-rotated"}


def test_a_rotated_key_of_the_same_project_goes_on_with_the_batches_that_are_out(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    again = bench.cli("run", "--yes", *bench.arguments(*QUICK), environ=ROTATED)
    assert again.returncode == 0, again.stderr
    assert bench.server.creates == 1
    assert len({str(event["fingerprints"]) for event in bench.events(plan.folder, "session")}) == 2


def test_a_key_that_does_not_see_the_batches_stops_and_says_what_was_tried(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    batch_id = bench.events(plan.folder, "created")[0]["batch_id"]
    bench.server.on("GET", "/v1/batches/*", refuse(404, "not_found", "no such batch"))
    again = bench.cli("watch", plan.plan_id, environ=ROTATED)
    assert again.returncode == 5, again.stderr
    assert batch_id in again.stderr
    assert "same project" in again.stderr
    assert len(bench.events(plan.folder, "session")) == 1


def test_a_rotated_key_goes_on_with_a_plan_of_which_nothing_was_submitted(bench: Workbench) -> None:
    bench.server.on("POST", "/v1/files", refuse(401, "invalid_api_key", "revoked"), bench.server.normal)
    assert bench.cli("run", "--yes", *bench.arguments(*QUICK)).returncode == 5
    again = bench.cli("run", "--yes", *bench.arguments(*QUICK), environ=ROTATED)
    assert again.returncode == 0, again.stderr
