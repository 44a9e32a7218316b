"""A pytest suite for a provider adapter: everything that the ledger relies on, tried against a server of yours.

    # test_mine.py
    import pytest
    from batchling.testing.contract import ProviderContract

    class TestMine(ProviderContract):
        adapter = my_adapter.ADAPTER

        @pytest.fixture
        def upstream(self):                       # a server that answers for nothing: a mock, a sandbox
            with my_mock_server() as url:
                yield url

        def connect(self, base_url):              # one connection of the adapter
            return my_adapter.ADAPTER.connect(CONFIG, base_url, "a key", {})

The suite reaches the server through a `Gateway`, which loses and cuts replies. Where the facts say that a provider
cannot do something (list, metadata, fence), what it cannot do is not asked for. Needs pytest.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from batchling.dialects import NeutralRequest
from batchling.errors import CallAmbiguous, CallNotFound, CallRefused, CallUnavailable
from batchling.models import Batch, Garbage, Outcome, Response, Submission
from batchling.providers import Adapter, Client
from batchling.providers.openai import ADAPTER
from batchling.testing.gateway import Fault, Gateway

NEVER = "batch_that_nobody_made"
NOWHERE = "file-that-nobody-uploaded"

HARD_TEXT = 'quote " backslash \\ line \n separators \u2028 \u2029 \u0085 emoji \U0001f600 brace {x} end'
"""What has cut lines or broken JSON somewhere."""

GARBAGE = (
    b"",
    b"\n",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe\x00",
    b"<html></html>",
    b'{"custom_id": 7}',
    b'{"custom_id": "x"}',
    b'{"custom_id": "x", "response": null, "error": null}',
    b'{"custom_id": "x", "response": {"status_code": 200, "body": null}}',
    b'{"custom_id": "x", "response": {"status_code": "200", "body": "no"}}',
    b'{"custom_id": "x", "response": {"status_code": 200, "body": {"choices": []}}}',
    b'{"custom_id": "x", "error": "text"}',
)


class ProviderContract:
    """Subclass it, give it `upstream` and `connect`, and change what is different at your provider.

    Attributes:
        adapter: the adapter under test.
        path, body: URL path of an endpoint, and a request's JSON that your server answers, its messages last; `{n}` becomes the row's
            number and `{hard}` text with every character that has broken something.
        refuses_unknown_files: a create names an uploaded file, and one that is not there is refused. Without files, a
            create without requests must be.
        window: the completion window.
        wait_seconds: how long the server may take for a batch of three rows.
        poll_seconds: pause between two looks.
    """

    adapter: Adapter = ADAPTER
    path: str = "/v1/chat/completions"
    body: bytes = b'{"model":"gpt-4o-mini","max_tokens":20,"messages":[{"role":"user","content":"row {n} {hard}"}]}'
    refuses_unknown_files: bool = True
    window: str = "24h"
    wait_seconds: float = 60.0
    poll_seconds: float = 0.05

    def connect(self, base_url: str) -> Client:
        """The adapter under test, connected to `base_url`."""
        raise NotImplementedError

    @pytest.fixture
    def upstream(self) -> Iterator[str]:
        """Base URL of a running server (plain http)."""
        raise NotImplementedError
        yield

    @pytest.fixture
    def gateway(self, upstream: str) -> Iterator[Gateway]:
        with Gateway(upstream) as gateway:
            yield gateway

    @pytest.fixture
    def provider(self, gateway: Gateway) -> Client:
        return self.connect(gateway.url)

    # What the tests do their work with.

    def requests(self, provider: Client, plan: str, count: int = 3) -> tuple[list[str], bytes]:
        """custom_ids and the bytes of an input file."""
        hard = json.dumps(HARD_TEXT)[1:-1].encode()
        ids, lines = [], []
        for n in range(count):
            body = self.body.replace(b"{n}", str(n).encode()).replace(b"{hard}", hard)
            ids.append(f"k1-{hashlib.sha256(f'{plan}/{n}'.encode()).hexdigest()[:40]}-{plan}-0001")
            lines.append(self.adapter.envelope.encode(ids[-1], self.path, body))
        return ids, b"".join(lines)

    def submission(self, content: bytes, plan: str, requests: int = 3) -> Submission:
        return Submission(plan, 1, 1, hashlib.sha256(content).hexdigest(), self.path, requests)

    def create(self, provider: Client, submission: Submission, file_id: str) -> Batch:
        """The call that spends, with the bytes that the submission is of."""
        ids, content = self.requests(provider, submission.plan, submission.requests)
        assert len(ids) == submission.requests
        return provider.create(submission, file_id, io.BytesIO(content), self.window)

    def uploaded(self, provider: Client, plan: str) -> tuple[list[str], Submission, str]:
        ids, content = self.requests(provider, plan)
        submission = self.submission(content, plan)
        return ids, submission, provider.upload(submission, io.BytesIO(content))

    def ended(self, provider: Client, batch: Batch) -> Batch:
        deadline = time.monotonic() + self.wait_seconds
        while not batch.terminal:
            assert time.monotonic() < deadline, f"the batch is still {batch.status} after {self.wait_seconds} s"
            time.sleep(self.poll_seconds)
            batch = provider.poll(batch.id)
        return batch

    def listed(self, provider: Client, file_id: str, submission: Submission) -> list[Batch]:
        """Batches in the list that are this submission's: by file or metadata, or by their results where the facts say so."""
        if provider.facts.capabilities.marker == "results":
            ids = set(self.requests(provider, submission.plan, submission.requests)[0])
            found = [self.ended(provider, batch) for batch in provider.find(0.0, page_size=2)]
            return [batch for batch in found if self.answered(provider, batch) & ids]
        wanted = submission.metadata()
        return [
            batch
            for batch in provider.find(0.0, page_size=2)
            if batch.input_file_id == file_id or (batch.metadata and wanted.items() <= batch.metadata.items())
        ]

    def answered(self, provider: Client, batch: Batch) -> set[str]:
        """The custom_ids of a batch's results."""
        found = set()
        for name in filter(None, (batch.output_file_id, batch.error_file_id)):
            sink = io.BytesIO()
            provider.fetch(name, sink)
            lines = map(self.adapter.envelope.decode, filter(None, sink.getvalue().split(b"\n")))
            found |= {line.custom_id for line in lines if isinstance(line, Response)}
        return found

    # Lines.

    def test_a_request_is_one_line(self, provider: Client) -> None:
        _, content = self.requests(provider, "aaaa01")
        assert content.endswith(b"\n")
        assert len(content.decode().splitlines()) == content.count(b"\n") == 3, "some reader would cut these lines"

    def test_a_request_s_bytes_depend_on_nothing_else(self, provider: Client) -> None:
        assert self.requests(provider, "aaaa02") == self.requests(provider, "aaaa02")

    def test_a_line_gives_its_body_back_byte_for_byte(self, provider: Client) -> None:
        """Keys are made from the body, and retries and repairs from what was sent."""
        ids, content = self.requests(provider, "aaaa03")
        hard = json.dumps(HARD_TEXT)[1:-1].encode()
        for n, line in enumerate(content.splitlines(keepends=True)):
            body = self.body.replace(b"{n}", str(n).encode()).replace(b"{hard}", hard)
            assert self.adapter.envelope.body_of(line) == body, ids[n]

    def test_bodies_hold_their_texts_once_and_end_with_their_turns(self) -> None:
        """What a dialect writes is cut where the texts stand, once for a run."""
        for endpoint, dialect in self.adapter.dialects.items():
            texts = (("input", "<one>"),) if endpoint == "embeddings" else (("system", "<one>"), ("user", "<two>"))
            request = NeutralRequest("m", texts, max_output_tokens=5, max_tokens_param="max_tokens")
            body = json.dumps(dialect.write(request), separators=(",", ":"))
            assert [body.count(text) for _, text in texts] == [1] * len(texts), endpoint
            assert body == json.dumps(dialect.write(request), separators=(",", ":")), "the same request, another body"
            assert body.endswith("]}") or not dialect.turns, endpoint
            if dialect.turns:
                assert "<one>" in "".join(dialect.instructions(json.loads(body)))

    def test_two_models_never_write_the_same_request(self) -> None:
        """A key is the path and the body: where the body does not name the model, the path has to."""
        for endpoint, dialect in self.adapter.dialects.items():
            texts = (("input" if endpoint == "embeddings" else "user", "x"),)
            bodies = [
                dialect.write(NeutralRequest(model, texts, max_output_tokens=5, max_tokens_param="max_tokens"))
                for model in ("one", "two")
            ]
            assert bodies[0] != bodies[1] or "{model}" in self.path, endpoint

    def test_a_body_with_turns_added_is_taken(self, provider: Client) -> None:
        """As a repair is: the answer, and what was wrong with it, before the body's last `]}`."""
        dialect = next(iter(self.adapter.dialects.values()))
        if not dialect.turns:
            pytest.skip("this dialect has no turns")
        ids, content = self.requests(provider, "aaaa04")
        lines = []
        for custom_id, line in zip(ids, content.splitlines(keepends=True), strict=True):
            turns = [dialect.turn("assistant", HARD_TEXT), dialect.turn("user", f"Again: {HARD_TEXT}")]
            more = b"".join(b"," + json.dumps(turn).encode() for turn in turns)
            body = self.adapter.envelope.body_of(line)
            lines.append(self.adapter.envelope.encode(custom_id, self.path, body[:-2] + more + body[-2:]))
        content = b"".join(lines)
        submission = self.submission(content, "aaaa04")
        file_id = provider.upload(submission, io.BytesIO(content))
        batch = self.ended(provider, provider.create(submission, file_id, io.BytesIO(content), self.window))
        assert batch.status == "completed" and batch.output_file_id

    @pytest.mark.parametrize("line", GARBAGE, ids=lambda line: repr(line)[:40])
    def test_decoding_never_raises_and_never_takes_garbage_for_an_answer(self, provider: Client, line: bytes) -> None:
        decoded = self.adapter.envelope.decode(line)
        assert isinstance(decoded, Garbage) or decoded.outcome is not Outcome.OK

    # The usual way.

    def test_a_round_trip_answers_every_request_once(self, provider: Client) -> None:
        ids, submission, file_id = self.uploaded(provider, "bbbb01")
        batch = self.ended(provider, self.create(provider, submission, file_id))
        assert batch.status == "completed"
        answers: dict[str, Response] = {}
        for name in (batch.output_file_id, batch.error_file_id):
            if not name:
                continue
            sink = io.BytesIO()
            count = provider.fetch(name, sink)
            assert count == len(sink.getvalue())
            assert provider.file_bytes(name) in (None, count)
            for line in sink.getvalue().split(b"\n"):
                if line.strip():
                    decoded = self.adapter.envelope.decode(line)
                    assert isinstance(decoded, Response), decoded
                    assert decoded.custom_id not in answers, "answered twice"
                    answers[decoded.custom_id] = decoded
        assert sorted(answers) == sorted(ids)
        assert all(a.status_code is None or 100 <= a.status_code < 600 for a in answers.values())

    def test_a_batch_can_be_told_from_others_in_the_list(self, provider: Client) -> None:
        if not provider.facts.capabilities.list:
            pytest.skip("the facts say that this provider cannot list")
        made = []
        for plan in ("bbbb02", "bbbb03", "bbbb04"):
            _, submission, file_id = self.uploaded(provider, plan)
            made.append((self.create(provider, submission, file_id).id, submission, file_id))
        for batch_id, submission, file_id in made:
            assert [batch.id for batch in self.listed(provider, file_id, submission)] == [batch_id]
        everything = [batch.id for batch in provider.find(0.0, page_size=2)]
        assert len(everything) == len(set(everything)) >= 3, "pages overlap, or end too early"

    def test_the_same_file_uploaded_twice_is_two_files(self, provider: Client) -> None:
        _, _, first = self.uploaded(provider, "bbbb05")
        _, _, second = self.uploaded(provider, "bbbb05")
        assert first != second, "a fenced file must not be the next attempt's file"

    def test_the_fingerprint_does_not_give_the_key_away(self, provider: Client) -> None:
        fingerprint = provider.fingerprint()
        assert fingerprint is None or re.fullmatch(r"[0-9a-f]{16}", fingerprint)

    # The call that spends.

    @pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.name)
    def test_a_create_without_a_clear_answer_is_sent_once_and_ambiguous(
        self, provider: Client, gateway: Gateway, fault: Fault
    ) -> None:
        _, submission, file_id = self.uploaded(provider, "cccc01")
        before = len(gateway.log)
        gateway.inject(fault, method="POST")
        with pytest.raises(CallAmbiguous):
            self.create(provider, submission, file_id)
        posts = [passed for passed in gateway.log[before:] if passed.method == "POST"]
        assert len(posts) == 1, f"sent {len(posts)} times: each of them may be paid"

    def test_another_process_sends_what_the_first_one_uploaded(self, gateway: Gateway) -> None:
        """A kill between the two calls loses nothing: the second process has the file and the journal, no memory."""
        ids, submission, file_id = self.uploaded(self.connect(gateway.url), "cccc05")
        second = self.connect(gateway.url)
        batch = self.ended(second, self.create(second, submission, file_id))
        sink = io.BytesIO()
        second.fetch(batch.output_file_id or "", sink)
        assert all(sink.getvalue().count(custom_id.encode()) == 1 for custom_id in ids)

    def test_a_batch_whose_reply_was_lost_is_found_in_the_list(self, provider: Client, gateway: Gateway) -> None:
        if not provider.facts.capabilities.list:
            pytest.skip("the facts say that this provider cannot list")
        _, submission, file_id = self.uploaded(provider, "cccc02")
        gateway.inject(Fault.UNHEARD, method="POST")
        with pytest.raises(CallAmbiguous):
            self.create(provider, submission, file_id)
        found = self.listed(provider, file_id, submission)
        assert len(found) == 1
        assert self.ended(provider, found[0]).id == found[0].id

    def test_a_refused_create_is_definite_and_makes_nothing(self, provider: Client) -> None:
        _, content = self.requests(provider, "cccc03")
        submission = self.submission(content, "cccc03")
        with pytest.raises(CallRefused):
            if self.refuses_unknown_files:
                self.create(provider, submission, NOWHERE)
            else:
                provider.create(submission, NOWHERE, io.BytesIO(), self.window)
        if provider.facts.capabilities.list:
            assert self.listed(provider, NOWHERE, submission) == []

    def test_a_fenced_file_makes_no_batch_any_more(self, provider: Client) -> None:
        if provider.facts.capabilities.fence != "delete_file":
            pytest.skip("the facts say that this provider has no fence")
        _, submission, file_id = self.uploaded(provider, "cccc04")
        assert provider.fence(file_id) is True
        assert provider.fence(file_id) is True, "gone already is gone"
        with pytest.raises(CallRefused):
            self.create(provider, submission, file_id)
        if provider.facts.capabilities.list:
            assert self.listed(provider, file_id, submission) == []

    # Calls that are free.

    def test_what_is_unknown_is_not_found(self, provider: Client) -> None:
        with pytest.raises(CallNotFound):
            provider.poll(NEVER)
        with pytest.raises(CallNotFound):
            provider.fetch(NOWHERE, io.BytesIO())

    def test_free_calls_that_fail_on_the_way_say_so_and_can_be_repeated(
        self, provider: Client, gateway: Gateway
    ) -> None:
        _, submission, file_id = self.uploaded(provider, "dddd01")
        batch = self.ended(provider, self.create(provider, submission, file_id))
        output = batch.output_file_id or batch.error_file_id
        assert output is not None
        calls: dict[str, Any] = {"poll": lambda: provider.poll(batch.id)}
        if provider.file_bytes(output) is not None:  # else it may not even ask
            calls["file_bytes"] = lambda: provider.file_bytes(output)
        if provider.facts.capabilities.list:
            calls["find"] = lambda: list(provider.find(0.0))
        for name, call in calls.items():
            for fault in (Fault.LOST, Fault.CUT, Fault.ERROR_502):
                gateway.inject(fault)
                with pytest.raises(CallUnavailable):
                    call()
                gateway.clear()
                call()
                assert gateway.log, f"{name} asked nobody"

    def test_a_download_that_is_cut_says_so(self, provider: Client, gateway: Gateway) -> None:
        _, submission, file_id = self.uploaded(provider, "dddd02")
        batch = self.ended(provider, self.create(provider, submission, file_id))
        output = batch.output_file_id or batch.error_file_id
        assert output is not None
        whole = io.BytesIO()
        provider.fetch(output, whole)
        part = io.BytesIO()
        gateway.inject(Fault.CUT)
        with pytest.raises(CallUnavailable):
            provider.fetch(output, part)
        assert len(part.getvalue()) < len(whole.getvalue())

    def test_what_the_disk_says_of_a_download_is_not_the_provider_s_fault(self, provider: Client) -> None:
        _, submission, file_id = self.uploaded(provider, "dddd03")
        batch = self.ended(provider, self.create(provider, submission, file_id))
        output = batch.output_file_id or batch.error_file_id
        assert output is not None
        with pytest.raises(OSError, match="no space"):
            provider.fetch(output, _Full())

    def test_a_batch_that_is_over_can_be_cancelled_without_harm(self, provider: Client) -> None:
        _, submission, file_id = self.uploaded(provider, "dddd04")
        batch = self.ended(provider, self.create(provider, submission, file_id))
        with suppress(CallRefused, CallUnavailable):  # OpenAI says 409
            assert provider.cancel(batch.id).status == batch.status
        assert provider.poll(batch.id).status == batch.status


class _Full(io.BytesIO):
    """A disk without room."""

    def writable(self) -> bool:
        return True

    def write(self, _: Any) -> int:
        raise OSError(28, "no space left on device")
