"""Configuration: from an experiment's files and overrides to frozen, validated runs.

The only package that imports hydra and omegaconf, and only when something is composed: importing
this module is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.config.project import ExperimentFile, Project, experiment_names, find_project, locate, project_of

if TYPE_CHECKING:
    from batchling.config.composition import Composition
    from batchling.config.origin import Origin
    from batchling.spec import Spec

__all__ = [
    "Composition",
    "ExperimentFile",
    "Origin",
    "Project",
    "complete",
    "compose",
    "expand",
    "experiment_names",
    "find_project",
    "from_values",
    "init_project",
    "json_schema",
    "load_spec",
    "locate",
    "project_of",
]


def __getattr__(name: str) -> Any:
    if name == "Composition":
        from batchling.config.composition import Composition

        return Composition
    if name == "Origin":
        from batchling.config.origin import Origin

        return Origin
    raise AttributeError(name)


def compose(
    experiment: str, overrides: Sequence[str] = (), *, project: Project | None = None, config_dir: Path | None = None
) -> Composition:
    """Composes, resolves and validates one experiment, and reads every file it refers to.

    Args:
        experiment: a folder with a config.yaml, a .yaml file, or a bare name in `experiments/`.
        overrides: in Hydra's grammar: `model=gpt-5-mini`, `data.limit=10`, `+key=…`, `~key`.
        project: None: the one the working directory is in.
        config_dir: a folder with config groups that wins over all others.

    Raises:
        ConfigError: everything that is wrong, each with the file and line or the override that set it.
    """
    from batchling.config.composition import compose

    return compose(experiment, overrides, project=project, config_dir=config_dir)


def expand(
    experiment: str,
    overrides: Sequence[str] = (),
    *,
    multirun: bool = False,
    sweep: Mapping[str, Any] | None = None,
    project: Project | None = None,
    config_dir: Path | None = None,
) -> list[Composition]:
    """The points of a sweep, each composed, validated and with its files read; points of equal config are one.

    Args:
        experiment: as in `compose`.
        overrides: in Hydra's grammar; with `multirun` also its sweep grammar (`a,b`, `choice()`, `range()`, `glob()`).
        multirun: whether the overrides may sweep (`-m`).
        sweep: takes the place of the experiment's `sweep:` section (grid, zip, points, exclude), which always applies;
            a key in `overrides` takes the place of the section's.

    Returns:
        At least one; in Hydra's order: the first override changes slowest, the section's points fastest.

    Raises:
        ConfigError: each problem once, with the points that have it.
    """
    from batchling.config.sweep import expand

    return expand(experiment, overrides, multirun=multirun, sweep=sweep, project=project, config_dir=config_dir)


def load_spec(
    document: Mapping[str, Any],
    root: Path,
    overrides: Sequence[str] = (),
    *,
    kept_schema: Mapping[str, Any] | None = None,
) -> Spec:
    """A run rebuilt from its recorded config and the folder with copies of its files (`<plan>/source`).

    Args:
        kept_schema: the JSON Schema that takes the place of a pydantic class, whose code is then not imported.

    Raises:
        ConfigError: a file is missing, or this version does not accept the config.
    """
    from batchling.config.values import load_spec

    return load_spec(document, root, overrides, kept_schema=kept_schema)


def from_values(document: Mapping[str, Any], root: Path) -> Spec:
    """A run from plain values, validated as a config is; keys that are not given have the tree's defaults.

    Args:
        document: the config tree; `model` and `provider` may be names of files in `conf/` (`model: gpt-4o-mini` selects
            its provider, `provider: local` wins over that), and a `model` without a file its id when a provider is given.
        root: relative paths start here.

    Raises:
        ConfigError: everything that is wrong.
    """
    from batchling.config.values import from_values

    return from_values(document, root)


def complete(words: Sequence[str], *, project: Project | None = None, config_dir: Path | None = None) -> list[str]:
    """Shell completion: what the last of `words` may become. The first word is the experiment, the others overrides."""
    from batchling.config.completion import complete

    return complete(words, project, config_dir)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a config file, for editors. Nothing is required: what one file leaves out, another sets."""
    from batchling.spec import Config

    schema = Config.model_json_schema(by_alias=True)
    for section in [schema, *schema.get("$defs", {}).values()]:
        section.pop("required", None)
    schema["title"] = "batchling experiment"
    schema["properties"]["defaults"] = {
        "type": "array",
        "description": "The configs this one is composed from; `_self_` is where its own keys come in.",
        "items": {"type": ["string", "object"]},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def init_project(folder: Path) -> list[Path]:
    """Writes a small project: `conf/`, `experiments/hello/`, `.gitignore`. Returns the files.

    Raises:
        ConfigError: a file of that name is there already; nothing is written then.
    """
    from batchling.config.template import write

    return write(folder)
