"""Mistakes are told when a plan is made, with the place, before they cost anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

HEAD = "defaults:\n  - /base\n  - _self_\nname: ask\n"
ROWS = "data: {rows: [{id: a, text: one, label: 1}, {id: b, text: two, label: 2}], id: id}\n"
PROMPT = "prompt: {messages: [{role: user, content: 'Label {text}'}]}\n"
FIELDS = "schema: {fields: {label: {enum: [good, bad]}}}\n"


def write(project: Path, text: str, **files: str) -> None:
    folder = project / "experiments" / "ask"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(HEAD + text)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(content)


def notes(cli: Cli, *overrides: str, command: str = "plan") -> list[str]:
    """The notes on stderr, which are those of `--json`."""
    answer = cli(command, "ask", *overrides, "--json")
    assert answer.code == 0, answer.err
    told = [line.removeprefix("note: ") for line in answer.err.splitlines() if line.startswith("note: ")]
    assert told == answer.json["notes"]
    return told


def prompt(content: str, engine: str = "format") -> str:
    return f"prompt: {{engine: {engine}, messages: [{{role: user, content: {json.dumps(content)}}}]}}\n"


# -- braces and columns


@pytest.mark.parametrize(
    ("content", "engine", "said"),
    [
        ("Label it", "format", "uses no column: 2 rows would ask the same"),
        ("Label {{text}}", "format", "{{text}} is sent as the text {text}"),
        ("Label {{ text }}", "format", "{{ text }} is sent as it stands"),
        ("Label { text }", "format", "{ text } is sent as it stands"),
        ("Label {text:.2f}", "format", "takes no format"),
        ("Label {{ text | upper }}", "format", "prompt.engine=jinja"),
        ("Label {text}", "jinja", "with prompt.engine=jinja a placeholder is {{ text }}"),
    ],
)
def test_several_rows_that_would_ask_the_same_are_refused(
    cli: Cli, project: Path, content: str, engine: str, said: str
) -> None:
    write(project, ROWS + prompt(content, engine))
    for command in ("plan", "run"):
        answer = cli(command, "ask")
        assert answer.code == 2, answer
        assert "the prompt uses no column" in answer.err and said in answer.err
        assert "config.yaml:6" in answer.err, "where the prompt stands"
    assert not list((project / "runs").glob("*/plan.json"))


@pytest.mark.parametrize("meant", ["repeats=3", "dedupe=false", "data.limit=1"])
def test_asking_the_same_is_a_note_where_it_is_meant(cli: Cli, project: Path, meant: str) -> None:
    write(project, ROWS + prompt("Tell a joke"))
    (note,) = notes(cli, meant)
    assert note.startswith("the prompt uses no column: every request asks the same")


def test_braces_that_only_look_like_a_placeholder_are_told_with_their_place(cli: Cli, project: Path) -> None:
    write(project, ROWS + prompt('{text}: {{label}}, {label:>3}, {Product Name}, \\textbf{in bold}, {"json": 1}'))
    told = notes(cli)
    assert [note.split(" is sent")[0] for note in told] == ["{{label}}", "{label:>3}", "{Product Name}"]
    assert all("config.yaml:6" in note for note in told)
    write(project, ROWS + prompt('{{ text }} and {label} {"label": 1}', "jinja"))
    assert [note.split(" is sent")[0] for note in notes(cli)] == ["{label}"]


# -- rows


def test_rows_with_a_hole_are_counted_and_named(cli: Cli, project: Path) -> None:
    rows = [{"id": f"r{n}", "text": ["x", "", None, "  "][n % 4], "other": "y"} for n in range(12)]
    write(project, f"data: {{rows: {json.dumps(rows)}, id: id}}\n" + prompt("Label {text} {other}"))
    told = notes(cli, "dedupe=false")
    assert told == ["{text} is empty or null in 9 of 12 rows (rows r1, r2, r3, r5, r6, …); data.where leaves them out"]
    assert notes(cli, "dedupe=false", "data.where=\"trim(text) <> ''\"") == []


def test_a_part_of_a_value_that_is_missing_is_a_hole_and_jinja_may_provide_for_it(cli: Cli, project: Path) -> None:
    rows = [{"id": "a", "user": {"name": None}}, {"id": "b", "user": {"name": "Bo"}}, {"id": "c", "user": None}]
    write(project, f"data: {{rows: {json.dumps(rows)}, id: id}}\n" + prompt("Greet {user.name}, who is {id}"))
    (note,) = notes(cli)
    assert note.startswith("{user.name} is empty or null in 2 of 3 rows (rows a, c)")
    write(project, ROWS.replace("text: one", "text: null") + prompt("Label {{ text }} {{ id }}", "jinja"))
    (note,) = notes(cli)
    assert note.startswith("`text` is empty or null in 1 of 2 rows (row a)")
    write(
        project, ROWS.replace("text: one", "text: null") + prompt("{% if text %}{{ text }}{% endif %}{{ id }}", "jinja")
    )
    assert notes(cli) == []


def test_rows_that_ask_the_same_are_told_once_also_in_a_sweep(cli: Cli, project: Path) -> None:
    rows = [{"id": f"r{n}", "text": "ab"[n % 2]} for n in range(5)]
    write(project, f"data: {{rows: {json.dumps(rows)}, id: id}}\n" + PROMPT)
    said = ["3 rows ask the same as earlier ones, and are bought once (rows r2, r3, r4)"]
    assert notes(cli) == said
    assert notes(cli, "-m", "model.params.temperature=0,1") == said


def test_a_row_above_the_context_window_or_far_above_the_others_is_named(cli: Cli, project: Path) -> None:
    rows = [{"id": f"r{n}", "text": "word " * (9000 if n == 7 else 10) + str(n)} for n in range(40)]
    write(project, f"data: {{rows: {json.dumps(rows)}, id: id}}\n" + PROMPT)
    (note,) = notes(cli)
    assert note.startswith("longest row: r7, ") and "tokens; the others have" in note
    (note,) = notes(cli, "model.context_tokens=4000")
    assert note.startswith("1 request is above the 4,000 tokens that simulated takes (row r7); longest row: r7, ")
    (note,) = notes(cli, "tokens=off")
    assert note.startswith("longest row: r7, 45,") and "bytes" in note


def test_run_tells_the_notes_before_it_sends_and_in_its_document(cli: Cli, project: Path) -> None:
    write(project, ROWS.replace("text: two", "text: one") + PROMPT)
    assert notes(cli, command="run") == ["1 row asks the same as an earlier one, and is bought once (row b)"]
    assert notes(cli, command="run") == [], "the plan is there already"


# -- metrics


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (
            "output.label = data.label",
            'they are never equal (output.label is VARCHAR: "bad", "good"; data.label is BIGINT: 1, 2)',
        ),
        ("avg((lower(output.label) = data.text)::INT)", "never equal"),
        ("output.label = 'Good'", "never equal"),
        ("output.label IN ('good', 'Bad')", "never equal"),
        ("output.score::VARCHAR = data.text", None),
        ("output.why = data.label", "output.why is text and data.label a number"),
        ("output.label = 'good'", None),
        ("output.score = data.label", None),
        ("output.score::VARCHAR = data.label::VARCHAR", None),
        ("output.why = data.text", None),
        ("state = 'ok' AND cost_usd < 1", None),
    ],
)
def test_a_metric_that_compares_what_is_never_equal_is_told(
    cli: Cli, project: Path, metric: str, said: str | None
) -> None:
    fields = "schema: {fields: {label: {enum: [good, bad]}, score: integer, why: string}}\n"
    write(project, ROWS + PROMPT + fields + f"metrics: {{m: {json.dumps(metric)}}}\n")
    told = notes(cli)
    if said is None:
        assert told == []
    else:
        (note,) = told
        assert note.startswith("metrics.m compares ") and said in note and "config.yaml:8" in note


def test_label_texts_that_hold_numbers_are_compared_as_numbers(cli: Cli, project: Path) -> None:
    fields = "schema: {fields: {label: {enum: ['1', '2']}}}\nmetrics: {m: output.label = data.label}\n"
    write(project, ROWS + PROMPT + fields)
    assert notes(cli) == []


# -- schemas


def test_keywords_of_a_schema_file_that_nobody_knows_are_named_and_nullable_is_understood(
    cli: Cli, project: Path
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "nullable": True},
            "kind": {"type": "string", "enum": ["a"], "nullable": True},
            "of": {"type": "array", "items": {"type": "integer", "maximun": 3, "x-mine": 1}},
            "require": {"type": "string", "minLength": 2},
        },
        "require": ["city"],
        "additionalProperties": True,
    }
    write(project, ROWS + PROMPT + "schema: {json_schema: s.json}\n", s_json=json.dumps(schema))
    told = notes(cli)
    assert told[0] == "only checked here, not sent to the model: schema.require: minLength"
    assert "schema: require (did you mean required?), schema.of[]: maximun (did you mean maximum?) [s.json]" in told[1]
    assert told[2].startswith("schema allows more fields than it names")
    assert len(told) == 3
    sent = cli("plan", "ask", "--show", "1", "--json").json["shown"][0]["body"]["response_format"]["json_schema"]
    properties = sent["schema"]["properties"]
    assert properties["city"] == {"type": ["string", "null"]}
    assert properties["kind"]["enum"] == ["a", None]


def test_a_pydantic_model_that_allows_extra_fields_is_told(cli: Cli, project: Path) -> None:
    model = 'from pydantic import BaseModel\n\n\nclass Out(BaseModel, extra="allow"):\n    label: str\n'
    write(project, ROWS + PROMPT + "schema: {pydantic: 'schema.py:Out'}\n", schema_py=model)
    (note,) = notes(cli)
    assert note.startswith("schema allows more fields than it names") and "schema.py:Out" in note


@pytest.mark.parametrize("choice", ["text", "sentiment"])
def test_a_schema_chosen_on_the_command_line_wins_over_the_experiments_own(
    cli: Cli, project: Path, choice: str
) -> None:
    write(project, ROWS + PROMPT + FIELDS)
    body = cli("plan", "ask", f"schema={choice}", "--show", "1", "--json").json["shown"][0]["body"]
    if choice == "text":
        assert "response_format" not in body
    else:
        schema = body["response_format"]["json_schema"]
        assert schema["name"] == "sentiment" and list(schema["schema"]["properties"]) == ["label", "confidence"]
        assert schema["schema"]["properties"]["label"]["enum"] == ["positive", "neutral", "negative"]
    both = cli("plan", "ask", "-m", f"schema=yes_no,{choice}", "--json")
    assert both.json["runs"] == 2


@pytest.mark.parametrize(
    ("config", "override", "places"),
    [
        (
            "defaults: [/base, override /schema: sentiment, _self_]\nname: ask\n",
            None,
            ("sentiment.yaml", "config.yaml:5"),
        ),
        (HEAD, "schema.fields={other: string}", ("config.yaml:7", "override: schema.fields={other: string}")),
        (HEAD, "schema.json_schema=s.json", ("config.yaml:7", "override: schema.json_schema=s.json")),
    ],
)
def test_two_schemas_are_never_mixed(
    cli: Cli, project: Path, config: str, override: str | None, places: tuple[str, str]
) -> None:
    write(project, ROWS + PROMPT + FIELDS)
    (project / "experiments/ask/config.yaml").write_text(config + ROWS + PROMPT + FIELDS)
    answer = cli("plan", "ask", *([override] if override else []))
    assert answer.code == 2 and "two schemas, which cannot be combined" in answer.err
    assert all(place in answer.err for place in places), answer.err
    assert cli("plan", "ask", "schema=yes_no").code == 0


# -- config


def test_a_parameter_that_the_model_refuses_is_an_error_with_the_line_that_set_it(cli: Cli, project: Path) -> None:
    write(project, ROWS + PROMPT + "model:\n  params: {temperature: 0, seed: 1}\n")
    answer = cli("plan", "ask", "model=gpt-5-mini", "+model.params.top_p=0.5")
    assert answer.code == 2
    assert "model.params.temperature: gpt-5-mini refuses it" in answer.err and "config.yaml:8" in answer.err
    assert "model.params.top_p" in answer.err and "override: +model.params.top_p=0.5" in answer.err
    assert "seed" not in answer.err
    assert cli("plan", "ask", "model=gpt-5-mini", "model.params.temperature=1").code == 0, "the API's default"
    assert cli("plan", "ask", "model=gpt-4.1-mini").code == 0


@pytest.mark.parametrize(
    ("overrides", "key", "told"),
    [
        (
            ["model=custom", "model.id=k", "provider=kimi", "+model.params.top_p=0.5"],
            "model.params.top_p: kimi refuses it (provider.refuses); take it away, or choose another provider",
            "override: +model.params.top_p=0.5",
        ),
        (
            ["model=custom", "model.id=k", "provider=kimi", "+model.params.n=2"],
            "model.params.n: kimi refuses it",
            "override: +model.params.n=2",
        ),
        (
            ["model=gpt-5-mini", "provider.completion_window=48h"],
            "provider.completion_window: openai does not take 48h, only 24h",
            "override: provider.completion_window=48h",
        ),
        (
            ["model=groq-gpt-oss-20b", "provider.completion_window=8d"],
            "provider.completion_window: groq does not take 8d, only 24h..7d",
            "override: provider.completion_window=8d",
        ),
        (
            ["model=gpt-5-mini", "model.output_tokens=100", "model.max_output_tokens=101"],
            "model.max_output_tokens: gpt-5-mini gives 100 at most (model.output_tokens)",
            "override: model.max_output_tokens=101",
        ),
        (
            ["model=gpt-5-mini", "model.refuses=[chat]"],
            "model.endpoint: gpt-5-mini does not answer chat (model.refuses); at openai it answers: responses, embeddings",
            "",
        ),
        (
            ["model=custom", "model.id=glm", "provider=zhipu", "schema=yes_no"],
            "schema.send: zhipu takes no JSON Schema in a request (provider.refuses); schema.send=json_mode or",
            "",
        ),
    ],
)
def test_what_a_provider_or_a_model_cannot_take_is_an_error_before_anything_is_sent(
    cli: Cli, project: Path, overrides: list[str], key: str, told: str
) -> None:
    write(project, ROWS + PROMPT)
    answer = cli("plan", "ask", *overrides)
    assert answer.code == 2 and key in answer.err and told in answer.err, answer.err
    assert not list((project / "runs").glob("*/plan.json"))


@pytest.mark.parametrize(
    "overrides",
    [
        [
            "model=custom",
            "model.id=k",
            "provider=kimi",
            "+model.params={n: 1, top_p: 1}",
            "provider.completion_window=3d",
        ],
        ["model=groq-gpt-oss-20b", "provider.completion_window=168h"],
        ["model=custom", "model.id=glm", "provider=zhipu", "schema=yes_no", "schema.send=json_mode"],
    ],
)
def test_and_what_they_can_take_is_none(cli: Cli, project: Path, overrides: list[str]) -> None:
    write(project, ROWS + PROMPT)
    answer = cli("plan", "ask", *overrides)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("text", "overrides", "other"),
    [
        ("data: {rows: [{a: 1}], sql: select 1}\n", [], "give exactly one of"),
        (ROWS, ["model=custom", "provider=openai"], "model.id: has no value yet"),
        (ROWS, ["model=nosuch"], "no choice 'nosuch'"),
        (ROWS, ["repeats=0"], "repeats: expected"),
        (ROWS, ["repeats=1,2"], "is a sweep, which needs -m"),
        (ROWS, ["nosuch.key=1"], "no such key"),
        (ROWS + "description: ${nothing.here}\n", [], "OmegaConf"),
        (ROWS + "model: {endpoint: embeddings}\n", [], "prompt.input"),
    ],
)
def test_a_misspelt_key_is_named_whatever_else_is_wrong(
    cli: Cli, project: Path, text: str, overrides: list[str], other: str
) -> None:
    write(project, text + PROMPT + "metrik: {a: 'true'}\n")
    answer = cli("plan", "ask", *overrides)
    assert answer.code == 2
    assert "metrik: no such key; did you mean metrics?" in answer.err, answer.err
    assert other in answer.err, answer.err


def test_a_cost_that_is_not_known_says_why_and_estimates_are_told_once(cli: Cli, project: Path) -> None:
    write(project, ROWS + PROMPT)
    out = cli("plan", "ask", "model=gpt-4o-mini").out
    assert "? USD at most (?: answers of gpt-4o-mini have no limit: set model.max_output_tokens)" in out
    out = cli("plan", "ask", "model=custom", "model.id=m", "provider=openai").out
    assert "? USD expected, ? USD at most (?: no price is known for m at openai: set model.price)" in out
    out = cli("plan", "ask", "-m", "model=custom", "model.id=m,n,o", "provider=openai").out
    assert sum(line.startswith("tokens") for line in out.splitlines()) == 1


def test_keys_of_an_older_version_go_on_working_and_are_told(cli: Cli, project: Path) -> None:
    write(project, ROWS + PROMPT + "provider: {one_model: true, capabilities: {list_filter: null}}\n")
    told = notes(cli)
    assert [note.split(" ")[0] for note in told] == ["provider.one_model", "provider.capabilities.list_filter"]
    assert all("has no effect and can be removed" in note and "config.yaml:7" in note for note in told)
