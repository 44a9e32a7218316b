"""What a person reads when a config is wrong: key, value, expectation, nearest key, and where it was set."""

from __future__ import annotations

import pytest

from batchling.config import compose, expand
from batchling.errors import ConfigError

from .conftest import HELLO, Write


def message(*overrides: str, experiment: str = "hello") -> str:
    with pytest.raises(ConfigError) as caught:
        compose(experiment, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model=gpt-5-mni", "did you mean gpt-5-mini"),
        ("prompt=klassify", "did you mean classify"),
        ("modle.id=x", "modle.id: no such key; did you mean"),
        ("budget.usdd=1", "did you mean budget.usd"),
        ("max_output_tokens=5", "did you mean model.max_output_tokens"),
        ("temperature=0", "model.params.temperature="),
        ("model.foo=1", "model.foo: no such key"),
        ("+foo=1", "foo: no such key"),
        ("+model.temperatur=1", "parameters of the API go into model.params"),
        ("model=null", "model: expected one of its choices: "),
        ("repeats=many", "repeats: expected a valid integer, unable to parse string as an integer, got 'many'"),
        ("retry.attempts=0", "retry.attempts: expected greater than 0, got 0"),
        ("tokens=maybe", "tokens: expected 'auto' or 'off', got 'maybe'"),
        ("model.id=5", "model.id: expected a valid string, got 5 (quote it)"),
        (
            "prompt.messages.0.role=robot",
            "prompt.messages.0.role: expected 'system', 'developer', 'user' or 'assistant', got 'robot'",
        ),
        (
            "data.path=x.csv",
            "data: give exactly one of path, sql, rows, run, dsn_env (got path [override: data.path=x.csv], rows "
            "[experiments/hello/config.yaml:8]); data.NAME=null takes one away",
        ),
        ("schema={fields: {a: string}, json_schema: x}", "schema: two schemas, which cannot be combined"),
        ("model=a,b", "model: is a sweep, which needs -m"),
        ("hydra.verbose=true", "Hydra's own settings do not apply"),
        ("prompt=[", "cannot read the override 'prompt=['"),
        ("+x._target_=os.system", "_target_ is not supported"),
        ("provider.base_url=htp:/x", "provider.base_url: expected an http or https URL"),
        ("provider.engine.kind=http", "provider.engine.upstream: the http engine needs it"),
        (
            "budget.usd=3",
            "model.max_output_tokens: budget.usd is held against the worst case, which needs a limit; try model.max_output_tokens=",
        ),
        ("prompt.messages=[]", "prompt.messages: the chat endpoint needs messages"),
        ("model.endpoint=embeddings", "prompt.input: the embeddings endpoint needs the text to embed"),
        ("provider=compatible", "provider.base_url: compatible needs its URL"),
        ("model=azure-gpt-4.1-mini", "https://RESOURCE.openai.azure.com/openai/v1/"),
        ("model=custom", "model.id: has no value yet (the model's name as the provider spells it)"),
        ("prompt.messages.0.content=file:nope.md", "no file 'nope.md' (looked for"),
    ],
)
def test_a_wrong_override_is_explained(write: Write, override: str, expected: str) -> None:
    write({})
    assert expected in message(override)


def test_every_problem_is_listed_with_what_set_it(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "repeats: none\nretry: {atempts: 2}\n"})
    text = message("tokens=x")
    assert text.startswith("3 problems in the config:")
    assert "retry.atempts: no such key; did you mean retry.attempts? [experiments/hello/config.yaml:15]" in text
    assert "repeats: expected a valid integer" in text and "[experiments/hello/config.yaml:14]" in text
    assert "[override: tokens=x]" in text


def test_all_wrong_overrides_are_named_at_once(write: Write) -> None:
    write({})
    text = message("model=gpt-5-mni", "budgt=small", "repaets=2")
    assert text.startswith("3 problems") and "budget" in text and "repeats" in text


def test_missing_values_come_first(write: Write) -> None:
    write({})
    assert message("model=custom", "repeats=x").startswith("model.id: has no value yet")


def test_an_unsupported_endpoint_names_those_there_are(write: Write) -> None:
    write({})
    text = message("model=text-embedding-3-small", "prompt=embed", "provider=groq")
    assert "model.endpoint: groq has no embeddings endpoint in its Batch API (it has: chat)" in text


@pytest.mark.filterwarnings("ignore:In the sequence")  # OmegaConf about `,.2f`
@pytest.mark.parametrize("content", ["${name}", "price: ${price}", "cost ${price:,.2f}", "a ${ b", "${VAR:-x}"])
def test_interpolation_in_a_prompt_is_refused_with_file_and_line(write: Write, content: str) -> None:
    write({"experiments/hello/config.yaml": HELLO.replace("Hello {name}", f"Hello {{name}} {content}")})
    text = message()
    assert "prompt.messages.0.content" in text and "[experiments/hello/config.yaml:13]" in text
    assert "escape it" in text and "keep the prompt in a file" in text


def test_escaped_and_other_dollars_reach_the_prompt(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO.replace('"Hello {name}"', r"'\${HOME} $x $$ {name} {{n}}'")})
    assert compose("hello").spec.messages == (("user", "${HOME} $x $$ {name} {{n}}"),)


def test_a_bad_interpolation_elsewhere_names_key_and_line(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "description: costs ${ nothing\n"})
    assert "description: OmegaConf reads ${…} and cannot" in message()
    write({"experiments/hello/config.yaml": HELLO + "description: costs ${nothing}\n"})
    assert "[experiments/hello/config.yaml:14]" in message()


def test_yaml_booleans_in_an_enum_ask_for_quotes(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "schema:\n  fields:\n    answer:\n      enum: [yes, no]\n"})
    text = message()
    assert "schema.fields.answer.enum" in text and "quote it" in text and "[experiments/hello/config.yaml:17]" in text


@pytest.mark.parametrize(("written", "read"), [("00123", "83"), ("012", "10"), ("12:30", "750")])
def test_numbers_that_yaml_rewrites_ask_for_quotes(write: Write, written: str, read: str) -> None:
    write({"experiments/hello/config.yaml": HELLO.replace("{name: John Doe}", f"{{name: John Doe, zip: {written}}}")})
    text = message()
    assert f"YAML reads {written} as the number {read}: quote it" in text
    assert "data.rows.0.zip" in text and "[experiments/hello/config.yaml:9]" in text


def test_quoted_numbers_stay_as_they_are(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO.replace("{name: John Doe}", "{name: John Doe, zip: '00123', n: 10}")})
    assert compose("hello").config.data.rows == [{"name": "John Doe", "zip": "00123", "n": 10}, {"name": "Jane Doe"}]


def test_a_boolean_where_a_word_belongs_asks_for_quotes(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "description: yes\n"})
    assert (
        "description: expected a valid string, got True (YAML reads yes, no, on and off as true and false: quote it)"
        in message()
    )


def test_broken_yaml_names_file_and_line(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "schema: {fields: [a\n"})
    text = message()
    assert "cannot read YAML" in text and "experiments/hello/config.yaml:1" in text
    write({"experiments/hello/config.yaml": HELLO + "name: twice\n"})
    assert "duplicate" in message() and "config.yaml:14" in message()


def test_a_wrong_choice_in_a_file_names_its_line(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO.replace("simulated", "gpt-5-mni")})
    text = message()
    assert "did you mean gpt-5-mini" in text and "experiments/hello/config.yaml:3" in text


@pytest.mark.parametrize(
    ("written", "line", "expected"),
    [
        ("  - /base\n  - override /modl: gpt-5\n", 3, "no group 'modl'; did you mean model?"),
        ("  - /base\n  - /modl: gpt-5\n", 3, "no config 'modl/gpt-5'; did you mean model?"),
        ("  - /base\n  - override /colour: red\n", 3, "no group 'colour'; there are: budget, data, limits, model,"),
        ("  - override /model: simulated\n", 2, "nothing before it chooses model, so there is nothing to override"),
    ],
)
def test_a_wrong_group_in_a_file_names_its_line(write: Write, written: str, line: int, expected: str) -> None:
    write({"experiments/hello/config.yaml": f"defaults:\n{written}  - _self_\nname: hello\n"})
    text = message()
    assert expected in text and f"experiments/hello/config.yaml:{line}]" in text


def test_interpolation_in_a_row_is_refused_with_file_and_line(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO.replace("Jane Doe", '"Jane ${name}"')})
    text = message()
    assert "data.rows.1.name: OmegaConf would replace ${…} in a row" in text
    assert "experiments/hello/config.yaml:10]" in text
    write({"experiments/hello/config.yaml": HELLO.replace("Jane Doe", "'Jane \\${name}'")})
    assert compose("hello").config.data.rows == [{"name": "John Doe"}, {"name": "Jane ${name}"}]


def test_overrides_in_one_text_are_refused(write: Write) -> None:
    write({})
    for verb in (compose, expand):
        with pytest.raises(
            ConfigError, match=r"overrides must be a list of strings, got 'repeats=2'\n  next: write \['repeats=2'\]"
        ):
            verb("hello", "repeats=2")


def test_a_config_without_base_says_so(write: Write) -> None:
    write({"experiments/hello/config.yaml": "name: x\ndata: {rows: [{a: 1}]}\n"})
    text = message()
    assert "provider: is needed" in text and "`- /base`" in text


def test_target_is_not_part_of_the_language(write: Write) -> None:
    write({"experiments/hello/config.yaml": HELLO + "metrics: {_target_: os.system}\n"})
    assert "metrics._target_: is not supported" in message()


def test_more_rows_than_a_config_holds_belong_in_a_file(write: Write) -> None:
    rows = "\n".join(f"    - {{name: n{i}, a: 1, b: 2, c: 3}}" for i in range(1500))
    write({"experiments/hello/config.yaml": HELLO.replace("    - {name: John Doe}", rows)})
    try:
        composition = compose("hello")
    except ConfigError as e:  # OmegaConf 2.4 stops at 10,000 values
        assert "rows belong in a file (data.path)" in str(e)
    else:
        assert composition.config.data.rows is not None and len(composition.config.data.rows) == 1501


def test_an_experiment_that_is_not_there_lists_near_names(write: Write) -> None:
    write({"experiments/intent/config.yaml": HELLO})
    assert "did you mean intent?" in message(experiment="intnet")
    assert "is a folder without a config.yaml" in message(experiment="experiments")


@pytest.mark.parametrize("key", ["model.token_factor", "provider.token_factor"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_token_factor_is_a_finite_number(write: Write, key: str, value: str) -> None:
    write({})
    assert f"{key}: expected a finite number" in message(f"{key}={value}")
