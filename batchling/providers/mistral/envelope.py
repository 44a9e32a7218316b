"""Lines of Mistral's batch files: `{"custom_id", "body"}` on the way there; results as OpenAI writes them."""

from __future__ import annotations

from batchling.models import Garbage, Response
from batchling.providers.openai.decode import decode

_BODY = b'"body":'


class JobEnvelope:
    """The custom_id first, the body last; the job names the endpoint and the model."""

    def encode(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b"".join((b'{"custom_id":"', custom_id.encode("ascii"), b'","body":', body, b"}\n"))

    def body_of(self, line: bytes) -> bytes:
        start = line.index(_BODY) + len(_BODY)
        return line[start : line.rindex(b"}")]

    def decode(self, line: bytes) -> Response | Garbage:
        return decode(line)
