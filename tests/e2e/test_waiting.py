"""A plan whose keys another plan is buying: it waits, takes over, and never buys or spends behind anybody's back."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchling.api import ownership, verbs
from batchling.api.workspace import Workspace
from batchling.disk import RealDisk
from batchling.errors import DetachedError, RefusedError
from batchling.runner import planning
from tests.servers.batches import Ending, answered, fitting, text_of
from tests.workbench import Workbench

LONG = Ending(statuses=("in_progress",) * 50, answers=0)
"""A batch that runs for long; cancelled, it has answered nothing."""


def asked(bench: Workbench) -> Counter[str]:
    return Counter(text_of(request) for request in bench.server.sent())


def rows(bench: Workbench, first: int, last: int) -> None:
    bench.rows([{"id": f"r{n}", "text": f"number {n}"} for n in range(first, last)])


def test_two_plans_that_wait_for_a_third_never_both_buy_what_it_leaves_open(bench: Workbench) -> None:
    bench.server.endings = [LONG, Ending()]
    rows(bench, 0, 3)
    first = bench.run(detach=True)
    rows(bench, 0, 5)
    second = bench.run(detach=True)
    rows(bench, 0, 3)
    third = bench.run("repeats=2", detach=True)
    verbs.cancel(first.plan_id, runs=bench.runs)
    bench.server.endings = [Ending()]
    done = {outcome.plan_id: outcome for outcome in bench.watch()}
    assert done[second.plan_id].states == {"ok": 5}
    assert done[third.plan_id].states == {"ok": 6}
    assert bench.server.times_answered() == {1}


def test_plans_that_wait_for_each_other_both_end(bench: Workbench) -> None:
    """The second holds what the first leaves, and the first, run again with more rows, waits for the second."""
    bench.server.endings = [LONG, Ending()]
    rows(bench, 0, 2)
    first = bench.run(detach=True)
    rows(bench, 0, 4)
    bench.run(detach=True)
    verbs.cancel(first.plan_id, runs=bench.runs)
    rows(bench, 0, 6)
    bench.run(detach=True)
    bench.server.endings = [Ending()]
    assert [outcome.exit_code for outcome in bench.watch()] == [0, 0]
    assert bench.run().states == {"ok": 6}


def test_a_plan_that_ends_while_another_is_being_planned_is_not_overlooked(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.run(detach=True)
    unfinished = planning.unfinished

    def ends_meanwhile(*arguments: Any) -> Any:
        bench.watch(first.plan_id)
        return unfinished(*arguments)

    monkeypatch.setattr(planning, "unfinished", ends_meanwhile)
    bench.rows(4)
    outcome = bench.run()
    assert outcome.states == {"ok": 4}
    assert set(asked(bench).values()) == {1}


class Person:
    """Answers every question and remembers them."""

    def __init__(self, *answers: bool | type[BaseException]):
        self.answers = list(answers)
        self.asked: list[tuple[str, Decimal | None]] = []

    def __call__(self, what: str, worst: Decimal | None) -> bool:
        self.asked.append((what, worst))
        answer = self.answers.pop(0)
        if isinstance(answer, bool):
            return answer
        raise answer


DEAR = "budget.confirm_usd=0"


def never_confirmed(bench: Workbench) -> Path:
    """A plan that was made, and whose process died before anybody was asked."""
    bench.rows(5)
    experiment, *given = bench.arguments(DEAR)
    specs, runs = verbs.specs_of(experiment, given, project=bench.project)
    workspace = Workspace(runs)
    opened = planning.open_plan(
        workspace.disk,
        workspace.clock,
        runs,
        specs,
        command="batchling run ask",
        refresh_stale=workspace.refresh_stale,
        remember=ownership.remember,
    )
    return opened.folder.path


def test_a_plan_that_nobody_confirmed_is_asked_about_before_another_one_drives_it(bench: Workbench) -> None:
    plan = never_confirmed(bench)
    bench.rows(2)
    no = Person(False)
    with pytest.raises(RefusedError) as caught:
        bench.run(DEAR, confirm=no)
    assert caught.value.exit_code == 4
    assert [what for what, _ in no.asked] == ["5 requests in 1 batch"]
    assert (bench.server.creates, bench.plans) == (0, [plan]), (
        "the plan that waited is gone, the other one is as it was"
    )
    yes = Person(True)
    assert bench.run(DEAR, confirm=yes).states == {"ok": 2}
    assert len(yes.asked) == 1


def test_watching_asks_too_before_it_drives_a_plan_that_nobody_confirmed(bench: Workbench) -> None:
    never_confirmed(bench)
    (outcome,) = verbs.watch(runs=bench.runs, confirm=Person(False))
    assert (outcome.exit_code, bench.server.creates) == (4, 0)


def test_ctrl_c_at_the_question_leaves_no_plan(bench: Workbench) -> None:
    with pytest.raises((KeyboardInterrupt, DetachedError)):
        bench.run(DEAR, confirm=Person(KeyboardInterrupt))
    assert (bench.plans, bench.server.creates) == ([], 0)


def test_cancel_waits_for_no_other_plan(bench: Workbench) -> None:
    bench.server.endings = [LONG]
    first = bench.run(detach=True)
    bench.rows(5)
    second = bench.run("limits.max_requests=1", "limits.concurrent_batches=1", detach=True)
    cancelled = verbs.cancel(second.plan_id, runs=bench.runs)
    assert (cancelled.reason, cancelled.states) == ("cancelled", {"cancelled": 5})
    assert verbs.status(first.plan_id, runs=bench.runs).state not in ("finished", "cancelled")
    bench.server.endings = [Ending()]
    assert bench.run().created is True, "what was cancelled is asked when somebody wants it again"
    assert bench.server.times_answered() == {1}


def test_detach_does_not_wait_for_a_process_that_holds_the_other_plan(bench: Workbench) -> None:
    bench.server.endings = [LONG]
    bench.rows(5)
    first = bench.run(detach=True)
    lock = RealDisk().lock(first.folder / "lock")
    try:
        bench.rows(2)
        outcome = bench.run(detach=True)
    finally:
        lock.release()
    assert (outcome.exit_code, outcome.next_command) == (75, f"batchling watch {outcome.plan_id}")


def test_retry_leaves_alone_the_rows_that_a_repair_made_ok(bench: Workbench) -> None:
    """A row's state is what its last answer says, not its first."""

    def row(request: dict[str, Any]) -> Any:
        text = text_of(request)
        if "number 1" in text and len(request["body"]["messages"]) == 1:
            return answered(request, '{"label": "zebra"}')
        if "number 2" in json.dumps(request):
            return answered(request, '{"label": "zebra"}')
        return fitting(request)

    bench.server.row = row
    repairing = ("retry.repair=true", "retry.attempts=2")
    outcome = bench.run(*repairing)
    assert outcome.states == {"ok": 2, "invalid": 1}
    bench.server.row = fitting
    again = bench.run(*repairing, retry=("invalid",))
    assert (again.bought, again.reused, again.states) == (1, 2, {"ok": 3})


def test_retry_says_that_an_unfinished_plan_comes_first(bench: Workbench) -> None:
    bench.run(detach=True)
    outcome = bench.run(retry=("invalid",))
    assert any("--retry asked nothing again" in text for text in outcome.warnings)


def test_fresh_says_what_it_does_not_ask_again(bench: Workbench) -> None:
    bench.run(detach=True)
    bench.rows(4)
    outcome = bench.run(fresh=True)
    assert any("--fresh asked 3 requests not again" in text for text in outcome.warnings)
    assert set(asked(bench).values()) == {1}
