"""What arrived and was not understood may have been paid for: it is final, it is kept, and nothing asks it again by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from batchling import limits
from batchling.errors import RefusedError
from tests.servers.batches import Files, as_files
from tests.workbench import Workbench

FOREIGN = json.dumps(
    {"custom_id": "somebody-else", "response": {"status_code": 200, "body": {"x": "y" * 900}}}
).encode()
GARBLED = b'{"custom_id": null, "response": {"status_code": 200, "body": {}}}\n'


def flood(size: int) -> Iterator[bytes]:
    """Lines of other people's, until there are `size` bytes of them."""
    while size > 0:
        yield FOREIGN + b"\n"
        size -= len(FOREIGN) + 1


def uncounted(view: dict[str, Any]) -> dict[str, Any]:
    return {**view, "request_counts": None}


def flooded(bench: Workbench) -> int:
    """A server that streams lines without an end: one answer is among the first bytes, two come far behind. Its bound."""
    bound = limits.result_bytes(3, 3_000, 1)

    def arrange(output: list[bytes], errors: list[bytes]) -> Files:
        return output[0] + b"".join(flood(bound)) + b"".join(output[1:]), None

    bench.server.arrange = arrange
    return bound


def why(bench: Workbench) -> set[str]:
    found = bench.query("SELECT DISTINCT error_code || ': ' || error_message FROM responses WHERE outcome = 'error'")
    return {str(text) for (text,) in found}


def test_of_results_without_an_end_the_first_part_is_decoded_and_the_rest_is_kept(bench: Workbench) -> None:
    flooded(bench)
    plan = bench.run("model.max_output_tokens=1")
    assert bench.states(plan) == {"ok": 1, "error": 2} and plan.exit_code == 3
    (message,) = why(bench)
    bound = int("".join(c for c in message if c.isdigit()))
    assert message == f"not_understood: the results are larger than {bound:,} bytes"
    (raw,) = (bench.plans[0] / "responses").glob("*.output.jsonl")
    (content,) = (c for name, c in bench.server.files.items() if "output" in name)
    assert raw.read_bytes() == content and bound < len(content) < bound + 20_000
    (closed,) = bench.events(kind="closed")
    assert (closed["lost"], closed["retry"], closed["again"]) == (2, 0, 0)
    assert closed["strays"] < len(content) // len(FOREIGN), "what is beyond the bound is not decoded"


def test_of_results_without_an_end_nothing_is_bought_again(bench: Workbench) -> None:
    flooded(bench)
    short = "model.max_output_tokens=1"
    plan = bench.run(short)
    before = bench.records(plan)
    assert bench.run(short).plan_id == plan.plan_id
    rebuilt = bench.cli("doctor", "--rebuild")
    assert rebuilt.returncode in (0, 3), rebuilt.stderr
    assert bench.records(plan) == before
    bench.server.arrange = as_files
    bench.rows(4)
    other = bench.run(short)
    assert bench.states(other) == {"ok": 2, "missing": 2}, "one reused, one new, two that may be paid"
    assert max(bench.server.keys.values()) == 1


def test_files_within_the_bound_are_read_to_their_end(bench: Workbench) -> None:
    bench.server.arrange = lambda out, errors: (out[0] + b"".join(flood(1_000_000)) + b"".join(out[1:]), None)
    assert bench.states(bench.run("model.max_output_tokens=1")) == {"ok": 3}


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_35_a_line_without_a_name_may_be_the_answer_of_a_row_without_a_line(bench: Workbench, status: str) -> None:
    bench.server.endings[0].status = status
    bench.server.show = uncounted
    bench.server.arrange = lambda out, errors: (b"".join(out[:-1]) + GARBLED, None)
    plan = bench.run()
    assert bench.states(plan) == {"ok": 2, "error": 1}
    assert why(bench) == {"not_understood: no line names this request, and 1 line of the results cannot be read"}
    assert bench.run().plan_id == plan.plan_id
    bench.server.arrange = as_files
    bench.rows(4)
    bench.run()
    assert max(bench.server.keys.values()) == 1
    assert sum(doubt.rows for doubt in plan.not_received) == 1


def test_35_garbage_beside_all_the_answers_that_were_announced_hides_none(bench: Workbench) -> None:
    bench.server.endings[0].answers = 2
    bench.server.endings[0].status = "expired"
    bench.server.endings[0].explain = False
    bench.server.endings.append(type(bench.server.endings[0])())
    bench.server.arrange = lambda out, errors: (b"".join(out) + GARBLED, None)
    assert bench.states(bench.run()) == {"ok": 3}, "the row that was never asked is asked again"
    assert bench.server.times_answered() == {1}


def test_35_such_a_row_is_asked_again_after_a_question(bench: Workbench) -> None:
    bench.server.show = uncounted
    bench.server.arrange = lambda out, errors: (b"".join(out[:-1]) + GARBLED, None)
    bench.run()
    assert bench.states(bench.run(retry=["error"])) == {"ok": 2, "missing": 1}
    asked: list[str] = []

    def no(what: str, worst: Decimal | None) -> bool:
        asked.append(what)
        return False

    with pytest.raises(RefusedError, match="not received"):
        bench.run(retry=["missing"], confirm=no)
    assert "1 of which may have been paid for" in asked[0]
    assert max(bench.server.keys.values()) == 1
