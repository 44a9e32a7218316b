from __future__ import annotations

import openai
import orjson
import pytest

from batchling.spec import EngineConfig

from .conftest import CHAT, Clock, Lab, chat_line, chat_lines

ECHO = EngineConfig(kind="echo")
ONE_BY_ONE = EngineConfig(kind="echo", concurrency=1)


def test_a_batch_is_answered_row_by_row(lab: Lab, clock: Clock) -> None:
    lab.start(engine=ECHO, now=clock)
    batch = lab.run(chat_lines(3), metadata={"plan": "3f9ac1"})
    assert batch.status == "completed"
    assert batch.metadata == {"plan": "3f9ac1"}
    assert batch.model == "m"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
    assert batch.error_file_id is None
    now = int(clock.time)
    assert (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at) == (now, now, now, now)
    assert batch.expires_at == now + 86_400
    lines = lab.lines(batch.output_file_id)
    assert {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in lines} == {
        "row-0": "text 0",
        "row-1": "text 1",
        "row-2": "text 2",
    }
    assert len({line["id"] for line in lines}) == 3
    used = sum(line["response"]["body"]["usage"]["total_tokens"] for line in lines)
    assert batch.usage is not None and batch.usage.total_tokens == used
    made = lab.client.files.retrieve(batch.output_file_id or "")
    assert (made.purpose, made.expires_at) == ("batch_output", None)


def test_line_separators_are_escaped_in_what_is_written(echo: Lab) -> None:
    text = "a\u2028b\u2029c\u0085d"
    batch = echo.run(chat_line("id\u2028", text))
    content = echo.client.files.content(batch.output_file_id or "").read().decode()
    assert len(content.splitlines()) == 1
    line = orjson.loads(content)
    assert line["custom_id"] == "id\u2028"
    assert line["response"]["body"]["choices"][0]["message"]["content"] == text


def test_rows_that_fail_go_to_the_error_file_and_the_rest_completes(echo: Lab) -> None:
    bad = [
        chat_line("no messages", messages=[]),
        chat_line("a string", messages="hello"),
        chat_line("a limit of nothing", max_completion_tokens=0),
        chat_line("a dimension of words", messages=[{"role": "user", "content": {"a": 1}}]),
    ]
    batch = echo.run(chat_line("good") + b"".join(bad))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 5, "completed": 1, "failed": 4}
    assert [line["custom_id"] for line in echo.lines(batch.output_file_id)] == ["good"]
    errors = echo.lines(batch.error_file_id)
    assert [line["response"]["status_code"] for line in errors] == [400] * 4
    assert [line["error"] for line in errors] == [None] * 4
    assert errors[0]["response"]["body"]["error"]["param"] == "messages"


def test_a_batch_of_failures_has_only_an_error_file(echo: Lab) -> None:
    batch = echo.run(chat_line("bad", messages=[]))
    assert batch.status == "completed"
    assert batch.output_file_id is None
    assert len(echo.lines(batch.error_file_id)) == 1


def test_a_cancelled_batch_keeps_what_was_answered(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10)
    batch = lab.until(lab.submit(chat_lines(4)), lambda b: b.status == "in_progress")
    clock.advance(20)
    lab.until(batch, lambda b: b.request_counts is not None and b.request_counts.completed == 2)
    batch = client.batches.cancel(batch.id)
    assert (batch.status, batch.cancelling_at) == ("cancelling", clock.time)
    batch = lab.ended(batch)
    assert (batch.status, batch.cancelled_at) == ("cancelled", clock.time)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 2, "failed": 0}
    assert [line["custom_id"] for line in lab.lines(batch.output_file_id)] == ["row-0", "row-1"]
    left = lab.lines(batch.error_file_id)
    assert [(line["custom_id"], line["response"], line["error"]["code"]) for line in left] == [
        ("row-2", None, "batch_cancelled"),
        ("row-3", None, "batch_cancelled"),
    ]
    assert client.batches.cancel(batch.id).status == "cancelled"


def test_a_batch_that_is_over_cannot_be_cancelled(echo: Lab) -> None:
    batch = echo.run(chat_lines(1))
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        echo.client.batches.cancel(batch.id)


def test_an_expired_batch_keeps_what_was_answered_and_names_the_rest(lab: Lab, clock: Clock) -> None:
    lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10, window_seconds=25)
    batch = lab.until(lab.submit(chat_lines(4)), lambda b: b.status == "in_progress")
    clock.advance(1_000)
    batch = lab.ended(batch)
    assert (batch.status, batch.expired_at) == ("expired", clock.time)
    assert [line["custom_id"] for line in lab.lines(batch.output_file_id)] == ["row-0", "row-1"]
    left = lab.lines(batch.error_file_id)
    assert [line["custom_id"] for line in left] == ["row-2", "row-3"]
    assert left[0]["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


def test_all_eight_statuses_are_reached(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10, window_seconds=100)
    seen = {lab.submit(b"").status, lab.run(b"").status}
    waiting = lab.until(lab.submit(chat_lines(2)), lambda b: b.status == "in_progress")
    seen |= {waiting.status, client.batches.cancel(waiting.id).status, lab.ended(waiting).status}
    waiting = lab.until(lab.submit(chat_lines(2)), lambda b: b.status == "in_progress")
    clock.advance(20)
    done = lab.ended(waiting)
    assert done.finalizing_at is not None
    seen |= {"finalizing", done.status}
    waiting = lab.until(lab.submit(chat_lines(50)), lambda b: b.status == "in_progress")
    clock.advance(1_000)
    seen.add(lab.ended(waiting).status)
    assert seen == {
        "validating",
        "failed",
        "in_progress",
        "finalizing",
        "completed",
        "expired",
        "cancelling",
        "cancelled",
    }


def test_batches_are_listed_newest_first_in_pages(lab: Lab) -> None:
    client = lab.start(engine=ECHO)
    ids = [lab.submit(chat_lines(1), metadata={"n": str(i)}).id for i in range(5)]
    page = client.batches.list(limit=2)
    assert [b.id for b in page.data] == [ids[4], ids[3]]
    assert page.has_more
    raw = client.batches.with_raw_response.list(limit=2, after=ids[1]).http_response.json()
    assert (raw["first_id"], raw["last_id"], raw["has_more"]) == (ids[0], ids[0], False)
    assert [b.metadata for b in client.batches.list(limit=2)] == [{"n": str(i)} for i in (4, 3, 2, 1, 0)]
    with pytest.raises(openai.BadRequestError):
        client.batches.list(after="batch_unknown")


def test_batches_advance_side_by_side(lab: Lab, clock: Clock) -> None:
    lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10)
    batches = [lab.until(lab.submit(chat_lines(2)), lambda b: b.status == "in_progress") for _ in range(3)]
    clock.advance(20)
    assert [lab.ended(batch).status for batch in batches] == ["completed"] * 3


def test_deleting_the_input_file_stops_new_batches_but_not_running_ones(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10)
    batch = lab.until(lab.submit(chat_lines(2)), lambda b: b.status == "in_progress")
    client.files.delete(batch.input_file_id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h")
    assert caught.value.param == "input_file_id"
    clock.advance(20)
    assert lab.ended(batch).status == "completed"


def test_enqueued_tokens_are_limited_per_model_and_freed_when_a_batch_ends(lab: Lab, clock: Clock) -> None:
    lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10, enqueued_tokens={"m": 2_000})
    big = chat_line("big", "word " * 1_000)
    first = lab.until(lab.submit(big), lambda b: b.status == "in_progress")
    second = lab.submit(big)
    assert second.status == "validating"
    second = lab.ended(second)
    assert second.status == "failed"
    assert second.errors is not None and second.errors.data is not None
    assert (second.errors.data[0].code, second.errors.data[0].line) == ("token_limit_exceeded", None)
    assert second.errors.data[0].message == (
        "Enqueued token limit reached for m in organization org-local. Limit: 2,000 enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )
    other = lab.until(lab.submit(chat_line("big", "word " * 1_000, model="n")), lambda b: b.status != "validating")
    assert other.status == "in_progress"
    clock.advance(10)
    assert lab.ended(first).status == "completed"
    third = lab.until(lab.submit(big), lambda b: b.status != "validating")
    assert third.status == "in_progress"


def test_creations_per_hour_are_limited(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ECHO, now=clock, creations_per_hour=2)
    file_id = lab.upload(chat_lines(1))
    lab.submit(chat_lines(1))
    clock.advance(600)
    lab.submit(chat_lines(1))
    with pytest.raises(openai.RateLimitError) as caught:
        client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "3000"
    clock.advance(3_000)
    client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h")


def test_batches_at_a_time_are_limited(lab: Lab, clock: Clock) -> None:
    lab.start(engine=ONE_BY_ONE, now=clock, row_seconds=10, concurrent_batches=1)
    first = lab.submit(chat_lines(1))
    with pytest.raises(openai.RateLimitError) as caught:
        lab.submit(chat_lines(1))
    assert caught.value.code == "concurrent_batches_exceeded"
    lab.until(first, lambda b: b.status == "in_progress")
    clock.advance(10)
    lab.ended(first)
    lab.submit(chat_lines(1))


def test_output_files_expire_when_asked_to(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ECHO, now=clock)
    batch = lab.run(chat_lines(1), output_expires_after={"anchor": "created_at", "seconds": 3_600})
    assert client.files.retrieve(batch.output_file_id or "").expires_at == clock.time + 3_600
    clock.advance(3_600)
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id or "")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/images/edits"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
def test_a_wrong_parameter_is_refused_and_named(echo: Lab, changes: dict[str, object], param: str) -> None:
    before = echo.client.batches.list().data
    values: dict[str, object] = {
        "input_file_id": echo.upload(chat_lines(1)),
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    with pytest.raises(openai.BadRequestError) as caught:
        echo.client.post("/batches", cast_to=object, body={**values, **changes})
    assert caught.value.param == param
    assert before == echo.client.batches.list().data


def test_a_file_with_another_purpose_makes_no_batch(echo: Lab) -> None:
    made = echo.client.files.create(file=("a.jsonl", chat_lines(1)), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        echo.client.batches.create(input_file_id=made.id, endpoint=CHAT, completion_window="24h")


def test_an_unknown_batch_is_404(echo: Lab) -> None:
    for call in (echo.client.batches.retrieve, echo.client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call("batch_unknown")
