"""What is sent as strict satisfies the strict rules; what strict cannot say is an error with its path."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, ConfigDict, Field

from batchling import schema
from batchling.errors import SchemaError
from batchling.schema.limits import OPENAI_LIMITS, StrictLimits
from batchling.schema.strict import strict
from batchling.spec import SchemaConfig

KEYWORDS = {
    "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs",
    "description", "pattern", "format", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minItems", "maxItems",
}  # fmt: skip
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}


def assert_strict(node: dict[str, Any], root: dict[str, Any] | None = None) -> None:
    """OpenAI's rules, written down a second time."""
    if root is None:
        assert node["type"] == "object"
        assert "anyOf" not in node
        root = node
    assert node.keys() <= KEYWORDS
    if "$ref" in node:
        assert node.keys() == {"$ref"}
        assert node["$ref"] == "#" or node["$ref"].removeprefix("#/$defs/") in root["$defs"]
        return
    assert "type" in node or "anyOf" in node
    if "properties" in node:
        assert node["additionalProperties"] is False
        assert node["required"] == list(node["properties"])
    if node.get("type") == "array":
        assert "items" in node
    assert node.get("format", "date") in FORMATS
    assert "(?" not in node.get("pattern", "").replace("(?:", "")
    for child in [
        *node.get("properties", {}).values(),
        *node.get("$defs", {}).values(),
        *node.get("anyOf", []),
        *([node["items"]] if "items" in node else []),
    ]:
        assert_strict(child, root)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None = None


class Node(BaseModel):
    """A tree."""

    value: int
    children: list[Node] = []
    twin: Optional[Node] = Field(None, description="the same again")  # noqa: UP045 - both spellings are in use
    must: Annotated[list[Node], Field(description="recursive and described")]


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")

    color: Color = Field(description="the colour")
    first: Color
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    pets: list[Cat | Dog]
    count: Annotated[int, Field(ge=0, lt=10, multiple_of=2)] = 4
    code: Annotated[str, Field(min_length=1, max_length=3, pattern="^[a-z]+$")]
    one_of: Literal["a", 1, None]
    amount: Decimal
    day: dt.date | None
    moment: dt.datetime
    span: dt.timedelta
    key: uuid.UUID
    tags: Annotated[list[str], Field(min_length=1, max_length=5)]
    unique: set[str]
    either: int | str | list[bool]
    tree: Node
    described: Cat = Field(description="which cat")
    renamed: str = Field(default="z", alias="theName")
    items: tuple[int, ...] = ()
    empty: Empty | None = None


class Empty(BaseModel):
    pass


def sent(source: Any, **config: Any) -> schema.OutputSchema:
    compiled = schema.compile(SchemaConfig(**config), source)
    assert compiled is not None
    return compiled


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


@pytest.mark.parametrize("model", [Everything, Node, Cat, Empty])
def test_a_pydantic_model_becomes_strict(model: type[BaseModel]) -> None:
    compiled = sent(model)
    assert compiled.strict_schema is not None
    assert_strict(compiled.strict_schema)


def test_what_was_sent_keeps_bounds_descriptions_and_order() -> None:
    strict_schema = sent(Everything).strict_schema
    assert strict_schema is not None
    properties = strict_schema["properties"]
    assert list(properties) == [
        "color", "first", "pet", "pets", "count", "code", "one_of", "amount", "day", "moment", "span", "key", "tags",
        "unique", "either", "tree", "described", "theName", "items", "empty",
    ]  # fmt: skip
    assert properties["color"] == {"type": "string", "enum": ["red", "blue"], "description": "the colour"}
    assert properties["first"] == {"$ref": "#/$defs/Color"}
    number = {"type": "integer", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 2}
    assert properties["count"] == {"anyOf": [number, {"type": "null"}]}
    assert properties["code"] == {"type": "string", "pattern": "^[a-z]+$"}
    assert properties["one_of"]["enum"] == ["a", 1, None]
    assert properties["one_of"]["type"] == ["string", "integer", "null"]
    assert properties["tags"] == {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 5}
    assert properties["described"]["description"] == "which cat"
    assert strict_schema["$defs"]["Node"]["description"] == "A tree."
    assert "title" not in str(strict_schema)


def test_constraints_that_strict_has_no_words_for_are_named() -> None:
    unsent = sent(Everything).unsent
    assert {"schema.code: minLength", "schema.code: maxLength", "schema.unique: uniqueItems"} <= set(unsent)


def test_an_optional_property_becomes_nullable_once() -> None:
    source = obj(a={"type": "string"}, b={"type": ["string", "null"]}, c={"enum": ["x", None]}, d={"$ref": "#/$defs/D"})
    source |= {"required": [], "$defs": {"D": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}}
    properties = strict(source).schema["properties"]
    assert properties["a"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert properties["b"] == {"type": ["string", "null"]}
    assert properties["c"] == {"type": ["string", "null"], "enum": ["x", None]}
    assert properties["d"] == {"$ref": "#/$defs/D"}


def test_the_description_of_an_optional_property_is_told_once() -> None:
    source = obj(a={"type": "string", "description": "d"}) | {"required": []}
    assert strict(source).schema["properties"]["a"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "description": "d",
    }


def test_definitions_whose_names_look_alike_stay_apart() -> None:
    source = obj(x={"$ref": "#/$defs/a+b"}, y={"$ref": "#/$defs/a b"})
    source["$defs"] = {"a+b": {"type": "string"}, "a b": {"type": "integer"}}
    result = strict(source).schema
    kinds = [result["$defs"][p["$ref"].removeprefix("#/$defs/")]["type"] for p in result["properties"].values()]
    assert kinds == ["string", "integer"]


def test_the_persons_schema_is_not_touched() -> None:
    source = obj(a={"type": "string", "default": "x", "title": "A"}, b={"$ref": "#/definitions/B", "description": "d"})
    source |= {"required": ["a"], "definitions": {"B": {"oneOf": [{"type": "string"}, {"type": "null"}]}}}
    before = copy.deepcopy(source)
    assert sent(source).json_schema == before
    assert source == before


@pytest.mark.parametrize(
    "source",
    [
        obj(x={"$ref": "#/$defs/a~1b%20c"}) | {"$defs": {"a/b c": {"type": "string"}}},
        obj(x={"$ref": "#/properties/y"}, y={"type": "string"}),
        {"$ref": "#/$defs/Root", "$defs": {"Root": obj(next={"anyOf": [{"$ref": "#/$defs/Root"}, {"type": "null"}]})}},
        obj(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        obj(x={"allOf": [{"$ref": "#/$defs/X"}], "description": "d", "default": "q"})
        | {"$defs": {"X": {"enum": ["q"]}}},
        obj(x={"$ref": "#/$defs/X", "minimum": 3}) | {"$defs": {"X": {"type": "integer"}}},
        obj(x={"$ref": "#/$defs/X", "description": "d"})
        | {"$defs": {"X": obj(x={"anyOf": [{"$ref": "#/$defs/X"}, {"type": "null"}]})}},
        obj(x={"$ref": "#/$defs/X", "description": "d"})
        | {"$defs": {"X": obj(x={"anyOf": [{"$ref": "#/$defs/X", "description": "e"}, {"type": "null"}]})}},
        {"properties": {"x": {"items": {"const": 1}}}},
        {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": True},
        obj(x={"oneOf": [{"type": "string"}, {"type": "null"}]}),
        obj(x={"oneOf": [obj(k={"const": 1}), obj(k={"const": 2})]}),
        obj(x={"oneOf": [{"enum": ["a"]}, {"enum": ["b"]}]}),
        obj(x={"type": "string", "pattern": "^(?!no)", "format": "uri"}),
        obj(
            title={"type": "string"}, default={"type": "string"}, properties={"type": "string"}, enum={"type": "string"}
        ),
    ],
)
def test_what_json_schema_says_otherwise_becomes_strict(source: dict[str, Any]) -> None:
    compiled = sent(source)
    assert compiled.strict_schema is not None
    assert_strict(compiled.strict_schema)


class Anything(BaseModel):
    deep: list[Any]


class Counts(BaseModel):
    scores: dict[str, int]


class Pair(BaseModel):
    pair: tuple[int, str]


class Bare(BaseModel):
    things: dict  # type: ignore[type-arg]


class Outer(BaseModel):
    inner: list[Counts]


@pytest.mark.parametrize(
    ("source", "path", "what"),
    [
        (Anything, "schema.deep\\[\\]", "any value"),
        (Counts, "schema.scores", "additionalProperties"),
        (Bare, "schema.things", "additionalProperties"),
        (Pair, "schema.pair", "tuples"),
        (Outer, "Counts.scores", "additionalProperties"),
        (obj(x={}), "schema.x", "any value"),
        (obj(x=True), "schema.x", "any value"),
        (obj(x=False), "schema.x", "nothing is allowed"),
        (obj(x={"description": "d"}), "schema.x", "any value"),
        (obj(x={"minimum": 1}), "schema.x", "no type given"),
        (obj(x={"type": "object"}), "schema.x", "additionalProperties"),
        (obj(x={"type": "object", "patternProperties": {"^a": {}}}), "schema.x", "patternProperties"),
        (obj(x={"allOf": [{"type": "string"}, {"minLength": 1}]}), "schema.x", "allOf"),
        (obj(x={"not": {"type": "string"}}), "schema.x", "`not`"),
        (obj(x={"type": "string", "if": {}, "then": {}}), "schema.x", "`if`"),
        (obj(x={"type": "array", "prefixItems": [{"type": "string"}]}), "schema.x", "tuples"),
        (obj(x={"type": "array"}), "schema.x", "lists of anything"),
        (obj(x={"oneOf": [{"type": "integer"}, {"type": "number"}]}), "schema.x", "do not exclude"),
        (obj(x={"oneOf": [obj(a={"type": "string"}), obj(b={"type": "string"})]}), "schema.x", "do not exclude"),
        (obj(x={"anyOf": [{"type": "string"}], "minLength": 3}), "schema.x", "minLength"),
        (obj(x={"enum": [["a"]]}), "schema.x", "enum values"),
        (obj(x={"$ref": "#/$defs/X"}), "schema", "X"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "schema", "not among the properties: a"),
        (obj(a={"type": "string"}) | {"required": ["a", "b"]}, "schema", "not among the properties: b"),
        ({"type": "array", "items": {"type": "string"}}, "schema", "wants an object"),
        ({"anyOf": [obj(), obj()]}, "schema", "the root is a union"),
        ({"$ref": "#/$defs/X", "$defs": {"X": {"anyOf": [obj(), obj()]}}}, "schema", "the root is a union"),
        ({"$ref": "#"}, "schema", "wants an object"),
    ],
)
def test_what_strict_cannot_say_is_an_error_with_its_path(source: Any, path: str, what: str) -> None:
    with pytest.raises(SchemaError, match=what) as caught:
        sent(source)
    assert caught.match(path)


@pytest.mark.parametrize("model", [Anything, Counts, Pair, Bare])
def test_a_schema_that_only_checks_may_say_anything(model: type[BaseModel]) -> None:
    compiled = sent(model, strict=False)
    assert compiled.strict_schema is None


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (obj(**{f"p{i}": {"type": "string"} for i in range(5_001)}), "5,001 properties"),
        (obj(x={"enum": [f"v{i}" for i in range(1_001)]}), "1,001 enum values"),
        (obj(x={"enum": ["v" * 60 + str(i) for i in range(300)]}), "15,000"),
        (obj(x={"const": "v" * 120_001}), "120,000"),
        (
            obj(x={"$ref": "#/$defs/" + "d" * 119_999}) | {"$defs": {"d" * 119_999: obj(ab={"type": "string"})}},
            "120,000",
        ),
        (obj(**{"p" * 119_999: {"type": "string"}, "ab": {"type": "string"}}), "120,000"),
    ],
)
def test_a_schema_over_a_limit_is_an_error(source: dict[str, Any], what: str) -> None:
    with pytest.raises(SchemaError, match=what):
        sent(source)


def test_a_schema_at_the_limits_is_sent() -> None:
    sent(obj(**{f"p{i}": {"type": "string"} for i in range(5_000)}))
    sent(obj(x={"enum": [f"v{i:05}" for i in range(1_000)]}))
    sent(obj(x={"enum": ["v" * 400 + str(i) for i in range(250)]}))


def nested(levels: int) -> dict[str, Any]:
    return obj(x={"type": "string"}) if levels == 1 else obj(x={"type": "array", "items": nested(levels - 1)})


def test_ten_levels_of_objects_are_sent_and_eleven_are_not() -> None:
    sent(nested(10))
    with pytest.raises(SchemaError, match="11 levels"):
        sent(nested(11))


def test_levels_are_counted_through_references_and_recursion_ends() -> None:
    source = obj(x={"$ref": "#/$defs/L1"})
    source["$defs"] = {f"L{i}": obj(x={"$ref": f"#/$defs/L{i + 1}"}) for i in range(1, 10)} | {"L10": obj()}
    with pytest.raises(SchemaError, match="11 levels"):
        sent(source)
    sent(Node)


def test_references_that_grow_without_bound_are_refused_quickly() -> None:
    defs = {f"D{i}": obj(**{n: {"$ref": f"#/$defs/D{i + 1}", "description": n} for n in "ab"}) for i in range(40)}
    with pytest.raises(SchemaError, match="inlined"):
        sent(obj(x={"$ref": "#/$defs/D0", "description": "x"}) | {"$defs": defs | {"D40": obj()}})


def test_another_providers_limits_can_be_given() -> None:
    source = obj(**{f"p{i}": {"type": "string"} for i in range(101)})
    with pytest.raises(SchemaError, match="101 properties"):
        schema.compile(SchemaConfig(), source, strict_limits=StrictLimits(properties=100))
    assert OPENAI_LIMITS.properties == 5_000


def test_plain_text_has_no_schema() -> None:
    assert schema.compile(SchemaConfig()) is None


@pytest.mark.parametrize("source", ["a string", 5, Cat(kind="cat", lives=9)])
def test_what_is_no_schema_is_an_error(source: Any) -> None:
    with pytest.raises(SchemaError, match="expected a pydantic model class"):
        schema.compile(SchemaConfig(), source)


def test_a_model_without_a_json_schema_is_an_error() -> None:
    class Callback(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        call: object.__class__

    with pytest.raises(SchemaError):
        sent(Callback)


@pytest.mark.parametrize(
    "broken",
    [
        obj(x={"type": "string", "minLength": "three"}),
        obj(x={"type": "string", "pattern": 5}),
        obj(x={"type": "string", "pattern": "["}),
        obj(x={"type": [["a"]]}),
        obj(x={"enum": "abc"}),
        obj(x={"$ref": 5}),
        obj(x={"anyOf": 5}),
        obj(x={"type": "integer", "minimum": "a"}),
        {"type": "object", "properties": 5},
        {"type": "object", "properties": {"x": {"type": "string"}}, "required": "x"},
        obj(x={"type": "string", "minLength": {1, 2}}),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_json_schema_that_is_none_is_an_error(broken: dict[str, Any], strict: bool) -> None:
    with pytest.raises(SchemaError, match="schema: not a valid JSON Schema"):
        sent(broken, strict=strict)


@pytest.mark.parametrize("ref", ["http://127.0.0.1:1/a.json", "file:///etc/hostname", "other.json"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_reference_out_of_the_schema_is_refused_and_not_fetched(ref: str, strict: bool) -> None:
    with pytest.raises(SchemaError, match=r"not fetched|points outside|No base URI"):
        sent(obj(x={"$ref": ref}), strict=strict)


def test_a_definition_that_is_only_itself_is_an_error() -> None:
    with pytest.raises(SchemaError, match="itself"):
        sent(obj(x={"$ref": "#/$defs/X"}) | {"$defs": {"X": {"$ref": "#/$defs/X"}}})
