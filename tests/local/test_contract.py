"""Every object that the server sends, against OpenAI's published schema (nulls aside: OpenAI's own examples have them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from batchling.spec import EngineConfig

from .conftest import CHAT, Lab, chat_line

CONTRACT = Path(__file__).parent.parent / "contract" / "openai-batch-openapi.json"

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    CHAT: (
        "CreateChatCompletionResponse",
        {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    ),
    "/v1/responses": ("Response", {"model": "m", "input": "x"}),
    "/v1/embeddings": ("CreateEmbeddingResponse", {"model": "m", "input": "x", "dimensions": 8}),
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads(CONTRACT.read_bytes())
    return loaded


def check(document: dict[str, Any], name: str, value: Any, *, nulls: bool = False) -> None:
    """Validates `value` as the published schema `name`; with `nulls`, top-level nulls count as absent."""
    shown = {k: v for k, v in value.items() if v is not None} if nulls else value
    schema = {**document, "$ref": f"#/components/schemas/{name}"}
    jsonschema.Draft202012Validator(schema).validate(shown)


def raw(lab: Lab, path: str) -> Any:
    return lab.client.get(path, cast_to=object)


def test_files_and_their_list(echo: Lab, document: dict[str, Any]) -> None:
    file_id = echo.upload(b"x")
    check(document, "OpenAIFile", raw(echo, f"/files/{file_id}"), nulls=True)
    listed = raw(echo, "/files")
    check(document, "ListFilesResponse", {**listed, "data": []})
    deleted = echo.client.delete(f"/files/{file_id}", cast_to=object)
    check(document, "DeleteFileResponse", deleted)


@pytest.mark.parametrize("data", [chat_line("a"), b"", chat_line("a", messages=[])], ids=["good", "failed", "errors"])
def test_batches_and_their_list(echo: Lab, document: dict[str, Any], data: bytes) -> None:
    batch = echo.submit(data, metadata={"a": "b"})
    check(document, "Batch", batch.to_dict(), nulls=True)
    batch = echo.ended(batch)
    made = raw(echo, f"/batches/{batch.id}")
    check(document, "Batch", made, nulls=True)
    listed = raw(echo, "/batches")
    assert listed["data"][0] == made
    check(document, "ListBatchesResponse", {**listed, "data": []})


@pytest.mark.parametrize("endpoint", BODIES)
@pytest.mark.parametrize("kind", ["simulated", "echo"])
def test_answers_of_every_endpoint(lab: Lab, document: dict[str, Any], endpoint: str, kind: str) -> None:
    lab.start(engine=EngineConfig(kind=kind))  # type: ignore[arg-type]
    name, body = BODIES[endpoint]
    line = orjson.dumps({"custom_id": "a", "method": "POST", "url": endpoint, "body": body}) + b"\n"
    (answer,) = lab.lines(lab.run(line, endpoint).output_file_id)
    assert answer["response"]["status_code"] == 200
    check(document, name, answer["response"]["body"])


def test_errors_and_models(echo: Lab, document: dict[str, Any]) -> None:
    http = echo.client._client
    for method, path in [("GET", "files/x"), ("GET", "nowhere"), ("DELETE", "batches"), ("POST", "batches")]:
        reply = http.request(method, f"{echo.server.base_url}/{path}", content=b"{", headers=echo.client.auth_headers)
        assert 400 <= reply.status_code < 500
        check(document, "ErrorResponse", reply.json())
    (error,) = echo.lines(echo.run(chat_line("a", messages=[])).error_file_id)
    check(document, "ErrorResponse", error["response"]["body"])
    check(document, "Model", raw(echo, "/models/m"))
