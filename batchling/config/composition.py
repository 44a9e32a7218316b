"""What a composed experiment is: the validated run, and everything `batchling config` shows about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from batchling.config import secret
from batchling.config.build import build_spec
from batchling.config.composer import SCHEMA_FORMS, Composed, Composer
from batchling.config.environment import addressed
from batchling.config.explain import PROMPT_INTERPOLATION, check_overrides, explain, interpolates
from batchling.config.files import Sources
from batchling.config.origin import Origin, leaves, lookup
from batchling.config.project import ExperimentFile, Project, locate, project_of, search_path, shipped_conf
from batchling.config.tree import CompositionFailed
from batchling.config.validate import Problem, config_error, retired, scalars, unknown_keys, validate
from batchling.errors import ConfigError
from batchling.scrub import cut, cut_all, urls_in
from batchling.spec import Config, Spec


@dataclass(frozen=True, eq=False)
class Composition:
    """One experiment, composed, resolved and validated.

    Attributes:
        experiment: the primary config.
        spec: the run, every file read.
        overrides: the overrides, as typed.
    """

    experiment: ExperimentFile
    spec: Spec
    overrides: tuple[str, ...]
    _composed: Composed = field(repr=False)
    _base_url_variable: str | None = None

    @property
    def config(self) -> Config:
        """The validated tree."""
        return self.spec.config

    @property
    def document(self) -> dict[str, Any]:
        """The config as plain JSON values, as it is recorded."""
        return self.spec.document

    @property
    def yaml(self) -> str:
        """The document as YAML."""
        return str(yaml.safe_dump(self.document, sort_keys=False, allow_unicode=True, width=120))

    @property
    def unresolved_yaml(self) -> str:
        """The composed tree as YAML, interpolations as written and defaults of the tree left out."""
        tree = cut_all(self._composed.unresolved, self._urls)
        return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120))

    @property
    def _urls(self) -> list[str]:
        """Data URLs whose queries are not shown."""
        data = self._composed.tree.get("data")
        return urls_in({k: v for k, v in data.items() if k != "rows"} if isinstance(data, dict) else data)

    def _cut(self, origin: Origin) -> Origin:
        return origin if origin.override is None else replace(origin, override=cut(origin.override, self._urls))

    @cached_property
    def origins(self) -> dict[str, Origin]:
        """Where each leaf of the document was set: a file and line, or an override; a default of the tree has neither."""
        known = self._composed.origins.known
        found: dict[str, Origin] = {}
        for key, _ in _leaves(self.document, ""):
            found[key] = self._cut(known.get(key) or _of_list(known, key) or Origin())
        if self._base_url_variable is not None:
            found["provider.base_url"] = Origin(variable=self._base_url_variable)
        return found

    @property
    def defaults(self) -> list[str]:
        """The defaults list as Hydra resolved it: config, where its keys go, file."""
        return [f"{layer}  [{layer.file}]" for layer in self._composed.merged.layers]

    @property
    def choices(self) -> dict[str, str | None]:
        """The choice of each group."""
        return dict(self._composed.merged.choices)

    def runs(self, project: Project) -> Path:
        """The folder that plans go to: env BATCHLING_RUNS, else `paths.runs`, relative to the project."""
        import os

        return project.runs if os.environ.get("BATCHLING_RUNS") else (project.root / self.config.paths.runs).absolute()


def _of_list(known: dict[str, Origin], key: str) -> Origin | None:
    origin = lookup(known, key)
    parent = key
    while "." in parent:
        parent = parent.rpartition(".")[0]
        if parent in known:
            return known[parent]
    return origin if key in known else None


def _leaves(value: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for name, child in value.items() for leaf in _leaves(child, f"{key}.{name}" if key else str(name))]
    if isinstance(value, list) and value and any(isinstance(child, dict) for child in value):
        return [leaf for index, child in enumerate(value) for leaf in _leaves(child, f"{key}.{index}")]
    return [(key, value)]


class Workbench:
    """Everything needed to compose one experiment many times.

    Args:
        experiment: a folder, a file or a bare name.
        project: None: the one the working directory is in.
        config_dir: a folder with config groups that wins over all others.

    Raises:
        ConfigError: no such experiment or folder.
    """

    def __init__(self, experiment: str, project: Project | None = None, config_dir: Path | None = None) -> None:
        self.project = project or project_of(experiment)
        self.experiment = locate(experiment, self.project)
        if self.experiment.config_name == "base":
            raise ConfigError(
                "an experiment cannot be called base.yaml: the shipped config has that name",
                where=str(self.experiment.path),
            )
        self.search_path = search_path(self.experiment, self.project, config_dir)
        self._contents: dict[Path, bytes] = {}
        self.composer = Composer(self.experiment, self.search_path)

    def compose(self, overrides: Sequence[str]) -> Composition:
        """One point. Raises: ConfigError with everything that is wrong with it."""
        return self.finish(self.draft(overrides))

    def draft(self, overrides: Sequence[str]) -> Composed:
        """A point composed and resolved, not validated yet."""
        try:
            return self.composer.compose(overrides)
        except CompositionFailed as e:
            raise explain(e, self.composer, overrides) from e

    def finish(self, composed: Composed) -> Composition:
        """Validates a point and reads its files. A file is read once for all points, so that they agree."""
        self._check_texts(composed)
        self._check_schema(composed)
        origins = composed.origins
        tree, variable = composed.tree, None
        named = addressed(tree.get("provider"))
        if named is not None and _is_shipped(lookup(origins, "provider.base_url")):
            url, variable = named
            tree = {**tree, "provider": {**tree["provider"], "base_url": url}}
        config = validate(tree, origins)
        folders = [folder for label, folder in self.search_path if label != "experiment"]
        spec = build_spec(
            config,
            Sources(self.experiment.folder, folders, self._contents),
            composed.overrides,
            origins=origins,
            config_files=[layer.file for layer in composed.merged.layers],
            import_path=self.project.root,
            notes=retired(composed.tree, origins),
        )
        return Composition(self.experiment, spec, composed.overrides, composed, variable)

    def _check_schema(self, composed: Composed) -> None:
        """Two places that each say what answers look like are never mixed."""
        origins = composed.origins
        given: list[tuple[str, str]] = []
        for form, layer in composed.merged.schemas:
            prefix = f"{layer.package}." if layer.package else ""
            keys = [(f"{prefix}{leaf.key}.", leaf.line) for leaf in leaves(layer.file)]
            line = next((line for key, line in keys if key.startswith(f"schema.{form}.")), None)
            given.append((form, str(Origin(file=layer.file, line=line or 1))))
        for override in composed.values:
            value = override.value()
            if override.key_or_group == "schema" and isinstance(value, dict):
                said = {form: value[form] for form in SCHEMA_FORMS if form in value}
            else:
                said = {form: value for form in SCHEMA_FORMS if override.key_or_group == f"schema.{form}"}
            for form, new in said.items():
                merged = (composed.tree.get("schema") or {}).get(form)
                covers = isinstance(new, dict) and isinstance(merged, dict) and set(merged) == set(new)
                if covers or not isinstance(new, dict):  # takes the place of what was there
                    given = [each for each in given if each[0] != form]
                if new is not None and not override.is_delete():
                    given.append((form, str(Origin(override=str(override.input_line)))))
        if len(given) < 2:
            return
        places = " and ".join(f"schema.{form} [{place}]" for form, place in given)
        text = f"two schemas, which cannot be combined: {places}; keep one (schema.NAME: null takes one away)"
        raise config_error([Problem("schema", text), *unknown_keys(composed.tree, origins)])

    def _check_texts(self, composed: Composed) -> None:
        """Interpolations that must not happen: of a secret, into a prompt or into a row."""
        if composed.unresolved is composed.tree:
            return  # there are none
        found = [
            *secret.environment_problems(composed.unresolved),
            *_interpolated_prompts(composed.unresolved.get("prompt")),
            *_interpolated_rows(composed.unresolved.get("data")),
        ]
        if found:
            raise config_error([Problem(key, text, lookup(composed.origins, key)) for key, text in found])


def _is_shipped(origin: Origin | None) -> bool:
    """Nobody but the shipped files set it."""
    return origin is None or (origin.file is not None and origin.file.is_relative_to(shipped_conf()))


def _interpolated_prompts(prompt: Any) -> list[tuple[str, str]]:
    if not isinstance(prompt, dict):
        return []
    texts = [("prompt.input", prompt.get("input"))]
    messages = prompt.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        if isinstance(message, dict):
            texts.append((f"prompt.messages.{index}.content", message.get("content")))
    return [(key, PROMPT_INTERPOLATION) for key, text in texts if isinstance(text, str) and interpolates(text)]


def _interpolated_rows(data: Any) -> list[tuple[str, str]]:
    rows = data.get("rows") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        return []
    text = "OmegaConf would replace ${…} in a row; escape it as \\${…}, or keep the rows in a file (data.path)"
    return [(key, text) for key, value in scalars(rows, "data.rows") if isinstance(value, str) and interpolates(value)]


def compose(
    experiment: str, overrides: Sequence[str] = (), *, project: Project | None = None, config_dir: Path | None = None
) -> Composition:
    """See `batchling.config.compose`."""
    bench = Workbench(experiment, project, config_dir)
    check_overrides(bench.composer, overrides)
    return bench.compose(overrides)
