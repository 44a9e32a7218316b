"""What a failed batch means: wait, correct a line, or call a person (CONFORMANCE 5, 6)."""

from __future__ import annotations

import pytest

from batchling.collect import About, Failure, FailureKind, why_failed, why_refused
from batchling.errors import CallRefused
from batchling.models import Batch, BatchError
from batchling.spec import LimitsConfig, ModelConfig, ProviderConfig

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


REFUSALS = [
    (429, "insufficient_quota", "You exceeded your current quota", About.QUOTA),
    (400, "billing_hard_limit_reached", "Billing hard limit has been reached", About.QUOTA),
    (500, None, "litellm.BudgetExceededError: Budget has been exceeded! Current cost: 2, Max budget: 1", About.QUOTA),
    (402, None, "pay", About.QUOTA),
    (401, None, "no", About.KEY),
    (400, None, "Incorrect API key provided: sk-***", About.KEY),
    (404, "DeploymentNotFound", "The API deployment for this resource does not exist", About.MODEL),
    (400, None, "The model `m` does not exist", About.MODEL),
    (403, None, "no", About.PERMISSION),
    (413, None, "Request Entity Too Large", About.SIZE),
    (400, None, "The batch file contains too many requests in the batch: 60000. The limit is 50000.", About.SIZE),
    (400, None, "File size exceeds the maximum limit of 100 MB", About.SIZE),
    (400, "token_limit_exceeded", "too much", About.TOKENS),
    (429, None, "Enqueued token limit reached for m. Limit: 90,000 enqueued tokens.", About.TOKENS),
    (400, "token_limit_exceeded", "Enqueued request limit reached. Limit: 40 enqueued requests.", About.REQUESTS),
    (429, "rate_limit_exceeded", "Limit: 40 enqueued requests", About.REQUESTS),
    (429, "request_limit_exceeded", "more than 10 requests per minute", About.RATE),
    (429, "rate_limit_exceeded", "Too many batches this hour. Limit: 3 (per minute)", About.RATE),
    (500, None, "litellm.RateLimitError: creation rate exceeded", About.RATE),
    (400, None, "Too many active batches; the limit is 10", About.BATCHES),
    (400, None, "No such File object: file-1", About.FILE),
    (400, "invalid_request", "Line 4: the prompt is too long", About.LINE),
    (400, None, "requests[3].body: unknown field", About.LINE),
    (400, None, "Expecting value: line 1 column 5 (char 4)", About.OTHER),
    (400, "invalid_request", "wrong endpoint", About.OTHER),
]


@pytest.mark.parametrize(("status", "code", "message", "about"), REFUSALS)
def test_c34_a_refusal_is_understood_by_what_it_is_about(
    status: int, code: str | None, message: str, about: About
) -> None:
    failure = why_refused(CallRefused(message, status=status, code=code))
    assert failure.about is about
    assert message in failure.sentence


@pytest.mark.parametrize(
    ("about", "key"),
    [
        (About.SIZE, "limits.max_bytes"),
        (About.TOKENS, "limits.enqueued_tokens"),
        (About.REQUESTS, "limits.enqueued_requests"),
        (About.BATCHES, "limits.concurrent_batches"),
        (About.RATE, "limits.creations_per_hour"),
        (About.KEY, "provider.api_key_env"),
        (About.MODEL, "model.id"),
    ],
)
def test_the_sentence_names_a_config_key_that_there_is(about: About, key: str) -> None:
    assert key in Failure(about, None, "words").sentence
    section, name = key.split(".")
    assert name in {"limits": LimitsConfig, "provider": ProviderConfig, "model": ModelConfig}[section].model_fields


@pytest.mark.parametrize(
    ("message", "line", "custom_id"),
    [
        ("Line 4: no", 4, None),
        ("row #7 is invalid", 7, None),
        ("the 3rd line is invalid", 3, None),
        ("requests[3].body: no", 4, None),
        ("invalid value at index 0", 1, None),
        (f"custom_id {'k1-' + 'a' * 40}-3f9ac1-0001: no", None, f"{'k1-' + 'a' * 40}-3f9ac1-0001"),
        (f"Line 9 (custom_id {'k1-' + 'b' * 40}-3f9ac1-0001)", None, f"{'k1-' + 'b' * 40}-3f9ac1-0001"),
    ],
)
def test_a_line_is_named_by_number_index_or_custom_id(message: str, line: int | None, custom_id: str | None) -> None:
    (named,) = why_refused(CallRefused(message, status=400)).lines
    assert (named.line, named.custom_id) == (line, custom_id)
