"""What tokens cost. Prices are USD per million tokens; amounts are USD as Decimal with nine places.

A price is one of, in this order: what the config says (`model.price`), the provider's batch price in
genai-prices, its standard price times the provider's published batch factor (and its source says so), or
unknown. A standard price is never passed off as a batch price. The embedded server costs nothing, unless it forwards
to somebody else's machine, or to any with a `model.price`. What it makes up may be said to cost something
(`provider.engine.pretend`), so that budgets and comparisons can be tried.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from batchling.models import Price, Usage
from batchling.spec import ModelConfig, ProviderConfig

PLACES = Decimal("0.000000001")
_MILLION = Decimal(1_000_000)
_PROBE = 1000  # tokens; small, so that prices with tiers answer with their first tier
_BATCH = {"processing": "batch"}


def price_of(model: ModelConfig, provider: ProviderConfig, *, now: date) -> Price | None:
    """The price of a model's batch requests at a provider, or None when it is not known.

    Args:
        model: its `price` wins; its `price_as` is looked up in place of its id.
        provider: names itself in genai-prices with `prices`, else is found by `base_url`.
        now: the day whose prices are asked for; price tables are dated.
    """
    if provider.engine is not None and (pretend := provider.engine.pretend) is not None:
        return Price(pretend.input, pretend.output, pretend.cached, source="pretend (provider.engine.pretend)")
    forwards = provider.engine is not None and provider.engine.kind == "http"
    priced = forwards and model.price is not None  # what listens on this machine may be a proxy that pays for it
    if provider.name == "local" and not priced and not _pays_upstream(provider):
        return Price(0.0, 0.0, 0.0, source="local: free")
    if model.price is not None:
        own = model.price
        return Price(own.input, own.output, own.cached, source="model.price")
    name = model.price_as or model.id
    if provider.name == "local":  # online requests to somebody's paid endpoint: no batch discount
        return _listed(name, now, url=provider.engine.upstream if provider.engine else None)[0]
    standard, batch = _listed(name, now, provider_id=provider.prices, url=provider.base_url)
    if batch is not None:
        return batch
    if standard is None or provider.batch_factor is None:
        return None
    # Whether the discount for cached tokens holds on top is not published: they are priced as any input.
    factor = Decimal(str(provider.batch_factor))
    return Price(
        float(Decimal(str(standard.input)) * factor),
        float(Decimal(str(standard.output)) * factor),
        source=f"{standard.source}, standard x {provider.batch_factor:g} (provider.batch_factor)",
    )


def usd(
    price: Price, input_tokens: int, output_tokens: int, cached_tokens: int = 0, written_tokens: int = 0
) -> Decimal:
    """Cost of one answer. `cached_tokens` (read from the provider's cache) and `written_tokens` (written to it) are part of
    `input_tokens`; billed as input where no price of their own is known.

    >>> usd(Price(0.125, 1.0), 1000, 100)
    Decimal('0.000225000')
    """
    into, out, cached, written = _rates(price)
    fresh = input_tokens - cached_tokens - written_tokens
    if fresh < 0:  # a provider that counts cached tokens apart from the input
        fresh = input_tokens
    amount = (fresh * into + cached_tokens * cached + written_tokens * written + output_tokens * out) / _MILLION
    return amount.quantize(PLACES, rounding=ROUND_HALF_EVEN)


def usage_usd(price: Price | None, usage: Usage) -> Decimal | None:
    """Cost of what the provider counted; None when the price or the count is not known."""
    if price is None or (usage.input_tokens is None and usage.output_tokens is None):
        return None
    written = usage.written_tokens or 0
    return usd(price, usage.input_tokens or 0, usage.output_tokens or 0, usage.cached_tokens or 0, written)


@lru_cache(maxsize=256)
def _rates(price: Price) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    into, out = Decimal(str(price.input)), Decimal(str(price.output))
    cached, written = (into if rate is None else Decimal(str(rate)) for rate in (price.cached, price.written))
    return into, out, cached, written


def _pays_upstream(provider: ProviderConfig) -> bool:
    """Whether the embedded server forwards to a machine that is not on this network."""
    engine = provider.engine
    if engine is None or engine.kind != "http" or engine.upstream is None:
        return False
    host = (urlsplit(engine.upstream).hostname or "").rstrip(".").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith((".local", ".internal", ".localhost"))
    return not (address.is_private or address.is_loopback)


def _listed(
    name: str, now: date, *, provider_id: str | None = None, url: str | None = None
) -> tuple[Price | None, Price | None]:
    """Standard and batch price in genai-prices; None for what it does not list."""
    if provider_id is None and url is None:
        return None, None
    import genai_prices

    source = f"genai-prices {genai_prices.__version__}"
    at = datetime.combine(now, time(12), UTC)
    where: dict[str, Any] = {"provider_id": provider_id} if provider_id else {"provider_api_url": url}

    def ask(context: dict[str, str] | None, **tokens: int) -> Any:
        return genai_prices.calc_price(
            genai_prices.Usage(**tokens), name, genai_request_timestamp=at, price_context=context, **where
        )

    def rates(context: dict[str, str] | None) -> tuple[Decimal, Decimal, Decimal, Decimal]:
        scale = _MILLION / _PROBE
        into = ask(context, input_tokens=_PROBE).total_price * scale
        out = ask(context, output_tokens=_PROBE).total_price * scale
        cached = ask(context, input_tokens=_PROBE, cache_read_tokens=_PROBE).total_price * scale
        written = ask(context, input_tokens=_PROBE, cache_write_tokens=_PROBE).total_price * scale
        return into, out, cached, written

    def price(figures: tuple[Decimal, Decimal, Decimal, Decimal], batch: bool) -> Price:
        into, out, *others = (float(x) for x in figures)
        cached, written = (None if x == into else x for x in others)
        return Price(into, out, cached, batch, source + ("" if batch else ", standard"), written)

    try:
        found = ask(None, input_tokens=_PROBE)
        standard = rates(None)
        variants = getattr(found.model, "price_variants", None) or ()
        listed = any(v.when == _BATCH and (v.constraint is None or v.constraint.active(at)) for v in variants)
        batch = rates(_BATCH) if listed else standard
    except (LookupError, ValueError):
        return None, None
    # A reseller's model may show the maker's variant and still be charged the standard price (Azure with gpt-5-mini in
    # 0.2.3), so a batch price is one only when it differs.
    return price(standard, False), price(batch, True) if batch != standard else None
