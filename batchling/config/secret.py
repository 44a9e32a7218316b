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

from batchling.scrub import URL, Scrubber, cut, urls_in
from batchling.trust import problem_of

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
_ENVIRONMENT = re.compile(r"(?<!\\)(?:\\\\)*\$\{\s*oc\.env\b")
_NAMED = re.compile(r"(?<!\\)(?:\\\\)*\$\{\s*oc\.env\s*:\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?:,[^${}]*)?\}")
_MADE_UP = re.compile(r"\$\{[^{}:]*\$\{[^{}]*\}[^{}:]*:")  # a resolver whose name is put together
_TELLING_VARIABLE = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PASS|PWD|CREDENTIALS?|AUTH|AUTHORIZATION|COOKIE|DSN"
    r"|CONNECTION_?STRING)(?:$|_)|APIKEY|PASSWORD|SECRET|TOKEN",
    re.IGNORECASE,
)
_CREDENTIAL_WORDS = frozenset(
    {
        "authorization",
        "auth",
        "bearer",
        "cookie",
        "credential",
        "credentials",
        "jwt",
        "key",
        "apikey",
        "password",
        "passwd",
        "pass",
        "passphrase",
        "pwd",
    }
    | {"secret", "session", "signature", "token"}
)
_NO_CREDENTIALS = frozenset({"idempotency-key", "x-idempotency-key"})
_CREDENTIAL_ENDS = frozenset(
    {
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "credential",
        "credentials",
        "authorization",
        "auth",
        "bearer",
    }
    | {"apikey", "jwt"}
)
"""The last word of a key that holds a credential."""
_CREDENTIAL_PAIRS = frozenset(
    {("api", "key"), ("access", "key"), ("secret", "key"), ("private", "key"), ("subscription", "key")}
    | {
        (word, "token")
        for word in ("access", "api", "auth", "bearer", "github", "hf", "oauth", "refresh", "security", "session")
    }
)
"""The last two: `eos_token` and `prompt_cache_key` hold none."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_HALF = 12
"""Characters of a key that are told as a part of it; fewer stand in a text by chance."""
_SCHEME = re.compile(
    r"\s*(?:bearer|basic|token|apikey|digest|negotiate|ntlm|oauth|aws4-hmac-sha256)\s+\S", re.IGNORECASE
)
_HEADER = re.compile(r"^provider\.headers\.(.+)$")
_HIDDEN_HEADER = re.compile(r"^provider\.headers_env\.(.+)$")
_ADDRESSES = ("provider.base_url", "provider.engine.upstream")
_USER = re.compile(r"^[a-z][a-z0-9+.-]*://[^/?#@]*@", re.IGNORECASE)


def mask(value: str) -> str:
    """What may be shown of a secret: its length, and the first three characters of one with a vendor's known prefix."""
    return f"{value[:3] if len(value) >= 20 and _SHAPES.match(value) else ''}… ({len(value)} characters)"


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
    if _under(f"{key}.", ("data.path.", "data.sql.")):
        value = cut(value, urls_in(value))  # a query there may be a signature: it is cut from what is written
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
    if key in _ADDRESSES and value != "???" and (why := problem_of(value)) is not None:  # ???: not said yet
        return why
    if secret := looks_like_key(key, value):
        return (
            f"holds what looks like a key ({mask(secret)}); configs only name the variable: api_key_env: OPENAI_API_KEY"
        )
    names = key.endswith("api_key_env") or _HIDDEN_HEADER.match(key)
    if names and (not _VARIABLE.fullmatch(value) or ("_" not in value and _random(value))):
        return f"is the NAME of a variable, like OPENAI_API_KEY, not a key ({mask(value)})"
    header = _HEADER.match(key)
    if header and value.strip() and (_is_credential(header[1]) or _SCHEME.match(value)):
        return f"carries credentials; name the variable that holds them instead (provider.headers_env: {{{header[1]}: MY_VAR}})"
    if (
        _is_credential_key(key.rpartition(".")[2])
        and _under(key, ("provider.", "model.params.", "data.options."))
        and value.strip()
    ):
        return (
            "carries credentials, which do not belong in a config: name a variable (provider.api_key_env, headers_env)"
        )
    is_data = _under(f"{key}.", ("data.path.", "data.sql.", "data.options."))
    if is_data and any(_USER.match(url) for url in URL.findall(value)):
        return "holds a user name or password before an @, which would be written into the plan"
    return None


def _under(key: str, prefixes: tuple[str, ...]) -> bool:
    return key.startswith(prefixes)


def _is_credential(header: str) -> bool:
    """Whether a header is, by its name, one that carries credentials."""
    name = header.lower()
    return name not in _NO_CREDENTIALS and any(
        word in _CREDENTIAL_WORDS or word.endswith(("key", "token", "secret")) for word in re.split(r"[-_.]", name)
    )


def _is_credential_key(name: str) -> bool:
    """Whether a parameter is, by its name, one that carries credentials, however it is written.

    >>> [_is_credential_key(name) for name in ("apiKey", "s3_secret_access_key", "hf-token", "max_tokens", "eos_token")]
    [True, True, True, False, False]
    """
    words = [word.lower() for word in _WORD.findall(name)]
    return words[-1:] != [] and (words[-1] in _CREDENTIAL_ENDS or tuple(words[-2:]) in _CREDENTIAL_PAIRS)


def environment_problems(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) for every `${oc.env:…}` that copies what was not declared into the config, before it does.

    Declared is what the config's `environment` lists; names that tell of a secret cannot be.
    """
    declared = tree.get("environment")
    declared = {str(name) for name in declared} if isinstance(declared, list) else set()
    for key, value in _texts(tree, ""):
        if "${" not in value:
            continue
        if _MADE_UP.search(value):
            yield (
                key,
                "builds the name of a resolver from parts, so there is no telling what it would copy into the config",
            )
            continue
        named = _NAMED.findall(value)
        if len(named) != len(_ENVIRONMENT.findall(value)):
            yield (
                key,
                "would copy an environment variable into the config without naming it plainly: ${oc.env:NAME}",
            )
            continue
        for name in named:
            if _TELLING_VARIABLE.search(name):
                text = f"would copy the secret {name} into the config; name the variable instead (api_key_env, headers_env)"
                yield key, text
            elif name not in declared:
                yield (
                    key,
                    f"would copy the variable {name} into the config; to allow that, declare environment: [{name}]",
                )


def values_told(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables whose names tell of a secret, and their values; without what is as short as a word, or a path."""
    return {
        name: value.strip()
        for name, value in environ.items()
        if _TELLING_VARIABLE.search(name)
        and name not in ("PWD", "OLDPWD")
        and len(value.strip()) >= 8
        and not value.strip().startswith(("/", "~", "./"))
        and not value.strip().isalpha()
    }


def leaked(text: bytes, environ: Mapping[str, str]) -> str | None:
    """The variable whose value, in any shape, stands in a text that would be written; None: none does."""
    values = tuple(sorted(values_told(environ).items()))
    for name, finder in _finders(values):
        if finder.finds(text):
            return name
    return next((name for name, value in values if _random(value) and _holds_half(text, value.encode())), None)


def _holds_half(text: bytes, value: bytes) -> bool:
    """Whether half of a key stands in a text: one that was cut in two, or whose end was left away.

    Only of values that are long and random: half of a name or an address says nothing.
    """
    length = max(_HALF, len(value) // 2)
    step = (length + 1) // 2  # a run of `length` holds one of the pieces that begin at its multiples
    if not any(value[i : i + step] in text for i in range(0, len(value) - step + 1, step)):
        return False
    runs = (value[i : i + length] for i in range(len(value) - length + 1))
    return any(run in text and _mixed(run) for run in runs)


def _mixed(run: bytes) -> bool:
    """Whether characters are mixed as in keys: `sk-canaryQ7w3Z`, `9f86d081884c`, and not `my-company-vault-1`."""
    digits = sum(map(bytes.isdigit, (run[i : i + 1] for i in range(len(run)))))
    return digits > 0 and (digits >= 3 or (run != run.lower() and run != run.upper()))


@lru_cache(maxsize=4)
def _finders(values: tuple[tuple[str, str], ...]) -> tuple[tuple[str, Scrubber], ...]:
    return tuple((name, Scrubber([value])) for name, value in values)


def override_problem(text: str) -> str | None:
    """What is wrong with an override as typed, without the secret in it; None: nothing."""
    key, _, value = text.partition("=")
    key, value = key.lstrip("+~"), value.strip("'\"")
    if found := looks_like_key(key, value):
        return f"the override holds what looks like a key ({mask(found)}); configs only name the variable: provider.api_key_env=OPENAI_API_KEY"
    return _problem(key, value) if value and not value.startswith(("{", "[")) else None


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
