"""A sweep's points: Hydra's own sweep grammar, and the `sweep:` section for what it cannot say.

The points are the product of the command line's sweeps, in Hydra's order (the first one changes slowest), with those of
the section: `grid` x `zip`, followed by `points`. A key on the command line takes the place of the section's. `exclude`
takes points out before they are validated, so that it can name combinations that are impossible.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchling.config import secret
from batchling.config.composer import Composed
from batchling.config.composition import Composition, Workbench
from batchling.config.explain import check_overrides
from batchling.config.keys import all_keys, did_you_mean, nearest
from batchling.config.project import Project
from batchling.config.validate import Problem, config_error
from batchling.errors import ConfigError
from batchling.spec import SweepConfig

MOST_POINTS = 100_000
_SHOWN = 5
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./@%+-]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.@/-]*")

Texts = tuple[str, ...]


def expand(
    experiment: str,
    overrides: Sequence[str],
    *,
    multirun: bool,
    sweep: Mapping[str, Any] | None,
    project: Project | None,
    config_dir: Path | None,
) -> list[Composition]:
    """See `batchling.config.expand`."""
    bench = Workbench(experiment, project, config_dir)
    check_overrides(bench.composer, overrides, multirun=multirun)
    axes = _axes(bench, overrides)
    typed = {override.key_or_group for override in bench.composer.parse(overrides)}
    section = _section(bench, axes, sweep)
    own = _own_points(section, typed)
    total = len(own)
    for axis in axes:
        total *= len(axis)
    if total > MOST_POINTS:
        raise ConfigError(f"the sweep has {total:,} points; at most {MOST_POINTS:,} are allowed")
    points = [(*itertools.chain(*chosen), *extra) for chosen in itertools.product(*axes) for extra in own]
    return _compositions(bench, points, section.exclude)


def _axes(bench: Workbench, overrides: Sequence[str]) -> list[list[Texts]]:
    """For each override on the command line what it stands for: one text, or one for each value of its sweep."""
    axes: list[list[Texts]] = []
    for override in bench.composer.parse(overrides):
        if not override.is_sweep_override():
            axes.append([(str(override.input_line),)])
            continue
        if not override.is_discrete_sweep():
            raise ConfigError(
                f"{override.input_line}: an interval has no list of values; use choice(), range() or glob()"
            )
        key = override.get_key_element()
        every = itertools.islice(override.sweep_string_iterator(), MOST_POINTS + 1)
        values: list[Texts] = [(f"{key}={value}",) for value in every]
        if len(values) > MOST_POINTS:
            raise ConfigError(
                f"{override.input_line}: more than {MOST_POINTS:,} points; at most {MOST_POINTS:,} are allowed"
            )
        if not values:
            raise ConfigError(
                f"{override.input_line}: matches nothing (there are: {', '.join(bench.composer.choices(override.key_or_group))})"
            )
        axes.append(values)
    return axes


def _section(bench: Workbench, axes: Sequence[Sequence[Texts]], given: Mapping[str, Any] | None) -> SweepConfig:
    """The `sweep:` section: the one given, else the experiment's."""
    section = given
    if section is None:
        first = [text for axis in axes for text in axis[0]]
        section = bench.draft(first).tree.get("sweep")
    if leaks := [Problem(key, text) for key, text in secret.problems({"sweep": section or {}})]:
        raise config_error(leaks)
    try:
        config = SweepConfig.model_validate(section or {})
    except ValidationError as e:
        lines = [
            f"sweep.{'.'.join(str(p) for p in error['loc'])}: {error['msg']}" for error in e.errors(include_url=False)
        ]
        raise ConfigError("; ".join(lines) + " (a sweep has grid, zip, points and exclude)") from None
    named = [*config.grid, *config.zip, *(key for point in [*config.points, *config.exclude] for key in point)]
    for key in dict.fromkeys(named):
        if not _KEY.fullmatch(key):
            raise ConfigError(f"sweep: {key!r} is not a key")
        if not bench.composer.is_group(key) and not bench.composer.is_key(key):
            raise ConfigError(
                f"sweep: no such key {key}{did_you_mean(nearest(key, [*all_keys(), *bench.composer.groups()]))}"
            )
    for kind in ("grid", "zip"):
        for key, values in getattr(config, kind).items():
            if not values:
                raise ConfigError(f"sweep.{kind}.{key}: an empty list of values makes no points")
    lengths = {key: len(values) for key, values in config.zip.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} has {n}" for key, n in lengths.items())
        raise ConfigError(f"sweep.zip: the lists must have the same length ({shown})")
    return config


def _own_points(section: SweepConfig, typed: set[str]) -> list[Texts]:
    """The section's points as overrides, without the keys that the command line sets."""
    axes: list[list[Texts]] = [
        [(f"{key}={literal(value)}",) for value in values] for key, values in section.grid.items() if key not in typed
    ]
    zipped = {key: values for key, values in section.zip.items() if key not in typed}
    if zipped:
        axes.append(
            [
                tuple(f"{k}={literal(v)}" for k, v in zip(zipped, row, strict=True))
                for row in zip(*zipped.values(), strict=True)
            ]
        )
    total = math.prod(len(axis) for axis in axes)
    if total > MOST_POINTS:
        raise ConfigError(f"the sweep has {total:,} points; at most {MOST_POINTS:,} are allowed")
    explicit: list[Texts] = [
        tuple(f"{k}={literal(v)}" for k, v in point.items() if k not in typed) for point in section.points
    ]
    if not axes and explicit:
        return explicit
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*axes)] + explicit


def _compositions(bench: Workbench, points: Sequence[Texts], exclude: Sequence[Mapping[str, Any]]) -> list[Composition]:
    """Every point composed and validated; equal ones once.

    Raises:
        ConfigError: invalid points, each problem once with the points that have it.
    """
    found: dict[str, Composition] = {}
    problems: dict[str, list[Texts]] = {}
    excluded = 0
    for point in points:
        try:
            draft = bench.draft(point)
            if any(_matches(draft, entry) for entry in exclude):
                excluded += 1
                continue
            composition = bench.finish(draft)
        except ConfigError as e:
            if len(points) == 1:
                raise
            problems.setdefault(e.message, []).append(point)
            continue
        found.setdefault(json.dumps(composition.document, sort_keys=True), composition)
    if problems:
        raise ConfigError("\n".join(_told(message, where, len(points)) for message, where in problems.items()))
    if not found:
        raise ConfigError(f"sweep.exclude leaves out all {excluded} points")
    return list(found.values())


def _matches(draft: Composed, entry: Mapping[str, Any]) -> bool:
    """Whether a point is what an `exclude` entry says: each group's choice, each key's value."""
    if not entry:
        return False
    for key, wanted in entry.items():
        choices = draft.merged.choices
        if key in choices and not isinstance(wanted, Mapping):
            if choices[key] != wanted:
                return False
            continue
        node: Any = draft.tree
        for name in key.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        if node != wanted or isinstance(node, bool) != isinstance(wanted, bool):
            return False
    return True


def _told(message: str, where: Sequence[Texts], total: int) -> str:
    if len(where) == total:
        return f"every one of the {total} points: {message}"
    shown = "; ".join(" ".join(point) or "(no overrides)" for point in where[:_SHOWN])
    more = f"; and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
    return f"{'point' if len(where) == 1 else f'{len(where)} points'} {shown}{more}: {message}"


def literal(value: Any) -> str:
    """A JSON value in Hydra's override grammar, so that parsing it gives the value back.

    Raises:
        ConfigError: a mapping whose keys the grammar cannot write.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        if _BARE.fullmatch(value) and value.lower() not in ("null", "true", "false", "inf", "nan"):
            return value
        escaped = re.sub(r"(\\*)'", lambda m: m[1] * 2 + "\\'", value)  # backslashes count only before a quote
        escaped = re.sub(r"(\\+)\Z", lambda m: m[1] * 2, escaped)
        return f"'{escaped}'"
    if isinstance(value, list):
        return f"[{','.join(literal(child) for child in value)}]"
    if isinstance(value, Mapping):
        for key in value:
            if not _BARE.fullmatch(str(key)):
                raise ConfigError(
                    f"sweep: the key {key!r} cannot be written as an override; put the value into a config of a group"
                )
        return f"{{{','.join(f'{key}:{literal(child)}' for key, child in value.items())}}}"
    raise ConfigError(f"sweep: {value!r} is not a JSON value")
