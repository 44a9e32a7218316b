from __future__ import annotations

import io

import openai
import pytest

from batchling.spec import EngineConfig

from .conftest import Clock, Lab

ECHO = EngineConfig(kind="echo")


def test_what_is_uploaded_comes_back_byte_for_byte(lab: Lab) -> None:
    client = lab.start(engine=ECHO)
    data = "first\u2028still first\u0085\r\nsecond\x00".encode() + bytes(range(256)) * 5_000
    made = client.files.create(file=("../../etc/näme.jsonl", io.BytesIO(data)), purpose="batch")
    assert made.bytes == len(data)
    assert made.filename == "näme.jsonl"
    reply = client.files.with_raw_response.content(made.id)
    assert reply.headers["content-length"] == str(len(data))
    assert reply.content == data


def test_a_file_object_says_what_was_uploaded(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ECHO, now=clock)
    made = client.files.create(
        file=("a.jsonl", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7_200}
    )
    found = client.files.retrieve(made.id)
    assert found.to_dict() == made.to_dict()
    assert (found.object, found.bytes, found.purpose, found.status) == ("file", 1, "batch", "processed")
    assert found.created_at == clock.time
    assert found.expires_at == clock.time + 7_200


def test_batch_files_expire_after_30_days_and_others_never(lab: Lab, clock: Clock) -> None:
    client = lab.start(engine=ECHO, now=clock)
    batch_file = client.files.create(file=("a", b"x"), purpose="batch")
    other = client.files.create(file=("b", b"x"), purpose="user_data")
    assert batch_file.expires_at == clock.time + 30 * 86_400
    assert other.expires_at is None
    clock.advance(30 * 86_400)
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.retrieve(batch_file.id)
    assert [f.id for f in client.files.list()] == [other.id]


def test_a_deleted_file_is_gone_everywhere(lab: Lab) -> None:
    client = lab.start(engine=ECHO)
    file_id = lab.upload(b"x")
    assert client.files.delete(file_id).to_dict() == {"id": file_id, "object": "file", "deleted": True}
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(file_id)
        assert caught.value.body == {
            "message": f"No such File object: {file_id}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }
    assert list(client.files.list()) == []
    assert list((lab.state_dir / "files").iterdir()) == []


def test_a_list_is_paged_newest_first_and_its_cursor_survives_a_deletion(lab: Lab) -> None:
    client = lab.start(engine=ECHO)
    ids = [lab.upload(b"x", f"{i}.jsonl") for i in range(5)]
    page = client.files.list(limit=2)
    assert [f.id for f in page.data] == [ids[4], ids[3]]
    assert page.has_more
    client.files.delete(ids[3])
    assert [f.id for f in client.files.list(limit=2, after=ids[3]).data] == [ids[2], ids[1]]
    assert [f.id for f in client.files.list(limit=2)] == [ids[4], ids[2], ids[1], ids[0]]
    assert [f.id for f in client.files.list(order="asc", limit=1)] == [ids[0], ids[1], ids[2], ids[4]]
    assert [f.id for f in client.files.list(purpose="vision")] == []


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda c: c.files.list(limit=0), "limit"),
        (lambda c: c.files.list(extra_query={"order": "up"}), "order"),
        (lambda c: c.files.list(after="file-unknown"), "after"),
        (lambda c: c.files.create(file=("a", b"x"), purpose="dance"), "purpose"),
        (
            lambda c: c.files.create(
                file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 5}
            ),
            "expires_after.seconds",
        ),
    ],
)
def test_a_wrong_parameter_is_named(echo: Lab, call: object, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        call(echo.client)  # type: ignore[operator]
    assert caught.value.param == param
    assert list((echo.state_dir / "files").iterdir()) == []


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(lab: Lab) -> None:
    client = lab.start(engine=ECHO, max_upload_bytes=1_000)
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a", b"x" * 1_001), purpose="batch")
    assert caught.value.status_code == 413
    assert list((lab.state_dir / "files").iterdir()) == []


def test_a_form_without_a_file_is_refused(lab: Lab) -> None:
    client = lab.start(engine=ECHO)
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(
            "/files",
            cast_to=object,
            files={"other": ("a", b"x")},
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    assert caught.value.param == "file"
