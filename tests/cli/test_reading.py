"""`status`, `results`, `query`, `du`, `rm`, `doctor`, `cancel`: what is there, and giving it back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from batchling.local.server import LocalServer
from tests.cli.conftest import Cli, plan_ids

HOSTILE = "\x1b]0;owned\x07\x9b31mred\u202e"


@pytest.fixture
def ran(cli: Cli, project: Path) -> str:
    """The id of a finished plan."""
    answer = cli("run", "names")
    assert answer.code == 0, answer.err
    return plan_ids(project)[0]


def test_status_lists_plans_and_shows_one(cli: Cli, ran: str) -> None:
    (header, line) = cli("status").out.splitlines()
    assert header.split()[:2] == ["plan", "state"]
    assert line.split()[:4] == [ran + "*", "finished", "-", "3/3"]
    one = cli("status", "names")
    assert one.code == 0 and "3 ok" in one.out and "[simulated: no model was asked]" in one.out
    assert cli("status", "--json").json["plans"][0]["states"] == {"ok": 3}
    assert cli("status", ran, "--json").json["batches"][0]["phase"] == "closed"


def test_status_of_an_unfinished_plan_exits_0_and_says_what_goes_on(cli: Cli, project: Path) -> None:
    cli("run", "names", "--detach")
    answer = cli("status", "names")
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == f"next: batchling watch {plan_ids(project)[0]}"
    assert "waiting" in cli("status").out


def test_status_without_plans_says_so(cli: Cli) -> None:
    answer = cli("status")
    assert answer.code == 0 and answer.out == "" and "there is no plan" in answer.err
    assert cli("status", "--json").json["plans"] == []


def test_a_plan_that_cannot_be_read_does_not_hide_the_others(cli: Cli, project: Path, ran: str) -> None:
    broken = project / "runs" / "20200101-000000-names-aaaaaa"
    broken.mkdir()
    (broken / "plan.json").write_text("{")
    out = cli("status").out
    assert "damaged" in out and ran in out
    assert cli("doctor", "--offline").code == 1


def test_results_as_jsonl_csv_and_parquet(cli: Cli, project: Path, ran: str) -> None:
    answer = cli("results", "names")
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["row_id"] for row in rows] == ["0", "1", "2"]
    assert {row["state"] for row in rows} == {"ok"} and rows[0]["output"]["label"] in ("a", "b")
    assert "simulated" in answer.err
    table = list(csv.DictReader(io.StringIO(cli("results", ran, "--format", "csv").out)))
    assert [line["output.label"] for line in table] == [row["output"]["label"] for row in rows]
    assert cli("results", ran, "-o", "out.parquet").code == 0
    assert (project / "out.parquet").read_bytes()[:4] == b"PAR1"
    assert cli("results", ran, "-o", "out.txt").code == 2
    assert cli("results", ran, "-o", "out.txt", "--format", "csv").code == 0
    answer = cli("results", ran, "-o", "other.csv", "--format", "parquet")
    assert answer.code == 2 and "other.csv ends in csv, and --format says parquet" in answer.err
    assert not (project / "other.csv").exists()


def test_results_as_one_document_and_of_one_run(cli: Cli, ran: str) -> None:
    run_id = f"{ran[-6:]}-01"
    document = cli("results", run_id, "--json").json
    assert document["run_id"] == run_id and document["simulated"] is True
    assert len(document["records"]) == 3 and isinstance(document["records"][0]["cost_usd"], str)


def test_results_of_a_plan_that_is_out_are_the_rows_there_are(cli: Cli) -> None:
    cli("run", "names", "--detach")
    answer = cli("results", "names")
    assert answer.code == 0, answer.err
    assert [json.loads(line)["state"] for line in answer.out.splitlines()] == ["pending"] * 3


def test_query_shows_a_table_csv_or_json(cli: Cli, ran: str) -> None:
    sql = "select state, count(*) from records group by 1"
    assert [line.split() for line in cli("query", sql).out.splitlines()] == [["state", "count_star()"], ["ok", "3"]]
    assert cli("query", sql, "--json").json == [{"state": "ok", "count_star()": 3}]
    assert cli("query", sql, "--format", "csv").out == "state,count_star()\nok,3\n"
    assert cli("query", sql, "--format", "jsonl").out == '{"state": "ok", "count_star()": 3}\n'
    assert cli("query", "select 1 where false", "--json").json == []


def test_query_names_a_wrong_statement_and_changes_nothing(cli: Cli, ran: str) -> None:
    assert cli("query", "selec 1").code == 2
    answer = cli("query", "delete from records")
    assert answer.code == 2 and "read-only" in answer.err


def test_text_from_strangers_cannot_take_over_the_terminal(cli: Cli, project: Path) -> None:
    config = (project / "experiments" / "names" / "config.yaml").read_text()
    row = json.dumps([{"name": HOSTILE}])
    (project / "experiments" / "bad.yaml").write_text(
        config.replace("[{name: Ada}, {name: Bob}, {name: Cleo}]", row)
        .replace("name: names", "name: bad")
        .replace("schema:\n  fields: {label: {enum: [a, b]}}\nmetrics:\n  share_a: output.label = 'a'\n", "")
    )
    ran = cli("run", "bad", "provider.engine.kind=echo")
    assert ran.code == 0, ran.err
    shown = ran.out + cli("query", "select * from results").out + cli("plan", "bad", "--show", "1", "--fresh").out
    assert "owned" in shown
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)


def test_du_counts_every_byte_and_rm_gives_them_back(cli: Cli, project: Path, ran: str) -> None:
    space = cli("du", "--json").json
    on_disk = sum(path.stat().st_size for path in (project / "runs" / ran).rglob("*") if path.is_file())
    assert space["plans"][0]["total"] == on_disk
    assert ran in cli("du").out
    gone = cli("rm", ran, "--json")
    assert gone.code == 0 and gone.json["plan_id"] == ran
    assert plan_ids(project) == []
    assert cli("query", "select count(*) as n from records", "--json").json == [{"n": 0}]


def test_rm_keeps_answers_for_the_next_run_only_when_asked_to(cli: Cli, ran: str) -> None:
    assert cli("rm", ran, "--keep-answers").code == 0
    again = cli("run", "names", "repeats=2", "--json")
    assert again.code == 0, again.err
    assert again.json["reused"] == 3 and again.json["bought"] == 3


def test_a_plan_whose_rows_were_removed_is_in_nobodys_way(cli: Cli, project: Path, ran: str) -> None:
    assert cli("run", "names", "repeats=2").code == 0
    newest = next(plan for plan in plan_ids(project) if plan != ran)
    assert cli("rm", newest, "--keep-answers").code == 0
    answer = cli("results", newest, "--json")
    assert answer.code == 2 and answer.json["error"]["next_command"] == "batchling status"
    assert cli("results", "names").code == 0, "the experiment's name means the newest plan that has its rows"
    answer = cli("doctor", "--rebuild")
    assert answer.code == 0, answer.err
    assert cli("run", "names", "repeats=2", "--json").json["bought"] == 0


def test_rm_refuses_what_is_not_finished(cli: Cli, project: Path) -> None:
    cli("run", "names", "--detach")
    answer = cli("rm", plan_ids(project)[0])
    assert answer.code == 2 and "not finished" in answer.err and "batchling cancel" in answer.err


def test_cancel_waits_for_the_end_and_keeps_what_was_answered(
    cli: Cli, project: Path, slow_server: LocalServer
) -> None:
    cli("run", "names", f"provider.base_url={slow_server.base_url}", "--detach")
    answer = cli("cancel", plan_ids(project)[0])
    assert answer.code == 0, answer.err
    assert "cancelled" in answer.out
    assert cli("status", "names", "--json").json["state"] == "cancelled"


def test_resolve_wants_exactly_one_decision(cli: Cli, ran: str) -> None:
    assert cli("resolve", ran).code == 2
    assert cli("resolve", ran, "--drop", "--resubmit").code == 2
    answer = cli("resolve", ran, "--drop")
    assert answer.code == 2 and "nothing needs a decision" in answer.err


def test_doctor_looks_at_everything_and_asks_nobody_offline(cli: Cli, ran: str) -> None:
    answer = cli("doctor", "--offline", "--json")
    assert answer.code == 0, answer.out
    names = {check["name"] for check in answer.json["checks"]}
    assert {"versions", "disk", "catalog", "plans", "tokenizer", "embedded server", "provider openai"} <= names
    (openai,) = [c for c in answer.json["checks"] if c["name"] == "provider openai"]
    assert "OPENAI_API_KEY" in openai["detail"]


def test_doctor_says_whether_a_provider_with_a_key_answers(
    cli: Cli, project: Path, slow_server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "conf" / "provider").mkdir(parents=True)
    (project / "conf" / "provider" / "near.yaml").write_text(
        f"name: near\nbase_url: {slow_server.base_url}\napi_key_env: NEAR_KEY\n"
    )
    (project / "conf" / "provider" / "gone.yaml").write_text(
        "name: gone\nbase_url: http://127.0.0.1:1/v1\napi_key_env: NEAR_KEY\n"
    )
    monkeypatch.setenv("NEAR_KEY", "none")
    checks = {c["name"]: c for c in cli("doctor", "--json").json["checks"]}
    assert checks["provider near"]["state"] == "warn" and "not asked" in checks["provider near"]["detail"]
    checks = {c["name"]: c for c in cli("doctor", "--trust-host", "127.0.0.1", "--json").json["checks"]}
    assert "answers in" in checks["provider near"]["detail"]
    assert checks["provider gone"]["state"] == "warn"


def test_doctor_rebuilds_the_catalog_from_the_raw_files(cli: Cli, project: Path, ran: str) -> None:
    before = cli("results", ran).out
    (project / "runs" / "catalog.duckdb").write_bytes(b"damaged")
    for derived in (project / "runs" / ran).rglob("*.decoded.jsonl"):
        derived.unlink()
    (project / "runs" / ran / "records.parquet").unlink()
    answer = cli("doctor", "--rebuild")
    assert answer.code == 0, answer.err
    assert answer.out == f"{ran}: 3 ok\n"
    assert cli("results", ran).out == before
    assert cli("doctor", "--rebuild", "names", "--json").json["rebuilt"][0]["plan_id"] == ran


def test_doctor_reads_the_journal_of_a_finished_plan_and_names_the_damaged_line(project: Path, cli: Cli) -> None:
    assert cli("run", "names", "--yes").code == 0
    journal = next((project / "runs").glob("*/journal.jsonl"))
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"seq", b"sEq", 1)
    journal.write_bytes(b"".join(lines))
    answer = cli("doctor", "--offline", "--json")
    assert answer.code == 1
    plan = next(check for check in answer.json["checks"] if check["name"] == "plan")
    assert plan["state"] == "fail"
    assert "journal.jsonl:2" in plan["detail"]
    assert plan["next_command"].startswith("restore its files from a backup, or give it up")
