"""What is paid at providers of their own shape is paid once, whatever is said between us and the provider."""

from __future__ import annotations

from typing import Any

import pytest

from batchling.dialects import GENERATE, NeutralRequest
from batchling.errors import ConfigError
from batchling.models import Outcome
from tests.adapters.test_end_to_end import Table, table
from tests.servers.emulated import Answer

__all__ = ["table"]


def unheard(table: Table, answer: Answer) -> None:
    """The next create is carried out, and something between us and the provider says otherwise."""

    def fault(call: Any) -> Answer | None:
        if not table.emulated.creates(call):
            return None
        table.server.answer(call)
        return answer

    table.server.faults.append(fault)


def lists_say(table: Table, body: Any) -> None:
    normal = table.server.answer

    def answer(call: Any) -> Answer:
        listing = call.method == "GET" and call.path.endswith(("/batches", "/batch/jobs"))
        return Answer(200, body) if listing else normal(call)

    table.server.answer = answer  # type: ignore[method-assign]


FAILURES = {
    "anthropic": {"type": "error", "error": {"type": "api_error", "message": "Internal server error"}},
    "gemini": {"error": {"code": 503, "message": "The service is unavailable.", "status": "UNAVAILABLE"}},
    "mistral": {"object": "error", "message": "No answer.", "type": "unreachable_backend", "code": None},
}


@pytest.mark.parametrize("status", [400, 499])
def test_a_failure_that_a_gateway_shows_as_a_refusal_may_have_happened(table: Table, status: int) -> None:
    unheard(table, Answer(status, FAILURES[table.emulated.name]))
    assert table.run().exit_code == 0
    assert not table.bench.events(kind="rejected")
    assert set(table.server.bought.values()) == {1} and table.bench.states() == {"ok": 3}


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 500, "message": "try again", "status": "INTERNAL"}},
        {"object": "error", "message": "try again"},
        {"batches": []},
    ],
    ids=["an error", "an error without a list", "another list"],
)
def test_a_reply_that_is_no_list_proves_no_absence(table: Table, body: Any) -> None:
    unheard(table, Answer(502, b"<html>bad gateway</html>"))
    lists_say(table, body)
    assert table.run("tokens=auto").exit_code == 75
    (parked,) = table.bench.events(kind="parked")
    assert "list cannot be read" in parked["why"]
    assert set(table.server.bought.values()) == {1}


@pytest.mark.parametrize("used", [None, {}, {"promptTokenCount": "many"}, {"candidatesTokenCount": 7}])
def test_an_answer_that_broke_off_and_may_be_billed_is_not_asked_again(used: Any) -> None:
    broken = {"candidates": [{"finishReason": "OTHER", "content": {}}], "usageMetadata": used}
    answer = GENERATE.read("k", None, broken)
    assert answer is not None and answer.outcome is Outcome.ERROR
    free = GENERATE.read("k", None, {**broken, "usageMetadata": {"promptTokenCount": 9}})
    assert free is not None and free.outcome is Outcome.RETRYABLE


@pytest.mark.parametrize(
    "params",
    [
        {"candidateCount": 2},
        {"generationConfig": {"candidateCount": 2}},
        {"generationConfig": {"candidate_count": 2}},
        {"generationConfig": {"max_output_tokens": 9000}},
        {"generation_config": {"candidateCount": 2}},
    ],
)
def test_no_parameter_asks_for_more_than_the_budget_is_counted_for(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GENERATE.write(NeutralRequest("m", (("user", "x"),), params, 100, "max_tokens"))
