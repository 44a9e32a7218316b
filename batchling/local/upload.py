"""A file upload: multipart form data, streamed to disk as it arrives and never held in memory."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from batchling.disk import open_private
from batchling.local.replies import ApiError

MAX_CONTENT_TYPE = 1_000
BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
"""RFC 2046, section 5.1.1."""

MAX_FIELD_BYTES = 10_000
MAX_FIELDS = 20


class Upload:
    """One upload in the making.

    Attributes:
        fields: the form's text fields.
        filename: the file's name as the client gave it, without folders; None until the file part came.
        size: bytes of the file so far.

    Args:
        path: where the file's bytes go; created.
        max_bytes: a larger file is refused with 413.
    """

    def __init__(self, content_type: str, path: Path, max_bytes: int):
        kind, parameters = parse_options_header(content_type[:MAX_CONTENT_TYPE])
        boundary = parameters.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiError(400, "The request must be multipart/form-data with a boundary.")
        if not BOUNDARY.fullmatch(boundary):
            raise ApiError(
                400,
                "The boundary of the form data must have 1 to 70 letters, digits or any of '()+_,-./:=? and spaces.",
            )
        self.path = path
        self.max_bytes = max_bytes
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0
        self._sink: BinaryIO | None = None
        self._header_name = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._value = bytearray()
        self._in_file = False
        self._ended = False
        self._parts = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        """Takes the whole request in. The file is not yet synced: see `sync`.

        Raises:
            ApiError: not a well-formed form, too large, or no file in it.
        """
        try:
            async for chunk in chunks:
                self._parser.write(chunk)
            self._parser.finalize()
        except FormParserError as error:
            raise ApiError(400, f"The form data can't be read: {error}") from None
        if not self._ended:
            raise ApiError(400, "The form data ends too early.")
        if self.filename is None:
            raise ApiError(400, "Missing required parameter: 'file'.", param="file", code="missing_required_parameter")

    def sync(self) -> None:
        """Makes the bytes durable. Blocks."""
        if self._sink is not None:
            self._sink.flush()
            os.fsync(self._sink.fileno())
            self._sink.close()

    def discard(self) -> None:
        """Removes what has been written."""
        if self._sink is not None:
            self._sink.close()
        self.path.unlink(missing_ok=True)

    def _part_begin(self) -> None:
        self._headers = {}
        self._header_name = self._header_value = b""
        self._field = None
        self._in_file = False
        self._value = bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, parameters = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = parameters.get(b"name", b"").decode("utf-8", "replace")
        if self._field == "file":
            if self.filename is not None:
                raise ApiError(400, "Only one file can be uploaded at a time.", param="file")
            name = parameters.get(b"filename", b"upload.jsonl").decode("utf-8", "replace")
            self.filename = name.replace("\\", "/").rsplit("/", 1)[-1][:255] or "upload.jsonl"
            self._sink = os.fdopen(open_private(self.path, os.O_WRONLY | os.O_TRUNC), "wb")
            self._in_file = True
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise ApiError(400, "The form has too many fields.")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file and self._sink is not None:
            self.size += end - start
            if self.size > self.max_bytes:
                raise ApiError(
                    413, f"The file is larger than the {self.max_bytes:,} bytes that can be uploaded.", param="file"
                )
            self._sink.write(memoryview(data)[start:end])
        else:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD_BYTES:
                raise ApiError(400, f"The form field '{self._field}' is too long.", param=self._field)

    def _part_end(self) -> None:
        if not self._in_file and self._field:
            self.fields[self._field] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._ended = True
