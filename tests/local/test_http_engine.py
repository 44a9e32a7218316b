from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import openai
import pytest

from batchling.errors import ConfigError
from batchling.local.engines.http import HttpEngine
from batchling.local.engines.pacing import Admission, Pace
from batchling.models import Outcome, Response
from batchling.providers.openai.decode import decode
from batchling.spec import EngineConfig

from .conftest import CHAT, Lab, Upstream, chat_line, chat_lines, completion

AGAIN = {"Retry-After": "0"}
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def engine(upstream: Upstream, **more: Any) -> EngineConfig:
    return EngineConfig(kind="http", upstream=upstream.url, **more)


def test_each_row_is_forwarded_once_and_its_answer_kept(lab: Lab, upstream: Upstream) -> None:
    lab.start(engine=engine(upstream))
    batch = lab.run(chat_lines(30))
    assert batch.request_counts is not None and batch.request_counts.completed == 30
    assert [path for path, _, _ in upstream.seen] == ["/v1/chat/completions"] * 30
    sent = sorted(body["messages"][0]["content"] for _, _, body in upstream.seen)
    assert sent == sorted(f"text {i}" for i in range(30))
    lines = lab.lines(batch.output_file_id)
    assert {line["custom_id"] for line in lines} == {f"row-{i}" for i in range(30)}
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "from upstream"
    assert batch.usage is not None and (batch.usage.input_tokens, batch.usage.output_tokens) == (210, 90)


def test_no_more_requests_than_allowed_are_under_way(lab: Lab, upstream: Upstream) -> None:
    together = threading.Barrier(3, timeout=20)

    def reply(number: int, body: Any) -> tuple[int, dict[str, str], Any]:
        together.wait()
        return 200, {}, completion(body)

    upstream.reply = reply
    lab.start(engine=engine(upstream, concurrency=3))
    assert lab.run(chat_lines(12)).status == "completed"
    assert upstream.most == 3


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_passing_failure_is_asked_again(lab: Lab, upstream: Upstream, status: int) -> None:
    upstream.reply = lambda number, body: (status, AGAIN, {"error": {}}) if number < 3 else (200, {}, completion(body))
    lab.start(engine=engine(upstream))
    batch = lab.run(chat_lines(1))
    assert batch.request_counts is not None and batch.request_counts.completed == 1
    assert len(upstream.seen) == 3


def test_a_failure_that_stays_is_the_rows_error_after_so_many_attempts(lab: Lab, upstream: Upstream) -> None:
    upstream.reply = lambda number, body: (503, AGAIN, b"<html>\xe2\x80\xa8overloaded</html>")
    lab.start(engine=engine(upstream, retries=2))
    batch = lab.run(chat_lines(1))
    assert len(upstream.seen) == 3
    (line,) = lab.lines(batch.error_file_id)
    assert line["response"]["status_code"] == 503
    assert "overloaded" in line["response"]["body"]["error"]["message"]


def test_a_definite_refusal_is_not_asked_again(lab: Lab, upstream: Upstream) -> None:
    upstream.reply = lambda number, body: (404, {}, {"error": {"message": "no such model", "code": "model_not_found"}})
    lab.start(engine=engine(upstream))
    (line,) = lab.lines(lab.run(chat_lines(1)).error_file_id)
    assert len(upstream.seen) == 1
    assert line["response"]["body"]["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ((302, {"Location": "http://127.0.0.1:9/"}, b""), "upstream_not_an_answer"),
        ((302, {"Location": "http://127.0.0.1:9/"}, b"{}"), "upstream_not_an_answer"),
    ],
)
def test_no_redirect_is_followed(upstream: Upstream, reply: tuple[int, dict[str, str], bytes], code: str) -> None:
    upstream.reply = lambda number, body: reply
    answer = HttpEngine(engine(upstream, retries=0)).answer(CHAT, BODY)
    assert answer.status == 502
    assert code.encode() in answer.body


@pytest.mark.parametrize(
    "reply", [(200, {}, b"not JSON"), (200, {}, b"[1]"), (200, {}, b"[" * 100_000), (202, {}, b"{}"), (201, {}, b"")]
)
def test_what_was_answered_and_is_not_understood_is_asked_once_and_final(
    upstream: Upstream, reply: tuple[int, dict[str, str], bytes]
) -> None:
    upstream.reply = lambda number, body: reply
    answer = HttpEngine(engine(upstream, retries=3)).answer(CHAT, BODY)
    assert len(upstream.seen) == 1, "it may have been paid for"
    response = decode(b'{"custom_id": "c", "response": {"status_code": %d, "body": %b}}' % (answer.status, answer.body))
    assert isinstance(response, Response)
    assert (response.outcome, response.error_code) == (Outcome.ERROR, "not_understood")


def test_hostile_answers_are_kept_as_one_line_of_json(lab: Lab, upstream: Upstream) -> None:
    upstream.reply = lambda number, body: (
        200,
        {},
        b'{"a": NaN,\n "b": "\\ud800", "c": "\xe2\x80\xa8\xc2\x85", "d": 123456789012345678901234567890, "usage": 5}',
    )
    lab.start(engine=engine(upstream))
    batch = lab.run(chat_lines(2))
    first, second = lab.client.files.content(batch.output_file_id or "").read()[:-1].split(b"\n")
    assert b'{"a":null,"b":"\\ud800","c":"\\u2028\\u0085","d":123456789012345678901234567890,"usage":5}' in first
    assert b"\xe2\x80\xa8" not in second


def test_an_unreachable_upstream_is_the_rows_error() -> None:
    engine = HttpEngine(EngineConfig(kind="http", upstream="http://127.0.0.1:1/v1", retries=0))
    answer = engine.answer(CHAT, BODY)
    assert answer.status == 503
    assert b"upstream_unreachable" in answer.body


def test_the_key_is_read_by_name_sent_and_never_written(
    lab: Lab, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "sk-very-secret")
    upstream.reply = lambda number, body: (401, {}, {"error": {"message": "Incorrect API key: sk-very-secret"}})
    lab.start(engine=engine(upstream, api_key_env="UPSTREAM_KEY"))
    lab.run(chat_lines(1))
    assert upstream.seen[0][1]["authorization"] == "Bearer sk-very-secret"
    written = [path for path in lab.state_dir.rglob("*") if path.is_file()]
    assert any(b"Incorrect API key" in path.read_bytes() for path in written)
    assert not any(b"sk-very-secret" in path.read_bytes() for path in written)


def test_a_key_that_is_not_set_is_an_error_at_the_start(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    with pytest.raises(ConfigError, match="UPSTREAM_KEY"):
        lab.start(engine=EngineConfig(kind="http", upstream="http://127.0.0.1:1/v1", api_key_env="UPSTREAM_KEY"))
    lab.start()  # and the folder is free again


@pytest.mark.parametrize("upstream_url", [None, "ftp://x/v1", "http://user:secret@127.0.0.1/v1", "nonsense"])
def test_an_upstream_that_is_no_plain_url_is_refused(upstream_url: str | None) -> None:
    with pytest.raises(ConfigError, match="URL"):
        HttpEngine(EngineConfig(kind="http", upstream=upstream_url))


def test_the_synchronous_endpoint_forwards_too(lab: Lab, upstream: Upstream) -> None:
    client = lab.start(engine=engine(upstream))
    chat = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert chat.choices[0].message.content == "from upstream"
    upstream.reply = lambda number, body: (
        400,
        {},
        {"error": {"message": "no", "type": "x", "param": "p", "code": "c"}},
    )
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert caught.value.param == "p"


def test_models_are_the_upstreams(lab: Lab, upstream: Upstream) -> None:
    upstream.reply = lambda number, body: (200, {}, {"data": [{"id": "llama"}, {"strange": 1}]})
    client = lab.start(engine=engine(upstream))
    assert [m.id for m in client.models.list()] == ["llama"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_cancelling_keeps_the_answers_that_are_under_way(lab: Lab, upstream: Upstream) -> None:
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def reply(number: int, body: Any) -> tuple[int, dict[str, str], Any]:
        arrived.release()
        assert go_on.wait(20)
        return 200, {}, completion(body)

    upstream.reply = reply
    client = lab.start(engine=engine(upstream, concurrency=2))
    batch = lab.submit(chat_lines(50))
    for _ in range(2):
        assert arrived.acquire(timeout=20)
    client.batches.cancel(batch.id)
    go_on.set()
    batch = lab.ended(batch)
    assert batch.status == "cancelled"
    answered = {line["custom_id"] for line in lab.lines(batch.output_file_id)}
    asked = {body["messages"][0]["content"].replace("text ", "row-") for _, _, body in upstream.seen}
    assert answered == asked
    left = {line["custom_id"] for line in lab.lines(batch.error_file_id)}
    assert left == {f"row-{i}" for i in range(50)} - answered


def test_stopping_does_not_wait_for_a_slow_upstream_and_the_row_is_asked_again(lab: Lab, upstream: Upstream) -> None:
    arrived, release = threading.Event(), threading.Event()

    def reply(number: int, body: Any) -> tuple[int, dict[str, str], Any]:
        if number == 1:
            arrived.set()
            release.wait(20)
        return 200, {}, completion(body)

    upstream.reply = reply
    lab.start(engine=engine(upstream, concurrency=1))
    batch = lab.submit(chat_line("a"))
    assert arrived.wait(20)
    lab.server.stop()
    assert not release.is_set()  # it stopped while the upstream still kept the row
    release.set()
    lab.start(engine=engine(upstream, concurrency=1))
    batch = lab.ended(lab.client.batches.retrieve(batch.id))
    assert [line["custom_id"] for line in lab.lines(batch.output_file_id)] == ["a"]


class Ticks:
    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        return self.time


def admitted(pace: Pace, clock: Ticks, count: int, tokens: int) -> list[float]:
    """Seconds at which `count` requests go, when each waits as it is told."""
    moments = []
    for _ in range(count):
        while isinstance(verdict := pace.admit(tokens), float):
            assert verdict > 0
            clock.time += verdict
        moments.append(clock.time - 1_000.0)
    return moments


def test_requests_per_minute_hold_in_every_60_seconds() -> None:
    clock = Ticks()
    assert admitted(Pace(2, None, clock), clock, 5, 1) == [0, 0, 60, 60, 120]


def test_tokens_per_minute_hold_and_a_giant_goes_alone() -> None:
    clock = Ticks()
    assert admitted(Pace(None, 100, clock), clock, 5, 50) == [0, 0, 60, 60, 120]
    clock = Ticks()
    assert admitted(Pace(None, 100, clock), clock, 3, 500) == [0, 60, 120]


def test_tokens_are_put_right_when_the_usage_is_known() -> None:
    clock = Ticks()
    pace = Pace(None, 100, clock)
    admission = pace.admit(100)
    assert isinstance(admission, Admission)
    pace.settle(admission, 10)
    assert isinstance(pace.admit(90), Admission)
    assert pace.admit(1) == 60


def test_a_pause_holds_everybody() -> None:
    clock = Ticks()
    pace = Pace(None, None, clock)
    pace.hold(5)
    assert pace.admit(1) == 5
    clock.time += 5
    assert isinstance(pace.admit(1), Admission)


def deep(levels: int) -> bytes:
    return json.dumps(completion({"model": "m"})).encode()[:-1] + b', "x": ' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    "answer",
    [
        deep(600),
        deep(100_000),
        b'{"choices": [{"finish_reason": "stop", "message": {"content": "hi"}}], "x": ' + b"9" * 5_000 + b"}",
        b"[" * 5_000,
        b"\xff\xfe\x00",
    ],
    ids=["600 levels", "100,000 levels", "5,000 digits", "unclosed", "no UTF-8"],
)
def test_an_answer_beyond_the_limits_is_bought_once(lab: Lab, upstream: Upstream, answer: bytes) -> None:
    upstream.reply = lambda number, body: (200, {}, answer)
    lab.start(engine=engine(upstream, retries=3))
    batch = lab.run(chat_lines(1))
    assert len(upstream.seen) == 1
    (raw,) = lab.client.files.content(batch.output_file_id or "").read().splitlines()
    response = decode(raw)
    assert isinstance(response, Response)
    assert (response.outcome, response.error_code) == (Outcome.ERROR, "not_understood")


@pytest.mark.parametrize(
    "wire",
    [
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"cho',
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"cho',
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(200)) + b"Content-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["cut chunk", "no chunk size", "negative chunk", "cut body", "gzip that is none", "200 headers", "long header"],
)
def test_an_answer_that_breaks_off_or_breaks_its_bounds_is_bought_once(wire: bytes) -> None:
    with spoken(wire) as (url, calls):
        answer = HttpEngine(EngineConfig(kind="http", upstream=url, retries=3)).answer(CHAT, BODY)
    assert len(calls) == 1
    response = decode(b'{"custom_id": "c", "response": {"status_code": %d, "body": %b}}' % (answer.status, answer.body))
    assert isinstance(response, Response)
    assert (response.outcome, response.error_code) == (Outcome.ERROR, "not_understood")


def test_a_chunk_of_a_negative_size_is_not_read_to_its_end() -> None:
    """Python's reader takes -1 for "all there is", which is as much as the upstream likes to send."""
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 3_000_000
    stop = threading.Event()
    with spoken(wire, drip=stop) as (url, calls):
        engine = HttpEngine(EngineConfig(kind="http", upstream=url, retries=3, timeout_seconds=60))
        answer = engine.answer(CHAT, BODY)
        engine.close()
        assert not stop.is_set()
    assert len(calls) == 1 and len(answer.body) < 10_000
    assert b"not_understood" in answer.body and b"timed out" not in answer.body


def test_an_upstream_that_drips_its_headers_is_left_at_the_deadline() -> None:
    with spoken(b"HTTP/1.1 200 OK\r\nX-Slow: ", drip=threading.Event()) as (url, calls):
        engine = HttpEngine(EngineConfig(kind="http", upstream=url, retries=0, timeout_seconds=0.4))
        answer = engine.answer(CHAT, BODY)
        engine.close()
    assert len(calls) == 1
    assert b"not_understood" in answer.body, "it had begun to answer"


def test_a_whole_answer_of_which_only_the_end_mark_is_missing_is_an_answer() -> None:
    body = json.dumps(completion({"model": "m"})).encode()
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
    with spoken(wire) as (url, calls):
        answer = HttpEngine(EngineConfig(kind="http", upstream=url, retries=3)).answer(CHAT, BODY)
    assert (len(calls), answer.status, answer.usage.input_tokens) == (1, 200, 7)


def test_an_upstream_that_drips_is_left_at_the_deadline() -> None:
    """Each byte comes long before the time of a single read is over."""
    stop = threading.Event()
    with spoken(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", drip=stop) as (url, calls):
        engine = HttpEngine(EngineConfig(kind="http", upstream=url, retries=3, timeout_seconds=0.4))
        answer = engine.answer(CHAT, BODY)
        engine.close()
    assert len(calls) == 1
    assert b"not_understood" in answer.body


@pytest.mark.parametrize("value", ["inf", "nan", "1e400", "Mon, 01 Jan 0001 00:00:00 GMT", "-5", "x" * 1000, "Mon, 1"])
def test_a_wait_that_is_no_time_does_no_harm(lab: Lab, upstream: Upstream, value: str) -> None:
    upstream.reply = lambda number, body: (400, {"Retry-After": value}, {"error": {"message": "no"}})
    lab.start(engine=engine(upstream))
    with pytest.raises(openai.BadRequestError):
        lab.client.with_options(max_retries=0).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}]
        )


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 10**30, "completion_tokens": -4, "total_tokens": True},
        {"prompt_tokens": "12", "completion_tokens": 1e300},
        {"input_tokens": 2**63, "output_tokens": [], "input_tokens_details": 7},
        "many",
    ],
)
def test_counts_that_are_none_do_not_reach_the_batch(lab: Lab, upstream: Upstream, usage: object) -> None:
    upstream.reply = lambda number, body: (200, {}, completion(body) | {"usage": usage})
    lab.start(engine=engine(upstream))
    batch = lab.run(chat_lines(1))
    assert batch.status == "completed"
    assert batch.usage is not None and batch.usage.total_tokens in (0, 12)


@contextmanager
def spoken(wire: bytes, drip: threading.Event | None = None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers every request with these bytes and hangs up, or goes on with a byte at a time."""
    calls: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5.0)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        calls.append(connection.recv(65_536))
                        connection.sendall(wire)
                        while drip is not None and not drip.wait(0.05):
                            connection.sendall(b" ")
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65_536):
                            pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", calls
        finally:
            if drip is not None:
                drip.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5.0)
