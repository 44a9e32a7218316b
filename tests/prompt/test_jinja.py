"""Jinja: logic in a sandbox, checked against the columns before any row is read."""

from __future__ import annotations

import pytest

from batchling.errors import PromptError
from batchling.prompt import RenderError, compile_prompt

COLUMNS = ["name", "tags", "range", "address", "self"]


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


FIELDS = {"items": ["pen", "ink"], "total": 3, "gift": None, "paid": True}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ address.items }}", '["pen", "ink"]'),
        ("{{ address['items'] }}", '["pen", "ink"]'),
        ("{{ address|attr('items') }}", '["pen", "ink"]'),
        ("{{ [address]|map(attribute='items')|first }}", '["pen", "ink"]'),
        ("{{ '{0.items}'.format(address) }}", '["pen", "ink"]'),
        ("{% for item in address.items %}{{ item }} {% endfor %}", "pen ink "),
        ("{{ address.keys is defined }} {{ address.copy|default('none') }}", "false none"),
    ],
)
def test_a_field_is_the_rows_and_not_a_method_of_the_same_name(template: str, text: str) -> None:
    assert render(template, address=FIELDS) == text


def test_a_method_that_is_called_is_found_whatever_the_fields_are_called() -> None:
    template = "{% for k, v in address.items() %}{{ k }}={{ v }};{% endfor %}{{ name.upper() }}"
    assert render(template, address=FIELDS, name="Ada") == 'items=["pen", "ink"];total=3;gift=;paid=true;ADA'


@pytest.mark.parametrize(
    "template",
    [
        "{{ address.keys }}",
        "{{ name.upper }}",
        "{{ tags.count }}",
        "{{ name|attr('upper') }}",
        "{{ tags|map(attribute='count')|list }}",
        "{% if name.upper %}x{% endif %}",
        "{{ range }}",
        "{{ dict }}",
        "{{ [dict] }}",
        "{{ {'a': dict} }}",
        "{{ dict ~ '' }}",
        "{{ dict|string }}",
        "{{ dict|upper }}",
        "{{ [dict]|join }}",
        "{{ dict|tojson }}",
        "{{ '%s' % dict }}",
        "{{ '%s'|format(dict) }}",
        "{{ '{}'.format(dict) }}",
        "{{ '{!r}'.format(dict) }}",
        "{{ '{x}'.format_map({'x': dict}) }}",
        "{% for t in tags %}{{ loop }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m }}",
        "{{ namespace() }}{{ cycler('a') }}",
        "{{ address.total() }}",
    ],
)
def test_code_is_no_text_and_its_place_is_told(template: str) -> None:
    columns = [name for name in COLUMNS if name != "range"]
    prompt = compile_prompt([("system", "x"), ("user", "\n" + template)], "jinja", columns)
    with pytest.raises(RenderError, match=r"jinja, message 2 \(user\), line 2: ") as caught:
        prompt.texts({"name": "Ada", "tags": ["a"], "address": FIELDS})
    assert " at 0x" not in caught.value.message


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ tags|map('upper') }}", '["A", "B"]'),
        ("{{ tags|reverse }}{{ tags|batch(1) }}", '["b", "a"][["a"], ["b"]]'),
        ("{{ address.values() }}", '[["pen", "ink"], 3, null, true]'),
        ("{% set f = dict(a=1) %}{{ f.keys() }}{{ f|items }}", '["a"][["a", 1]]'),
        ("{{ tags|map('upper') ~ '!' }}", '["A", "B"]!'),
        ("{{ '{}'.format(tags|map('upper')) }}", '["A", "B"]'),
        ("{{ self }}", "me"),
    ],
)
def test_what_jinja_makes_of_data_is_data(template: str, text: str) -> None:
    assert render(template, tags=["a", "b"], address=FIELDS, self="me") == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ none ~ true ~ 1.0 ~ tags }}", 'true1.0["a"]'),
        ("{{ [true, none, tags]|join(';') }}", 'true;;["a"]'),
        ("{{ address|string == '' ~ address }}", "true"),
        ("{{ tags|upper }}", '["A"]'),
        ("{{ '%s %s %d' % (none, tags, 3) }}", ' ["a"] 3'),
        ("{{ '%s'|format(address.paid) }}{{ '%(x)s'|format(x=none) }}{{ '%s' % {'a': none} }}", 'true{"a": null}'),
        ("{{ '{} {:.1f} {}'.format(tags, 1.25, none) }}", '["a"] 1.2 '),
        ("{{ none|urlencode }}{{ {'a': true}|urlencode }}{{ {'a': true}|xmlattr }}", 'a=true a="true"'),
    ],
)
def test_text_made_on_the_way_spells_values_as_the_prompt_does(template: str, text: str) -> None:
    assert render(template, tags=["a"], address=FIELDS) == text


FRENCH = {"title": "L'été & <b>日本</b>", "a": None, "n": 1.0}


def test_tojson_writes_what_the_value_itself_writes() -> None:
    written = '{"title": "L\'été & <b>日本</b>", "a": null, "n": 1.0}'
    assert render("{{ address|tojson }}", address=FRENCH) == render("{{ address }}", address=FRENCH) == written
    assert render("{{ name|tojson }} {{ tags|map('tojson')|join }}", name="é'", tags=["<"]) == '"é\'" "<"'
    assert render("{{ address|tojson(indent=1) }}", address={"b": "<", "a": 1}) == '{\n "b": "<",\n "a": 1\n}'
    assert render("{{ address|pprint }}", address={"b": None}) == '{\n  "b": null\n}'


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ (address|tojson) + name }}", '{"a": "<"}<&>'),
        ("{{ (name|e) + name }}", "&lt;&amp;&gt;<&>"),
        ("{{ (name|safe) + '<' }}{{ (name|safe)|replace('&', '<') }}", "<&><<<>"),
        ("{{ '%s' % name|safe }}{{ [name|safe, '<']|join }}", "<&><&><"),
    ],
)
def test_nothing_is_escaped_because_an_earlier_filter_was_applied(template: str, text: str) -> None:
    assert render(template, name="<&>", address={"a": "<"}) == text


def test_a_row_cannot_be_changed_for_the_messages_after() -> None:
    for change in ("tags.append(1)", "address.update({'a': 1})", "address.pop('items')", "tags.sort()"):
        with pytest.raises(RenderError, match="unsafe"):
            render("{{ " + change + " }}", tags=["b", "a"], address=FIELDS)
