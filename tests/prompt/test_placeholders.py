"""`{column}` is a placeholder, every other brace is text, and values are never templates."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.errors import PromptError
from batchling.placeholders import lookalikes
from batchling.prompt import RenderError, compile_prompt, mistakable

COLUMNS = ["name", "text", "address", "tags", "größe", "a.b"]


def render(template: str, **row: object) -> str:
    return compile_prompt([("user", template)], "format", COLUMNS).texts(row)[0]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Hello {name}!", "Hello Ada!"),
        ("{name}{name}", "AdaAda"),
        ("{address.city}", "Paris"),
        ("{address.geo[1]}", "2.5"),
        ("{tags[0]}, {tags[1]}", "x, y"),
        ("{größe}", "12"),
        ("{{name}}", "{name}"),
        ("{{{name}}}", "{Ada}"),
        ("{{unknown}}", "{unknown}"),
        ("{{address.city}}", "{address.city}"),
        ('{"a": {name}}', '{"a": Ada}'),
        ('{"a":{"b":{name}}}', '{"a":{"b":Ada}}'),
        ('{"label": "x", "n": [1, 2]}', '{"label": "x", "n": [1, 2]}'),
        ("{ name } {} {0} {-} {name!r} {name:>10} {a b}", "{ name } {} {0} {-} {name!r} {name:>10} {a b}"),
        (r"\frac{1}{2} and }{", r"\frac{1}{2} and }{"),
        ("%s $name ${} {{ {% x %}", "%s $name ${} {{ {% x %}"),
        ("", ""),
    ],
)
def test_only_identifiers_in_braces_are_placeholders(template: str, expected: str) -> None:
    row = {"name": "Ada", "address": {"city": "Paris", "geo": [1, 2.5]}, "tags": ["x", "y"], "größe": 12}
    assert render(template, **row) == expected


def test_a_column_whose_name_has_a_dot_wins_over_a_field() -> None:
    assert render("{a.b}", **{"a.b": "whole"}) == "whole"


def test_an_unknown_column_is_named_with_the_nearest_one_and_the_line() -> None:
    with pytest.raises(PromptError) as caught:
        compile_prompt([("system", "fine"), ("user", "one\ntwo {nmae}")], "format", COLUMNS)
    message = str(caught.value)
    assert "`nmae`" in message
    assert "did you mean `name`?" in message
    assert all(column in message for column in COLUMNS)
    assert "message 2 (user), line 2" in message
    assert "{{nmae}}" in message  # how to write the braces themselves


def test_the_columns_used_are_the_top_level_ones_in_order_of_first_use() -> None:
    prompt = compile_prompt([("system", "{text}"), ("user", "{address.city} {text} {name}")], "format", COLUMNS)
    assert prompt.columns == ("text", "address", "name")


@pytest.mark.parametrize("row", [{"address": {}}, {"address": "a string"}, {"address": ["Paris"]}])
def test_a_row_without_the_part_that_a_placeholder_names_is_a_render_error(row: dict[str, object]) -> None:
    with pytest.raises(RenderError) as caught:
        render("{address.city}", **row)
    assert caught.value.column == "address"
    assert "address.city" in caught.value.message


def test_a_part_of_null_is_empty() -> None:
    assert render("[{address.city}{tags[3]}]", address=None, tags=None) == "[]"


@given(st.text())
def test_a_value_is_never_a_template(value: str) -> None:
    value += "{name}{{name}}{text}"
    assert render("<{text}>", text=value, name="secret") == f"<{value}>"


def test_a_columns_name_with_braces_is_no_placeholder_and_is_found() -> None:
    assert mistakable(["{text} {a{b} {my text}", "{{name}}"], ["text", "my text", "a{b", "c}"]) == ["a{b"]


def test_a_column_is_a_placeholder_under_its_exact_name() -> None:
    columns = ["Product Name", "né-e", "Product Name (EU)", "a.b", "2024"]
    values = ["pen", "ü", "Stift", "dot", "year"]
    template = "{Product Name}|{Product Name (EU)}|{né-e}|{a.b}|{2024}|{{Product Name}}|{{{né-e}}}|{Product  Name}|{product name}"
    (text,) = compile_prompt([("user", template)], "format", columns).texts(dict(zip(columns, values, strict=True)))
    assert text == "pen|Stift|ü|dot|year|{Product Name}|{ü}|{Product  Name}|{product name}"
    (text,) = compile_prompt([("user", '{"2024": 1} {2024}')], "format", columns).texts({"2024": "x"})
    assert text == '{"2024": 1} x'


@given(st.text(alphabet="{}[]. 01\n\"'%$\\-", max_size=40))
def test_braces_around_anything_else_are_text(template: str) -> None:
    assert render(template) == template


def test_json_in_a_prompt_needs_no_escaping() -> None:
    example = json.dumps({"label": "refund", "nested": {"x": [1, {"y": 2}]}}, indent=2)
    assert render(f"Answer like {example}: {{text}}", text="hi") == f"Answer like {example}: hi"


@pytest.mark.parametrize(
    ("template", "engine", "note"),
    [
        ("{{{ x }}}", "format", "a placeholder is {x}"),
        ("{{{ x.y }}}", "format", "a placeholder is {x.y}"),
        ('{x["y"]}', "format", "a placeholder is {x.y}"),
        ("{x['y']}", "format", "a placeholder is {x.y}"),
        ("{e\u0301}", "format", "the column \u00e9 has the same letters"),
        ('Answer as {{"label": "…"}}', "format", "is sent with both braces"),
        ("{{ none }}", "jinja", "Jinja's own none, not the column none"),
        ("{{ none | upper }}", "jinja", "Jinja's own none, not the column none"),
    ],
)
def test_what_was_meant_otherwise_is_told(template: str, engine: str, note: str) -> None:
    (told,) = lookalikes(template, engine, ["x", "\u00e9", "none"])
    assert note in told


@pytest.mark.parametrize(
    ("template", "engine"),
    [
        ("{x} {\u00e9}", "format"),
        ('{"a": {"b": {}}} {x["1"} {other["y"]}', "format"),
        ("{% if x == none %}{{ x }}{% endif %}", "jinja"),
        ("{{ true }}", "jinja"),
    ],
)
def test_what_means_what_it_says_is_not_told(template: str, engine: str) -> None:
    assert list(lookalikes(template, engine, ["x", "\u00e9", "none"])) == []


def test_a_position_in_a_text_is_an_error_and_not_its_letter() -> None:
    prompt = compile_prompt([("user", "{tags[0]}")], "format", ["tags"])
    assert prompt.texts({"tags": ["a"]}) == ["a"]
    with pytest.raises(RenderError, match=r"`tags\[0\]`"):
        prompt.texts({"tags": '["a"]'})
