"""The HTTP surface: OpenAI's Files and Batches API, the list of models, and the endpoints themselves, answered at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from http import HTTPStatus
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from batchling import limits
from batchling.local import parameters
from batchling.local.engines import Answer, Engine
from batchling.local.jsonl import dump
from batchling.local.options import SUPPORTED_ENDPOINTS, ServerOptions
from batchling.local.replies import ApiError
from batchling.local.store import Store
from batchling.local.token import carries
from batchling.local.upload import Upload
from batchling.local.worker import Worker
from batchling.trust import is_loopback

MAX_BODY_BYTES = 64_000_000
FORM_BYTES = 1_000_000
"""What a form may have around its file."""

HOUR = 3_600.0
_OWN_SITES = (b"none", b"same-origin", b"same-site")  # typed by a person, or from a page on this machine


class Service:
    """The handlers. What blocks (disk, database, engine) runs on threads, never on the event loop."""

    def __init__(self, store: Store, worker: Worker, engine: Engine, options: ServerOptions):
        self.store = store
        self.worker = worker
        self.engine = engine
        self.options = options
        self._creating = asyncio.Lock()

    # Files

    async def create_file(self, request: Request) -> Response:
        file_id, path = self.store.new_upload()
        upload = Upload(request.headers.get("content-type", ""), path, self.options.max_upload_bytes)
        try:
            await upload.read(_body_chunks(request, self.options, self.options.max_upload_bytes + FORM_BYTES))
            fields: dict[str, Any] = dict(upload.fields)
            purpose = parameters.one_of(fields, "purpose", parameters.PURPOSES)
            after = None
            if any(name.startswith("expires_after") for name in fields):
                after = {part: fields.get(f"expires_after[{part}]") for part in ("anchor", "seconds")}
            seconds = parameters.expiry_seconds(after, "expires_after")
            if seconds is None and purpose == "batch":
                seconds = parameters.DEFAULT_BATCH_FILE_SECONDS
            await run_in_threadpool(upload.sync)
        except BaseException:
            upload.discard()
            raise
        expires = None if seconds is None else int(self.options.now()) + seconds
        made = await run_in_threadpool(
            self.store.add_file, file_id, upload.filename or "upload.jsonl", purpose, upload.size, expires
        )
        return _json(made)

    def list_files(self, request: Request) -> Response:
        query = request.query_params
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, "'order' must be 'asc' or 'desc'.", param="order", code="invalid_value")
        page = self.store.list_files(
            after=query.get("after"),
            limit=parameters.limit(query.get("limit"), 10_000, 10_000),
            newest_first=order == "desc",
            purpose=query.get("purpose"),
        )
        return _json(_list(page))

    def retrieve_file(self, request: Request) -> Response:
        return _json(self._file(request))

    def file_content(self, request: Request) -> Response:
        found = self._file(request)
        path = self.store.path(found["id"])
        try:
            stat = path.stat()
        except FileNotFoundError:  # deleted this very moment
            raise _no_file(found["id"]) from None
        return FileResponse(path, media_type="application/octet-stream", filename=found["filename"], stat_result=stat)

    def delete_file(self, request: Request) -> Response:
        file_id = self._file(request)["id"]
        if not self.store.delete_file(file_id):
            raise _no_file(file_id)
        return _json({"id": file_id, "object": "file", "deleted": True})

    def _file(self, request: Request) -> dict[str, Any]:
        file_id = request.path_params["file_id"]
        found = self.store.file(file_id)
        if found is None:
            raise _no_file(file_id)
        return found

    # Batches

    async def create_batch(self, request: Request) -> Response:
        values = await _json_body(request, self.options)
        async with self._creating:
            batch = await run_in_threadpool(self._create_batch, values)
        self.worker.add(batch["id"])
        return _json(batch)

    def _create_batch(self, values: dict[str, Any]) -> dict[str, Any]:
        input_file_id = parameters.text(values, "input_file_id")
        endpoint = parameters.endpoint(values)
        window = parameters.window_seconds(values)
        metadata = parameters.metadata(values)
        keep = parameters.expiry_seconds(values.get("output_expires_after"), "output_expires_after")
        now = self.options.now()
        self._check_rates(now)
        found = self.store.file(input_file_id)
        if found is None:
            raise _no_file(input_file_id, status=400, param="input_file_id")
        if found["purpose"] != "batch":
            raise ApiError(
                400,
                f"The file's purpose is '{found['purpose']}', it must be 'batch'.",
                param="input_file_id",
                code="invalid_value",
            )
        seconds = window if self.options.window_seconds is None else self.options.window_seconds
        document = {
            "object": "batch",
            "endpoint": endpoint,
            "model": None,
            "errors": None,
            "input_file_id": input_file_id,
            "completion_window": values["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(now),
            "in_progress_at": None,
            "expires_at": math.ceil(now + seconds),
            "finalizing_at": None,
            "completed_at": None,
            "failed_at": None,
            "expired_at": None,
            "cancelling_at": None,
            "cancelled_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "usage": None,
            "metadata": metadata,
        }
        batch = self.store.add_batch(document, now, keep)
        if batch is None:
            raise _no_file(input_file_id, status=400, param="input_file_id")
        return batch

    def _check_rates(self, now: float) -> None:
        most = self.options.creations_per_hour
        if most is not None:
            count, first = self.store.creations_since(now - HOUR)
            if count >= most:
                raise ApiError(
                    429,
                    f"Rate limit reached for batch creations in organization org-local. Limit: {most:,} / hour.",
                    kind="requests",
                    code="rate_limit_exceeded",
                    retry_after=max(1.0, (first or now) + HOUR - now),
                )
        most = self.options.concurrent_batches
        if most is not None and len(self.store.unfinished()) >= most:
            raise ApiError(
                429,
                f"Limit of {most:,} batches at a time reached in organization org-local. Try again when one has ended.",
                kind="requests",
                code="concurrent_batches_exceeded",
                retry_after=5.0,
            )

    def list_batches(self, request: Request) -> Response:
        query = request.query_params
        limit = parameters.limit(query.get("limit"), 20, 100)
        return _json(_list(self.store.list_batches(after=query.get("after"), limit=limit)))

    def retrieve_batch(self, request: Request) -> Response:
        return _json(self._batch(request))

    def cancel_batch(self, request: Request) -> Response:
        batch = self._batch(request)
        moved = self.store.move(batch["id"], ("validating", "in_progress"), "cancelling")
        if moved is not None:
            self.worker.wake()
            return _json(moved)
        batch = self._batch(request)
        if batch["status"] in ("cancelling", "cancelled"):
            return _json(batch)
        raise ApiError(409, f"Cannot cancel a batch with status '{batch['status']}'.")

    def _batch(self, request: Request) -> dict[str, Any]:
        batch_id = request.path_params["batch_id"]
        found = self.store.batch(batch_id)
        if found is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return found

    # Models and the synchronous endpoints

    def list_models(self, request: Request) -> Response:
        names = self.engine.models() or [self.engine.name]
        return _json({"object": "list", "data": [self._model(name) for name in names]})

    def retrieve_model(self, request: Request) -> Response:
        name = request.path_params["model"]
        names = self.engine.models()
        if names is not None and name not in names:
            raise ApiError(404, f"The model '{name}' does not exist.", param="model", code="model_not_found")
        return _json(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": f"batchling-{self.engine.name}"}

    async def answer(self, request: Request) -> Response:
        values = await _json_body(request, self.options)
        if self.worker.pool is not None:
            answer = await asyncio.wrap_future(self.worker.pool.submit(self._answer, request.url.path, values))
        else:
            answer = await run_in_threadpool(self._answer, request.url.path, values)
        headers = {} if answer.retry_after is None else {"retry-after": str(math.ceil(answer.retry_after))}
        return Response(answer.body, answer.status, headers, "application/json")

    def _answer(self, endpoint: str, values: dict[str, Any]) -> Answer:
        return self.engine.answer(endpoint, values)

    def about(self, request: Request) -> Response:
        """Not OpenAI's: what this server is, for people and health checks."""
        return _json(
            {"server": "batchling", "engine": self.engine.name, "unfinished_batches": len(self.store.unfinished())}
        )


def make_app(service: Service, host: str, token: str | None) -> ASGIApp:
    """The ASGI application.

    Args:
        service: the handlers.
        host: where the server listens; on loopback, requests that a web page could forge are refused.
        token: what every request has to carry as its API key; None: nothing.
    """
    routes = [
        Route("/", service.about),
        Route("/v1/files", service.create_file, methods=["POST"]),
        Route("/v1/files", service.list_files, methods=["GET"]),
        Route("/v1/files/{file_id}", service.retrieve_file, methods=["GET"]),
        Route("/v1/files/{file_id}", service.delete_file, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", service.file_content, methods=["GET"]),
        Route("/v1/batches", service.create_batch, methods=["POST"]),
        Route("/v1/batches", service.list_batches, methods=["GET"]),
        Route("/v1/batches/{batch_id}", service.retrieve_batch, methods=["GET"]),
        Route("/v1/batches/{batch_id}/cancel", service.cancel_batch, methods=["POST"]),
        Route("/v1/models", service.list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", service.retrieve_model, methods=["GET"]),
        *(Route(path, service.answer, methods=["POST"]) for path in SUPPORTED_ENDPOINTS),
    ]
    handlers: Any = {ApiError: _on_api_error, HTTPException: _on_http_error, Exception: _on_crash}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), loopback=is_loopback(host), token=token)


class Guard:
    """Keeps web pages and other users out (they reach loopback too) and gives every reply a request id.

    A page that tricks the name system arrives with a foreign Host, a page that posts across sites with
    a foreign Origin, and a browser says of what a page loads (an image, a form) that it comes from another site
    (Sec-Fetch-Site, see the W3C's Fetch Metadata); none of it belongs to a program that talks to its own machine.
    """

    def __init__(self, app: ASGIApp, *, loopback: bool, token: str | None):
        self.app = app
        self.loopback = loopback
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        refused = self._refusal(headers)
        reply = None if refused is None else _error(refused)
        request_id = f"req_{token_hex(16)}".encode()

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            await send(message)

        await (reply or self.app)(scope, receive, send_with_id)

    def _refusal(self, headers: dict[bytes, bytes]) -> ApiError | None:
        foreign = headers.get(b"sec-fetch-site", b"none").strip().lower() not in _OWN_SITES
        if self.loopback:
            host = _host_of(b"//" + headers.get(b"host", b"localhost"))
            origin = headers.get(b"origin")
            foreign = foreign or not is_loopback(host) or (origin is not None and not is_loopback(_host_of(origin)))
        if foreign:
            return ApiError(403, "Only programs on this machine may use this server.", code="forbidden")
        given = headers.get(b"authorization")
        if self.token is None or carries(given, self.token):
            return None
        if given is None:
            return ApiError(401, "You didn't provide an API key. This server printed its token when it was started.")
        return ApiError(
            401,
            "Incorrect API key provided. This server wants the token that it printed when it was started.",
            code="invalid_api_key",
        )


def _host_of(url: bytes) -> str:
    try:
        return urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return ""


async def _body_chunks(request: Request, options: ServerOptions, most: int) -> AsyncIterator[bytes]:
    """The body as it arrives: not longer than announced (the HTTP library sees to that), in time, and not too large.

    Args:
        most: bytes; a body that is announced to be larger is refused before it is sent.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
        raise ApiError(413, f"The body is larger than {most:,} bytes.")
    chunks = request.stream()
    now = asyncio.get_running_loop().time
    due = now() + options.upload_seconds
    try:
        while True:
            async with asyncio.timeout(min(options.idle_seconds, due - now())):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk
    except ClientDisconnect:
        raise ApiError(400, "The upload was cut off.") from None
    except TimeoutError:
        raise ApiError(408, "The body of the request did not arrive in time.", code="request_timeout") from None


async def _json_body(request: Request, options: ServerOptions) -> dict[str, Any]:
    """The body as a JSON object; nothing else is one."""
    data = bytearray()
    async for chunk in _body_chunks(request, options, MAX_BODY_BYTES):
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.")
    try:
        values = limits.loads(data)
    except limits.BeyondLimit as error:
        raise ApiError(400, f"The JSON body of your request is {error}.") from None
    except ValueError:
        raise ApiError(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body of the request must be a JSON object.")
    return values


def _list(page: tuple[list[dict[str, Any]], bool] | None) -> dict[str, Any]:
    if page is None:
        raise ApiError(400, "The cursor 'after' is not the id of an object here.", param="after", code="invalid_value")
    data, more = page
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dump(value), status, headers, "application/json")


def _no_file(file_id: str, *, status: int = 404, param: str = "id") -> ApiError:
    return ApiError(status, f"No such File object: {file_id}", param=param)


def _error(error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"retry-after": str(math.ceil(error.retry_after))}
    return _json(error.body(), error.status, headers)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _error(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return _error(ApiError(error.status_code, f"Invalid URL ({request.method} {request.url.path})"))
    return _error(ApiError(error.status_code, HTTPStatus(error.status_code).phrase))


async def _on_crash(request: Request, error: Exception) -> Response:
    return _error(ApiError(500, "The server had an error while processing your request."))
