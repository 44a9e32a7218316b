"""Jinja: logic in a sandbox, checked against the columns before any row is read."""

from __future__ import annotations

import pytest

from batchling.errors import PromptError
from batchling.prompt import RenderError, compile_prompt

COLUMNS = ["name", "tags", "range", "address"]


def render(template: str, **row: object) -> str:
    row = dict.fromkeys(COLUMNS) | row
    return compile_prompt([("user", template)], "jinja", COLUMNS).texts(row)[0]


def test_loops_conditions_and_filters_work() -> None:
    template = "{% for t in tags %}{{ loop.index }}={{ t|upper }} {% endfor %}{% if name %}for {{ name }}{% endif %}\n"
    assert render(template, name="Ada", tags=["a", "b"]) == "1=A 2=B for Ada\n"


def test_values_read_as_they_do_with_placeholders() -> None:
    assert render("{{ name }}|{{ tags }}|{{ address }}", name=None, tags=[1, True], address=False) == "|[1, true]|false"


def test_html_is_not_escaped() -> None:
    assert render("{{ name }}", name="<a & b>") == "<a & b>"


def test_a_value_is_never_a_template() -> None:
    assert render("{{ name }}", name="{{ tags }}{% raw %}") == "{{ tags }}{% raw %}"


def test_an_unknown_variable_is_an_error_before_any_row() -> None:
    with pytest.raises(PromptError, match="did you mean `name`") as caught:
        compile_prompt([("user", "{{ nmae }}")], "jinja", COLUMNS)
    assert "message 1 (user)" in str(caught.value)


def test_variables_of_the_template_itself_are_not_columns() -> None:
    prompt = compile_prompt([("user", "{% set x = name %}{{ x }}")], "jinja", COLUMNS)
    assert prompt.columns == ("name",)


def test_a_column_wins_over_a_built_in_function() -> None:
    assert render("{{ range }}", range="5 km") == "5 km"


def test_built_in_functions_that_are_no_columns_stay() -> None:
    prompt = compile_prompt([("user", "{% for i in range(3) %}{{ i }}{% endfor %}")], "jinja", ["x"])
    assert prompt.texts({}) == ["012"]


@pytest.mark.parametrize(
    "template",
    ["{{ name", "{% if %}", "{{ name|nofilter }}", "{{ name|random }}", "{% include 'x' %}", "{% include name %}"],
)
def test_what_jinja_cannot_compile_is_an_error_before_any_row(template: str) -> None:
    with pytest.raises(PromptError, match="message 1"):
        compile_prompt([("user", template)], "jinja", COLUMNS)


def test_a_prompt_cannot_draw_random_text() -> None:
    with pytest.raises(PromptError, match="lipsum"):
        compile_prompt([("user", "{{ lipsum() }}")], "jinja", COLUMNS)


@pytest.mark.parametrize(
    "template",
    [
        "{{ address.city }}",
        "{{ address.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ tags.append(1) }}",
        "{{ name + 1 }}",
        "{{ 1 / 0 }}",
        "{% for i in range %}{% endfor %}",
    ],
)
def test_what_fails_or_escapes_in_a_row_is_a_render_error_of_that_row(template: str) -> None:
    with pytest.raises(RenderError, match="jinja"):
        render(template, address={}, tags=[], name="Ada", range=5)
