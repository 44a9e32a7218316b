"""From a validated config to a `Spec`: every file read, nothing left to look up later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from batchling import limits
from batchling.config import secret
from batchling.config.files import PREFIX, FileMissing, Sources
from batchling.config.module import ImportFailed, load_model
from batchling.config.origin import Origin, lookup
from batchling.config.validate import Problem, config_error
from batchling.errors import ConfigError
from batchling.scrub import cut, cut_all, urls_in
from batchling.spec import Config, Spec


def build_spec(
    config: Config,
    sources: Sources,
    overrides: Sequence[str] = (),
    *,
    origins: Mapping[str, Origin] | None = None,
    config_files: Sequence[Path] = (),
    import_path: Path | None = None,
    recorded: bool = False,
    notes: Sequence[str] = (),
    kept_schema: Mapping[str, Any] | None = None,
) -> Spec:
    """Reads prompt and schema files and freezes the run.

    Args:
        config: the validated tree.
        sources: where references are looked up; collects the copies.
        overrides: the overrides that make this point, as typed.
        origins: where each value was set: a reference is relative to that file.
        config_files: the configs it was composed from, recorded too.
        import_path: the project's root, for `package.module:Model`.
        recorded: it is read from a plan, so nothing of it will be written again.
        notes: what a person should know of the config.
        kept_schema: takes the place of a pydantic class, whose code is then not imported.

    Raises:
        ConfigError: a file is missing or broken; all such problems at once. Or a text that would be written holds the
            value of a variable whose name tells of a secret.
    """
    origins = origins if origins is not None else {}
    document: dict[str, Any] = config.model_dump(mode="json", by_alias=True)
    document["sweep"] = None  # a point of a sweep is a run like any other
    problems: list[Problem] = []
    # A query of a data URL may be a signature: the rows are read with it, and nothing that is written or shown has it.
    urls = [] if recorded else urls_in({k: v for k, v in document["data"].items() if k != "rows"})
    for path in config_files:
        sources.read(path, rewrite=partial(_without_queries, urls=urls) if urls else None)

    def template(text: str, key: str) -> tuple[str, str]:
        """(the text as recorded, its content)."""
        if not text.startswith(PREFIX):
            return text, text
        try:
            name, content = sources.text(sources.find(text.removeprefix(PREFIX).strip(), _folder(origins, key)))
            return PREFIX + name, content
        except FileMissing as e:
            problems.append(Problem(key, str(e), lookup(origins, key)))
            return text, ""

    messages = []
    for index, message in enumerate(config.prompt.messages):
        written, content = template(message.content, f"prompt.messages.{index}.content")
        document["prompt"]["messages"][index]["content"] = written
        messages.append((str(message.role), content))
    embedded: str | None = None
    if config.prompt.input is not None:
        document["prompt"]["input"], embedded = template(config.prompt.input, "prompt.input")

    if config.model.tokenizer_file is not None and not recorded:
        key = "model.tokenizer_file"
        try:  # it is megabytes and changes no request: its place is recorded, not a copy
            document["model"]["tokenizer_file"] = str(sources.find(config.model.tokenizer_file, _folder(origins, key)))
        except FileMissing as e:
            problems.append(Problem(key, str(e), lookup(origins, key)))

    schema_source: Any = None
    form = next(
        (f for f in ("fields", "pydantic", "json_schema") if getattr(config.output_schema, f) is not None), None
    )
    key = f"schema.{form}"
    try:
        if form == "pydantic" and kept_schema is not None:
            schema_source = dict(kept_schema)
        elif form == "pydantic":
            reference = config.output_schema.pydantic or ""
            written, schema_source = load_model(reference, sources, _folder(origins, key), import_path)
            document["schema"]["pydantic"] = written
        elif form == "json_schema":
            path = sources.find(config.output_schema.json_schema or "", _folder(origins, key))
            written, schema_source = _json_schema(sources, path)
            document["schema"]["json_schema"] = written
    except (FileMissing, ImportFailed) as e:
        problems.append(Problem(key, str(e), lookup(origins, key)))
    if problems:
        raise config_error(problems)
    whole = Config.model_validate(document)
    if urls:
        document["data"] = {**cut_all(document["data"], urls), "rows": document["data"]["rows"]}
        overrides = [cut(text, urls) for text in overrides]
    if not recorded:
        _refuse_values(document, overrides, sources)
    return Spec(
        config=whole,
        overrides=tuple(overrides),
        root=sources.root,
        messages=tuple(messages),
        input=embedded,
        schema_source=schema_source,
        sources=sources.files,
        document=document,
        set_at=partial(_set_at, origins, urls),
        notes=tuple(notes),
    )


def _without_queries(content: bytes, urls: Sequence[str]) -> bytes:
    return cut(content.decode("utf-8", "surrogateescape"), urls).encode("utf-8", "surrogateescape")


def _refuse_values(document: Mapping[str, Any], overrides: Sequence[str], sources: Sources) -> None:
    """Last, before anything is written: no text in it is the value of a secret, whatever way it came in."""
    texts = [("the config", json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass"))]
    texts.append(("an override", "\n".join(overrides).encode("utf-8", "surrogatepass")))
    texts += [(file.name, file.content) for file in sources.files]
    for what, text in texts:
        if (variable := secret.leaked(text, os.environ)) is not None:
            raise ConfigError(
                f"{what} holds the value of the variable {variable}, which would be written into the plan",
                next_command=f"take it out; configs only name variables (provider.api_key_env: {variable})",
            )


def _set_at(origins: Mapping[str, Origin], urls: Sequence[str], key: str) -> str | None:
    origin = lookup(origins, key)
    return None if origin is None else cut(str(origin), urls)


def _folder(origins: Mapping[str, Origin], key: str) -> Path | None:
    origin = lookup(origins, key)
    return origin.file.parent if origin is not None and origin.file is not None else None


def _json_schema(sources: Sources, path: Path) -> tuple[str, dict[str, Any]]:
    name, text = sources.text(path)
    try:
        schema = limits.loads_tolerantly(text)
    except json.JSONDecodeError as e:
        raise FileMissing(f"{path}:{e.lineno} is not JSON: {e.msg}") from e
    except ValueError as e:
        raise FileMissing(f"{path} is not a JSON Schema: {e}") from e
    if not isinstance(schema, dict):
        raise FileMissing(f"{path}:1 is not a JSON Schema: expected an object")
    return name, schema
