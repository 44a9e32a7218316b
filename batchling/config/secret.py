"""Refuses values that look like keys. Configs only ever *name* the variable that holds a key.

A config is copied into the plan's folder, printed and committed; a key in it would travel along.
So it is refused before anything is written, and no message repeats it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_SHAPES = re.compile(
    r"""(?<![A-Za-z0-9_-])(?:
      sk-[A-Za-z0-9_-]{16,}                     # OpenAI, Anthropic, OpenRouter, DeepSeek
    | gsk_[A-Za-z0-9]{16,}                      # Groq
    | xai-[A-Za-z0-9]{20,}
    | AKIA[0-9A-Z]{16} | ASIA[0-9A-Z]{16}       # AWS
    | AIza[0-9A-Za-z_-]{30,}                    # Google
    | hf_[A-Za-z0-9]{20,}
    | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_[A-Za-z0-9_]{20,}
    | glpat-[A-Za-z0-9_-]{16,}
    | xox[abposr]-[A-Za-z0-9-]{10,}             # Slack
    | tgp_v1_[A-Za-z0-9_-]{16,} | fw_[A-Za-z0-9]{16,} | pplx-[A-Za-z0-9]{20,} | r8_[A-Za-z0-9]{20,}
    | whsec_[A-Za-z0-9+/=]{16,}
    | eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{6,}   # a signed web token
    )""",
    re.VERBOSE,
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_BEARER = re.compile(r"\b(?:Bearer|Basic)\s+([A-Za-z0-9._~+/=-]{12,})", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"://[^/\s:@]+:([^/\s@]+)@")
_URL_PARAMETER = re.compile(r"[?&](?:api[-_]?key|key|token|access_token|sig|secret)=([^&\s]{8,})", re.IGNORECASE)
_TELLING_KEY = re.compile(
    r"(?:^|[._-])(?:api[-_]?key|key|token|secret|password|passwd|credentials?|authorization|bearer)(?:$|[._-])|api-?key",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRET_VARIABLE = re.compile(
    r"\$\{\s*oc\.env\s*:\s*([A-Za-z0-9_]*(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)[A-Za-z0-9_]*)", re.I
)


_CREDENTIAL_HEADER = re.compile(r"(?:^|\.)headers\.(?:(?:proxy-)?authorization|(?:x-)?api-?key)$", re.IGNORECASE)


def mask(value: str) -> str:
    """What may be shown of a secret: its length, and of a long one, as keys are, the first three characters."""
    return f"{value[:3] if len(value) >= 20 else ''}… ({len(value)} characters)"


def find(value: str) -> str | None:
    """The part of a text that has the shape of a key; None when there is none."""
    if found := _SHAPES.search(value) or _PRIVATE_KEY.search(value):
        return found.group(0)
    for pattern in (_BEARER, _URL_PASSWORD, _URL_PARAMETER):
        if found := pattern.search(value):
            return found.group(1)
    return None


def _random(value: str) -> bool:
    """A long token without words or spaces: what keys without a known prefix look like."""
    if len(value) < 20 or not re.fullmatch(r"[A-Za-z0-9+/=_.~-]+", value):
        return False
    if not (re.search(r"[0-9]", value) and re.search(r"[A-Za-z]", value)):
        return False
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return entropy > 3.2


def looks_like_key(key: str, value: str) -> str | None:
    """The secret in `value`, when it has a known shape or stands, long and random, under a telling key.

    Args:
        key: the dotted key it stands under.
        value: a text from a config or an override.
    """
    if found := find(value):
        return found
    key = re.sub(r"(?:\.\d+)+$", "", key)  # a list's values stand under the list's name
    if key.startswith("data.rows"):
        return None  # rows hold ids of all kinds
    name = key.rpartition(".")[2]
    if name.endswith("_env"):
        return value if _random(value) and "_" not in value else None
    if (_TELLING_KEY.search(name) or ".headers." in f".{key}.") and _random(value):
        return value
    return None


def problems(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) for every value that holds a key, without the key."""
    for key, value in _texts(tree, ""):
        if (text := _problem(key, value)) is not None:
            yield key, text


@lru_cache(maxsize=4096)  # the points of a sweep share almost all their texts
def _problem(key: str, value: str) -> str | None:
    if secret := looks_like_key(key, value):
        return (
            f"holds what looks like a key ({mask(secret)}); configs only name the variable: api_key_env: OPENAI_API_KEY"
        )
    if key.endswith("api_key_env") and not _VARIABLE.fullmatch(value):
        return f"is the NAME of a variable, like OPENAI_API_KEY, not a key ({mask(value)})"
    if _CREDENTIAL_HEADER.search(key):
        return "carries credentials; name the variable instead (provider.api_key_env)"
    return None


def environment_problems(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) for every `${oc.env:…}` that would copy a secret into the config, before it does."""
    for key, value in _texts(tree, ""):
        if "${" in value and (found := _SECRET_VARIABLE.search(value)):
            yield (
                key,
                f"would copy the secret {found.group(1)} into the config; name the variable instead (api_key_env)",
            )


def in_override(text: str) -> str | None:
    """The secret in an override as typed; None when there is none."""
    key, _, value = text.partition("=")
    return looks_like_key(key.lstrip("+~"), value.strip("'\""))


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if isinstance(name, str) and find(name):
                yield key, name
            else:
                yield from _texts(child, inner)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _texts(child, f"{key}.{index}")
