"""`plan`, `run`, `watch`: what they print, and the exit codes that scripts rely on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from batchling.api.outcome import Outcome
from batchling.cli.commands.run import ORDER
from tests.cli.conftest import Cli, environment, plan_ids

PRICED = ("model=gpt-4o-mini", "model.max_output_tokens=100")


def test_a_run_ends_with_a_table_of_its_runs_its_first_answers_and_exit_code_0(cli: Cli, project: Path) -> None:
    answer = cli("run", "names")
    assert answer.code == 0, answer.err
    header, row = [line for line in answer.out.splitlines() if "simulated" in line or line.startswith("run ")][-2:]
    assert header.split() == ["run", "model", "rows", "ok", "not", "ok", "share_a", "tokens", "in", "out", "USD"]
    assert row.split()[1:5] == ["simulated", "3", "3", "-"]
    assert "[simulated: no model was asked]" in answer.out
    assert "row  state  label" in answer.out
    assert f"folder: runs/{plan_ids(project)[0]}" in answer.out


def test_the_same_command_again_sends_nothing_and_makes_no_plan(cli: Cli, project: Path) -> None:
    first = cli("run", "names")
    again = cli("run", "names")
    assert again.code == 0
    assert "nothing sent" in again.out and "nothing sent" not in first.out
    assert len(plan_ids(project)) == 1
    assert [line for line in again.out.splitlines() if "simulated" in line][1:] == [
        line for line in first.out.splitlines() if "simulated" in line
    ][1:]


def test_json_is_one_document_and_money_is_text(cli: Cli) -> None:
    answer = cli("run", "names", "--json")
    assert answer.json["exit_code"] == 0
    assert answer.json["states"] == {"ok": 3}
    assert answer.json["sent_batches"] == 1
    assert isinstance(answer.json["actual_usd"], str)
    assert cli("--json", "run", "names").json["sent_batches"] == 0


def test_progress_is_plain_lines_when_stderr_is_no_terminal(cli: Cli) -> None:
    answer = cli("run", "names")
    assert "rows 3/3" in answer.err
    assert "\x1b" not in answer.err + answer.out and "\r" not in answer.err


def test_plan_sends_nothing_and_leaves_nothing_in_the_project(cli: Cli, project: Path) -> None:
    before = sorted(project.rglob("*"))
    answer = cli("plan", "names", "--show", "1")
    assert answer.code == 0, answer.err
    assert "3 requests to send, 1 batch" in answer.out
    assert '"content": "Label Ada"' in answer.out and "Label Bob" not in answer.out
    assert sorted(project.rglob("*")) == before


def test_plan_json_holds_the_requests_as_rendered(cli: Cli) -> None:
    document = cli("plan", "names", "--show", "2", "--json").json
    assert [shown["row_id"] for shown in document["shown"]] == ["0", "1"]
    assert document["requests"] == 3 and document["shards"] == 1
    assert document["shown"][0]["body"]["messages"] == [{"role": "user", "content": "Label Ada"}]


def test_rows_that_are_not_ok_give_exit_code_3(cli: Cli) -> None:
    answer = cli("run", "names", "provider.engine.kind=echo", "retry.repair=false")
    assert answer.code == 3, answer.err
    assert "3 invalid" in answer.out


def test_options_may_stand_before_and_after_overrides_and_deletions_and_negative_numbers_pass(cli: Cli) -> None:
    answer = cli("plan", "--show", "1", "names", "+model.params.presence_penalty=-1", "--json", "~metrics.share_a")
    assert answer.code == 0, answer.err
    assert answer.json["shown"][0]["body"]["presence_penalty"] == -1


def test_multirun_sweeps(cli: Cli) -> None:
    answer = cli("run", "names", "repeats=1,2", "-m", "--json")
    assert answer.code == 0, answer.err
    assert [run["overrides"] for run in answer.json["runs"]] == ["repeats=1", "repeats=2"]
    assert sum(answer.json["states"].values()) == 9


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("run", "nmes"), "did you mean names?"),
        (("run", "names", "modle.id=x"), "modle"),
        (("run", "names", "--detatch"), "--detach"),
        (("plan", "names", "--retry", "ok"), "'ok' is not a state that can be retried"),
        (("nothing",), "no command 'nothing'"),
        (("run",), "EXPERIMENT"),
    ],
)
def test_what_cannot_be_understood_is_exit_code_2_with_a_hint(cli: Cli, args: tuple[str, ...], said: str) -> None:
    answer = cli(*args)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert said in answer.err
    assert answer.out == ""


def test_a_columns_name_with_a_blank_in_braces_is_a_placeholder(cli: Cli, project: Path) -> None:
    (project / "experiments/names/rows.csv").write_text("my name\nAda\n")
    rows = ("data.rows=null", "data.path=rows.csv")
    answer = cli("plan", "names", "--show", "1", "~metrics.share_a", *rows, "prompt.messages.0.content='{my name}'")
    assert answer.code == 0
    assert "Ada" in answer.out and "{my name}" not in answer.out


@pytest.mark.parametrize(
    ("args", "said", "where"),
    [
        ((), "metrics.share_a: output.lable = 'a'", "where: experiments/names/config.yaml:12"),
        (
            ("~metrics.share_a", "data.id=nme"),
            "no column 'nme'; did you mean 'name'?",
            "data.rows (override: data.id=nme)",
        ),
        (
            ("~metrics.share_a", "prompt.messages.0.content='{nme}'"),
            "there is no column `nme`",
            "message 1 (user), line 1 (override: prompt.messages.0.content=",
        ),
        (
            ("~metrics.share_a", "data.rows=null", "data.path=a/rows.csv"),
            "there is no folder",
            "a/rows.csv (override: data.path=a/rows.csv)",
        ),
    ],
)
def test_what_only_the_rows_show_to_be_wrong_names_the_line_or_override_that_set_it(
    cli: Cli, project: Path, args: tuple[str, ...], said: str, where: str
) -> None:
    config = project / "experiments/names/config.yaml"
    config.write_text(config.read_text().replace("output.label =", "output.lable ="))
    answer = cli("plan", "names", *args)
    assert answer.code == 2
    assert said in answer.err and where in answer.err


def test_with_v_the_traceback_stands_before_the_line_that_goes_on(cli: Cli) -> None:
    lines = cli("run", "nothing-like-it", "-v").err.splitlines()
    assert lines[0].startswith("Traceback") and lines[-1].startswith("  next: batchling init")


def test_an_error_with_json_is_a_document_too(cli: Cli) -> None:
    answer = cli("run", "names", "modle.id=x", "--json")
    assert answer.code == 2
    assert answer.json["exit_code"] == 2 and "modle" in answer.json["error"]["message"]


def test_a_plan_above_its_budget_is_refused_with_4(cli: Cli, project: Path) -> None:
    answer = cli("plan", "names", *PRICED, "tokens=auto", "budget.usd=0.0000001")
    assert answer.code == 4, answer.err
    assert "budget" in answer.err


def test_run_refuses_to_spend_without_a_person_to_ask(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch, slow_server: object
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    url = f"provider.base_url={slow_server.base_url}"  # type: ignore[attr-defined]
    known = (url, "--trust-host", "127.0.0.1")
    answer = cli("run", "names", *PRICED, "tokens=auto", "budget.confirm_usd=0", *known)
    assert answer.code == 4, answer.err
    assert "--yes" in answer.err
    assert plan_ids(project) == []
    sent = cli("run", "names", *PRICED, "tokens=auto", "budget.confirm_usd=0", *known, "--yes", "--detach")
    assert sent.code == 75, sent.err


def test_without_a_key_the_provider_error_names_the_variable(cli: Cli) -> None:
    answer = cli("run", "names", "model=gpt-4o-mini", "--yes")
    assert answer.code == 5, answer.err
    assert "OPENAI_API_KEY" in answer.err and "provider=local" in answer.err


def test_detached_is_75_and_the_last_line_goes_on(cli: Cli, project: Path) -> None:
    answer = cli("run", "names", "--detach")
    assert answer.code == 75
    (plan,) = plan_ids(project)
    assert answer.err.splitlines()[-1] == f"next: batchling watch {plan}"
    assert cli("status", plan).code == 0
    watched = cli("watch")
    assert watched.code == 0, watched.err
    assert "3 requests sent" in watched.out
    assert cli("watch").err.strip() == "every plan is finished"


def test_watch_as_json_holds_every_plan(cli: Cli) -> None:
    cli("run", "names", "--detach")
    cli("run", "names", "--detach", "repeats=2")
    answer = cli("watch", "--json")
    assert answer.code == 0, answer.err
    assert [o["state"] for o in answer.json["outcomes"]] == ["finished", "finished"]


def test_of_several_exit_codes_the_gravest_for_a_script_holds() -> None:
    assert ORDER == (1, 2, 75, 5, 4, 3, 0)
    assert set(ORDER) >= {0, 1, 2, 3, 4, 5, 75}
    assert "exit_code" in Outcome.__dataclass_fields__


def test_an_unexpected_error_is_short_without_v_and_in_the_plans_log(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("run", "names", "--detach")
    (plan,) = plan_ids(project)
    loads = orjson.loads

    def broken(data: Any) -> Any:
        if b'"custom_id"' in bytes(data if not isinstance(data, str) else data.encode()):
            raise RuntimeError("the library broke")
        return loads(data)

    monkeypatch.setattr("orjson.loads", broken)
    answer = cli("watch", plan)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert "Traceback" in cli("-v", "watch", plan).err
    assert "Traceback" in (project / "runs" / plan / "log.txt").read_text()


def test_v_shows_every_event(cli: Cli) -> None:
    answer = cli("run", "names", "-v")
    kinds = [line.split()[1] for line in answer.err.splitlines() if "shard=1" in line]
    assert kinds == ["upload_intent", "uploaded", "create_intent", "created", "ended", "collected", "closed"]


def test_what_a_stream_cannot_say_is_escaped(cli: Cli, started: Any) -> None:
    cli("run", "names", "--detach")
    process = started("query", "select '⇒ size' as x", env=environment(PYTHONIOENCODING="latin-1"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "x\n\\u21d2 size\n"), err


def test_plans_elsewhere_are_found_by_the_commands_that_are_printed(cli: Cli, project: Path) -> None:
    answer = cli("run", "names", "--detach", "paths.runs=other/place")
    (line,) = [line for line in answer.err.splitlines() if line.startswith("next: ")]
    where = (project / "other" / "place").resolve()
    assert line.startswith(f"next: BATCHLING_RUNS={where} batchling watch ")
    assert f"BATCHLING_RUNS={where} batchling query" in cli("run", "names", "paths.runs=other/place").out


def test_a_model_with_a_type_that_nobody_defined_is_an_error_of_the_schema(cli: Cli, project: Path) -> None:
    (project / "experiments/names/broken.py").write_text(
        "from pydantic import BaseModel\nclass M(BaseModel):\n    y: 'intt'\n"
    )
    answer = cli("plan", "names", "schema.fields=null", "schema.pydantic='broken.py:M'")
    assert answer.code == 2 and "intt" in answer.err and "M has no JSON Schema" in answer.err
