"""The model files that a script writes are what it writes, without a network and whatever price table is installed."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from batchling import cost
from batchling.config import compose
from tests.docs.test_pages import generator

FACTS = generator("generate_models")
MODELS = FACTS.facts()["models"]
FREE = {"dashscope-test", "zhipu-glm-4-flash"}
UNKNOWN = {
    model["file"] for model in MODELS if model["provider"] in ("doubleword", "novita", "parasail", "siliconflow")
}


def test_every_file_is_what_the_script_writes() -> None:
    for path, text in FACTS.files():
        assert path.read_text(encoding="utf-8") == text, f"run: python docs/generate_models.py ({path.name})"


def test_the_check_notices_a_file_that_was_changed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "provider").symlink_to(FACTS.CONF / "provider")
    monkeypatch.setattr(FACTS, "CONF", tmp_path)
    assert FACTS.main(["--check"]) == 1
    assert FACTS.main([]) == 0 and FACTS.main(["--check"]) == 0
    path = tmp_path / "model" / "kimi-k2.6.yaml"
    path.write_text(path.read_text().replace("262144", "262145"))
    assert FACTS.main(["--check"]) == 1


def test_the_prices_are_those_of_the_table_that_they_name() -> None:
    import json

    kept = json.loads(FACTS.PRICES.read_text(encoding="utf-8"))
    if version("genai-prices") != kept["genai-prices"]:
        pytest.skip(f"genai-prices {version('genai-prices')} is installed, the snapshot is of {kept['genai-prices']}")
    assert FACTS.listed(date.fromisoformat(kept["day"])) == kept


@pytest.mark.parametrize("model", MODELS, ids=[model["file"] for model in MODELS])
def test_no_batch_price_is_the_standard_price(model: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    more = ["prompt=embed", "schema=text", "schema.fields=null"] if model.get("endpoint") == "embeddings" else []
    config = compose("hello", [f"model={model['file']}", *more]).config
    assert config.provider.name == model["provider"] and config.model.checked and config.model.source
    price = cost.price_of(config.model, config.provider, now=date(2026, 11, 25))
    if model["file"] in UNKNOWN:
        assert price is None
        return
    assert price is not None
    if model["file"] in FREE:
        assert (price.input, price.output) == (0, 0)
        return
    standard = model.get("standard")
    if isinstance(standard, dict):
        factor = Decimal(str(config.provider.batch_factor))
        wanted = [float(Decimal(str(standard[name])) * factor) for name in ("input", "output")]
        assert [price.input, price.output] == wanted and factor < 1
    else:
        full = cost._listed(config.model.id, date(2026, 11, 25), provider_id=config.provider.prices)[0]
        assert full is not None and price.input < full.input


def test_a_test_model_keeps_to_what_its_page_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    spec = compose("hello", ["model=dashscope-test"]).spec
    limits = spec.config.provider.limits
    assert spec.endpoint_path == "/v1/chat/ds-test"
    assert (limits.max_requests, limits.max_bytes, limits.concurrent_batches) == (100, 1_000_000, 2)


@pytest.mark.parametrize(("provider", "least"), [("openai", 5), ("groq", 5), ("deepinfra", 3), ("ovhcloud", 3)])
def test_there_are_enough_to_choose_from(provider: str, least: int) -> None:
    files = (FACTS.CONF / "model").glob("*.yaml")
    named = [str(yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults")) for path in files]
    assert sum(f"provider': '{provider}'" in defaults for defaults in named) >= least


def test_every_provider_has_a_page_that_says_what_its_file_says() -> None:
    pages = generator("generate_providers")
    assert [path.name for path in pages.late()] == [], "run: python docs/generate_providers.py"
    shipped = {path.stem for path in (FACTS.CONF / "provider").glob("*.yaml")}
    assert {path.stem for path in pages.FOLDER.glob("*.md")} == shipped | {"index"}


def test_a_page_names_what_its_provider_cannot_do_and_how_a_lost_create_is_settled() -> None:
    pages = generator("generate_providers").pages()
    assert "It refuses `temperature`" in pages["kimi.md"] and "JSON mode" in pages["zhipu.md"]
    assert "its input file is deleted" in pages["deepinfra.md"] and "you decide" in pages["litellm.md"]
    assert "its input file is deleted" not in pages["litellm.md"]
    for name, page in pages.items():
        assert "No live run was made" in page or name in ("local.md",), name
