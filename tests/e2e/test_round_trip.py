"""Config to table, through every layer and a real socket; what is sent fits OpenAI's published schema and the SDK's types."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from jsonschema.protocols import Validator
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import ConfigDict, TypeAdapter

from batchling.api import verbs
from batchling.config import find_project
from tests.servers.batches import answered, text_of
from tests.workbench import Workbench

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "tests/contract/openai-batch-openapi.json"

REQUESTS: dict[str, tuple[str, Any]] = {
    "/v1/chat/completions": ("CreateChatCompletionRequest", CompletionCreateParamsNonStreaming),
    "/v1/responses": ("CreateResponse", ResponseCreateParamsNonStreaming),
    "/v1/embeddings": ("CreateEmbeddingRequest", EmbeddingCreateParams),
}
"""URL → published schema, and the SDK's type."""

HARD = 'Ünï \u2028 two \u2029 three \u0085 four \x0c five \x00 six \U0001f600 \\ " {brace} </script> \x1b[31m'


@functools.cache
def validator(url: str) -> Validator:
    document = orjson.loads(CONTRACT.read_bytes())
    schema = {**document, "$ref": f"#/components/schemas/{REQUESTS[url][0]}"}
    return jsonschema.Draft202012Validator(schema)


@functools.cache
def sdk_type(url: str) -> TypeAdapter[Any]:
    kind = REQUESTS[url][1]
    kind.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(kind)


def check_lines(lines: Iterable[bytes]) -> int:
    """Checks request lines; how many there were."""
    count = 0
    seen = set()
    for count, raw in enumerate(lines, 1):  # noqa: B007 (counted)
        request = json.loads(raw)
        assert set(request) == {"custom_id", "method", "url", "body"}
        assert request["method"] == "POST"
        assert len(request["custom_id"]) <= 64
        seen.add(request["custom_id"])
        validator(request["url"]).validate(request["body"])
        sdk_type(request["url"]).validate_python(request["body"])
        assert "stream" not in request["body"]
    assert len(seen) == count, "custom_ids are unique"
    return count


def request_lines(plan: Path) -> list[bytes]:
    """Every request line of a plan; each file is plain JSONL for any reader."""
    lines: list[bytes] = []
    for path in sorted((plan / "requests").glob("[0-9]*.jsonl")):
        content = path.read_bytes()
        assert content.endswith(b"\n") and not content.startswith(b"\xef\xbb\xbf")
        assert content.decode().splitlines() == content.decode().split("\n")[:-1]
        lines += content.split(b"\n")[:-1]
    return lines


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the experiments that ship."""
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=shutil.ignore_patterns("runs"))
    return tmp_path


def local_batches(runs: Path) -> int:
    """Batches that embedded servers below a runs folder were asked for."""
    return sum(text.count('"kind":"create_intent"') for text in (p.read_text() for p in runs.glob("*/journal.jsonl")))


@pytest.mark.parametrize(("experiment", "rows"), [("hello", 2), ("intent", 3080), ("gsm8k", 1319)])
def test_every_experiment_that_ships_runs_without_a_key_and_a_second_time_sends_nothing(
    shipped: Path, experiment: str, rows: int
) -> None:
    project = find_project(shipped)
    outcome = verbs.run(experiment, project=project)
    assert (outcome.exit_code, outcome.states, outcome.simulated) == (0, {"ok": rows}, True)
    requests = request_lines(outcome.folder)
    assert check_lines(requests) == len(requests) == outcome.requests
    before = sorted(path.name for path in (shipped / "runs").iterdir())
    sent = local_batches(shipped / "runs")
    again = verbs.run(experiment, project=project)
    assert (again.exit_code, again.created, again.plan_id) == (0, False, outcome.plan_id)
    assert sorted(path.name for path in (shipped / "runs").iterdir()) == before, "no new plan"
    assert local_batches(shipped / "runs") == sent


CHAT_SCHEMA = "schema.fields={label: {enum: [a, b]}, score: {type: number, minimum: 0, maximum: 1}, why: string}"


@pytest.mark.parametrize(
    ("endpoint", "overrides"),
    [
        ("chat", (CHAT_SCHEMA, "model.params={temperature: 0.5, seed: 7}")),
        ("chat", ("schema.fields=null", "model.params={stop: [x]}")),
        ("responses", (CHAT_SCHEMA, "model.params={temperature: 0.5}")),
        ("responses", ("schema.fields=null", "model.params={reasoning: {effort: low}}")),
        (
            "embeddings",
            ("schema.fields=null", "prompt.messages=[]", "prompt.input='{text}'", "model.params={dimensions: 2}"),
        ),
    ],
    ids=["chat", "chat text", "responses", "responses text", "embeddings"],
)
def test_each_endpoint_goes_round_and_fits_the_published_schema(
    bench: Workbench, endpoint: str, overrides: tuple[str, ...]
) -> None:
    bench.rows([{"id": f"r{n}", "text": f"number {n} {HARD}"} for n in range(4)])
    if endpoint == "embeddings":
        overrides = (*overrides, "model.max_output_tokens=null")
    outcome = bench.run(f"model.endpoint={endpoint}", *overrides)
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 4})
    assert check_lines(request_lines(outcome.folder)) == 4
    for request in bench.server.sent():
        assert HARD in (request["body"]["input"] if endpoint == "embeddings" else text_of(request))
    records = bench.records()
    if endpoint == "embeddings":
        assert records["r0"]["output"] == [0.25, -0.5]
    elif "schema.fields=null" in overrides:
        assert records["r0"]["text"] == "an answer"
    else:
        assert records["r0"]["output"] == {"label": "a", "score": 0.5, "why": "a"}


def test_hard_characters_in_data_and_answers_come_through_unchanged(bench: Workbench) -> None:
    bench.rows([{"id": f"r{n}", "text": f"number {n} {HARD}"} for n in range(2)])
    bench.server.row = lambda request: answered(request, text_of(request))
    outcome = bench.run("schema.fields=null")
    assert outcome.exit_code == 0
    assert bench.records()["r1"]["text"] == f"Which one is number 1 {HARD}?"
    (data,) = bench.query("select data ->> 'text' from records where row_id = 'r1'")[0]
    assert data == f"number 1 {HARD}"
    for plan in bench.plans:
        text = b"\n".join(request_lines(plan)).decode()
        assert not set(text) & set("\u2028\u2029\u0085\x0c\x00\x1b")


TABLES: dict[str, str] = {
    "plans": "plan_id experiment state created_at finished_at runs requests cached estimated_usd estimated_usd_max"
    " actual_usd command git_commit git_dirty python packages",
    "runs": "run_id plan_id experiment overrides provider model endpoint config config_sha256 prompt_sha256 data_sha256"
    " rows ok not_ok input_tokens output_tokens cost_usd",
    "requests": "request_key parent_key plan_id provider endpoint model input_tokens bytes shard",
    "run_requests": "run_id row_id repeat attempt request_key",
    "batches": "plan_id shard attempt provider batch_id input_file_id state reason requests bytes input_tokens"
    " submitted_at ended_at",
    "responses": "request_key attempt plan_id shard source status_code finish_reason error_code error_message"
    " input_tokens cached_tokens output_tokens reasoning_tokens cost_usd",
    "records": "run_id row_id repeat request_key state output data text error attempts cost_usd",
    "metrics": "run_id name value low high n coverage",
    "events": "plan_id seq ts kind shard detail",
    "results": "run_id row_id state output provider model overrides",
}


def test_the_catalog_has_the_tables_and_columns_that_are_promised_and_they_agree(bench: Workbench) -> None:
    bench.rows(5)
    bench.run("+metrics.right=\"output.label = 'a'\"", "limits.max_requests=2")
    for table, columns in TABLES.items():
        assert bench.query(f"select {', '.join(columns.split())} from {table}"), table
    assert bench.query("select rows, ok, not_ok, input_tokens, output_tokens, cost_usd::double from runs") == [
        (5, 5, 0, 50, 25, pytest.approx(5 * (10 * 1.0 + 5 * 2.0) / 1e6))
    ]
    assert bench.query("select sum(cost_usd)::double from records") == [(pytest.approx(1e-4),)]
    assert bench.query("select count(*), sum(requests) from batches") == [(3, 5)]
    assert bench.query("select value, n, coverage from metrics") == [(1.0, 5, 1.0)]
    assert bench.query("select count(*) from events")[0][0] == len(bench.events())
    assert bench.query("select actual_usd::double from plans") == [(pytest.approx(1e-4),)]


def test_a_price_that_is_not_known_is_shown_and_stored_as_unknown_and_never_as_nothing(bench: Workbench) -> None:
    detached = bench.run("model.price=null", detach=True)
    out = json.loads(bench.cli("status", detached.plan_id, "--json").stdout)
    assert out["worst_usd"] is None
    done = bench.cli("run", "--yes", *bench.arguments("model.price=null", "limits.poll_seconds=0.02"))
    assert done.returncode == 0, done.stderr
    assert "? USD" in done.stdout
    status = json.loads(bench.cli("status", detached.plan_id, "--json").stdout)
    assert (status["actual_usd"], status["worst_usd"]) == (None, None)
    assert (status["lanes"][0]["actual_usd"], status["lanes"][0]["worst_usd"]) == (None, None)
    assert json.loads(bench.cli("status", "--json").stdout)["plans"][0]["actual_usd"] is None
    assert "money: ? USD" in bench.cli("status", detached.plan_id).stdout
    assert bench.query("select actual_usd from plans") == [(None,)]


def test_what_a_plan_of_a_known_price_cost_is_known_although_its_tokens_were_not_counted(bench: Workbench) -> None:
    assert bench.run("tokens=off").actual_usd == Decimal("0.00006")
