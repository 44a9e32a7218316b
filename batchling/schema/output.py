"""A compiled output schema: what is sent to the provider, and the check of what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import orjson
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from batchling.errors import SchemaError
from batchling.schema.answers import INT64, NotJson, NullDropper, has_large_integer, one_line, parse
from batchling.schema.columns import duckdb_type
from batchling.schema.fields import from_fields
from batchling.schema.keywords import with_nulls
from batchling.schema.limits import OPENAI_LIMITS, StrictLimits
from batchling.schema.nodes import Node
from batchling.schema.sending import Sent, in_words, sending
from batchling.schema.sets import may_hold_sets, sorted_sets
from batchling.schema.strict import strict
from batchling.spec import ModelConfig, SchemaConfig

if TYPE_CHECKING:
    from jsonschema_rs import Validator

_SHOWN_ERRORS = 5


class Validated(NamedTuple):
    """The check of one answer: the JSON value, or one line that says what is wrong with it."""

    output: Any
    error: str | None


class Judged(NamedTuple):
    """The check of one answer, and what it was wrapped in.

    Attributes:
        reasoning: thoughts and prose that stood around the JSON; None: nothing.
    """

    output: Any
    error: str | None
    reasoning: str | None


class OutputSchema:
    """What answers must look like.

    Attributes:
        name: the schema's name in the request.
        json_schema: the person's schema, as JSON Schema.
        strict_schema: what is sent as a strict schema; None where none is.
        sent: how the schema is sent to the model.
        words: the schema as the system message says it; None where it does not.
        unsent: constraints that strict mode has no words for (`path: keyword`); only the check of the answer knows them.
        model: the pydantic class, where the schema is one.
    """

    def __init__(
        self,
        name: str,
        json_schema: Node,
        *,
        model: type[BaseModel] | None = None,
        limits: StrictLimits | None = OPENAI_LIMITS,
        sent: Sent | None = None,
    ):
        self.name = name
        self.json_schema = json_schema
        self.model = model
        self._check: Callable[[Any, str | bytes, bool], Validated]
        self._has_sets = False
        if model is None:
            self._validator = _validator(json_schema)
            self._check = self._check_value
        else:
            self._read = model.__pydantic_validator__.validate_json
            self._write = model.__pydantic_serializer__.to_python
            self._check = self._check_model
            self._has_sets = may_hold_sets(model, json_schema)
        self.sent = sent or ("strict" if limits is not None else "nothing")
        if self.sent == "json_mode" and json_schema.get("type") != "object" and "$ref" not in json_schema:
            self.sent = "prompt"  # JSON mode answers with objects only
        told = strict(json_schema, limits) if limits is not None else None
        self.strict_schema = told.schema if told else None
        self.unsent = told.unsent if told else ()
        self.words = in_words(json_schema) if self.sent in ("json_mode", "prompt") else None
        self._nulls = NullDropper(json_schema)

    def validate(self, text: str | bytes) -> Validated:
        """Check an answer. Never raises: what is wrong is one line in `error`.

        With a pydantic class the output is the object's JSON form (defaults filled in, validators
        applied, sets sorted); else it is the answer's value, without the nulls that stand for optional properties.
        """
        output, error, _ = self.judge(text)
        return Validated(output, error)

    def judge(self, text: str | bytes) -> Judged:
        """`validate`, with what stood around the JSON."""
        try:
            value, text, large, around = parse(text)
        except NotJson as error:
            return Judged(None, str(error), None)
        output, problem = self._check(value, text, large)
        return Judged(output, problem, around)

    def python(self, text: str | bytes, output: Any = None) -> Any:
        """A valid answer as the pydantic object, or as plain values where the schema is no class.

        Args:
            output: what was stored of it, where that is known: the object is made of it, so that what a default factory
                gave stays. The answer's text counts where the class does not take back what it wrote.

        Raises:
            ValueError: the answer is not valid; the message is one line.
        """
        if self.model is None:
            valid, error = self.validate(text)
            if error is not None:
                raise ValueError(error)
            return valid
        if output is not None:
            try:
                return self._read(orjson.dumps(output))
            except Exception:  # a person's code; the text is there
                pass
        value, text, _, _ = parse(text)
        try:
            return self._object(value, text)
        except Exception as error:
            raise ValueError(_model_error(error)) from error

    def duckdb_type(self) -> str:
        """The DuckDB type of `output`, for `records.parquet`."""
        if self.model is None:
            return duckdb_type(self.json_schema)
        try:
            return duckdb_type(self.model.model_json_schema(mode="serialization"))
        except PydanticUserError:  # a custom serializer without a JSON Schema
            return "JSON"

    def _check_value(self, value: Any, text: str | bytes, large: bool) -> Validated:
        if self._validator.is_valid(value):
            return Validated(value, None)
        if self._nulls.needed and self._validator.is_valid(self._nulls.drop(value)):
            return Validated(value, None)
        errors = []
        for error in self._validator.iter_errors(value):
            errors.append((error.instance_path, error.message))
            if len(errors) == _SHOWN_ERRORS:
                break
        return Validated(None, _listed(errors))

    def _check_model(self, value: Any, text: str | bytes, large: bool) -> Validated:
        try:
            made = self._object(value, text)
            output = self._write(made, mode="json", by_alias=True)
            if self._has_sets:
                output = sorted_sets(made, output)
            if large and has_large_integer(output):
                return Validated(None, "an integer is outside 64 bits")
            orjson.dumps(output)  # whoever stores it must be able to
        except Exception as error:  # the class is a person's code and may raise anything
            return Validated(None, _model_error(error))
        return Validated(output, None)

    def _object(self, value: Any, text: str | bytes) -> Any:
        try:
            return self._read(text)
        except ValidationError:
            if not self._nulls.needed:
                raise
        return self._read(orjson.dumps(self._nulls.drop(value)))


def compile(
    config: SchemaConfig,
    source: Any = None,
    *,
    model: ModelConfig | None = None,
    strict_limits: StrictLimits = OPENAI_LIMITS,
) -> OutputSchema | None:
    """Compile `schema:`.

    Args:
        config: the section.
        source: what the section names, loaded: a pydantic model class or a JSON Schema dict; None with `fields`.
        model: says what the model takes; None: strict schemas.
        strict_limits: the provider's limits for strict schemas.

    Returns:
        The compiled schema; None when answers are plain text.

    Raises:
        SchemaError: the schema is wrong, or strict mode cannot express it.
    """
    sent = sending(config, model or ModelConfig(id="-"))
    limits = strict_limits if sent == "strict" else None
    if config.fields is not None:
        return OutputSchema(config.name, from_fields(config.fields), limits=limits, sent=sent)
    if source is None:
        return None
    if isinstance(source, type) and issubclass(source, BaseModel):
        json_schema = model_document(source)
        return OutputSchema(config.name, json_schema, model=source, limits=limits, sent=sent)
    if isinstance(source, dict):
        return OutputSchema(config.name, with_nulls(source), limits=limits, sent=sent)
    raise SchemaError(f"schema: expected a pydantic model class or a JSON Schema object, got {type(source).__name__}")


def _validator(json_schema: Node) -> Validator:
    """Checks answers against a JSON Schema, formats included.

    Raises:
        SchemaError: it is no JSON Schema, or refers to something outside itself (nothing is fetched).
    """
    import jsonschema_rs

    try:
        checked = jsonschema_rs.validator_for(json_schema, validate_formats=True, retriever=_not_fetched)
        bounded = _with_integer_bounds(json_schema)
        if bounded == json_schema:
            return checked
        return jsonschema_rs.validator_for(bounded, validate_formats=True, retriever=_not_fetched)
    except jsonschema_rs.ValidationError as error:
        path = ".".join(map(str, error.instance_path))
        raise SchemaError(
            one_line(f"schema: not a valid JSON Schema: {path}{': ' if path else ''}{error.message}")
        ) from error
    except (ValueError, TypeError) as error:
        raise SchemaError(one_line(f"schema: not a valid JSON Schema: {error}")) from error


def _not_fetched(uri: str) -> NoReturn:
    raise ValueError(f"{uri} points outside the schema; put the definition under $defs")


def _with_integer_bounds(node: Any) -> Any:
    """The schema with 64-bit bounds for its integers, which is what tables hold."""
    if isinstance(node, list):
        return [_with_integer_bounds(child) for child in node]
    if not isinstance(node, dict):
        return node
    out = {k: v if k in ("enum", "const", "default", "examples") else _with_integer_bounds(v) for k, v in node.items()}
    kinds = node.get("type")
    if kinds == "integer" or (isinstance(kinds, list) and "integer" in kinds and "number" not in kinds):
        out["minimum"] = max(node.get("minimum", -INT64), -INT64)
        out["maximum"] = min(node.get("maximum", INT64 - 1), INT64 - 1)
    return out


def _model_error(error: Exception) -> str:
    if isinstance(error, ValidationError):
        details = error.errors(include_url=False, include_context=False)[:_SHOWN_ERRORS]
        return _listed([(list(d["loc"]), _with_input(d["msg"], d["input"])) for d in details])
    return one_line(f"the schema's class raised {type(error).__name__}: {error}")


def _with_input(message: str, value: Any) -> str:
    if not isinstance(value, str | int | float):
        return message
    shown = repr(value)
    return f"{message[:200]}, got {shown if len(shown) <= 60 else shown[:59] + '…'}"


def _listed(errors: list[tuple[list[Any], str]]) -> str:
    lines = []
    for path, message in errors:
        where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
        lines.append(f"{where}: {message[:300]}" if where else message[:300])
    return one_line("; ".join(lines))


def model_document(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a pydantic model.

    Raises:
        SchemaError: it has none, or a type in it is not defined.
    """
    try:
        return model.model_json_schema()
    except PydanticUserError as error:
        raise SchemaError(
            f"schema.pydantic: {model.__name__} has no JSON Schema: {one_line(error.message)}",
            next_command="use types that JSON knows, and names that the file defines or imports",
        ) from error
