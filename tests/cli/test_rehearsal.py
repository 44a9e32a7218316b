"""A rehearsal without a key: answers that differ, answers that fail, prices that are pretend."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchling.local.engines import make_engine
from batchling.spec import EngineConfig
from tests.cli.conftest import Cli

CHAT = "/v1/chat/completions"
PRICES = "provider.engine.pretend={input: 100, output: 400}"
STATES = ("invalid", "truncated", "refused", "filtered", "error")


@pytest.fixture
def many(project: Path) -> Path:
    """`many`: 200 rows, a schema, a metric, a limit of output tokens."""
    folder = project / "experiments" / "many"
    folder.mkdir()
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *((n, f"text {n}") for n in range(200))])
    (folder / "config.yaml").write_text(
        "defaults: [/base, _self_]\nname: many\ndata: {path: rows.csv, id: id}\n"
        'prompt: {messages: [{role: user, content: "Label {text}"}]}\nmodel: {max_output_tokens: 100}\n'
        "schema: {fields: {label: {enum: [a, b, c]}, score: {type: integer, minimum: 0, maximum: 99}}}\n"
        "metrics: {is_a: output.label = 'a', cost_per_1k: 1000 * cost_usd}\ntokens: 'off'\n"
    )
    return folder


def answers(cli: Cli, *overrides: str) -> dict[tuple[str, int], tuple[str, Any]]:
    """(row, repeat) → state and answer, of a run that was asked anew."""
    document = cli("run", "many", "--fresh", "--json", *overrides).json
    rows = cli("results", document["plan_id"], "--format", "jsonl").out.splitlines()
    found = map(json.loads, rows)
    return {(row["row_id"], row["repeat"]): (row["state"], row["output"]) for row in found}


def test_repeats_of_a_row_get_answers_of_their_own_that_are_the_same_each_time(cli: Cli, many: Path) -> None:
    first = answers(cli, "repeats=3", "data.limit=40")
    assert first == answers(cli, "repeats=3", "data.limit=40"), "nothing but the request and the seed counts"
    rows = {row for row, _ in first}
    differing = sum(first[row, 0] != first[row, 1] or first[row, 1] != first[row, 2] for row in rows)
    assert differing > 35, "300 possible answers: three alike are rare"
    seeded = answers(cli, "repeats=3", "data.limit=40", "provider.engine.seed=1")
    assert sum(first[key] != seeded[key] for key in first) > 100
    assert seeded == answers(cli, "repeats=3", "data.limit=40", "provider.engine.seed=1")


def test_rows_that_are_asked_apart_get_answers_of_their_own(cli: Cli, many: Path) -> None:
    (many / "rows.csv").write_text("id,text\n" + "".join(f"{n},write one\n" for n in range(40)))
    found = answers(cli, "dedupe=false")
    assert len({json.dumps(answer) for _, answer in found.values()}) > 20


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_share_of_the_rows_goes_wrong_in_each_way_and_always_the_same_ones(
    cli: Cli, many: Path, endpoint: str
) -> None:
    faults = "provider.engine.faults={" + ", ".join(f"{state}: 0.1" for state in STATES) + "}"
    asked = (faults, "retry.attempts=1", f"model.endpoint={endpoint}")
    found = answers(cli, *asked)
    counts = Counter(state for state, _ in found.values())
    assert set(counts) == {"ok", *STATES}
    assert all(5 <= counts[state] <= 40 for state in STATES), counts  # 20 each, within five standard deviations
    assert found == answers(cli, *asked)


def test_what_does_not_fit_the_schema_is_repaired_and_the_repair_costs_pretend_money(cli: Cli, many: Path) -> None:
    asked = ("tokens=auto", PRICES, "--yes", "--json")
    broken = cli("run", "many", "provider.engine.faults.invalid=0.5", *asked).json
    whole = cli("run", "many", *asked).json
    assert broken["states"]["ok"] > 120 and broken["states"]["invalid"] > 20
    assert float(broken["actual_usd"]) > 1.3 * float(whole["actual_usd"]) > 0
    compared = cli("compare", broken["plan_id"], whole["plan_id"], "--json").json
    assert sorted(float(p["cost_usd"]) for p in compared["points"]) == sorted(
        float(d["actual_usd"]) for d in (broken, whole)
    )


def test_pretend_prices_are_said_to_be_pretend_wherever_they_are_shown(cli: Cli, many: Path) -> None:
    said = "nothing is paid: the prices are pretend"
    planned = cli("plan", "many", "tokens=auto", PRICES)
    assert said in planned.out and "price: pretend (provider.engine.pretend)" in planned.out
    run = cli("run", "many", "tokens=auto", PRICES, "--yes")
    assert said in run.out and run.code == 0
    plan_id = next((many.parent.parent / "runs").glob("*/plan.json")).parent.name
    assert said in cli("status", plan_id).out
    assert said in cli("status").err
    assert said in cli("results", plan_id).err
    assert said in cli("compare", plan_id).out
    assert said not in cli("run", "names").out


def test_a_pretend_price_above_the_budget_is_refused_as_a_real_one_would_be(cli: Cli, many: Path) -> None:
    refused = cli("run", "many", "tokens=auto", PRICES, "budget.usd=1")
    assert refused.code == 4 and "above budget.usd = 1" in refused.err
    unasked = cli("run", "many", "tokens=auto", PRICES, "budget.usd=100")
    assert unasked.code == 4 and "at pretend prices" in unasked.err


def test_pretend_money_is_never_added_to_real_money(
    cli: Cli, many: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "conf" / "model").mkdir(parents=True)
    (project / "conf" / "model" / "rehearsed.yaml").write_text(
        "defaults: [override /provider@_global_.provider: rehearsed]\nid: simulated\n"
    )
    (project / "conf" / "provider").mkdir()
    (project / "conf" / "provider" / "rehearsed.yaml").write_text(
        "defaults: [local]\nengine: {pretend: {input: 1, output: 2}}\n"
    )
    mixed = cli("plan", "many", "-m", "model=rehearsed,gpt-4o-mini")
    assert mixed.code == 2 and "pretend price" in mixed.err and "two plans" in mixed.err


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("provider.engine.faults={invalid: 0.7, error: 0.7}", "1.4, more than 1"),
        ("provider.engine.faults.invalid=2", "less than or equal to 1"),
        ("provider.engine={kind: echo, faults: {error: 0.5}}", "only the simulated engine"),
        ("provider.engine={kind: http, upstream: 'http://127.0.0.1:1/v1', pretend: {input: 1}}", "model.price"),
    ],
)
def test_what_cannot_be_rehearsed_is_an_error_with_its_key(cli: Cli, many: Path, override: str, said: str) -> None:
    answer = cli("plan", "many", override)
    assert answer.code == 2
    assert "provider.engine" in answer.err and said in answer.err


def test_a_rehearsal_with_other_answers_is_another_request_and_one_without_has_the_key_it_had() -> None:
    def address(**engine: Any) -> str:
        from batchling.request import address
        from batchling.spec import Config

        section = {"provider": {"name": "local", "engine": engine}, "model": {"id": "m"}, "data": {"rows": []}}
        return address(Config.model_validate({"name": "x", **section}))

    assert address() == address(pretend={"input": 1}) == address(faults={"error": 0.0}) == "engine:simulated"
    assert len({address(), address(seed=1), address(seed=2), address(faults={"error": 0.1})}) == 4


def test_faults_of_embeddings_are_error_rows_only() -> None:
    engine = make_engine(EngineConfig.model_validate({"faults": {"invalid": 0.5, "error": 0.5}}))
    statuses = Counter(engine.answer("/v1/embeddings", {"model": "m", "input": f"text {n}"}).status for n in range(100))
    assert set(statuses) == {200, 500}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"a": {"type": "array", "items": {}}}, "required": ["a"]},
        {"type": "object", "properties": {}},
        {"enum": ["only"]},
        {"type": "integer"},
    ],
)
def test_an_invalid_answer_satisfies_no_schema_or_is_no_json(schema: dict[str, Any]) -> None:
    import jsonschema

    engine = make_engine(EngineConfig.model_validate({"faults": {"invalid": 1.0}}))
    for n in range(50):
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": f"text {n}"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        }
        text = orjson.loads(engine.answer(CHAT, body).body)["choices"][0]["message"]["content"]
        try:
            value = orjson.loads(text)
        except ValueError:
            continue
        assert list(jsonschema.Draft202012Validator(schema).iter_errors(value))
