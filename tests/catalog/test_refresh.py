from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchling import catalog, duck
from batchling.catalog import EventRow, Refreshed, ShardRow
from batchling.catalog.tables import TABLES
from batchling.duck import literal
from batchling.errors import CatalogError

from .conftest import LANE, PLAN, Plan, Run, answer, failed, key_of

CONTRACT = {
    "plans": "plan_id experiment state created_at finished_at runs requests cached estimated_usd estimated_usd_max "
    "actual_usd command git_commit git_dirty python packages",
    "runs": "run_id plan_id experiment overrides provider model endpoint config config_sha256 prompt_sha256 "
    "data_sha256 rows ok not_ok input_tokens output_tokens cost_usd",
    "requests": "request_key parent_key plan_id provider endpoint model input_tokens bytes shard",
    "run_requests": "run_id row_id repeat attempt request_key",
    "batches": "plan_id shard attempt provider batch_id input_file_id state reason requests bytes input_tokens "
    "submitted_at ended_at",
    "responses": "request_key attempt plan_id shard source status_code finish_reason error_code error_message "
    "input_tokens cached_tokens output_tokens reasoning_tokens cost_usd",
    "records": "run_id row_id repeat request_key state output data text error attempts cost_usd",
    "metrics": "run_id name value low high n coverage",
    "events": "plan_id seq ts kind shard detail",
}


def refresh(plan: Plan, **said: Any) -> Refreshed:
    return catalog.refresh(plan.root, plan.path, **{"state": "waiting", **said})


def ask(plan: Plan, sql: str) -> list[tuple[Any, ...]]:
    with catalog.query(plan.root, sql) as result:
        return list(result)


def parquet(plan: Plan, columns: str = "*") -> list[tuple[Any, ...]]:
    path = literal(str(plan.path / "records.parquet").replace("[", "[[]").replace("*", "[*]"))
    with duck.connect() as con:
        return con.execute(f"SELECT {columns} FROM read_parquet({path})").fetchall()


def parquet_types(plan: Plan) -> dict[str, str]:
    with duck.connect() as con:
        path = literal(str(plan.path / "records.parquet"))
        return {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM read_parquet({path})").fetchall()}


def test_tables_and_columns_are_the_contract(plan: Plan) -> None:
    refresh(plan)
    for table, columns in CONTRACT.items():
        found = [row[0] for row in ask(plan, f"DESCRIBE {table}")]
        assert found[: len(columns.split())] == columns.split(), table
    assert {"provider", "model", "overrides", *CONTRACT["records"].split()} <= {
        row[0] for row in ask(plan, "DESCRIBE results")
    }
    assert set(CONTRACT) == set(TABLES)


def test_ids_are_text_times_have_zones_and_money_is_decimal(plan: Plan) -> None:
    refresh(plan)
    for table in CONTRACT:
        for name, kind, *_ in ask(plan, f"DESCRIBE {table}"):
            if name.endswith(("_id", "_key")):
                assert kind == "VARCHAR", (table, name)
            if name.endswith("_at") or name == "ts":
                assert kind == "TIMESTAMP WITH TIME ZONE", (table, name)
            if name.endswith("_usd") or name.startswith("estimated_usd"):
                assert kind == "DECIMAL(18,9)", (table, name)


def test_before_anything_is_answered_every_row_is_pending(plan: Plan) -> None:
    refreshed = refresh(plan)
    assert refreshed.runs[0].states == {"pending": 3}
    assert ask(plan, "SELECT state, attempts, cost_usd, request_key FROM records ORDER BY row") == [
        ("pending", 0, None, key_of(i)) for i in range(3)
    ]
    assert len(parquet(plan)) == 3


def test_answers_become_records_in_the_order_of_the_rows(plan: Plan) -> None:
    plan.shard(1, 2, 0, 1).decoded(
        "0001.1", answer(2, output={"label": "b"}), failed(0, "expired"), answer(1, state="invalid", error="no label")
    )
    refreshed = refresh(plan)
    assert refreshed.runs[0].states == {"ok": 1, "expired": 1, "invalid": 1}
    assert ask(plan, "SELECT row_id, state, output->>'label', data->>'text', error FROM records") == [
        ("row-0", "expired", None, "one", "expired"),
        ("row-1", "invalid", "a", "two", "no label"),
        ("row-2", "ok", "b", "three", None),
    ]
    assert parquet(plan, "row_id, state, output.label, data.text, attempts, cost_usd") == [
        ("row-0", "expired", None, "one", 1, None),
        ("row-1", "invalid", "a", "two", 1, Decimal("0.000100000")),
        ("row-2", "ok", "b", "three", 1, Decimal("0.000100000")),
    ]


def test_records_are_typed_from_schema_and_source(plan: Plan) -> None:
    plan.decoded("0001.1", answer(0))
    refresh(plan)
    types = parquet_types(plan)
    assert types["output"].replace('"', "") == "STRUCT(label VARCHAR)"
    assert types["data"].replace('"', "") == "STRUCT(text VARCHAR, label VARCHAR)"
    assert list(types)[:11] == CONTRACT["records"].split()


def test_twice_is_once(plan: Plan) -> None:
    plan.shard(1, 0, 1, 2).decoded("0001.1", answer(0), answer(1), failed(2, "missing"))
    shards = [ShardRow(1, 1, 0, "closed", batch_id="b1", submitted_at=1_790_000_001.0, requests=3)]
    events = [EventRow.of({"seq": 1, "ts": 1_790_000_000.5, "kind": "created", "shard": 1, "batch_id": "b1"})]
    contents = []
    for _ in range(3):
        refresh(plan, shards=shards, events=events, actual_usd=0.2, force=True)
        contents.append({table: sorted(map(str, ask(plan, f"FROM {table}"))) for table in CONTRACT})
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]["responses"]) == 3
    assert len(contents[0]["batches"]) == len(contents[0]["events"]) == 1


def test_nothing_new_in_the_files_rewrites_only_what_the_journal_says(plan: Plan) -> None:
    plan.decoded("0001.1", answer(0))
    assert refresh(plan).rebuilt
    before = (plan.path / "records.parquet").stat().st_mtime_ns
    again = refresh(plan, state="finished", finished_at=1_790_000_100.0, shards=[ShardRow(1, 1, 0, "closed")])
    assert not again.rebuilt
    assert again.runs[0].states == {"ok": 1, "pending": 2}
    assert (plan.path / "records.parquet").stat().st_mtime_ns == before
    assert ask(plan, "SELECT state, epoch(finished_at) FROM plans") == [("finished", 1_790_000_100.0)]
    assert ask(plan, "SELECT state FROM batches") == [("closed",)]
    plan.decoded("0002.1", answer(1, shard=2))
    assert refresh(plan).runs[0].states == {"ok": 2, "pending": 1}


def test_an_answered_repair_replaces_the_invalid_answer(plan: Plan) -> None:
    plan.shard(1, 0, 1, 2).decoded("0001.1", *(answer(i, state="invalid", error="bad") for i in range(3)))
    plan.shard(2, "0r1", "1r1", parents={"0r1": 0, "1r1": 1}).decoded(
        "0002.1",
        answer("0r1", parent=0, shard=2, row_attempt=2, output={"label": "b"}),
        failed("1r1", "expired", parent=1, shard=2, row_attempt=2),
    )
    refresh(plan, shards=[ShardRow(1, 1, 0, "closed"), ShardRow(2, 1, 0, "closed", row_attempt=2)])
    assert ask(plan, "SELECT state, request_key, attempts, cost_usd FROM records ORDER BY row") == [
        ("ok", key_of("0r1"), 2, Decimal("0.000200000")),
        ("invalid", key_of(1), 2, Decimal("0.000100000")),
        ("invalid", key_of(2), 1, Decimal("0.000100000")),
    ]
    assert ask(plan, "SELECT row_id, attempt, request_key FROM run_requests ORDER BY ALL") == [
        ("row-0", 1, key_of(0)),
        ("row-0", 2, key_of("0r1")),
        ("row-1", 1, key_of(1)),
        ("row-1", 2, key_of("1r1")),
        ("row-2", 1, key_of(2)),
    ]


def test_a_repair_of_a_repair_belongs_to_the_first_request(plan: Plan) -> None:
    plan.decoded("0001.1", answer(0, state="invalid"))
    plan.decoded("0002.1", answer("r1", parent=0, shard=2, row_attempt=2, state="invalid"))
    plan.decoded("0003.1", answer("r2", parent="r1", shard=3, row_attempt=3))
    plan.shard(1, 0, 1, 2).shard(2, "r1", parents={"r1": 0}).shard(3, "r2", parents={"r2": "r1"})
    refresh(plan)
    assert ask(plan, "SELECT state, request_key, attempts FROM records WHERE row = 0") == [("ok", key_of("r2"), 3)]
    assert ask(plan, "SELECT attempt FROM run_requests WHERE row_id = 'row-0' ORDER BY 1") == [(1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        (failed(0, "expired"), answer(0, shard=2, row_attempt=2), "ok"),
        (answer(0), failed(0, "expired", shard=2, row_attempt=2), "ok"),
        (failed(0, "expired"), failed(0, "missing", shard=2, row_attempt=2), "missing"),
        (answer(0, outcome="truncated", state="truncated"), answer(0, shard=2, row_attempt=2), "ok"),
        (answer(0), answer(0, shard=2, outcome="refused", state="refused", row_attempt=2), "refused"),
    ],
)
def test_the_latest_answer_of_a_key_wins(plan: Plan, first: dict[str, Any], second: dict[str, Any], state: str) -> None:
    plan.decoded("0001.1", first).decoded("0002.1", second)
    refresh(plan, shards=[ShardRow(1, 1, 0, "closed"), ShardRow(2, 1, 0, "closed", row_attempt=2)])
    assert ask(plan, "SELECT state, attempts FROM records WHERE row = 0") == [(state, 2)]
    assert ask(plan, "SELECT count(*) FROM responses") == [(2,)]


def test_a_later_attempt_of_one_shard_wins(plan: Plan) -> None:
    plan.decoded("0001.2", answer(0, attempt=2, output={"label": "b"})).decoded("0001.1", answer(0))
    refresh(plan)
    assert ask(plan, "SELECT output->>'label' FROM records WHERE row = 0") == [("b",)]


def test_rows_that_share_a_request_share_its_answer_and_its_cost_is_counted_once(runs: Path) -> None:
    rows = [{"text": "same"}, {"text": "same"}, {"text": "other"}]
    plan = Plan(runs / PLAN, [Run(rows, names=["s", "s", "o"])]).write()
    plan.decoded("0001.1", answer("s"), answer("o"))
    refreshed = refresh(plan)
    assert refreshed.runs[0].states == {"ok": 3}
    assert refreshed.runs[0].cost_usd == Decimal("0.000200000")
    assert ask(plan, "SELECT input_tokens, output_tokens, ok, not_ok FROM runs") == [(20, 10, 3, 0)]


def test_every_repeat_has_its_record(runs: Path) -> None:
    plan = Plan(runs / PLAN, [Run([{"text": "x"}, {"text": "y"}], repeats=3)]).write()
    plan.decoded("0001.1", *(answer(i, output={"label": str(i)}) for i in range(6)))
    assert refresh(plan).runs[0].states == {"ok": 6}
    assert ask(plan, "SELECT row_id, repeat, output->>'label' FROM records") == [
        (f"row-{i // 3}", i % 3, str(i)) for i in range(6)
    ]


def test_what_was_bought_before_costs_this_plan_nothing(plan: Plan) -> None:
    plan.decoded("cache", answer(0, shard=0, source="cache", file="cache.jsonl")).decoded("0001.1", answer(1))
    plan.decoded("cache.3f9ac2", answer(2, shard=0, source="cache", file="cache.3f9ac2.jsonl"))
    assert refresh(plan).runs[0].states == {"ok": 3}
    assert ask(plan, "SELECT cost_usd, paid_usd FROM runs") == [(Decimal("0.000300000"), Decimal("0.000100000"))]
    assert ask(plan, "SELECT source, count(*) FROM responses GROUP BY 1 ORDER BY 1") == [("batch", 1), ("cache", 2)]


def test_runs_of_different_shapes_and_lanes_share_a_plan(runs: Path) -> None:
    other = {**LANE, "lane": 1, "provider": "groq", "base_url": "https://groq", "model": "llama"}
    plan = Plan(
        runs / PLAN,
        [
            Run([{"text": "x"}], run_id="r-a", overrides=["model=gpt-5-mini"]),
            Run([{"n": 1}, {"n": 2}], run_id="r-b", names=["b0", "b1"], lane=1, output_type='STRUCT("n" BIGINT)'),
        ],
        lanes=[LANE, other],
    ).write()
    plan.shard(1, 0).shard(2, "b0", "b1", "b1r", parents={"b1r": "b1"})
    plan.decoded("0001.1", answer(0)).decoded(
        "0002.1",
        answer("b0", shard=2, output={"n": 5}),
        answer("b1", shard=2, state="invalid"),
        answer("b1r", parent="b1", shard=2, output={"n": 6}),
    )
    refresh(plan)
    assert ask(plan, "SELECT run_id, output->>'n', data->>'n', provider, overrides FROM results") == [
        ("r-a", None, None, "openai", "model=gpt-5-mini"),
        ("r-b", "5", "1", "groq", ""),
        ("r-b", "6", "2", "groq", ""),
    ]
    assert ask(plan, "SELECT DISTINCT shard, provider, base_url, model FROM responses ORDER BY 1") == [
        (1, "openai", LANE["base_url"], "gpt-5-mini"),
        (2, "groq", "https://groq", "llama"),
    ]
    assert ask(plan, "SELECT DISTINCT shard, provider FROM requests ORDER BY 1") == [(1, "openai"), (2, "groq")]
    assert parquet_types(plan)["output"] == parquet_types(plan)["data"] == "JSON"
    assert parquet(plan, "output->>'n'") == [(None,), ("5",), ("6",)]


def test_a_value_that_does_not_fit_its_type_is_null_there_and_whole_in_the_catalog(runs: Path) -> None:
    plan = Plan(runs / PLAN, [Run([{"t": 1}, {"t": 2}], output_type='STRUCT("n" BIGINT, "s" VARCHAR)')]).write()
    plan.decoded("0001.1", answer(0, output={"n": 99999999999999999999, "s": "x"}), answer(1, output=[1, 2]))
    refreshed = refresh(plan)
    assert parquet(plan, "output.n, output.s") == [(None, "x"), (None, None)]
    assert ask(plan, "SELECT output->>'n', output FROM records") == [
        ("99999999999999999999", '{"n":99999999999999999999,"s":"x"}'),
        (None, "[1,2]"),
    ]
    assert refreshed.warnings == ()


@pytest.mark.parametrize(
    "kind",
    [
        "STRUCT(a NOSUCHTYPE)",
        "STRUCT(a DECIMAL(99,2))",
        "STRUCT(a BIGINT, A BIGINT)",
        "STRUCT(a VARCHAR, a VARCHAR)",
        "VARCHAR) AS output, (SELECT content FROM read_text('secret')",
        "VARCHAR); DROP TABLE record; --",
    ],
)
def test_a_type_that_duckdb_does_not_know_leaves_json_and_a_warning(runs: Path, kind: str) -> None:
    (runs.parent / "secret").write_text("s3cret")
    metrics = {"n": "count(*)", "same": "output IS NOT NULL"}
    plan = Plan(runs / PLAN, [Run([{"t": 1}], output_type=kind, metrics=metrics)]).write()
    plan.decoded("0001.1", answer(0))
    refreshed = refresh(plan)
    assert parquet_types(plan)["output"] == "JSON"
    assert parquet(plan, "output") == [('{"label":"a"}',)]
    assert "cannot be typed" in refreshed.warnings[0]
    assert [(name, value) for name, value in ask(plan, "SELECT name, value FROM metrics ORDER BY name")] == [
        ("n", 1.0),
        ("same", 1.0),
    ]


def test_plain_text_has_no_output_and_embeddings_are_vectors(runs: Path) -> None:
    text = Plan(runs / PLAN, [Run([{"t": 1}], output_type=None)]).write()
    text.decoded("0001.1", answer(0, output=None, text="Hello"))
    refresh(text)
    assert parquet(text, "output, text") == [(None, "Hello")]
    vector = Plan(runs / PLAN.replace("3f9ac1", "3f9ac2"), [Run([{"t": 1}], output_type="FLOAT[]")]).write()
    vector.decoded("0001.1", answer(0, output=[0.5, 1, -2.25], text=None))
    refresh(vector)
    assert parquet(vector, "output") == [([0.5, 1.0, -2.25],)]


def test_hostile_text_survives(plan: Plan) -> None:
    million = "é\u2028" * 500_000
    plan.decoded(
        "0001.1",
        answer(0, text="nul \x00 here", output={"label": "\x00"}),
        answer(1, text="'; DROP TABLE records; --", output={"label": '"quoted" \\ \n'}),
        answer(2, text=million),
    )
    assert refresh(plan).runs[0].states == {"ok": 3}
    assert [row[0] for row in ask(plan, "SELECT text FROM records ORDER BY row")] == [
        "nul \x00 here",
        "'; DROP TABLE records; --",
        million,
    ]
    assert parquet(plan, "output.label")[1] == ('"quoted" \\ \n',)


def test_what_duckdb_cannot_read_is_mended_and_told(plan: Plan) -> None:
    lone = json.dumps(answer(0, text="half \ud83d of it")).encode() + b"\n"
    huge = answer(1, text="x" * (17 << 20))
    plan.decoded("0001.1", lone, huge, b'{"key": "torn')
    refreshed = refresh(plan)
    assert refreshed.runs[0].states == {"ok": 2, "pending": 1}
    assert ask(plan, "SELECT text FROM records WHERE row = 0") == [("half \ufffd of it",)]
    assert ask(plan, "SELECT length(text) FROM records WHERE row = 1") == [(17 << 20,)]
    assert refreshed.warnings == ("0001.1.decoded.jsonl line 3 is not a JSON object and was left out",)


def test_pattern_characters_in_paths_are_only_characters(tmp_path: Path) -> None:
    odd = tmp_path / "it's [a] *run*"
    plan = Plan(odd / PLAN, [Run([{"t": 1}], metrics={"ok": "state = 'ok'"})]).write()
    plan.shard(1, 0).decoded("0001.1", answer(0))
    refreshed = refresh(plan)
    assert refreshed.runs[0].states == {"ok": 1}
    assert refreshed.metrics[0].value == 1.0


def test_records_that_do_not_add_up_to_the_rows_are_refused(plan: Plan) -> None:
    manifest = plan.path / "manifest" / "r-000000000001.csv"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CatalogError, match=r"3 rows x 1 repeats, but its files give 2 records"):
        refresh(plan)
    with pytest.raises(CatalogError, match="no manifest"):
        manifest.unlink()
        refresh(plan)


def test_a_failed_refresh_leaves_the_catalog_as_it_was(plan: Plan) -> None:
    plan.decoded("0001.1", answer(0))
    refresh(plan)
    (plan.path / "manifest" / "r-000000000001.csv").write_text("row,repeat,key\n")
    with pytest.raises(CatalogError):
        refresh(plan)
    assert ask(plan, "SELECT count(*) FILTER (state = 'ok'), count(*) FROM records") == [(1, 3)]


def test_other_plans_are_left_alone(plan: Plan) -> None:
    other = Plan(plan.root / PLAN.replace("3f9ac1", "3f9ac9"), [Run([{"t": 1}])]).write()
    refresh(plan)
    refresh(other)
    refresh(plan, force=True)
    assert ask(plan, "SELECT plan_id, count(*) FROM records GROUP BY 1 ORDER BY 1") == [
        (plan.path.name, 3),
        (other.path.name, 1),
    ]
    assert ask(plan, "SELECT count(*) FROM results") == [(4,)]
    catalog.forget(plan.root, other.path.name)
    assert ask(plan, "SELECT DISTINCT plan_id FROM records UNION SELECT plan_id FROM plans") == [(plan.path.name,)]


def test_a_replaced_shard_was_never_asked(plan: Plan) -> None:
    plan.shard(1, 0, 1, 2).shard(2, 0, 1).shard(3, 2)
    shards = [ShardRow(1, 1, 0, "dropped", replaced=True), ShardRow(2, 1, 0, "created"), ShardRow(3, 1, 0, "planned")]
    refresh(plan, shards=shards)
    assert ask(plan, "SELECT shard, count(*) FROM requests GROUP BY 1 ORDER BY 1") == [(2, 2), (3, 1)]
    assert ask(plan, "SELECT count(*) FROM run_requests") == [(3,)]


def test_what_a_killed_rebuild_left_behind_is_removed(plan: Plan) -> None:
    left = plan.path / ".staging-999999999-abc"
    left.mkdir()
    (left / "spill").write_bytes(b"x")
    refresh(plan)
    assert not left.exists()
    assert not list(plan.path.glob(".staging-*"))
    assert not list(plan.path.glob("*.part"))


def test_many_slices_are_one_table(runs: Path) -> None:
    rows = [{"n": i, "pad": "x" * 40} for i in range(1500)]
    two = [Run(rows, run_id="r-a"), Run(rows, run_id="r-b", repeats=2, names=[f"b{i}" for i in range(3000)])]
    plan = Plan(runs / PLAN, two).write()
    plan.decoded("0001.1", *(answer(i, text="y" * 60_000) for i in range(1500)))
    assert [r.states for r in refresh(plan).runs] == [{"ok": 1500}, {"pending": 3000}]
    found = parquet(plan, "run_id, row, repeat, data.n, state")
    assert found == [("r-a", i, 0, i, "ok") for i in range(1500)] + [
        ("r-b", i, r, i, "pending") for i in range(1500) for r in range(2)
    ]


def test_answers_kept_without_rows_still_make_their_rows(plan: Plan) -> None:
    plan.shard(1, 0, 1, 2).decoded("0001.1", answer(0), answer(1))
    refresh(plan)
    catalog.forget(plan.root, plan.path.name, keep_answers=True)
    assert ask(plan, "SELECT count(*) FROM records") == [(0,)]
    assert ask(plan, "SELECT state FROM plans") == [("removed",)]
    assert ask(plan, "SELECT count(*) FROM responses") == [(2,)]
    for path in catalog.removable(plan.path, keep_answers=True):
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()
    (plan.root / "catalog.duckdb").unlink()
    assert refresh(plan).runs == ()
    assert ask(plan, "SELECT state FROM plans") == [("removed",)]
    assert ask(plan, "SELECT count(*) FROM responses") == [(2,)]
    assert ask(plan, "SELECT DISTINCT model FROM responses") == [(LANE["model"],)]
