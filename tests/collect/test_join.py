"""Each request of a shard gets exactly one decoded line, whatever the files hold (CONFORMANCE 11 to 15, 22)."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.collect import Join, Row, Summary, Verdict
from batchling.collect.join import READER
from batchling.models import Outcome, Response, RowState, Usage
from batchling.providers.openai.decode import decode

SUFFIX = "-3f9ac1-0001"
KEYS = [f"k1-{n:040x}" for n in range(6)]


def answer(key: str, text: str = "yes", suffix: str = SUFFIX) -> bytes:
    body = {
        "model": "m",
        "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
    }
    return _line(key + suffix, {"status_code": 200, "body": body}, None)


def failure(key: str, code: str = "batch_expired", suffix: str = SUFFIX) -> bytes:
    return _line(key + suffix, None, {"code": code, "message": f"because of\n{code}"})


def _line(custom_id: str, response: Any, error: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "response": response, "error": error}).encode() + b"\n"


def judge(response: Response) -> Verdict:
    if response.text == "no":
        return Verdict(RowState.INVALID, None, "not what was asked for")
    return Verdict(RowState.OK, {"answer": response.text})


def join(
    *files: tuple[str, list[bytes]], keys: list[str] = KEYS, absent: Outcome = Outcome.MISSING, **kwargs: Any
) -> tuple[dict[str, dict[str, Any]], Summary]:
    joined = Join(
        (Row(key) for key in keys),
        **{"suffix": SUFFIX, "judge": judge, "shard": 1, "attempt": 1, "decode": decode, **kwargs},
    )
    produced: list[bytes] = []
    for name, content in files:
        produced += joined.read(name, content)
    produced += joined.finish(absent=absent)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in produced)
    decoded = [orjson.loads(line) for line in produced]
    assert sorted(d["key"] for d in decoded) == sorted(keys)
    return {d["key"]: d for d in decoded}, joined.summary


def test_an_answer_becomes_a_decoded_line_with_the_place_of_its_bytes() -> None:
    raw = answer(KEYS[1])
    rows, summary = join(
        ("0001.1.output.jsonl", [answer(KEYS[0]) + raw]),
        keys=KEYS[:2],
        charge=lambda usage: Decimal(usage.input_tokens or 0) / 1_000_000_000,
    )
    assert rows[KEYS[1]] == {
        "reader": READER,
        "key": KEYS[1],
        "shard": 1,
        "attempt": 1,
        "source": "batch",
        "row_attempt": 1,
        "outcome": "ok",
        "state": "ok",
        "status_code": 200,
        "finish_reason": "stop",
        "input_tokens": 10,
        "cached_tokens": None,
        "output_tokens": 2,
        "reasoning_tokens": None,
        "cost_usd": "0.00000001",
        "output": {"answer": "yes"},
        "text": "yes",
        "error_code": None,
        "error_message": None,
        "error": None,
        "file": "0001.1.output.jsonl",
        "offset": len(raw),
        "length": len(raw) - 1,
        "parent_key": None,
        "schema": 0,
    }
    assert summary.usage == Usage(20, 0, 4, 0, 0)
    assert summary.cost_usd == Decimal("0.00000002")


def test_c11_an_error_file_alone_is_enough() -> None:
    rows, summary = join(("errors", [failure(key, "invalid_value") for key in KEYS]))
    assert {row["state"] for row in rows.values()} == {"error"}
    assert rows[KEYS[0]]["error"] == "because of invalid_value"
    assert summary.outcomes == {Outcome.ERROR: 6}


def test_c12_output_and_error_file_add_up() -> None:
    _, summary = join(
        ("output", [answer(key) for key in KEYS[:4]]), ("errors", [failure(key, "invalid_value") for key in KEYS[4:]])
    )
    assert summary.states == {RowState.OK: 4, RowState.ERROR: 2}
    assert (summary.lines, summary.missing, summary.foreign, summary.duplicates) == (6, 0, 0, 0)


def test_c13_of_an_expired_batch_the_answers_are_kept_and_the_rest_is_expired() -> None:
    rows, summary = join(
        ("output", [answer(KEYS[0])]), ("errors", [failure(key) for key in KEYS[1:3]]), absent=Outcome.EXPIRED
    )
    assert rows[KEYS[0]]["state"] == "ok"
    assert summary.states == {RowState.OK: 1, RowState.EXPIRED: 5}
    assert summary.missing == 3


def test_c14_a_request_without_a_line_is_missing_and_shifts_nobody() -> None:
    rows, summary = join(("output", [answer(key, f"text of {key}") for key in KEYS if key != KEYS[2]]))
    assert rows[KEYS[2]]["state"] == "missing"
    assert all(rows[key]["text"] == f"text of {key}" for key in KEYS if key != KEYS[2])
    assert (summary.missing, summary.states[RowState.OK]) == (1, 5)


@pytest.mark.parametrize(
    "custom_id",
    [
        "k1-unknown",
        "k1-" + "f" * 40 + SUFFIX,
        KEYS[0],
        KEYS[0] + "-other1-0001",
        KEYS[0] + "-3f9ac1-0002",
        KEYS[0] + SUFFIX + "x",
    ],
)
def test_c14_a_line_of_another_plan_or_shard_is_quarantined(custom_id: str) -> None:
    foreign = answer("", "stranger", custom_id)
    rows, summary = join(("output", [answer(KEYS[1]), foreign]))
    assert rows[KEYS[0]]["state"] == "missing"
    assert summary.foreign == 1
    stray = summary.strays[0]
    assert (stray.kind, stray.file, stray.offset, stray.length) == (
        "foreign",
        "output",
        len(answer(KEYS[1])),
        len(foreign) - 1,
    )


def test_c14_of_two_answers_the_first_wins_and_the_other_is_flagged() -> None:
    rows, summary = join(("output", [answer(KEYS[0], "first"), answer(KEYS[0], "second")]))
    assert rows[KEYS[0]]["text"] == "first"
    assert (summary.duplicates, summary.strays[0].kind) == (1, "duplicate")


@pytest.mark.parametrize("order", [0, 1])
def test_c14_an_answer_beats_an_error_in_either_order(order: int) -> None:
    pair = [answer(KEYS[0]), failure(KEYS[0], "server_error")]
    rows, summary = join(("output", [pair[order]]), ("errors", [pair[1 - order]]))
    assert rows[KEYS[0]]["state"] == "ok"
    assert summary.duplicates == 1


def test_reused_answers_of_other_plans_are_joined_by_their_key_alone() -> None:
    rows, _ = join(("cache", [answer(KEYS[0], suffix="-aaaaaa-0009")]), suffix=None, shard=0, source="cache")
    assert (rows[KEYS[0]]["state"], rows[KEYS[0]]["source"], rows[KEYS[0]]["shard"]) == ("ok", "cache", 0)


def test_an_answer_that_does_not_fit_is_invalid_and_keeps_its_text() -> None:
    rows, summary = join(("output", [answer(KEYS[0], "no")]))
    row = rows[KEYS[0]]
    assert (row["outcome"], row["state"], row["text"], row["error"]) == (
        "ok",
        "invalid",
        "no",
        "not what was asked for",
    )
    assert summary.states[RowState.INVALID] == summary.outcomes[Outcome.OK] == 1


def test_repairs_carry_their_parent_and_their_attempt() -> None:
    joined = Join([Row(KEYS[1], KEYS[0], 99, 2)], suffix=SUFFIX, judge=judge, shard=1, attempt=1, decode=decode)
    (decoded,) = map(orjson.loads, joined.read("output", [answer(KEYS[1])]))
    assert (decoded["parent_key"], decoded["row_attempt"]) == (KEYS[0], 2)


@pytest.mark.parametrize("output", [10**30, "\ud800", {"a": float("nan")}, {"\ud800": [10**20, "\udfff"]}])
def test_c22_a_validated_value_that_strict_json_cannot_say_is_written_all_the_same(output: Any) -> None:
    rows, _ = join(("output", [answer(KEYS[0])]), judge=lambda response: Verdict(RowState.OK, output))
    assert rows[KEYS[0]]["state"] == "ok"


def test_strays_are_counted_without_end_and_remembered_up_to_a_thousand() -> None:
    _, summary = join(("output", [b"garbage\n" * 3000, answer("x") * 3000]))
    assert (summary.garbage, summary.foreign, len(summary.strays)) == (3000, 3000, 1000)


def test_a_shard_with_one_request_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Join([Row(KEYS[0]), Row(KEYS[0])], suffix=SUFFIX, judge=judge, shard=1, attempt=1, decode=decode)


LINES = st.one_of(
    st.builds(answer, st.sampled_from(KEYS), st.sampled_from(["yes", "no"])),
    st.builds(failure, st.sampled_from(KEYS), st.sampled_from(["batch_expired", "server_error", "invalid_value"])),
    st.builds(answer, st.sampled_from(KEYS), suffix=st.just("-zzzzzz-0001")),
    st.sampled_from([b"\n", b"garbage\n", b"{}\n", b"\xff\n"]),
)


@given(st.lists(LINES, max_size=12), st.lists(LINES, max_size=12), st.randoms())
def test_c15_states_add_up_and_the_order_of_lines_means_nothing(
    output: list[bytes], errors: list[bytes], rng: random.Random
) -> None:
    rows, summary = join(("output", output), ("errors", errors))
    assert sum(summary.states.values()) == sum(summary.outcomes.values()) == len(KEYS)
    answered = sum(1 for row in rows.values() if row["file"] is not None)
    assert answered + summary.missing == len(KEYS)
    assert answered + summary.foreign + summary.duplicates + summary.garbage == summary.lines
    once = {
        key: lines
        for key in KEYS
        if len(lines := [x for x in output + errors if key.encode() + SUFFIX.encode() in x]) == 1
    }
    shuffled = output + errors
    rng.shuffle(shuffled)
    again, _ = join(("all", shuffled))
    for key in once:
        assert (again[key]["state"], again[key]["text"]) == (rows[key]["state"], rows[key]["text"])
