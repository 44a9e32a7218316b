"""Points that ask the same and check differently: bought once, judged by each one's own schema."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchling.api.outcome import Outcome
from batchling.api.workspace import Workspace
from batchling.runner.folder import PlanFolder
from tests.servers.batches import BatchServer, answered, text_of
from tests.sweep.conftest import Lab

LOOSE = "{label: {enum: [a, b, c]}}"
TIGHT = "{label: {enum: [a, b]}}"


@pytest.fixture
def two(lab: Lab) -> Iterator[Lab]:
    """Row 3's answer is `c`; the schema is only for checking."""

    def row(request: dict[str, object]) -> object:
        label = "c" if "row 3" in text_of(request) else "a"
        return answered(request, f'{{"label": "{label}"}}')

    with BatchServer() as server:
        server.row = row  # type: ignore[assignment]
        lab.server = server  # type: ignore[attr-defined]
        lab.write(
            {
                "conf/provider/away.yaml": f"name: away\nbase_url: {server.url}\n",
                "experiments/ask/schema/loose.yaml": f"fields: {LOOSE}\nstrict: false\n",
                "experiments/ask/schema/tight.yaml": f"fields: {TIGHT}\nstrict: false\n",
            }
        )
        config = lab.root / "experiments/ask/config.yaml"
        text = config.read_text().replace("schema:\n  fields: {label: {enum: [a, b]}}\n", "")
        config.write_text(
            text.replace("  - override /prompt: plain\n", "  - override /prompt: plain\n  - override /schema: loose\n")
        )
        yield lab


def states(lab: Lab, outcome: Outcome) -> dict[str, dict[str, int]]:
    return {run.overrides.rpartition(" ")[2]: dict(run.states) for run in outcome.runs}


def go(lab: Lab, schemas: str, *more: str, **options: object) -> Outcome:
    return lab.run("provider=away", "retry.repair=false", *more, f"schema={schemas}", **options)


EACH = {"schema=loose": {"ok": 6}, "schema=tight": {"ok": 5, "invalid": 1}}


@pytest.mark.parametrize("order", ["loose,tight", "tight,loose"])
def test_each_point_is_judged_by_its_own_schema(two: Lab, order: str) -> None:
    outcome = go(two, order)
    assert outcome.bought == 6
    assert states(two, outcome) == EACH
    found = two.query("select state, output->>'label', error is null from records where row_id = 'r3' order by state")
    assert found == [("invalid", None, False), ("ok", "c", True)]
    assert two.query("select count(*) from responses") == [(6,)]


def test_reused_answers_are_judged_by_each_schema_too(two: Lab) -> None:
    go(two, "tight")
    outcome = go(two, "tight,loose")
    assert (outcome.bought, outcome.reused) == (0, 6)
    assert states(two, outcome) == EACH


def test_rebuilding_from_the_raw_files_says_the_same(two: Lab) -> None:
    outcome = go(two, "loose,tight")
    workspace = Workspace(two.runs)
    refreshed = workspace.rebuild(PlanFolder(outcome.folder))
    assert {run.overrides.rpartition(" ")[2]: dict(run.states) for run in refreshed.runs} == EACH


def test_a_repair_that_one_point_needs_leaves_the_other_its_first_answer(two: Lab) -> None:
    outcome = two.run("provider=away", "schema=tight,loose")
    assert states(two, outcome) == {"schema=tight": {"ok": 6}, "schema=loose": {"ok": 6}}
    found = two.query("select overrides, output->>'label' from results where row_id = 'r3' order by all")
    assert [(overrides.rpartition(" ")[2], label) for overrides, label in found] == [
        ("schema=loose", "c"),
        ("schema=tight", "a"),
    ]
