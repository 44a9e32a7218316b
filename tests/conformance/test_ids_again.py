"""Ids that a provider gives more than once: stores that name files by their bytes, servers that count from 1 again."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest

from tests.servers.batches import BatchServer, Behaviour, Ending
from tests.servers.scripted import Request, Wire, reply, reset
from tests.workbench import Workbench

CREATE = ("POST", "/v1/batches")
THROTTLED = Ending("failed", errors=({"code": "token_limit_exceeded", "message": "Enqueued token limit reached."},))


def name_files(server: BatchServer, name: Any) -> None:
    """Input files get the id that `name` makes of their content."""

    def upload(request: Request) -> Behaviour:
        boundary = re.search(rb"boundary=([^;]+)", request.headers["content-type"].encode())
        assert boundary is not None
        for part in request.body.split(b"--" + boundary.group(1).strip(b'"')):
            head, _, content = part.partition(b"\r\n\r\n")
            if b'name="file"' in head:
                file_id = name(content[:-2])
                server.files[file_id] = server.uploads[file_id] = content[:-2]
                return reply({"id": file_id, "object": "file", "bytes": len(content) - 2, "purpose": "batch"})
        raise AssertionError("no file")

    server.on("POST", "/v1/files", lambda request: upload(request)(request))


def by_content(content: bytes) -> str:
    return "file-" + hashlib.sha256(content).hexdigest()[:24]


def without_metadata(view: dict[str, Any]) -> dict[str, Any]:
    return {**view, "metadata": None}


@pytest.mark.parametrize("marked", [True, False])
def test_bytes_that_are_sent_again_may_get_the_file_id_that_they_had(bench: Workbench, marked: bool) -> None:
    name_files(bench.server, by_content)
    bench.server.endings = [THROTTLED, Ending()]
    if not marked:
        bench.server.show = without_metadata
    outcome = bench.run()
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 3})
    assert (bench.server.creates, bench.server.times_answered()) == (2, {1})
    assert len({event["file_id"] for event in bench.events(kind="uploaded")}) == 1


@pytest.mark.parametrize("marked", [True, False])
def test_a_lost_reply_to_the_second_create_of_a_file_is_the_second_ones(bench: Workbench, marked: bool) -> None:
    name_files(bench.server, by_content)
    bench.server.endings = [THROTTLED, Ending()]
    if not marked:
        bench.server.show = without_metadata
    bench.server.on(*CREATE, bench.server.normal, bench.server.lost(reset()), bench.server.normal)
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 2)
    adopted = bench.events(kind="created")[-1]
    assert (adopted["attempt"], adopted["adopted"]) == (2, True)


def test_a_file_that_was_deleted_to_hold_off_a_create_is_never_there_again(bench: Workbench) -> None:
    name_files(bench.server, by_content)
    late, arrive = bench.server.late()
    bench.server.on(*CREATE, late, bench.server.normal)
    outcome = bench.run("retry.resubmit_usd=1")
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 1)
    refused = json.loads(arrive().body)
    assert "does not exist" in refused["error"]["message"], (
        "the create that was lost comes to nothing, however late it is"
    )
    assert bench.server.times_answered() == {1}
    sent = {event["file_id"] for event in bench.events(kind="create_intent")}
    assert len(sent) == 2, "other custom_ids, so other bytes, so another id"


def test_a_server_that_counts_files_from_1_again_loses_nothing(bench: Workbench) -> None:
    name_files(bench.server, lambda content: "file-1")
    bench.rows(4)
    outcome = bench.run("limits.max_requests=2", "limits.concurrent_batches=1")
    assert (outcome.exit_code, bench.states()) == (0, {"ok": 4})
    assert (bench.server.creates, bench.server.times_answered()) == (2, {1})


def test_a_server_that_gives_every_file_one_id_stops_the_lane_where_a_create_may_still_arrive(bench: Workbench) -> None:
    name_files(bench.server, lambda content: "file-1")
    late, arrive = bench.server.late()
    bench.server.on(*CREATE, late, bench.server.normal)
    outcome = bench.run("retry.resubmit_usd=1")
    assert outcome.exit_code == 5 and "file-1" in " ".join(outcome.details)
    arrive()
    assert (bench.server.creates, len(bench.events(kind="create_intent"))) == (0, 1)


@pytest.mark.parametrize("told", [True, False])
def test_a_batch_that_may_be_of_either_shard_is_taken_for_neither(bench: Workbench, told: bool) -> None:
    """Equal file ids and no metadata: only the number of its requests says of which shard a batch is."""
    name_files(bench.server, lambda content: "file-1")
    bench.rows(3)
    bench.server.show = lambda view: {
        **view,
        "metadata": None,
        "request_counts": {**view["request_counts"], "total": (2 if view["id"] == "batch_0001" else 1) if told else 0},
    }
    # Both are on their way at once: the first is looked for when the second has the same file id already.
    bench.server.on(*CREATE, bench.server.lost(reset()), bench.server.normal)
    outcome = bench.run("limits.max_requests=2", "retry.resubmit_usd=1", detach=True)
    watched = bench.watch(outcome.plan_id)[0]
    assert watched.exit_code == 0 and bench.states() == {"ok": 3}
    assert bench.server.times_answered() == {1}


def relabelled(bench: Workbench, batch_id: str) -> Behaviour:
    """The create happens, and its answer says another id."""

    def answer(request: Request) -> Wire:
        wire = bench.server.normal(request)
        return reply({**json.loads(wire.body), "id": batch_id})(request)

    return answer


def test_a_batch_id_that_is_given_again_takes_the_place_of_no_batch(bench: Workbench) -> None:
    bench.rows(4)
    bench.server.on(*CREATE, bench.server.normal, relabelled(bench, "batch_0001"))
    bench.server.on("GET", "/v1/batches", reply({"object": "list", "data": [], "has_more": False}))
    outcome = bench.run("limits.max_requests=2", "limits.concurrent_batches=1")
    assert outcome.exit_code == 75
    holders = [event for event in bench.events(kind="created") if event["batch_id"] == "batch_0001"]
    assert [event["shard"] for event in holders] == [1]
    parked = bench.events(kind="parked")
    assert [event["shard"] for event in parked] == [2] and "batch_0001" in parked[0]["why"]
    assert "resolve" in (outcome.next_command or "")
    status = bench.cli("status", outcome.plan_id)
    assert status.returncode == 0 and "gave it the id batch_0001" in status.stdout


def test_a_batch_that_was_answered_with_an_id_of_another_is_found_under_its_own(bench: Workbench) -> None:
    bench.rows(4)
    bench.server.on(*CREATE, bench.server.normal, relabelled(bench, "batch_0001"))
    outcome = bench.run("limits.max_requests=2", "limits.concurrent_batches=1")
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 4}, 2)
    assert [event["batch_id"] for event in bench.events(kind="created")] == ["batch_0001", "batch_0002"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_batch_id_that_two_providers_give_is_two_batches(bench: Workbench, lost: bool) -> None:
    from tests.servers.batches import BatchServer as Server

    with Server() as other:
        if lost:  # what it made is found in its list, under an id that the first one gave as well
            other.on(*CREATE, other.lost(reset()), other.normal)
        outcome = bench.run("provider.base_url=" + ",".join((bench.server.url, other.url)), multirun=True)
        assert outcome.exit_code == 0
        assert (bench.server.times_answered(), other.times_answered()) == ({1}, {1})


THEIRS: dict[str, dict[str, str] | None] = {
    "no marks": None,
    "marks of their own": {"team": "theirs"},
    "another plan's": {"batchling_plan": "f00f00"},
    "ours, made of other bytes": {"batchling_sha256": "0" * 64},
}


@pytest.mark.parametrize("marks", THEIRS)
@pytest.mark.parametrize("last", [True, False])
def test_somebody_elses_batch_with_a_file_id_of_ours_takes_no_place_and_is_not_cancelled(
    bench: Workbench, marks: str, last: bool
) -> None:
    """A server that counts files from 1: the id of the file that was deleted is given to the next who uploads one."""
    normal = bench.server.normal

    def with_theirs(request: Request) -> Wire:
        document = json.loads(normal(request).body)
        ours = document["data"][-1] if document["data"] else {"id": "", "input_file_id": None, "metadata": {}}
        given = THEIRS[marks]
        metadata = given and ({**ours["metadata"], **given} if "batchling" in next(iter(given)) else given)
        theirs = {**ours, "id": "batch_theirs", "metadata": metadata, "created_at": 1_790_000_900}
        bench.server.on("GET", "/v1/batches/batch_theirs", reply({**theirs, "status": "in_progress"}))
        rows = [*document["data"], theirs] if last else [theirs, *document["data"]]
        return reply({**document, "data": rows if ours["id"] else []})(request)

    bench.server.on("GET", "/v1/batches", with_theirs)
    bench.server.on(*CREATE, bench.server.lost(reset()), normal)
    outcome = bench.run()
    assert (outcome.exit_code, bench.states(), bench.server.creates) == (0, {"ok": 3}, 1)
    assert bench.server.times_answered() == {1}
    assert [event["batch_id"] for event in bench.events(kind="created")] == ["batch_0001"]
    assert not bench.events(kind="duplicate") and not bench.events(kind="alias")
    assert not bench.server.requests("POST", "*/cancel")
