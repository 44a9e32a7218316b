"""Answers as models write them: what stands around the JSON is taken away and kept, where it is certain which JSON is meant."""

from __future__ import annotations

import pytest

from batchling import schema
from batchling.spec import SchemaConfig

JSON = '{"label": "card"}'


def judged(answer: str | bytes) -> tuple[object, str | None, str | None]:
    compiled = schema.compile(SchemaConfig(fields={"label": "string"}))
    assert compiled is not None
    return tuple(compiled.judge(answer))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("answer", "around"),
    [
        (JSON, None),
        ("\ufeff" + JSON + "\u200b", None),
        ('{\u200b"label":\u00a0"card"}\u2060', None),
        (f"```json {JSON} ```", None),
        (f"```{JSON}```", None),
        (f"~~~\n{JSON}\n~~~", None),
        (f"\ufeff```json\n\u200b{JSON}\n```", None),
        (f"Here it is:\n```json\n{JSON}\n```\nI hope it helps.", "Here it is:\nI hope it helps."),
        (f"<think>\nIt says card.\n</think>\n\n{JSON}", "It says card."),
        (f"It says card.\n</think>{JSON}", "It says card."),
        (f'<think>{{"label": "cash"}} is wrong</think>```json\n{JSON}\n```', '{"label": "cash"} is wrong'),
        (f"<think>Close with </think> they say.</think>{JSON}", "Close with </think> they say."),
        (f"<Thinking>a</Thinking> {JSON}", "a"),
        (f"[THINK]a[/THINK]{JSON}", "a"),
        (f"◁think▷a◁/think▷{JSON}", "a"),
        (f"<think></think>\n{JSON}", None),
        (f"<think>a</think>\nSo:\n```\n{JSON}\n```".encode(), "a\nSo:"),
    ],
)
def test_an_answer_is_read_as_it_is_written_and_the_rest_is_kept(answer: str | bytes, around: str | None) -> None:
    assert judged(answer) == ({"label": "card"}, None, around)


@pytest.mark.parametrize("inner", ["</think>", "a ```b``` c", "<think>", "\u200b\ufeff"])
def test_what_stands_in_a_string_of_the_json_is_the_answer(inner: str) -> None:
    for answer in (f'{{"label": "{inner}"}}', f'```json\n{{"label": "{inner}"}}\n```', f'\ufeff{{"label": "{inner}"}}'):
        assert judged(answer)[0] == {"label": inner}


@pytest.mark.parametrize(
    "answer",
    [
        f"```json\n{JSON}\n```\nor\n```json\n{JSON}\n```",
        f'Not {{"label": "cash"}} but\n```json\n{JSON}\n```',
        f'{JSON}\n{{"label": "cash"}}',
        f"The word is cash, so {JSON} is wrong.",
        f"<think>{JSON}",
        "<think>It says card.</think>",
        f"<think>a</think>{JSON}{JSON}",
    ],
)
def test_what_is_not_certain_is_not_guessed(answer: str) -> None:
    output, error, _ = judged(answer)
    assert output is None
    assert error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "answer", ["```" * 50_000, "<think>" * 50_000, "{" * 50_000, '```"' * 20_000, "x ```{" + "{" * 9_000 + "```"]
)
def test_a_hostile_answer_is_refused_soon(answer: str) -> None:
    assert judged(answer)[0] is None
