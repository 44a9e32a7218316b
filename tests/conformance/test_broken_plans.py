"""A plan that cannot be read is one broken plan: named, kept apart, and not forgotten. Nothing else waits for it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from batchling.api import verbs
from batchling.api.outcome import Outcome
from batchling.errors import JournalError, RefusedError
from batchling.journal import decode, encode
from batchling.runner.broken import BrokenPlanWarning
from tests.servers.scripted import gateway, refuse
from tests.workbench import Workbench

pytestmark = pytest.mark.filterwarnings("ignore::batchling.runner.broken.BrokenPlanWarning")


def rewrite(plan: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    """Changes a journal's events; its checksums and numbers stay right."""
    path = plan / "journal.jsonl"
    events = [event for line in path.read_bytes().split(b"\n") if line and (event := decode(line)) is not None]
    change(events)
    lines = []
    for number, event in enumerate(events, 1):
        event["seq"] = number
        lines.append(encode(event))
    path.write_bytes(b"".join(lines))


def flipped(plan: Path) -> None:
    path = plan / "journal.jsonl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def folded_by_nobody(plan: Path) -> None:
    """What version 0.1.0 left behind: an event that its own fold refused."""

    def twice(events: list[dict[str, object]]) -> None:
        intent = next(event for event in events if event["kind"] == "create_intent")
        events.append({**intent, "kind": "uploaded", "file_id": "file-x"})

    rewrite(plan, twice)


def of_other_types(plan: Path) -> None:
    rewrite(plan, lambda events: next(e for e in events if e["kind"] == "create_intent").update(shard="one"))


def without_its_beginning(plan: Path) -> None:
    rewrite(plan, lambda events: events.pop(1))


def empty(plan: Path) -> None:
    (plan / "journal.jsonl").write_bytes(b"")


def cut_off_before_its_first_batch(plan: Path) -> None:
    journal = plan / "journal.jsonl"
    first = journal.read_bytes().split(b"\n")[0]
    journal.write_bytes(journal.read_bytes()[: len(first) + 20])


def no_journal(plan: Path) -> None:
    (plan / "journal.jsonl").unlink()


def journal_is_a_folder(plan: Path) -> None:
    (plan / "journal.jsonl").unlink()
    (plan / "journal.jsonl").mkdir()


def no_document(plan: Path) -> None:
    (plan / "plan.json").unlink()


def document_of_the_future(plan: Path) -> None:
    document = json.loads((plan / "plan.json").read_text())
    (plan / "plan.json").write_text(json.dumps({**document, "version": 7}))


def document_cut_off(plan: Path) -> None:
    data = (plan / "plan.json").read_bytes()
    (plan / "plan.json").write_bytes(data[: len(data) // 2])


def document_is_a_list(plan: Path) -> None:
    (plan / "plan.json").write_text("[]")


def document_without_lanes(plan: Path) -> None:
    document = json.loads((plan / "plan.json").read_text())
    (plan / "plan.json").write_text(json.dumps({**document, "lanes": [], "runs": [{}]}))


def no_requests(plan: Path) -> None:
    shutil.rmtree(plan / "requests")


def no_index(plan: Path) -> None:
    (plan / "requests/0001.index.csv").unlink()


def index_of_noise(plan: Path) -> None:
    (plan / "requests/0001.index.csv").write_bytes(b"key,parent_key,input_tokens,bytes,schema,lane\n\xff\xfe,,,\n")


def no_manifest(plan: Path) -> None:
    shutil.rmtree(plan / "manifest")


DAMAGE = [
    flipped,
    folded_by_nobody,
    of_other_types,
    without_its_beginning,
    empty,
    cut_off_before_its_first_batch,
    no_journal,
    journal_is_a_folder,
    no_document,
    document_of_the_future,
    document_cut_off,
    document_is_a_list,
    document_without_lanes,
    no_requests,
    no_index,
    index_of_noise,
    no_manifest,
]


def another(bench: Workbench, rows: list[dict[str, str]] | int = 2, name: str = "other") -> None:
    config = (bench.root / "experiments/ask/config.yaml").read_text()
    bench.write({f"experiments/{name}/config.yaml": config.replace("name: ask", f"name: {name}")})
    if isinstance(rows, int):
        rows = [{"id": f"o{n}", "text": f"something else {n}"} for n in range(rows)]
    bench.rows(rows, name=name)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_broken_plan_stops_no_other_and_is_not_forgotten(bench: Workbench, damage: Callable[[Path], None]) -> None:
    """Its batch is out when it breaks."""
    broken = bench.run(detach=True)
    damage(broken.folder)
    another(bench)
    outcome = bench.run(name="other", detach=True)
    assert outcome.exit_code == 75
    with pytest.warns(BrokenPlanWarning, match=broken.plan_id):
        watched = [o for o in bench.watch() if o.state != "damaged"]
    assert [(o.plan_id, o.exit_code) for o in watched] == [(outcome.plan_id, 0)]
    assert bench.states(outcome) == {"ok": 2}
    if damage is not index_of_noise:  # that one shows only when its answers are read
        naming_is_an_error(bench, broken)
    sent = len(bench.server.sent())
    bench.rows(4)
    with pytest.raises(RefusedError) as refused:
        bench.run()
    assert refused.value.exit_code == 4 and "3 of these requests" in refused.value.message
    assert broken.plan_id in refused.value.message and f"batchling rm {broken.plan_id} --force" in str(refused.value)
    assert len(bench.server.sent()) == sent
    assert [path.name for path in bench.runs.iterdir() if path.name.startswith(".making")] == []
    verbs.remove(broken.plan_id, runs=bench.runs, force=True)
    assert not broken.folder.exists()
    assert bench.run().exit_code == 0


def test_a_person_may_send_them_all_the_same(bench: Workbench) -> None:
    broken = bench.run(detach=True)
    flipped(broken.folder)
    bench.rows(4)
    experiment, *given = bench.arguments()
    report = verbs.plan(experiment, given, project=bench.project)
    assert any(broken.plan_id in note for note in report.notes)
    asked: list[str] = []

    def agree(what: str) -> bool:
        asked.append(what)
        return True

    outcome = bench.run(again=agree)
    assert outcome.exit_code == 0 and bench.states(outcome) == {"ok": 4} and len(asked) == 1
    assert any(broken.plan_id in warning for warning in outcome.warnings)


def naming_is_an_error(bench: Workbench, broken: Outcome) -> None:
    for verb in (
        lambda: verbs.status(broken.plan_id, runs=bench.runs),
        lambda: verbs.watch(broken.plan_id, runs=bench.runs),
        lambda: verbs.cancel(broken.plan_id, runs=bench.runs),
        lambda: verbs.resolve(broken.plan_id, runs=bench.runs, decision="drop", shard=1, force=True),
        lambda: verbs.remove(broken.plan_id, runs=bench.runs),
    ):
        with pytest.raises(JournalError) as caught:
            verb()
        assert caught.value.exit_code == 2
        assert broken.plan_id in str(caught.value.where) and caught.value.next_command


COMMANDS: list[tuple[str, ...]] = [
    ("status",),
    ("status", "--all"),
    ("watch",),
    ("query", "select 1"),
    ("du",),
]
NAMING: list[tuple[str, ...]] = [("status",), ("watch",), ("results",), ("compare",), ("cancel",), ("du",), ("rm",)]


@pytest.mark.parametrize("damage", [folded_by_nobody, no_document])
def test_every_command_names_it_in_one_line(bench: Workbench, damage: Callable[[Path], None]) -> None:
    another(bench)
    other = bench.run(name="other")
    plan = bench.run(detach=True)
    damage(plan.folder)
    about = [("status", other.plan_id), ("results", other.plan_id), ("compare", other.plan_id), ("results",)]
    for command in [*COMMANDS, *about, ("run", "--yes", *bench.arguments(name="other"))]:
        done = bench.cli(*command)
        assert done.returncode == 0, (command, done.stderr)
        named = [line for line in done.stderr.splitlines() if plan.plan_id in line]
        assert len(named) == 1 and "batchling doctor" in named[0], (command, done.stderr)
    for command in NAMING:
        done = bench.cli(*command, plan.plan_id)
        assert done.returncode == 2, (command, done.stderr)
        assert "Traceback" not in done.stderr and "bug" not in done.stderr
    doctor = bench.cli("doctor", "--offline")
    assert doctor.returncode == 1 and plan.plan_id in doctor.stdout
    assert "1 request file" in doctor.stdout and "batch_0002" in doctor.stdout
    unattended = bench.cli("run", "--yes", *bench.arguments("data.limit=2"))
    assert unattended.returncode == 4 and f"batchling rm {plan.plan_id} --force" in unattended.stderr
    assert bench.cli("rm", plan.plan_id, "--force", "--yes").returncode == 0
    assert bench.cli("run", "--yes", *bench.arguments("data.limit=2")).returncode == 0


@pytest.mark.parametrize("damage", [flipped, folded_by_nobody, document_of_the_future])
def test_answers_of_a_finished_plan_are_used_or_asked_about(bench: Workbench, damage: Callable[[Path], None]) -> None:
    plan = bench.run()
    damage(plan.folder)
    shutil.rmtree(bench.runs / "catalog.duckdb", ignore_errors=True)
    for path in bench.runs.glob("catalog.duckdb*"):
        path.unlink()
    bench.rows(4)
    if damage is document_of_the_future:
        with pytest.raises(RefusedError, match="3 of these requests"):
            bench.run()
    else:
        outcome = bench.run()
        assert (outcome.exit_code, outcome.reused, outcome.bought) == (0, 3, 1)
        assert bench.states(outcome) == {"ok": 4}


def test_a_plan_that_waits_for_it_goes_on_when_it_is_given_up(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    another(bench, [{"id": f"r{n}", "text": f"number {n}"} for n in range(4)])
    waiting = bench.run(name="other", detach=True)
    flipped(plan.folder)
    (outcome,) = bench.watch(waiting.plan_id)
    assert outcome.exit_code == 75
    assert any(f"batchling rm {plan.plan_id} --force" in text for text in outcome.details)
    verbs.remove(plan.plan_id, runs=bench.runs, force=True)
    (outcome,) = bench.watch(waiting.plan_id)
    assert outcome.exit_code == 0 and bench.states(outcome) == {"ok": 4}


def test_what_was_certainly_not_sent_is_bought_without_a_question(bench: Workbench) -> None:
    """The journal is whole and has no intent: nothing left, whatever plan.json looks like."""
    bench.rows(4)
    plan = bench.run("limits.max_requests=2", "limits.concurrent_batches=1", detach=True)
    document_cut_off(plan.folder)
    with pytest.raises(RefusedError, match="2 of these requests"):
        bench.run()


def test_nothing_warns_where_nothing_is_broken(bench: Workbench) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", BrokenPlanWarning)
        assert bench.run().exit_code == 0


def cut_after(plan: Path, kind: str, *, torn: bool = False) -> None:
    """What a disk does that loses the end of a file."""
    path = plan / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if json.loads(line)["kind"] == kind)
    path.write_bytes(b"".join(lines[: last + 1]) + (lines[last + 1][:20] if torn else b""))


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("after", ["planned", "session", "upload_intent", "uploaded"])
def test_a_journal_without_its_end_looks_at_the_list_before_anything_is_sent(
    bench: Workbench, after: str, torn: bool
) -> None:
    plan = bench.run(detach=True)
    cut_after(plan.folder, after, torn=torn)
    (outcome,) = bench.watch()
    assert (outcome.exit_code, outcome.states, bench.server.creates) == (0, {"ok": 3}, 1)
    assert set(bench.server.keys.values()) == {1}


def test_a_listed_batch_of_such_a_plan_that_cannot_be_read_holds_back_what_is_not_sent(bench: Workbench) -> None:
    plan = bench.run(detach=True)
    cut_after(plan.folder, "planned")
    bench.server.on("GET", "/v1/batches/*", *[gateway(503)] * 5, bench.server.normal)
    (outcome,) = bench.watch()
    assert (outcome.exit_code, outcome.states, bench.server.creates) == (0, {"ok": 3}, 1)


def test_a_plan_that_was_never_sent_is_cancelled_without_asking_anybody(bench: Workbench) -> None:
    bench.server.on("POST", "/v1/files", refuse(401, "invalid_api_key", "Incorrect API key provided"))
    plan = bench.run()
    assert (plan.exit_code, bench.server.creates) == (5, 0)
    asked = len(bench.server.log)
    assert verbs.cancel(plan.plan_id, runs=bench.runs).state == "cancelled"
    assert len(bench.server.log) == asked
