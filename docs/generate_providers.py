"""Writes docs/providers/: a page for each file in conf/provider/, and what docs/provider_notes.yaml adds.

python docs/generate_providers.py            writes them
python docs/generate_providers.py --check    fails when one is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from batchling.config.facts import ModelFacts, ProviderFacts, models, providers
from batchling.config.project import Project
from batchling.spec import ProviderConfig

HERE = Path(__file__).parent
FOLDER = HERE / "providers"
NOTES = HERE / "provider_notes.yaml"

_LIMITS = {
    "max_requests": "rows in a batch",
    "max_bytes": "bytes in an input file",
    "max_line_bytes": "bytes in a line",
    "max_inputs": "embedding inputs in a batch",
    "enqueued_tokens": "prompt tokens that may wait at once",
    "concurrent_batches": "batches out at once",
    "creations_per_hour": "batches created in an hour",
}
"""The ones that are learned or not known are not listed."""


def pages() -> dict[str, str]:
    """File name → text."""
    nowhere = Project(root=HERE, conf=None, experiments=HERE, runs=HERE)
    notes: dict[str, Any] = yaml.safe_load(NOTES.read_text(encoding="utf-8"))
    known = providers(nowhere, environ={})
    by_provider: dict[str, list[ModelFacts]] = {}
    for model in models(nowhere, today=date(2026, 11, 25)):
        by_provider.setdefault(model.provider or "", []).append(model)
    found = {
        f"{each.choice}.md": page(each, by_provider.get(each.choice, []), notes.get(each.choice, {})) for each in known
    }
    return {"index.md": index(known, notes), **found}


def title(each: ProviderFacts, note: dict[str, Any]) -> str:
    return str(note.get("title") or each.choice)


def index(known: list[ProviderFacts], notes: dict[str, Any]) -> str:
    rows = []
    for each in known:
        config = each.config
        key = f"`{config.api_key_env}`" if config.api_key_env else "none"
        cells = [f"[{title(each, notes.get(each.choice, {}))}]({each.choice}.md)", f"`provider={each.choice}`", key]
        rows.append(
            f"| {' | '.join([*cells, ', '.join(config.endpoints), ', '.join(config.windows) or 'not known'])} |"
        )
    return "\n".join(
        [
            "# Providers",
            "",
            "Written by `python docs/generate_providers.py` from the files of facts; `batchling providers` prints the same.",
            "Facts come from the vendors' pages and packages, with the day on which they were checked. No live run was made",
            "against any of these providers: `batchling plan` and the first small batch are worth a look before a big one.",
            "",
            "| provider | choice | key | endpoints | windows |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def page(each: ProviderFacts, found: list[ModelFacts], note: dict[str, Any]) -> str:
    """One provider's page."""
    config = each.config
    parts = [
        f"# {title(each, note)}",
        "Written by `python docs/generate_providers.py` from "
        f"[conf/provider/{each.choice}.yaml](../reference/config.md#provider)"
        + (f"; facts checked on {config.checked}. No live run was made." if config.checked else "."),
        each.about,
        _first(each, found),
        _models(each, found),
        _limits(config),
        _cannot(config),
        _lost(each),
    ]
    if note.get("notes"):
        parts.append("## Worth knowing\n\n" + _list(note["notes"]))
    if note.get("open"):
        parts.append("## Not established\n\n" + _list(note["open"]))
    if config.source:
        parts.append("## Sources\n\n" + _list(f"<{source}>" for source in config.source))
    return "\n\n".join(part for part in parts if part) + "\n"


def _list(items: Any) -> str:
    return "\n".join(f"* {item}" for item in items)


def _first(each: ProviderFacts, found: list[ModelFacts]) -> str:
    config = each.config
    lines = [] if config.api_key_env is None else [f"$ export {config.api_key_env}=…"]
    chat = [model for model in found if model.config.endpoint != "embeddings"]
    chosen = f"model={chat[0].choice}" if chat else f"model=custom model.id=my-model provider={each.choice}"
    address = "" if config.base_url or config.engine is not None else " provider.base_url=https://llm.example.com/v1"
    if each.choice == "azure":
        address = " model.id=MY-DEPLOYMENT provider.base_url=https://MY-RESOURCE.openai.azure.com/openai/v1/"
    lines += [f"$ batchling {verb} hello {chosen}{address}" for verb in ("plan", "run")]
    where = f"Address: `{config.base_url}`. " if config.base_url else ""
    key = "" if config.api_key_env is None else f"The key is read from `{config.api_key_env}`."
    return "\n".join(["## First command", "", f"{where}{key}".strip(), "", "```console", *lines, "```"]).replace(
        "\n\n\n", "\n\n"
    )


def _models(each: ProviderFacts, found: list[ModelFacts]) -> str:
    if not found:
        return (
            "## Models\n\nNone has a file of its own: `model=custom model.id=NAME provider="
            f"{each.choice}`, and `model.price` where a budget needs one."
        )
    lines = ["## Models", "", "| choice | id | context | longest answer |", "|---|---|---|---|"]
    for model in found:
        facts = model.config
        figures = [f"{n:,}" if n is not None else "" for n in (facts.context_tokens, facts.output_tokens)]
        lines.append(f"| `model={model.choice}` | `{facts.id}` | {' | '.join(figures)} |")
    unknown = [f"`{model.choice}`" for model in found if model.price is None]
    lines += ["", f"`batchling models {each.choice}` has their prices in batches."]
    if unknown:
        lines.append(
            f"Not known: the price of {', '.join(unknown)}; a plan with a budget is refused until you set `model.price`."
        )
    lines.append(f"Any other: `model=custom model.id=NAME provider={each.choice}`.")
    return "\n".join(lines)


def _limits(config: ProviderConfig) -> str:
    window = f"`{config.completion_window}`"
    if config.windows:
        window += f"; accepted: {', '.join(f'`{window}`' for window in config.windows)} (`provider.completion_window`)"
    rows = [("endpoints", ", ".join(config.endpoints)), ("window", window)]
    if not config.capabilities.expires:
        rows.append(("expiry", "none: a batch runs on until it is cancelled"))
    for name, value in config.limits.model_dump().items():
        if isinstance(value, int):
            rows.append((_LIMITS[name], f"{value:,}"))
    if config.batch_factor is not None:
        rows.append(("price", f"{config.batch_factor:g} of the standard price, where no batch price is listed"))
    elif config.name != "local":
        rows.append(("price", "no discount is known: the cost is unknown unless a batch price is listed or set"))
    return "\n".join(
        ["## Window and limits", "", "| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)]
    )


def _cannot(config: ProviderConfig) -> str:
    missing = [name for name in ("chat", "responses", "embeddings") if name not in config.endpoints]
    lines = [f"No {' and no '.join(missing)} in batches."] if missing else []
    parameters = [f"`{name}`" for name in config.refuses if name != "json_schema"]
    if parameters:
        lines.append(f"It refuses {', '.join(parameters)}; `plan` says so before anything is sent.")
    if "json_schema" in config.refuses:
        lines.append(
            "It takes no JSON Schema in a request: the schema goes into the prompt, in JSON mode (`schema.send=json_mode`), "
            "and answers are validated as ever."
        )
    return "\n".join(["## What it cannot do", "", *lines]) if lines else ""


def _lost(each: ProviderFacts) -> str:
    config = each.config
    facts = config.capabilities
    if each.choice == "local":
        return ""
    head = "## When the fate of a submission is unknown\n\n"
    marker = "the id of its input file" + (" and the metadata that batchling gave it" if facts.metadata else "")
    if not facts.list:
        return head + "Its batches cannot be listed, so you decide: `batchling resolve PLAN`."
    if facts.marker == "results":
        return head + (
            "A batch at this provider carries nothing that says whose it is, and a create cannot be undone. If the reply to a create "
            "is lost, batchling waits for a listed batch of the same size to end, and the custom_ids in its results show whether it "
            "is yours. If none of them is, you decide, whatever the amount: `batchling resolve PLAN`."
        )
    looked = f"If the reply to a create is lost, batchling looks for the batch in the provider's list by {marker}."
    if facts.fence == "none":
        return head + f"{looked} If it is not there, you decide: `batchling resolve PLAN`."
    return head + (
        f"{looked} If it is not there, its input file is deleted, so that a create that arrives late must fail; after "
        f"{facts.settle_seconds / 60:g} minutes the list is read again, and only then are the rows sent again. Above "
        "`retry.resubmit_usd`, or if the file could not be deleted, you decide: `batchling resolve PLAN`. "
        "[The ledger](../ledger.md) has the whole protocol."
    )


def late() -> Iterator[Path]:
    """Pages that are out of date, and those of providers that are gone."""
    wanted = pages()
    for name, text in wanted.items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            yield path
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            yield path


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        found = list(late())
        for path in found:
            sys.stderr.write(f"{path.name} is out of date: python docs/{Path(__file__).name}\n")
        return 1 if found else 0
    FOLDER.mkdir(exist_ok=True)
    wanted = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
