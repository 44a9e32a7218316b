"""Writes the model files that are made of facts: conf/model/*.yaml from docs/model_facts.yaml and docs/model_prices.json.

python docs/generate_models.py             writes them; uses no table but these two, so it says the same everywhere
python docs/generate_models.py --check     fails when one is out of date
python docs/generate_models.py --refresh   asks the installed genai-prices first, and writes docs/model_prices.json

A price that genai-prices knows stands in a file as a comment: a plan asks the installed table. One that it does not know is
a key of the file, with the table that it is from. An unlisted batch price is never the standard price.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CONF = HERE.parent / "conf"
FACTS = HERE / "model_facts.yaml"
PRICES = HERE / "model_prices.json"

_KEYS = (
    "endpoint",
    "tokenizer",
    "token_factor",
    "context_tokens",
    "output_tokens",
    "refuses",
    "strict_schema",
    "json_mode",
)


def facts() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    return document


def provider(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CONF / "provider" / f"{name}.yaml").read_text(encoding="utf-8"))
    return document


def listed(day: date) -> dict[str, Any]:
    """What the installed genai-prices says of the models, in batches, on a day."""
    from importlib.metadata import version

    from batchling.cost import price_of
    from batchling.spec import ModelConfig, ProviderConfig

    found = {}
    for model in facts()["models"]:
        if "standard" in model:
            continue
        known = provider(model["provider"])
        about = {key: known[key] for key in ("name", "base_url", "prices", "batch_factor") if key in known}
        price = price_of(ModelConfig(id=model["id"]), ProviderConfig.model_validate(about), now=day)
        if price is not None:
            usd = {"input": price.input, "output": price.output, "cached": price.cached}
            by = price.source.replace(", standard, standard x ", ", its standard price x ")
            found[model["file"]] = {**usd, "by": by}
    table = version("genai-prices")
    return {"genai-prices": table, "day": day.isoformat(), "usd_per_million_in_batches": found}


def files() -> Iterator[tuple[Path, str]]:
    """Each file and its text."""
    known = facts()
    prices = json.loads(PRICES.read_text(encoding="utf-8"))
    for model in known["models"]:
        yield CONF / "model" / f"{model['file']}.yaml", text(model, known["checked"], prices)


def text(model: dict[str, Any], checked: str, prices: dict[str, Any]) -> str:
    factor = provider(model["provider"]).get("batch_factor")
    lines = [f"# {model['about']}"]
    if "at_provider" in model:
        lines.insert(0, "# @package _global_")
    if "note" in model:
        lines.append(f"# {model['note']}")
    price = prices["usd_per_million_in_batches"].get(model["file"])
    table = f"genai-prices {prices['genai-prices']}"
    if "standard" in model:
        pass
    elif price is None:
        lines.append(
            f"# Its batch price is not known ({table} lists none, and no discount is published): set model.price."
        )
    else:
        lines.append(
            f"# USD per million tokens in batches on {prices['day']}: {price['input']:g} in, {price['output']:g} out ({price['by']})."
        )
    lines += ["# Written by docs/generate_models.py.", "defaults:"]
    lines += [f"  - override /provider@_global_.provider: {model['provider']}", ""]
    body = {"id": model["id"], **{key: model[key] for key in _KEYS if key in model}}
    if "standard" in model:
        standard = model["standard"]
        times = Decimal(str(factor))
        body["price"] = {name: float(Decimal(str(usd)) * times) for name, usd in standard.items()}
        if any(standard.values()):
            said = ", ".join(f"{usd:g} {name}" for name, usd in standard.items())
            lines.insert(
                -4,
                f"# Price: the provider's standard price ({said}; litellm 1.110.2, MIT) x {factor:g}, its published factor.",
            )
    body |= {"checked": checked, "source": model["source"]}
    if "at_provider" in model:
        lines += ["model:", *(f"  {line}" for line in _yaml(body)), "provider:"]
        lines += [f"  {line}" for line in _yaml(model["at_provider"])]
    else:
        lines += _yaml(body)
    return "\n".join(lines) + "\n"


def _yaml(body: dict[str, Any]) -> list[str]:
    """A mapping as YAML: a line for each key, what is inside on the line, sources below each other."""
    lines = []
    for key, value in body.items():
        if key == "source":
            lines += ["source:", *(f"  - {source}" for source in value)]
        else:
            shown = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()
            lines.append(f"{key}: {shown.removesuffix('...').strip()}")
    return lines


def main(arguments: list[str]) -> int:
    if "--refresh" in arguments:
        PRICES.write_text(json.dumps(listed(date.fromisoformat(facts()["checked"])), indent=2) + "\n", encoding="utf-8")
    late = [
        (path, wanted) for path, wanted in files() if not path.exists() or path.read_text(encoding="utf-8") != wanted
    ]
    if "--check" in arguments:
        for path, _ in late:
            sys.stderr.write(f"{path.name} is out of date: python docs/{Path(__file__).name}\n")
        return 1 if late else 0
    for path, wanted in late:
        path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
