"""What ships: every choice of every group composes, and the experiments are what their READMEs say."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from batchling.config import compose
from batchling.config.project import shipped_conf

ROOT = Path(__file__).parents[2]
CHOICES = sorted(f"{path.parent.name}={path.stem}" for path in shipped_conf().glob("*/*.yaml"))
NEEDS = {
    "model=azure-gpt-4.1-mini": ["provider.base_url=https://x.openai.azure.com/openai/v1/"],
    "provider=azure": ["provider.base_url=https://x.openai.azure.com/openai/v1/"],
    "provider=compatible": ["provider.base_url=https://x/v1"],
    "provider=litellm": ["provider.base_url=https://x/v1"],
    "model=custom": ["model.id=x"],
    "model=mistral-embed": ["prompt=embed", "schema=text", "schema.fields=null"],
    "model=text-embedding-3-large": ["prompt=embed", "schema=text", "schema.fields=null"],
    "model=text-embedding-3-small": ["prompt=embed", "schema=text", "schema.fields=null"],
    "data=csv": ["data.path=x.csv", "data.rows=null"],
    "data=jsonl": ["data.path=x.jsonl", "data.rows=null"],
    "data=parquet": ["data.path=x.parquet", "data.rows=null"],
    "data=sql": ["data.sql='select 1'", "data.rows=null"],
    "data=run": ["data.run=hello", "data.rows=null"],
    "budget=small": ["model.max_output_tokens=10"],
    "budget=unattended": ["model.max_output_tokens=10", "budget.usd=20"],
}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    compose("hello", [choice, *NEEDS.get(choice, [])])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_says_what_it_is_and_is_short(choice: str) -> None:
    group, name = choice.split("=")
    lines = (shipped_conf() / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines if line.startswith("# ") and "@package" not in line]
    assert comments and lines[0].startswith("# ") and len(lines) <= 40


@pytest.mark.parametrize("name", ["openai", "azure", "groq"])
def test_provider_facts_have_their_day_and_sources(name: str) -> None:
    extra = NEEDS.get(f"provider={name}", [])
    provider = compose("hello", [f"provider={name}", *extra]).config.provider
    assert provider.checked is not None and re.fullmatch(r"20\d\d-\d\d-\d\d", provider.checked)
    assert all(source.startswith("https://") for source in provider.source) and provider.source


def test_facts_of_the_providers() -> None:
    openai = compose("hello", ["provider=openai"]).config.provider
    assert (openai.limits.max_requests, openai.limits.max_bytes, openai.limits.creations_per_hour) == (
        50_000,
        196_000_000,
        2_000,
    )
    assert openai.limits.max_inputs == 50_000 and openai.capabilities.settle_seconds == 900
    groq = compose("hello", ["provider=groq"]).config.provider
    assert groq.capabilities.paging == "cursor" and groq.endpoints == ["chat"]
    azure = compose("hello", ["provider=azure", *NEEDS["provider=azure"]]).config.provider
    assert (
        not azure.capabilities.expires and "embeddings" not in azure.endpoints and azure.limits.max_requests == 100_000
    )
    local = compose("hello").config.provider
    assert local.engine is not None and local.engine.kind == "simulated" and local.api_key_env is None


@pytest.mark.parametrize("name", ["hello", "intent", "gsm8k"])
def test_an_experiment_runs_without_a_key_and_with_real_models(name: str) -> None:
    assert compose(name).config.provider.name == "local"
    assert compose(name).config.provider.api_key_env is None
    for model in ("gpt-5-mini", "groq-gpt-oss-20b"):
        assert compose(
            name, [f"model={model}", "model.max_output_tokens=100", "budget.usd=5"]
        ).config.provider.api_key_env
    assert (ROOT / "experiments" / name / "README.md").is_file()


def test_hello_asks_the_quick_starts_two_names() -> None:
    spec = compose("hello").spec
    assert spec.config.data.rows == [{"name": "John Doe"}, {"name": "Jane Doe"}]
    assert spec.messages == (("system", "You are a helpful assistant."), ("user", "What is your name? Mine is {name}"))


def test_intents_labels_are_those_of_its_data() -> None:
    spec = compose("intent").spec
    with (spec.root / "banking77.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    fields = spec.config.output_schema.fields
    assert fields is not None and len(rows) == 3080
    assert sorted(fields["label"]["enum"]) == sorted({row["category"] for row in rows})  # type: ignore[index,call-overload]
    assert compose("intent", ["prompt=few_shot"]).spec.messages[0][1].startswith("You sort messages")


def test_gsm8ks_metric_reads_the_number_of_every_problem() -> None:
    duckdb = pytest.importorskip("duckdb")
    spec = compose("gsm8k").spec
    metric = spec.config.metrics["exact_match"]
    path = spec.root / "gsm8k.jsonl"
    lines = [{"answer": json.loads(line)["answer"]} for line in path.read_text(encoding="utf-8").splitlines()]
    expected = [float(line["answer"].rpartition("#### ")[2].replace(",", "")) for line in lines]
    assert len(expected) == 1319
    connection = duckdb.connect()
    connection.execute(
        "create table t as select unnest($1::STRUCT(answer VARCHAR)[]) as data, unnest($2::DOUBLE[]) as number",
        [lines, expected],
    )
    right = connection.execute(
        f"select bool_and({metric}) from (select data, {{answer: number}} as output from t)"
    ).fetchone()
    wrong = connection.execute(
        f"select bool_or({metric}) from (select data, {{answer: number + 1}} as output from t)"
    ).fetchone()
    assert (right, wrong) == ((True,), (False,))
