"""Lines as OpenAI's Batch API has them: a body with its custom_id, its method and its path."""

from __future__ import annotations

import json
from functools import lru_cache

from batchling.models import Garbage, Response
from batchling.providers.openai.decode import decode

_BODY = b'"body":'


class OpenAIEnvelope:
    """`{"custom_id": …, "method": "POST", "url": …, "body": {…}}`, the body last."""

    def encode(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b"".join((b'{"custom_id":"', custom_id.encode("ascii"), _post(path), body, b"}\n"))

    def body_of(self, line: bytes) -> bytes:
        start = line.index(_BODY) + len(_BODY)
        return line[start : line.rindex(b"}")]

    def decode(self, line: bytes) -> Response | Garbage:
        return decode(line)


@lru_cache(maxsize=64)
def _post(path: str) -> bytes:
    """What stands between the custom_id and the body, the same for all lines of an endpoint."""
    return b'","method":"POST","url":%b,"body":' % json.dumps(path, ensure_ascii=False).encode()
