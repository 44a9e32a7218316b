"""`batchling providers` and `batchling models`: what the files of facts say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from batchling.cli.screen import width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.table import Number, table

if TYPE_CHECKING:
    from batchling.config.facts import ModelFacts, ProviderFacts
    from batchling.spec import ProviderConfig


def _complete_provider(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from batchling.config import facts

    shell = context.find_object(Shell) or Shell()
    names = [each.choice for each in facts.providers(shell.project)]
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("providers")
@click.argument("provider", metavar="[PROVIDER]", required=False, shell_complete=_complete_provider)
@common
@pass_shell
def providers_command(shell: Shell, provider: str | None) -> int:
    """The providers there are: key variable, windows, limits, discount. With PROVIDER everything that is known of it.

    Whether a key's variable is set is shown, never its value. Nothing is sent.
    """
    from batchling.config import facts

    found = facts.providers(shell.project)
    if provider is not None:
        found = [each for each in found if each.choice == provider] or _no_such(provider, found)
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"providers": [_document(each) for each in found]})
    elif provider is not None:
        shell.out(_described(found[0]))
    else:
        header = ["provider", "key variable", "set", "windows", "rows", "price", "checked"]
        rows = [_row(each) for each in found]
        shell.out(table(header, rows, width=width()))
        shell.say("price: times the standard one, where no batch price is listed; more: batchling providers NAME")
    return 0


def _no_such(name: str, found: list[ProviderFacts]) -> list[ProviderFacts]:
    import difflib

    from batchling.errors import ConfigError

    names = [each.choice for each in found]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (nearest: {near[0]})" if near else ""
    raise ConfigError(f"no provider {name!r}{hint}; there are: {', '.join(names)}", next_command="batchling providers")


def _row(each: ProviderFacts) -> list[Any]:
    config = each.config
    return [
        each.choice,
        config.api_key_env or "-",
        {True: "yes", False: "no", None: "-"}[each.key_set],
        _windows(config),
        config.limits.max_requests,
        Number("" if config.batch_factor is None else f"x {config.batch_factor:g}"),
        config.checked or "-",
    ]


def _windows(config: ProviderConfig) -> str:
    """`24h`, `24h..7d`; several single ones as their range, which the details list."""
    offered = config.windows
    if len(offered) > 1 and not any(".." in window for window in offered):
        return f"{offered[0]}..{offered[-1]}"
    return ", ".join(offered) or "-"


def _described(each: ProviderFacts) -> str:
    """One fact a line."""
    config = each.config
    key = {True: "set", False: "not set", None: ""}[each.key_set]
    limits = [f"{name}: {_figure(value)}" for name, value in config.limits.model_dump().items() if value is not None]
    factor = config.batch_factor
    price = "" if factor is None else f"{factor:g} of the standard price where no batch price is listed"
    lines = [
        ("provider", f"{each.choice}: {each.about}"),
        ("address", config.base_url or ("the embedded server" if config.engine is not None else "yours to set")),
        ("key", f"{config.api_key_env} ({key})" if config.api_key_env else "none"),
        ("endpoints", ", ".join(f"{name} {path}".strip() for name, path in _endpoints(config))),
        ("windows", f"{', '.join(config.windows) or 'not known'}; {config.completion_window} unless you say otherwise"),
        ("limits", ", ".join(limits) or "none known"),
        ("price", price or ("free" if config.name == "local" else "not known: set model.price")),
        ("refuses", ", ".join(config.refuses)),
        ("lost create", _settled(config)),
        ("file", str(each.path)),
        ("checked", config.checked or ""),
        *(("source", source) for source in config.source),
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in lines if text)


def _endpoints(config: ProviderConfig) -> list[tuple[str, str]]:
    return [(name, config.endpoint_paths.get(name, "")) for name in config.endpoints]


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _settled(config: ProviderConfig) -> str:
    """How a submission of unknown fate is settled there, in a few words."""
    facts = config.capabilities
    if not facts.list:
        return "its batches cannot be listed: you decide (batchling resolve)"
    if facts.marker == "results":
        return "looked for by its time and size, known by its results; if none shows, you decide (batchling resolve)"
    if facts.fence == "none":
        return "looked for in the list; if it is not there, you decide (batchling resolve)"
    return f"looked for in the list, its file deleted, looked for again after {facts.settle_seconds:g} s"


def _document(each: ProviderFacts) -> dict[str, Any]:
    return {
        "choice": each.choice,
        "about": each.about,
        "key_variable": each.config.api_key_env,
        "key_set": each.key_set,
        "path": each.path,
        "shipped": each.shipped,
        "facts": each.config.model_dump(mode="json", exclude={"key_origins", "headers_env"}),
    }


@click.command("models")
@click.argument("provider", metavar="[PROVIDER]", required=False, shell_complete=_complete_provider)
@common
@pass_shell
def models_command(shell: Shell, provider: str | None) -> int:
    """The models that have a file, of all providers or of PROVIDER: context, price per million tokens in batches, its date.

    A model without a file: model=custom model.id=NAME provider=PROVIDER.
    """
    from batchling.config import facts

    found = facts.models(shell.project, provider, today=datetime.now(UTC).date())
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"models": [_model_document(each) for each in found]})
        return 0
    header = ["model", "provider", "context", "in", "out", "priced"]
    shell.out(table(header, [_model_row(each) for each in found], width=width()))
    if found:
        shell.say("in, out: USD per million tokens in batches; priced: the day, or genai-prices' version; more: --json")
    else:
        shell.say(f"none of {provider} has a file; model=custom model.id=NAME provider={provider} takes any")
    return 0


def _model_row(each: ModelFacts) -> list[Any]:
    price = each.price
    embeds = each.config.endpoint == "embeddings"
    return [
        each.choice,
        each.provider or "-",
        each.config.context_tokens,
        Number("?" if price is None else f"{price.input:g}"),
        Number("" if embeds else "?" if price is None else f"{price.output:g}"),
        (each.price_date or "-").removeprefix("genai-prices "),
    ]


def _model_document(each: ModelFacts) -> dict[str, Any]:
    config, price = each.config, each.price
    usd = None if price is None else {"input": price.input, "output": price.output, "cached": price.cached}
    return {
        "choice": each.choice,
        "id": config.id,
        "provider": each.provider,
        "about": each.about,
        "endpoint": config.endpoint,
        "context_tokens": config.context_tokens,
        "output_tokens": config.output_tokens,
        "refuses": config.refuses,
        "usd_per_million_in_batches": usd,
        "price_source": None if price is None else price.source,
        "price_date": each.price_date,
        "checked": config.checked,
        "source": config.source,
        "path": each.path,
        "shipped": each.shipped,
    }
