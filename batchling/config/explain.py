"""What to tell a person when Hydra or OmegaConf could not compose: every override that is wrong, or the file and line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import MissingConfigException

from batchling.config import keys, secret
from batchling.config.composer import Composer
from batchling.config.origin import Origin, leaves
from batchling.config.tree import CompositionFailed, interpolation_error
from batchling.config.validate import Problem, config_error
from batchling.errors import ConfigError

_INTERPOLATION = re.compile(r"(?<!\\)(?:\\\\)*\$\{")


def check_overrides(composer: Composer, overrides: Sequence[str], *, multirun: bool = False) -> None:
    """Refuses, before anything is composed, what must not even be repeated or makes no sense here.

    Raises:
        ConfigError: one text in place of a list, a secret, `_target_`, a key of Hydra's own, a sweep without -m.
    """
    if isinstance(overrides, str):
        raise ConfigError(
            f"overrides must be a list of strings, got {overrides!r}", next_command=f"write [{overrides!r}]"
        )
    problems = []
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if why := secret.override_problem(text):
            problems.append(Problem(key, why))
        elif "_target_" in text:
            problems.append(Problem(key, "_target_ is not supported: a config never instantiates anything"))
        elif key == "hydra" or key.startswith(("hydra.", "hydra/")):
            problems.append(Problem(key, "Hydra's own settings do not apply here (use -m and --config-dir)"))
    if problems:
        raise config_error(problems + misspelt(composer))
    if multirun:
        return
    for override in composer.parse(overrides):
        if override.is_sweep_override():
            key = override.key_or_group
            text = f"is a sweep, which needs -m; for a list write {key}=[a,b], for text with a comma quote it twice: '{key}=\"a,b\"'"
            problems.append(Problem(key, text, Origin(override=str(override.input_line))))
    if problems:
        raise config_error(problems + misspelt(composer))


def misspelt(composer: Composer) -> list[Problem]:
    """The keys at the top of the experiment's own config that nobody knows: told whatever else is wrong."""
    known = {key for key in keys.all_keys() if "." not in key} | {"defaults"}
    found: list[Problem] = []
    for leaf in leaves(composer.experiment.path):
        name = leaf.key.partition(".")[0]
        if name and name not in known and name != "hydra" and all(problem.key != name for problem in found):
            text = f"no such key{keys.did_you_mean(keys.nearest(name))}"
            found.append(Problem(name, text, Origin(file=composer.experiment.path, line=leaf.line)))
    return found


def explain(failed: CompositionFailed, composer: Composer, overrides: Sequence[str]) -> ConfigError:
    """The error to raise instead of Hydra's, with every key that is misspelt besides."""
    error = _explained(failed, composer, overrides)
    others = [problem for problem in misspelt(composer) if f"{problem.key}: no such key" not in error.message]
    if not others:
        return error
    lines = error.message.splitlines()
    if len(lines) > 1 and lines[0].endswith("problems in the config:"):
        lines = [line.strip() for line in lines[1:]]
    elif error.where:
        lines[-1] += f" [{error.where}]"
    return config_error([*(Problem("", line) for line in lines), *others], next_command=error.next_command)


def _explained(failed: CompositionFailed, composer: Composer, overrides: Sequence[str]) -> ConfigError:
    problems = [problem for override in composer.parse(overrides) if (problem := _wrong(override, composer))]
    if problems:
        return config_error(problems)
    cause = failed.__cause__
    if "EXPANDED_NODES" in str(failed):
        message = "a config holds more than 10,000 values, OmegaConf's limit: rows belong in a file (data.path), not in the config"
        return ConfigError(message, where=str(composer.experiment.path))
    if isinstance(cause, RecursionError):
        return ConfigError(str(failed), where=str(composer.experiment.path))
    if isinstance(cause, yaml.MarkedYAMLError) and cause.problem_mark is not None:
        return _broken_yaml(cause, composer)
    if found := _bad_interpolations(composer):
        return config_error(found)
    if isinstance(cause, MissingConfigException):
        return _missing_config(cause, composer)
    if nowhere := re.search(r"(?:Could not override|No earlier Group Default for) '([^']+)'", str(failed)):
        return _nothing_to_override(nowhere[1], composer)
    return ConfigError(_tidy(str(failed)), where=str(composer.experiment.path))


def _wrong(override: Override, composer: Composer) -> Problem | None:
    """What is wrong with one override, seen by itself."""
    key = override.key_or_group
    origin = Origin(override=str(override.input_line))
    if override.is_delete():
        return None
    value = override.value()
    if composer.is_group(key) and not isinstance(value, dict):
        if not isinstance(value, str):
            return Problem(key, f"expected one of its choices: {', '.join(composer.choices(key))}", origin)
        return (
            Problem(key, unknown_choice(key, value, composer.choices(key)), origin)
            if value not in composer.choices(key)
            else None
        )
    plain = re.sub(r"\[(\w+)\]", r".\1", key)
    if keys.is_key(plain) or override.package is not None:
        return None
    candidates = [*keys.all_keys(), *composer.groups()]
    return Problem(
        key,
        f"no such key{keys.did_you_mean(keys.nearest(plain, dict.fromkeys(candidates))) or _params_hint(plain)}",
        origin,
    )


def _params_hint(key: str) -> str:
    return f"; a parameter of the API? then model.params.{key}=…" if "." not in key else ""


def unknown_choice(group: str, choice: str, choices: Sequence[str]) -> str:
    """`no choice 'gpt-5-mni' in the group model; did you mean gpt-5-mini?`"""
    near = difflib.get_close_matches(choice, choices, n=2, cutoff=0.6)
    text = f"no choice {choice!r} in the group {group}{keys.did_you_mean(near)}"
    if not near:
        text += f"; there are: {', '.join(choices)}"
    if group == "model":
        text += f" (a model without a file: model=custom model.id={choice} provider=openai)"
    return text


def _broken_yaml(error: yaml.MarkedYAMLError, composer: Composer) -> ConfigError:
    mark = error.problem_mark
    assert mark is not None
    message = f"cannot read YAML: {error.problem or error.context}"
    if error.problem and "found character '\\t'" in error.problem:
        message += " (indent with spaces)"
    name = mark.name if Path(str(mark.name)).is_file() else composer.experiment.path
    return ConfigError(message, where=f"{name}:{mark.line + 1}")


def _config_files(composer: Composer) -> list[Path]:
    """The experiment's own config and every group file that is not shipped."""
    files = [composer.experiment.path]
    for label, folder in composer.search_path:
        if label != "shipped":
            files += [p for group in composer.groups() for p in sorted((folder / group).glob("*.yaml"))]
    return files


def _bad_interpolations(composer: Composer) -> list[Problem]:
    found = []
    for path in _config_files(composer):
        for leaf in leaves(path):
            if leaf.text is None or not interpolates(leaf.text):
                continue
            origin = Origin(file=path, line=leaf.line)
            if is_prompt(leaf.key) or path.parent.name == "prompt":
                found.append(Problem(leaf.key, PROMPT_INTERPOLATION, origin))
            elif reason := interpolation_error(leaf.text):
                found.append(
                    Problem(leaf.key, f"OmegaConf reads ${{…}} and cannot: {reason}; escape it as \\${{…}}", origin)
                )
            else:
                found.append(
                    Problem(
                        leaf.key, "OmegaConf reads ${…} and finds nothing of that name; escape it as \\${…}", origin
                    )
                )
    return found


PROMPT_INTERPOLATION = "OmegaConf would replace ${…} in a prompt before the model sees it; escape it as \\${…} or keep the prompt in a file (file:prompt.md)"


def is_prompt(key: str) -> bool:
    """Whether a key holds prompt text."""
    return key == "prompt.input" or bool(re.fullmatch(r"prompt\.messages\.\d+\.content", key))


def interpolates(text: str) -> bool:
    """Whether OmegaConf would replace something in a text (`\\${…}` is escaped)."""
    return _INTERPOLATION.search(text) is not None


def _missing_config(error: MissingConfigException, composer: Composer) -> ConfigError:
    wanted = str(error.missing_cfg_file or "")
    group, _, choice = wanted.rpartition("/")
    word = choice or wanted
    parent = re.match(r"In '([^']+)'", str(error))
    files = [composer.experiment.path]  # an `override` there is reported as its base's
    if parent:
        files += [folder / f"{parent[1]}.yaml" for _, folder in composer.search_path]
    where = next((f"{path}:{line}" for path in files if (line := _line_of(path, word))), None)
    if group and composer.is_group(group):
        return ConfigError(f"{group}: {unknown_choice(group, choice, composer.choices(group))}", where=where)
    folders = ", ".join(str(folder) for _, folder in composer.search_path)
    hint = _groups_hint(group, composer) if group else ""
    return ConfigError(f"no config {wanted!r}{hint} (looked in {folders})", where=where)


def _nothing_to_override(place: str, composer: Composer) -> ConfigError:
    """A defaults list says `override` of a group that no config before it has chosen."""
    group = place.partition("@")[0].strip("/")
    where = next((f"{path}:{line}" for path in _config_files(composer) if (line := _line_of(path, group))), None)
    if composer.is_group(group):
        text = f"defaults: nothing before it chooses {place}, so there is nothing to override"
        return ConfigError(text, where=where, next_command="begin the list with `- /base`, or leave `override` away")
    text = f"defaults: no group {group!r}{_groups_hint(group, composer)}"
    return ConfigError(text, where=where or str(composer.experiment.path))


def _groups_hint(group: str, composer: Composer) -> str:
    if composer.is_group(group):
        return ""
    known = composer.groups()
    return keys.did_you_mean(keys.nearest(group, dict.fromkeys(known))) or f"; there are: {', '.join(known)}"


def _line_of(path: Path, word: str) -> int | None:
    """The first line of a file that has a word, outside of comments."""
    if not path.is_file():
        return None
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w.-])", line.partition("#")[0]):
            return number
    return None


def _tidy(message: str) -> str:
    """Hydra's message without its search path dump and indentation."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    end = next(
        (i for i, line in enumerate(lines) if line.startswith(("Config search path", "Search path", "full_key"))),
        len(lines),
    )
    return " ".join(lines[:end]) or message
