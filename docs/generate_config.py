"""Writes docs/reference/config.md from the config tree in `batchling/spec.py` and the shipped `conf/`.

python docs/generate_config.py            writes it
python docs/generate_config.py --check    fails when it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from batchling.spec import Config

HERE = Path(__file__).parent
PAGE = HERE / "reference" / "config.md"
CONF = HERE.parent / "conf"

INTRODUCTION = """\
# Config reference

Written by `python docs/generate_config.py` from the tree that validates a config, so it says what is accepted. Every key is
listed with its default in `conf/base.yaml` too.
A key that is not here is an error that names the nearest one. `batchling config --schema` prints the same as JSON Schema.

Where a shipped group sets another value, that one holds: `provider=openai` sets `provider.poll_seconds` to 60, for example.
`batchling config EXPERIMENT --origins` shows each value and what set it.
"""


def _kind(annotation: Any) -> str:
    """A type in a config writer's words."""
    if annotation is None or annotation is type(None):
        return "null"
    origin, arguments = get_origin(annotation), get_args(annotation)
    name = str(origin)
    if "Annotated" in name:
        return _kind(arguments[0])
    if "Literal" in name:
        return ", ".join(f"`{value}`" for value in arguments)
    if "Union" in name:
        return " or ".join(_kind(part) for part in arguments if part is not type(None))
    if origin is list:
        return f"list of {_kind(arguments[0])}"
    if origin is dict:
        return f"mapping to {_kind(arguments[1])}"
    named = {str: "text", int: "integer", float: "number", bool: "true or false"}
    if annotation in named:
        return named[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return "any value"


def _bounds(field: FieldInfo) -> str:
    words = []
    for mark in field.metadata:
        for name, text in (("gt", "above"), ("ge", "from"), ("lt", "below"), ("le", "up to")):
            value = getattr(mark, name, None)
            if value is not None:
                words.append(f"{text} {value:g}")
        pattern = getattr(mark, "pattern", None)
        if pattern:
            words.append(f"matches `{pattern}`")
    for argument in get_args(field.annotation):  # PositiveInt | None
        for mark in getattr(argument, "__metadata__", ()):
            if getattr(mark, "gt", None) == 0:
                words.append("above 0")
    return ", ".join(dict.fromkeys(words))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    return f"`{_flow(value)}`"


def _flow(value: Any) -> str:
    """A value as YAML writes it on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.1f}" if value < 10 else f"{value:g}"
    return str(value)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section a key holds, whether or not it may be null; None for a value or a list."""
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _choices(group: str) -> str:
    lines = ["", f"Shipped choices of `{group}=`:", "", "| choice | what it is |", "|---|---|"]
    for path in sorted((CONF / group).glob("*.yaml")):
        comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        about = next(line for line in comments if not line.startswith("@package"))
        lines.append(f"| `{path.stem}` | {about.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _tables(model: type[BaseModel], prefix: str, level: int) -> list[str]:
    rows, below = [], []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        section = section_of(field.annotation)
        if section is not None:
            below.append((key, section))
            continue
        kind = _kind(field.annotation)
        bounds = _bounds(field)
        about = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{key}` | {kind}{', ' + bounds if bounds else ''} | {_default(field)} | {about} |")
    blocks = []
    if rows:
        blocks.append("\n".join(["| key | value | default | |", "|---|---|---|---|", *rows]))
    group = prefix.removesuffix(".")
    if group and (CONF / group).is_dir():
        blocks.append(_choices(group).strip())
    for key, section in below:
        heading = f"{'#' * level} {key}"
        about = (section.__doc__ or "").strip().partition("\n")[0]
        blocks.append(f"{heading}\n\n{about}".strip())
        blocks += _tables(section, f"{key}.", level + 1)
    return blocks


def page() -> str:
    """The page's text."""
    return "\n\n".join([INTRODUCTION.strip(), "## At the top", *_tables(Config, "", 2)]) + "\n"


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{PAGE.name} is out of date: python docs/{Path(__file__).name}\n")
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
