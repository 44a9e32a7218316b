"""Prices come from where they say, and amounts are what a person would work out by hand."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import genai_prices
import pytest

from batchling.cost import price_of, usage_usd, usd
from batchling.models import Price, Usage
from batchling.spec import ModelConfig, ProviderConfig

TODAY = date(2026, 11, 23)


def model(name: str, **more: Any) -> ModelConfig:
    return ModelConfig(id=name, **more)


def provider(name: str, **more: Any) -> ProviderConfig:
    return ProviderConfig(name=name, **more)


OPENAI = provider("openai", prices="openai", base_url="https://api.openai.com/v1")


@pytest.mark.parametrize(
    ("name", "figures", "tokens", "amount"),
    [
        # 1,000,000 in at 0.125, 200,000 of them cached at 0.0125, 100,000 out at 1.00: 0.1 + 0.0025 + 0.1
        ("gpt-5-mini", (0.125, 1.0, 0.0125), (1_000_000, 100_000, 200_000), "0.202500000"),
        # 0.3075 M in at 0.025, 61,600 out at 0.20: 0.0076875 + 0.01232
        ("gpt-5-nano", (0.025, 0.2, 0.0025), (307_500, 61_600, 0), "0.020007500"),
        # cached costs what input costs in a batch: 1,000 x 0.075 + 10 x 0.30 = 78 per million
        ("gpt-4o-mini", (0.075, 0.3, None), (1_000, 10, 500), "0.000078000"),
    ],
)
def test_openai_batch_prices(
    name: str, figures: tuple[float, float, float | None], tokens: tuple[int, int, int], amount: str
) -> None:
    price = price_of(model(name), OPENAI, now=TODAY)
    assert price == Price(*figures, batch=True, source=f"genai-prices {genai_prices.__version__}")
    assert usd(price, *tokens) == Decimal(amount)


def test_a_model_without_a_batch_price_is_unknown_and_never_the_standard_price() -> None:
    assert price_of(model("text-embedding-3-small"), OPENAI, now=TODAY) is None
    groq = provider("groq", prices="groq")
    assert price_of(model("llama-3.3-70b-versatile"), groq, now=TODAY) is None
    azure = provider("azure", prices="azure")  # the table shows OpenAI's variant and charges the standard price
    assert price_of(model("gpt-5-mini"), azure, now=TODAY) is None


def test_a_batch_price_that_is_not_in_force_yet_is_not_used() -> None:
    assert price_of(model("gpt-5-mini"), OPENAI, now=date(2026, 10, 1)) is None


def test_the_providers_batch_factor_is_used_and_marked() -> None:
    groq = provider("groq", prices="groq", batch_factor=0.5)
    price = price_of(model("llama-3.3-70b-versatile"), groq, now=TODAY)
    assert price is not None
    assert (price.input, price.output, price.cached, price.batch) == (0.295, 0.395, None, True)
    assert "standard x 0.5 (provider.batch_factor)" in price.source
    listed = price_of(model("openai/gpt-oss-20b"), groq, now=TODAY)
    assert listed is not None
    assert (listed.input, listed.output) == (0.0375, 0.15)
    assert "batch_factor" not in listed.source


def test_the_config_wins_and_price_as_names_another_model() -> None:
    own = model("gpt-5-mini", price={"input": 0.1, "output": 0.2})
    assert price_of(own, OPENAI, now=TODAY) == Price(0.1, 0.2, None, source="model.price")
    azure = provider("azure", prices="azure", batch_factor=0.5)
    price = price_of(model("my-deployment", price_as="gpt-5-mini"), azure, now=TODAY)
    assert price is not None
    assert (price.input, price.output) == (0.125, 1.0)
    assert price_of(model("my-deployment"), azure, now=TODAY) is None


def test_a_provider_is_found_by_its_address_or_not_at_all() -> None:
    by_url = provider("compatible", base_url="https://api.openai.com/v1")
    assert price_of(model("gpt-5-mini"), by_url, now=TODAY) is not None
    unknown = provider("compatible", base_url="https://llm.example.org/v1", batch_factor=0.5)
    assert price_of(model("gpt-5-mini"), unknown, now=TODAY) is None
    assert price_of(model("gpt-5-mini"), provider("compatible"), now=TODAY) is None


def test_local_runs_cost_nothing_whatever_the_models_price() -> None:
    local = provider("local", engine={"kind": "simulated"})
    free = price_of(model("gpt-5-mini", price={"input": 1, "output": 1}), local, now=TODAY)
    assert free is not None
    assert usd(free, 10**9, 10**9) == 0


@pytest.mark.parametrize(
    "upstream", ["http://127.0.0.1:11434/v1", "http://localhost:8000/v1", "http://192.168.1.9/v1", "http://[::1]:1/v1"]
)
def test_an_engine_on_this_network_is_free(upstream: str) -> None:
    local = provider("local", engine={"kind": "http", "upstream": upstream})
    price = price_of(model("gpt-5-mini"), local, now=TODAY)
    assert price is not None
    assert (price.input, price.output) == (0, 0)


def test_a_price_that_a_person_gave_counts_wherever_the_engine_forwards_to() -> None:
    own = model("gpt-5-mini", price={"input": 3, "output": 4})
    for upstream in ("http://127.0.0.1:4000/v1", "http://10.0.0.7/v1", "https://llm.example.org/v1"):
        local = provider("local", engine={"kind": "http", "upstream": upstream})
        assert price_of(own, local, now=TODAY) == Price(3.0, 4.0, None, source="model.price")


def test_an_engine_that_forwards_to_a_paid_endpoint_costs_its_online_price() -> None:
    local = provider("local", engine={"kind": "http", "upstream": "https://api.groq.com/openai/v1"})
    price = price_of(model("llama-3.3-70b-versatile"), local, now=TODAY)
    assert price is not None
    assert (price.input, price.output, price.batch) == (0.59, 0.79, False)
    assert price.source.endswith("standard")
    other = provider("local", engine={"kind": "http", "upstream": "https://llm.example.org/v1"})
    assert price_of(model("some-model"), other, now=TODAY) is None


def test_amounts_have_nine_places_and_no_float_dust() -> None:
    assert usd(Price(0.1, 0.2), 1, 1) == Decimal("0.000000300")
    assert usd(Price(0.1, 0.2), 3, 0) == Decimal("0.000000300")
    assert usd(Price(2.5, 10.0, 1.25), 1000, 0, 1000) == Decimal("0.001250000")
    assert usd(Price(2.0, 0.0, 0.2, written=2.5), 1000, 0, 100, 200) == Decimal(
        "0.001920000"
    )  # 700 fresh, 100 read, 200 written
    assert usd(Price(2.0, 0.0), 1000, 0, 0, 200) == Decimal("0.002000000")
    assert str(usd(Price(0.0, 0.0), 5, 5)) == "0E-9"


def test_cached_tokens_counted_apart_are_not_subtracted_below_zero() -> None:
    assert usd(Price(1.0, 0.0, 0.1), 100, 0, 200) == Decimal("0.000120000")


def test_usage_without_a_price_or_without_counts_has_no_cost() -> None:
    assert usage_usd(None, Usage(1, 0, 1)) is None
    assert usage_usd(Price(1, 1), Usage()) is None
    assert usage_usd(Price(1, 1), Usage(input_tokens=7)) == Decimal("0.000007000")
