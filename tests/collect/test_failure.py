"""What a failed batch means: wait, correct a line, or call a person (CONFORMANCE 5, 6)."""

from __future__ import annotations

import pytest

from batchling.collect import FailureKind, why_failed
from batchling.models import Batch, BatchError

LIMIT = (
    "Enqueued token limit reached for gpt-4o-mini in organization org-4F2. Limit: 2,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)


def failed(*errors: BatchError) -> Batch:
    return Batch(id="batch_1", status="failed", errors=errors)


def test_c5_the_enqueued_token_limit_and_its_number_are_read() -> None:
    failure = why_failed(failed(BatchError("token_limit_exceeded", LIMIT)))
    assert (failure.kind, failure.limit, failure.fatal) == (FailureKind.THROTTLED, 2_000_000, False)


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Enqueued token limit reached for gpt-4. Limit: 90,000 enqueued tokens.", 90_000),
        ("Enqueued token limit reached for gpt-4-0613", None),
        ("too many enqueued tokens (limit: 250000)", 250_000),
        ("enqueued tokens: the limit is 5,000,000,000", 5_000_000_000),
        ("enqueued tokens, limit: 0", None),
    ],
)
def test_c5_a_models_number_is_not_taken_for_the_limit(message: str, limit: int | None) -> None:
    failure = why_failed(failed(BatchError(None, message)))
    assert (failure.kind, failure.limit) == (FailureKind.THROTTLED, limit)


def test_the_limit_wins_over_other_errors() -> None:
    errors = (BatchError("invalid_json_line", "m", 3), BatchError("token_limit_exceeded", LIMIT))
    assert why_failed(failed(*errors)).kind is FailureKind.THROTTLED


def test_wrong_lines_are_named() -> None:
    errors = (BatchError("invalid_json_line", "not JSON", 3), BatchError("duplicate_custom_id", "twice", 9))
    failure = why_failed(failed(*errors))
    assert (failure.kind, failure.lines) == (FailureKind.LINES, errors)
    assert failure.message == "line 3: not JSON"


@pytest.mark.parametrize(
    "code", ["model_not_found", "invalid_api_key", "billing_hard_limit_reached", "insufficient_quota"]
)
def test_what_waiting_cannot_help_is_fatal(code: str) -> None:
    assert why_failed(failed(BatchError(code, "m", 1))).fatal


def test_c6_a_file_that_is_not_ready_is_no_mistake() -> None:
    failure = why_failed(failed(BatchError("invalid_request", "The file file-1 is still being processed")))
    assert failure.kind is FailureKind.NOT_READY


@pytest.mark.parametrize("errors", [(), (BatchError("input_modified", "m"),), (BatchError(None, None),)])
def test_anything_else_is_other_and_has_a_message(errors: tuple[BatchError, ...]) -> None:
    failure = why_failed(failed(*errors))
    assert failure.kind is FailureKind.OTHER
    assert failure.message
