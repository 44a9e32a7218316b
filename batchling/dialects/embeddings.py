"""`/v1/embeddings`: one text in, one vector out."""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from typing import Any

from batchling.dialects.neutral import NeutralRequest, checked_params
from batchling.dialects.reading import GOOD, Explained, text_or_none, usage_of
from batchling.errors import ConfigError
from batchling.models import Outcome, Response

_RESERVED = frozenset({"model", "input", "stream"})


class Embeddings:
    """No conversation, no length, no schema."""

    name = "embeddings"
    turns = False

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": request.model, **checked_params(request, _RESERVED)}
        if request.schema is not None or request.json_mode:
            raise ConfigError("schema: the embeddings endpoint answers with vectors; remove the schema")
        ((_, text),) = request.texts
        return {**body, "input": text}

    def turn(self, role: str, text: str) -> dict[str, Any]:
        raise ValueError("a text to embed is not a conversation")

    def instructions(self, body: dict[str, Any]) -> list[str]:
        return []

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        data = body.get("data")
        if type(data) is not list or not data or body.get("error"):
            return None
        first = data[0]
        if type(first) is not dict or "embedding" not in first:
            return None
        vector = first["embedding"]
        if type(vector) is str:
            vector = _floats(vector)
        found = GOOD
        if type(vector) is not list or not vector or not all(type(x) is float or type(x) is int for x in vector):
            vector = None
            found = Explained(Outcome.ERROR, "bad_embedding", "the embedding is not a list of numbers")
        usage, model = usage_of(body.get("usage")), text_or_none(body.get("model"))
        return Response(custom_id, found.outcome, status, None, vector, None, found.code, found.note, usage, model)


def _floats(text: str) -> list[float] | None:
    """An embedding as base64 of little-endian 32-bit floats; None when it is not, or holds no finite numbers."""
    try:
        raw = base64.b64decode(text, validate=True)
        numbers = array("f", raw)
    except (ValueError, binascii.Error):
        return None
    if array("H", [1]).tobytes() != b"\x01\x00":
        numbers.byteswap()
    values = numbers.tolist()
    return values if all(map(math.isfinite, values)) else None


EMBEDDINGS = Embeddings()
