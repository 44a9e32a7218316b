"""The configs that come with batchling, and what its provider files say of keys. A project's files never count here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from batchling.trust import BASE_URL_VARIABLES, EXTRA_VARIABLES, Claims


def shipped_conf() -> Path:
    """The configs that come with batchling: `batchling/conf` in a wheel, the repository's `conf/` in an editable install."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def provider_file(name: str) -> Path:
    return shipped_conf() / "provider" / f"{name}.yaml"


@lru_cache(maxsize=1)
def _providers() -> tuple[dict[str, Any], ...]:
    import yaml  # only here: most commands send nothing

    return tuple(
        yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in sorted((shipped_conf() / "provider").glob("*.yaml"))
    )


def claims() -> Claims:
    """Which variable belongs to which address, by the shipped provider files alone."""
    found: dict[str, list[str]] = {}
    for document in _providers():
        variable = document.get("api_key_env")
        if not variable:
            continue
        addresses = list(document.get("key_origins") or ())
        if (url := document.get("base_url")) and url != "???":
            addresses.append(url)
        for name in (variable, *EXTRA_VARIABLES.get(document["name"], ())):
            found.setdefault(name, []).extend(addresses)
    return Claims({name: tuple(addresses) for name, addresses in found.items()})


def default_base_url(provider: str) -> str | None:
    """The shipped address of a provider; None where there is none."""
    url = next((d.get("base_url") for d in _providers() if d.get("name") == provider), None)
    return None if url == "???" else url


def key_variables(provider: str) -> tuple[str, ...]:
    """The variables that the address in `BASE_URL_VARIABLES[provider]` gets."""
    variables = [d["api_key_env"] for d in _providers() if d.get("name") == provider and d.get("api_key_env")]
    return (*variables, *EXTRA_VARIABLES.get(provider, ())) if provider in BASE_URL_VARIABLES else ()
