"""What a template may do for one row has a bound, told in steps and characters."""

from __future__ import annotations

import resource
import sys

import pytest

from batchling.errors import PromptError
from batchling.prompt import RenderError
from batchling.sandbox import compile_template

ROW = {"text": "some words " * 20, "n": 3, "big": "x" * 100_000, "tags": ["a", "b"]}

GROWING = [
    "{{ 'x' * 10**9 }}",
    "{{ 10**9 * [text] }}",
    "{{ 9 ** (9 ** 9) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if b > 999999 %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='xx') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% set ns.l = ns.l + [big[i:]] %}{% endfor %}",
    "{% macro m(n) %}{% if n < 60 %}{{ m(n+1) }}{{ m(n+1) }}{% endif %}{% endmacro %}{{ m(0) }}",
    "{{ '%1000000000d' % n }}",
    "{{ '%*d' % (1000000000, n) }}",
    "{{ '{:>1000000000}'.format(n) }}",
    "{{ '{:>{w}}'.format(n, w=1000000000) }}",
    "{{ '%1000000000d'|format(n) }}",
    "{{ text|center(1000000000) }}",
    "{{ text.center(1000000000) }}",
    "{{ text.zfill(1000000000) }}",
    "{{ big.replace('x', big)|length }}",
    "{{ big|replace('x', big)|length }}",
    "{{ big.join([big] * 10000)|length }}",
    "{{ ([big] * 10000)|join|length }}",
    "{{ ([[1] * 1000] * 100000)|sum(start=[])|length }}",
    "{{ tags|batch(1000000000, 0)|list }}",
    "{{ tags|slice(1000000000)|list }}",
    "{{ text|indent(1000000000) }}",
    "{{ big|wordwrap(1, true, big) }}",
    "{{ tags|map('string')|join(big * 1000) }}",
    "{{ big.translate({120: big})|length }}",
    "{{ range(99999)|map('center', 99999)|list|length }}",
    "{{ n.to_bytes(1000000000) }}",
    "{% for x in range(90000) %}" + "constant text " * 1000 + "{% endfor %}",
]


@pytest.mark.parametrize("template", GROWING)
def test_what_grows_without_end_is_an_error_of_the_row(template: str) -> None:
    render, _ = compile_template(template, list(ROW), "message 1 (user)")
    with pytest.raises(RenderError, match=r"does too much for one row|a number of more than"):
        render(ROW)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)
    assert peak < 1000


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ [text]|tojson(indent=1000000000) }}", "100 at most"),
        ("{{ 3.5|round(1000000000, 'floor') }}", "a precision of 400"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}", "RecursionError|too much"),
    ],
)
def test_what_cannot_be_counted_has_a_bound_of_its_own(template: str, message: str) -> None:
    render, _ = compile_template(template, list(ROW), "message 1 (user)")
    with pytest.raises(RenderError, match=message):
        render(ROW)


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + " + ".join(["1"] * 5000) + " }}",
        "{% for x in [1] %}" * 30 + "{% endfor %}" * 30,
    ],
)
def test_a_template_that_is_nested_too_deeply_is_a_prompt_error(template: str) -> None:
    with pytest.raises(PromptError, match="nested too deeply"):
        compile_template(template, list(ROW), "message 1 (user)")


def test_each_row_has_all_of_it_and_ordinary_work_is_far_below() -> None:
    render, _ = compile_template("{% for t in tags %}{{ t|upper ~ big[:10] }},{% endfor %}{{ big }}", list(ROW), "m")
    for _ in range(400):  # 400 times 100,000 characters are more than one row's share
        assert render(ROW) == "Axxxxxxxxxx,Bxxxxxxxxxx," + ROW["big"]


def test_slices_and_loops_are_what_they_were() -> None:
    render, _ = compile_template(
        "{{ text[5:10] }}{{ tags[::-1] }}{% for t in tags %}{{ loop.index }}/{{ loop.length }}{{ t }}{% else %}none{% endfor %}"
        "{% for t in [] %}x{% else %}none{% endfor %}{% for t in tags|map('upper') %}{{ loop.last }}{{ t }}{% endfor %}"
        "{% for t in [1, [2, [3]]] recursive %}{% if t is iterable %}({{ loop(t) }}){% else %}{{ t }}{% endif %}{% endfor %}",
        list(ROW),
        "m",
    )
    assert render(ROW) == 'words["b", "a"]1/2a2/2bnonefalseAtrueB1(2(3))'
