"""An answer is valid or it is not, and nothing that a model can write breaks the check."""

from __future__ import annotations

import json
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from batchling import schema
from batchling.spec import SchemaConfig

FIELDS = {"label": {"enum": ["a", "b"]}, "score": {"type": "number", "minimum": 0, "maximum": 1}, "note": "string?"}


class Intent(BaseModel):
    label: Literal["a", "b"]
    score: float = Field(ge=0, le=1)
    note: str = "none"


def compiled(source: Any = None, **config: Any) -> schema.OutputSchema:
    result = schema.compile(SchemaConfig(**config), source)
    assert result is not None
    return result


BY_FIELDS = compiled(fields=FIELDS)
BY_MODEL = compiled(Intent)
BOTH = pytest.mark.parametrize("output", [BY_FIELDS, BY_MODEL], ids=["fields", "model"])


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        '{"label":"a","score":0.5,"note":"x"}',
        b'{"label":"a","score":0.5,"note":"x"}',
        ' \n{"note": "x", "label": "a", "score": 0.5}\t\n',
        '```json\n{"label":"a","score":0.5,"note":"x"}\n```',
        '\n```\n{"label":"a",\n"score":0.5,"note":"x"}```  ',
        b'```JSON\r\n{"label":"a","score":0.5,"note":"x"}\r\n```',
        '\u00a0{"label":"a","score":0.5,"note":"x"}',
    ],
)
def test_json_is_accepted_alone_in_white_space_or_in_a_fence(output: schema.OutputSchema, text: str | bytes) -> None:
    assert output.validate(text) == ({"label": "a", "score": 0.5, "note": "x"}, None)


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "null",
        "[]",
        '"a"',
        "Sure! Here it is: {}",
        '{"label":"a","score":0.5} I hope this helps',
        '{"label":"a","score":0.5',
        '{"label":"a","score":NaN}',
        '{"label":"a","score":Infinity}',
        '{"label":"a","score":-Infinity}',
        '{"label":"a","score":1e999}',
        '{"label":"a","score":' + "1" * 5_000 + "}",
        '{"label":"a","score":' + "1" * 400_000 + "}",
        '{"label":"a","label":"b","score":0.5}',
        '{"label":"a","score":0.5,"note":"x\\":","label":"a"}',
        '{"label" :"a","label" :"a","score":0.5,"note":": "}',
        '{"label":"a","score":0.5,"note":"\\ud800"}',
        '{"label":"a","score":0.5,"note":"\ud800"}',
        b'{"label":"a","score":0.5,"note":"\xff"}',
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 500 + "]" * 500,
        '{"label":"c","score":0.5}',
        '{"label":"a","score":2}',
        '{"label":"a"}',
        '{"label":null,"score":0.5}',
        '{"label":"a","score":0.5,"note":7}',
        "\x00",
    ],
    ids=range(29),
)
def test_anything_else_is_invalid_with_one_line_that_says_why(output: schema.OutputSchema, text: str | bytes) -> None:
    value, error = output.validate(text)
    assert value is None
    assert error
    assert len(error.splitlines()) == 1
    assert len(error) <= 500
    assert error.isprintable()
    error.encode()


@BOTH
def test_the_error_names_each_field_that_is_wrong(output: schema.OutputSchema) -> None:
    error = output.validate('{"label":"c","score":2}').error
    assert error is not None
    assert "label: " in error
    assert "score: " in error
    assert "c" in error


@BOTH
def test_null_for_an_optional_property_means_left_out(output: schema.OutputSchema) -> None:
    with_null = output.validate('{"label":"a","score":1,"note":null}')
    assert with_null.error is None
    assert with_null == output.validate('{"label":"a","score":1}')


def test_a_class_fills_in_its_defaults_and_a_json_schema_does_not() -> None:
    assert BY_MODEL.validate('{"label":"a","score":1}').output == {"label": "a", "score": 1.0, "note": "none"}
    assert BY_FIELDS.validate('{"label":"a","score":1}').output == {"label": "a", "score": 1}


def test_null_in_nested_lists_unions_and_recursion_means_left_out_too() -> None:
    class Leaf(BaseModel):
        kind: Literal["leaf"]
        size: int = 1

    class Branch(BaseModel):
        kind: Literal["branch"]
        children: list[Leaf | Branch] = []
        label: str | None = "kept"

    output = compiled(Branch)
    branch = {"kind": "branch", "children": [{"kind": "leaf", "size": None}], "label": None}
    answer = {"kind": "branch", "children": [branch, {"kind": "branch", "children": None, "label": "x"}], "label": None}
    assert output.validate(json.dumps(answer)).output == {
        "kind": "branch",
        "children": [
            {"kind": "branch", "children": [{"kind": "leaf", "size": 1}], "label": None},
            {"kind": "branch", "children": [], "label": "x"},
        ],
        "label": None,
    }


def test_in_a_union_the_nulls_are_those_of_the_branch_that_the_answer_is() -> None:
    class Flat(BaseModel):
        kind: Literal["flat"]
        rooms: int = 1
        floors: int = 1

    class House(BaseModel):
        kind: Literal["house"]
        rooms: int | None
        floors: int = 2

    class Hut(BaseModel):
        model_config = ConfigDict(extra="forbid")
        rooms: int = 1

    class Garden(BaseModel):
        model_config = ConfigDict(extra="forbid")
        rooms: int | None
        trees: int = 3

    class Property(BaseModel):
        it: Flat | House | Hut | Garden

    output = compiled(Property)
    for answer, expected in [
        ({"kind": "flat", "rooms": None, "floors": None}, {"kind": "flat", "rooms": 1, "floors": 1}),
        ({"kind": "house", "rooms": None, "floors": None}, {"kind": "house", "rooms": None, "floors": 2}),
        ({"rooms": None, "trees": None}, {"rooms": None, "trees": 3}),
    ]:
        assert output.validate(json.dumps({"it": answer})) == ({"it": expected}, None)


def test_what_a_class_makes_of_an_answer_must_be_json_that_can_be_stored() -> None:
    class Huge(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def grow(cls, n: int) -> int:
            return 10**n

    output = compiled(Huge)
    assert output.validate('{"n":3}').output == {"n": 1000}
    assert output.validate('{"n":30}').error


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
def test_integers_of_64_bits_are_kept_exactly(number: int) -> None:
    class Count(BaseModel):
        n: int

    for output in (compiled(Count), compiled(fields={"n": "integer"})):
        assert output.validate(f'{{"n":{number}}}').output == {"n": number}


@pytest.mark.parametrize(
    "number",
    ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "1e300", "1e19", "9223372036854775808.0"],
)
def test_integers_beyond_64_bits_are_invalid_because_no_column_holds_them(number: str) -> None:
    class Count(BaseModel):
        n: int

    for output in (compiled(Count), compiled(fields={"n": "integer"})):
        assert output.validate(f'{{"n":{number}}}').error


def test_large_numbers_that_are_no_integers_are_fine() -> None:
    class Mass(BaseModel):
        kg: float

    for output in (compiled(Mass), compiled(fields={"kg": "number"})):
        assert output.validate('{"kg":5.97e24}').output == {"kg": 5.97e24}
    assert compiled(fields={"kg": "number"}).validate('{"kg":5970000000000000000000000}').output == {"kg": 5.97e24}


def test_formats_are_checked_whether_strict_mode_knows_them_or_not() -> None:
    output = compiled(fields={"day": {"type": "string", "format": "date"}, "page": {"type": "string", "format": "uri"}})
    assert output.unsent == ("schema.page: format uri",)
    assert output.validate('{"day":"2026-11-23","page":"https://example.com"}').error is None
    assert output.validate('{"day":"23 Nov","page":"https://example.com"}').error
    assert output.validate('{"day":"2026-11-23","page":"no page"}').error


def test_a_validator_of_the_class_changes_the_output_and_one_that_breaks_makes_it_invalid() -> None:
    class Loud(BaseModel):
        word: str

        @field_validator("word")
        @classmethod
        def shout(cls, word: str) -> str:
            return {"hi": "HI"}[word]

    output = compiled(Loud)
    assert output.validate('{"word":"hi"}').output == {"word": "HI"}
    error = output.validate('{"word":"other"}').error
    assert error is not None
    assert "KeyError" in error


def test_the_output_has_the_names_of_the_answer() -> None:
    class Renamed(BaseModel):
        inner: str = Field(alias="outerName")

    assert compiled(Renamed).validate('{"outerName":"x"}').output == {"outerName": "x"}


def test_an_answer_becomes_an_object_of_the_class() -> None:
    answer = BY_MODEL.python('```json\n{"label":"a","score":1,"note":null}\n```')
    assert answer == Intent(label="a", score=1)
    with pytest.raises(ValueError, match="label"):
        BY_MODEL.python('{"label":"c","score":1}')
    with pytest.raises(ValueError, match="not JSON"):
        BY_MODEL.python("prose")
    assert BY_FIELDS.python('{"label":"a","score":1}') == {"label": "a", "score": 1}


@given(st.text() | st.binary())
def test_no_text_breaks_the_check(text: str | bytes) -> None:
    for output in (BY_FIELDS, BY_MODEL):
        value, error = output.validate(text)
        assert (value is None) == (error is not None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["label", "score", "note", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"label": st.sampled_from(["a", "b", "c"]) | json_values, "score": st.floats(-0.5, 1.5) | json_values},
        optional={"note": st.text() | json_values, "x": json_values},
    )
)
def test_valid_is_what_an_independent_validator_calls_valid(value: dict[str, Any]) -> None:
    output, error = BY_FIELDS.validate(json.dumps(value))
    dropped = {k: v for k, v in value.items() if not (k == "note" and v is None)}
    oracle = jsonschema.Draft202012Validator(BY_FIELDS.json_schema)
    if error is None:
        assert oracle.is_valid(output)
        assert output == dropped
    elif "not JSON" not in error:  # NaN and infinity
        assert not oracle.is_valid(dropped)


# Schemas of any shape: what strict mode can produce must pass the person's own schema.

names = st.sampled_from(["a", "b", "c", "type", "enum"])
scalars = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer", "minimum": -3, "maximum": 3},
        {"type": "number", "minimum": 0},
        {"type": "boolean"},
        {"enum": ["x", "y"]},
        {"enum": [1, 2]},
    ]
)
fields = st.recursive(
    scalars,
    lambda inner: (
        st.builds(lambda i: {"type": "array", "items": i, "maxItems": 2}, inner)
        | st.builds(
            lambda f, optional: {
                "fields": {n: s | ({"optional": True} if n in optional else {}) for n, s in f.items()}
            },
            st.dictionaries(names, inner, min_size=1, max_size=3),
            st.sets(names),
        )
    ),
    max_leaves=6,
)


def values_of(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Anything that strict mode could produce."""
    if "anyOf" in node:
        return st.one_of([values_of(branch) for branch in node["anyOf"]])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    match node["type"]:
        case "object":
            return st.fixed_dictionaries({n: values_of(p) for n, p in node["properties"].items()})
        case "array":
            return st.lists(values_of(node["items"]), max_size=node["maxItems"])
        case "string":
            return st.text(max_size=8)
        case "integer":
            return st.integers(node["minimum"], node["maximum"])
        case "number":
            return st.floats(min_value=node["minimum"], allow_infinity=False)
        case "boolean":
            return st.booleans()
    return st.none()


@given(st.data(), st.dictionaries(names, fields, min_size=1, max_size=4), st.sets(names))
def test_whatever_strict_mode_can_produce_is_valid_by_the_persons_schema(
    data: Any, inline: dict[str, Any], optional: set[str]
) -> None:
    output = compiled(fields={n: f | ({"optional": True} if n in optional else {}) for n, f in inline.items()})
    assert output.strict_schema is not None
    answer = data.draw(values_of(output.strict_schema))
    value, error = output.validate(json.dumps(answer))
    assert error is None
    jsonschema.validate(answer, output.strict_schema)
    jsonschema.validate(value, output.json_schema)
