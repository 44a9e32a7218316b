"""From plain values to the frozen tree, or one error that lists every problem with where it was set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from batchling.config import keys, secret, windows
from batchling.config.origin import LazyOrigins, Origin, lookup, rewritten
from batchling.config.tree import clone
from batchling.errors import ConfigError
from batchling.schema.sending import sending
from batchling.spec import Config, FaultsConfig

MISSING = "???"
_SHOWN = 60
_MOST = 25


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: the key it is about, what was expected, and where it was set."""

    key: str
    text: str
    origin: Origin | None = None

    def __str__(self) -> str:
        message = f"{self.key}: {self.text}" if self.key else self.text
        return f"{message} [{self.origin}]" if self.origin is not None else message


def config_error(problems: Sequence[Problem], *, next_command: str | None = None) -> ConfigError:
    """One error for all problems, in the order found, each once."""
    lines = list(dict.fromkeys(str(p) for p in problems))
    if len(lines) == 1:
        return ConfigError(lines[0], next_command=next_command)
    shown = lines[:_MOST]
    more = [f"… and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return ConfigError(
        "\n".join([f"{len(lines)} problems in the config:", *(f"  {x}" for x in shown + more)]),
        next_command=next_command,
    )


def validate(tree: Mapping[str, Any], origins: Mapping[str, Origin], *, recorded: bool = False) -> Config:
    """The validated tree.

    Args:
        tree: the composed, resolved config as plain values.
        origins: where each value was set, for the messages.
        recorded: it is a plan's own config, which was checked by the rules of the day on which it was made; the gate
            judges where its keys may go.

    Raises:
        ConfigError: missing keys first; else everything else that is wrong with it.
    """
    plain = normalise(tree)
    found_secrets = () if recorded else secret.problems(tree)
    secrets = [Problem(key, text, _masked(lookup(origins, key))) for key, text in found_secrets]
    if secrets:
        strangers = [replace(p, origin=_masked(p.origin)) for p in _strangers(plain, origins)]
        raise config_error(secrets + strangers)
    if found := _unusable(tree, origins):
        raise config_error(_strangers(plain, origins) + found)
    found = _traps(plain, origins)
    try:
        config = Config.model_validate(plain)
    except ValidationError as e:
        raise config_error(found + _everything(e, plain, origins)) from None
    for key, text in _contradictions(config):
        origin = lookup(origins, key)
        if key == "provider.base_url" and origin is not None and origin.comment:
            text += f" ({origin.comment})"
        found.append(Problem(key, text, origin))
    if found:
        raise config_error(found)
    return config


def _everything(error: ValidationError, plain: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """What pydantic says, and what it would say next if there were no unknown keys."""
    errors = error.errors(include_url=False, include_context=False)
    problems = [_explain(each, plain, origins) for each in errors]
    extra = [each["loc"] for each in errors if each["type"] == "extra_forbidden"]
    if extra:
        known = clone(dict(plain))
        for loc in extra:
            _remove(known, loc)
        try:
            config = Config.model_validate(known)
        except ValidationError as e:
            problems += [_explain(each, known, origins) for each in e.errors(include_url=False, include_context=False)]
        else:
            problems += [Problem(key, text, lookup(origins, key)) for key, text in _contradictions(config)]
    return problems


def _strangers(plain: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """The keys that nobody knows, whatever else is wrong."""
    try:
        Config.model_validate(plain)
    except ValidationError as e:
        errors = e.errors(include_url=False, include_context=False)
        return [_explain(each, plain, origins) for each in errors if each["type"] == "extra_forbidden"]
    return []


def unknown_keys(tree: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """The keys of a composed tree that nobody knows."""
    return _strangers(normalise(tree), origins)


def _remove(tree: Any, loc: tuple[int | str, ...]) -> None:
    """Takes away what stands at a place that pydantic names; its names of union members lead nowhere."""
    *parents, last = loc
    for part in parents:
        if isinstance(tree, dict) and part == "output_schema":
            part = "schema"
        if (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and isinstance(part, int)):
            tree = tree[part]  # type: ignore[index]
    if isinstance(tree, dict):
        tree.pop(str(last), None)


def retired(tree: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[str]:
    """A sentence for each key of an older version that means nothing any more."""
    found = []
    for key in keys.RETIRED:
        node: Any = tree
        for name in key.split("."):
            node = node.get(name, _TARGET) if isinstance(node, Mapping) else _TARGET
        if node is not _TARGET:
            origin = lookup(origins, key)
            found.append(f"{key} has no effect and can be removed" + (f" [{origin}]" if origin is not None else ""))
    return found


def normalise(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Forgives what YAML does to innocent words (`tokens: off` is false there, an empty `budget:` is null), and what
    version 0.1.0 had keys for."""
    plain = dict(tree)
    for key in keys.RETIRED:
        *parents, last = key.split(".")
        node: Any = plain
        for name in parents:
            if isinstance(node, dict) and isinstance(node.get(name), dict):
                node[name] = dict(node[name])
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(last, None)
    if plain.get("tokens") is False:
        plain["tokens"] = "off"
    for name in ("data", "model", "provider", "prompt", "schema", "metrics", "budget", "retry", "limits", "paths"):
        if name in plain and plain[name] is None:
            del plain[name]
    return plain


def _masked(origin: Origin | None) -> Origin | None:
    """The origin of a secret: an override is not repeated as typed."""
    if origin is None or origin.override is None:
        return origin
    return Origin(override=f"{origin.override.partition('=')[0]}=…")


_TARGET = object()

_API_DEFAULTS: dict[str, Any] = {
    "temperature": 1,
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logprobs": False,
    "n": 1,
}
"""What a model that refuses a parameter takes all the same, because it says what holds anyway."""

PREFILL = "prefill"
"""In `model.refuses`: a conversation that ends with the assistant's words."""


def _unusable(tree: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    """`_target_`, and values that are still missing."""
    problems = []
    for key, value in scalars(tree, ""):
        if value is _TARGET:
            if not key.startswith("data.rows."):
                text = "is not supported: a config never instantiates anything"
                problems.append(Problem(key, text, lookup(origins, key)))
        elif isinstance(value, str) and value == MISSING:
            origin = lookup(origins, key)
            hint = f" ({origin.comment})" if origin is not None and origin.comment else ""
            problems.append(Problem(key, f"has no value yet{hint}", origin))
    return problems


def scalars(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The scalars of plain values, by dotted key; `_TARGET` stands for a `_target_`."""
    if isinstance(value, dict):
        for name, child in value.items():
            inner = f"{key}.{name}" if key else str(name)
            if name == "_target_":
                yield inner, _TARGET
            if isinstance(child, dict | list):
                yield from scalars(child, inner)
            else:
                yield inner, child
    elif isinstance(value, list):
        for index, child in enumerate(value):
            if isinstance(child, dict | list):
                yield from scalars(child, f"{key}.{index}")
            else:
                yield f"{key}.{index}", child


# -- what pydantic says, in a person's words


def _explain(error: ErrorDetails, plain: Mapping[str, Any], origins: Mapping[str, Origin]) -> Problem:
    key = _dotted(error["loc"], plain)
    kind = error["type"]
    value = error.get("input")
    if kind == "extra_forbidden":
        hint = keys.did_you_mean(keys.nearest(key))
        if not hint and key.startswith("model."):
            hint = "; parameters of the API go into model.params"
        if key == "hydra":
            hint = "; Hydra's own settings do not apply here (use -m and --config-dir)"
        return Problem(key, f"no such key{hint}", lookup(origins, key))
    if kind == "missing":
        hint = "" if origins and lookup(origins, "provider.name") else "; does `defaults:` begin with `- /base`?"
        return Problem(key, f"is needed{hint}", lookup(origins, key.rpartition(".")[0]) if "." in key else None)
    message = error["msg"]
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        named = re.match(r"(\w+): ", text)
        key = key or (named.group(1) if named else "")
        text = text.removeprefix(f"{key}: ")
        if several := re.search(r"\(got (\w+(?:, \w+)+)\)$", text):  # what was set where is what helps
            got = [f"{name} [{lookup(origins, f'{key}.{name}') or 'default'}]" for name in several[1].split(", ")]
            text = f"{text[: several.start()]}(got {', '.join(got)}); {key}.NAME=null takes one away"
            return Problem(key, text)
        return Problem(key, text, lookup(origins, key) if key else None)
    expected = message[:1].lower() + message[1:]
    expected = expected.removeprefix("input should be ")
    return Problem(key, f"expected {expected}, got {_show(value)}{_hint(kind, value)}", lookup(origins, key))


def _dotted(loc: tuple[int | str, ...], plain: Any) -> str:
    """The key as a person writes it: pydantic's names of union members are left out."""
    parts: list[str] = []
    node = plain
    for part in loc:
        if isinstance(node, Mapping):
            if part in node:
                node = node[part]
            elif part == "output_schema" and "schema" in node:
                part, node = "schema", node["schema"]
            elif part is not loc[-1] or not _is_key(parts, str(part)):
                continue
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _is_key(parents: list[str], name: str) -> bool:
    return ".".join([*parents, name]) in keys.all_keys()


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _hint(kind: str, value: Any) -> str:
    if isinstance(value, bool) and kind in ("string_type", "literal_error"):
        return " (YAML reads yes, no, on and off as true and false: quote it)"
    if isinstance(value, int | float) and kind in ("string_type", "literal_error"):
        return " (quote it)"
    return ""


# -- traps of YAML, and what no single key is wrong about


def _traps(plain: Mapping[str, Any], origins: Mapping[str, Origin]) -> list[Problem]:
    problems = []
    schema = plain.get("schema")
    fields = schema.get("fields") if isinstance(schema, Mapping) else None
    for key, value in scalars(fields or {}, "schema.fields"):
        if isinstance(value, bool) and (enum := re.fullmatch(r"(.+\.enum)\.\d+", key)):
            hint = "YAML reads yes, no, on and off as true and false: quote it, or say {type: boolean}"
            problems.append(
                Problem(enum[1], f"expected names, got {str(value).lower()} ({hint})", lookup(origins, key))
            )
    for file in origins.files if isinstance(origins, LazyOrigins) else ():
        for leaf in rewritten(file):
            for key, origin in origins.items():
                if origin.file == file and origin.line == leaf.line and f".{key}".endswith(f".{leaf.key}"):
                    text = f"YAML reads {leaf.text} as the number {_yaml_int(leaf.text or '')}: quote it to keep it as it is"
                    problems.append(Problem(key, text, origin))
    return problems


def _yaml_int(text: str) -> int:
    import yaml

    return int(yaml.safe_load(text))


def _asks(value: Any, name: str) -> bool:
    """Whether a parameter is set to something else than what holds anyway."""
    return value is not None and not (name in _API_DEFAULTS and value == _API_DEFAULTS[name])


def _contradictions(config: Config) -> list[tuple[str, str]]:
    """(key, what is wrong) where single keys are fine and their combination is not."""
    found = []
    model, provider, prompt = config.model, config.provider, config.prompt
    if model.endpoint not in provider.endpoints:
        offered = ", ".join(provider.endpoints)
        found.append(
            ("model.endpoint", f"{provider.name} has no {model.endpoint} endpoint in its Batch API (it has: {offered})")
        )
    elif model.endpoint in model.refuses:
        others = ", ".join(name for name in provider.endpoints if name not in model.refuses)
        hint = f"at {provider.name} it answers: {others}" if others else "choose another model"
        found.append(("model.endpoint", f"{model.id} does not answer {model.endpoint} (model.refuses); {hint}"))
    found += _refused(config)
    if not windows.accepted(provider.completion_window, provider.windows):
        offered = ", ".join(provider.windows)
        found.append(
            (
                "provider.completion_window",
                f"{provider.name} does not take {provider.completion_window}, only {offered}",
            )
        )
    longest = model.output_tokens
    if longest is not None and model.max_output_tokens is not None and model.max_output_tokens > longest:
        found.append(("model.max_output_tokens", f"{model.id} gives {longest:,} at most (model.output_tokens)"))
    if model.endpoint == "embeddings":
        if prompt.input is None:
            found.append(
                (
                    "prompt.input",
                    "the embeddings endpoint needs the text to embed, e.g. prompt=embed or prompt.input='{text}'",
                )
            )
        if config.output_schema.fields or config.output_schema.pydantic or config.output_schema.json_schema:
            found.append(("schema", "embeddings have no output schema: schema=text"))
    elif not prompt.messages:
        found.append(("prompt.messages", f"the {model.endpoint} endpoint needs messages, e.g. prompt=classify"))
    if provider.base_url is None and provider.name != "local":
        found.append(("provider.base_url", f"{provider.name} needs its URL, e.g. provider.base_url=https://HOST/v1"))
    if provider.base_url is not None and not re.match(r"https?://[^/\s]+", provider.base_url):
        found.append(("provider.base_url", f"expected an http or https URL, got {_show(provider.base_url)}"))
    if provider.engine is not None and provider.engine.kind == "http" and not provider.engine.upstream:
        found.append(("provider.engine.upstream", "the http engine needs it, e.g. http://127.0.0.1:11434/v1"))
    if (engine := provider.engine) is not None:
        if engine.pretend is not None and (engine.kind == "http" or provider.base_url is not None):
            found.append(
                (
                    "provider.engine.pretend",
                    "only answers that are made up in this process have a pretend price; elsewhere: model.price",
                )
            )
        if engine.kind != "simulated" and engine.faults != FaultsConfig():
            found.append(("provider.engine.faults", f"only the simulated engine makes them, not {engine.kind}"))
    if config.budget.usd is not None and model.max_output_tokens is None and model.endpoint != "embeddings":
        found.append(
            (
                "model.max_output_tokens",
                "budget.usd is held against the worst case, which needs a limit; try model.max_output_tokens=1000",
            )
        )
    return found


def _refused(config: Config) -> Iterator[tuple[str, str]]:
    """Parameters that the model or the provider cannot take."""
    model, provider = config.model, config.provider
    for refuses, who, fact, way_out in (
        (model.refuses, model.id, "model.refuses", "choose another model"),
        (provider.refuses, provider.name, "provider.refuses", "choose another provider"),
    ):
        for pair in refuses:
            names = pair.split("+")
            name = names[-1]
            if not all(_asks(model.params.get(part), part) for part in names):
                continue
            if fact == "provider.refuses" and pair in model.refuses:
                continue  # said already
            hint = "use model.max_output_tokens" if name == "max_tokens" else "take it away"
            what = " together with ".join(("it", *names[:-1]))
            yield f"model.params.{name}", f"{who} refuses {what} ({fact}); {hint}, or {way_out}"
    last = len(config.prompt.messages) - 1
    if PREFILL in model.refuses and last >= 0 and config.prompt.messages[last].role == "assistant":
        yield (
            f"prompt.messages.{last}.role",
            f"{model.id} does not continue an answer that is begun for it (model.refuses: {PREFILL}); end with the user's "
            "message",
        )
    has_schema = any((config.output_schema.fields, config.output_schema.pydantic, config.output_schema.json_schema))
    if (
        "json_schema" in provider.refuses
        and has_schema
        and model.endpoint != "embeddings"
        and sending(config.output_schema, model) == "strict"
    ):
        yield (
            "schema.send",
            f"{provider.name} takes no JSON Schema in a request (provider.refuses); "
            "schema.send=json_mode or schema.send=prompt asks for it in words",
        )
