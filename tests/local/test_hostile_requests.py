"""Whatever a client sends, the embedded server says what is wrong with it: a 4xx in OpenAI's shape, never a 5xx."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import CHAT, Lab

FORM = (
    b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{}\n\r\n--B--\r\n'
)


def post(lab: Lab, path: str, body: bytes, content_type: str, **headers: str) -> tuple[int, dict[str, object]]:
    assert lab.server is not None
    parts = urlsplit(lab.server.base_url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=20)
    try:
        token = {"Authorization": f"Bearer {lab.client.api_key}"}
        connection.request("POST", parts.path + path, body, {"Content-Type": content_type, **token, **headers})
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def refused(answer: tuple[int, dict[str, object]], status: int = 400) -> str:
    assert answer[0] == status, answer
    error = answer[1]["error"]
    assert isinstance(error, dict) and {"message", "type", "param", "code"} <= error.keys()
    return str(error["message"])


@pytest.mark.parametrize(
    "boundary",
    ["", "=", "=" + "b" * 71, "=" + "b" * 5_000, "=\xe4", '="a\tb"', "=B ", '=" "', "=B; boundary=C", "*=utf-8''B"],
)
def test_a_boundary_that_is_none_is_refused(echo: Lab, boundary: str) -> None:
    answer = post(echo, "/files", FORM, f"multipart/form-data; boundary{boundary}")
    if answer[0] != 200:  # of two boundaries one may fit
        assert refused(answer)


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"--B",
        b"--B--\r\n",
        b"\r\n--C\r\n",
        FORM[:-8],
        FORM[:60],
        FORM.replace(b"--B--\r\n", b""),
        b"--B\r\n" + b"X: y\r\n" * 500 + b"\r\n\r\n--B--\r\n",
        b"--B\r\nX" + b"y" * 100_000 + b": 1\r\n\r\n\r\n--B--\r\n",
        (b'--B\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 300) + b"--B--\r\n",
        (b'--B\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n1\r\n' * 50) + b"--B--\r\n",
        b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + b"x" * 20_000 + b"\r\n--B--\r\n",
    ],
)
def test_a_form_that_is_none_is_refused(echo: Lab, form: bytes) -> None:
    assert refused(post(echo, "/files", form, "multipart/form-data; boundary=B"))


def test_a_good_form_is_taken(echo: Lab) -> None:
    status, made = post(echo, "/files", FORM, "multipart/form-data; boundary=B")
    assert (status, made["bytes"]) == (200, 3)


@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/embeddings", "/batches"])
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 600 + b"]" * 600,
        b'{"model": "m", "x": ' + b"[" * 600 + b"]" * 600 + b"}",
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b"[" * 200_000,
        b'{"model": "m", "max_tokens": ' + b"9" * 5_000 + b"}",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"\xff\xfe",
        b"",
    ],
    ids=["list", "in a field", "objects", "unclosed", "digits", "NaN", "half a pair", "no UTF-8", "nothing"],
)
def test_a_body_beyond_the_limits_is_refused(echo: Lab, path: str, body: bytes) -> None:
    assert refused(post(echo, path, body, "application/json"))


def test_a_request_embeds_2048_inputs_at_most(echo: Lab) -> None:
    def ask(count: int) -> tuple[int, dict[str, object]]:
        body = json.dumps({"model": "m", "input": ["a"] * count, "dimensions": 1}).encode()
        return post(echo, "/embeddings", body, "application/json")

    assert ask(2_048)[0] == 200
    assert "2,048" in refused(ask(2_049))


def test_a_body_announced_too_large_is_refused_before_it_is_sent(echo: Lab) -> None:
    assert refused(post(echo, "/chat/completions", b"{}", "application/json", **{"Content-Length": "9" * 17}), 413)
    assert refused(post(echo, "/files", b"{}", "multipart/form-data; boundary=B", **{"Content-Length": "9" * 17}), 413)


@pytest.mark.parametrize("path", ["/files", "/chat/completions"])
def test_a_body_that_does_not_come_is_given_up(lab: Lab, path: str) -> None:
    lab.start(idle_seconds=0.2)
    form = "multipart/form-data; boundary=B" if path == "/files" else "application/json"
    assert "did not arrive in time" in refused(
        post(lab, path, b"--" if path == "/files" else b"{", form, **{"Content-Length": "50"}), 408
    )


def test_a_body_that_drips_is_given_up(lab: Lab) -> None:
    lab.start(idle_seconds=5.0, upload_seconds=0.0)
    assert refused(post(lab, "/chat/completions", b"{", "application/json", **{"Content-Length": "50"}), 408)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\n\r\n{",
        b"Content-Length: -1\r\n\r\n{}",
        b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length: x\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"Transfer-Encoding: gzip\r\n\r\n{}",
        b"".join(b"X-%d: 1\r\n" % n for n in range(20_000)) + b"\r\n",
        b"X: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=["short", "negative", "two lengths", "no number", "no chunk", "packed", "many headers", "long header"],
)
def test_a_request_that_is_no_http_does_no_harm(echo: Lab, head: bytes) -> None:
    assert echo.server is not None
    parts = urlsplit(echo.server.base_url)
    with socket.create_connection((str(parts.hostname), parts.port or 0), timeout=20) as raw:
        token = f"Authorization: Bearer {echo.client.api_key}\r\n".encode()
        try:
            raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + token + head)
            raw.shutdown(socket.SHUT_WR)
            reply = raw.recv(65_536)
        except OSError:  # it hung up on us
            reply = b""
    assert not reply.startswith(b"HTTP/1.1 5"), reply
    assert echo.client.models.list().data


_PIECES = [
    b"--B",
    b"\r\n",
    b"--",
    b":",
    b"Content-Disposition: form-data; ",
    b'name="file"',
    b'name="purpose"',
    b"; ",
    b"batch",
]


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(_PIECES) | st.binary(max_size=20), max_size=30).map(b"".join), st.text(max_size=30))
def test_no_form_gives_an_error_of_the_server(echo: Lab, body: bytes, boundary: str) -> None:
    # Control characters make it no HTTP: the server hangs up, as tried above.
    printable = bytes(b for b in boundary.encode() if b == 9 or (b >= 32 and b != 127))
    for kind in ("B", printable.decode("latin-1")):
        assert post(echo, "/files", body, f"multipart/form-data; boundary={kind}")[0] < 500


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "input", "n", "max_tokens", "dimensions", "response_format", "text"]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["role", "content", "type", "json_schema", "schema", "format"]), inner
                )
            ),
            max_leaves=10,
        ),
    )
)
def test_no_body_gives_an_error_of_the_server(echo: Lab, body: dict[str, object]) -> None:
    data = json.dumps({"model": "m", **body}).encode()
    for path in (CHAT, "/v1/responses", "/v1/embeddings", "/v1/batches"):
        assert post(echo, path.removeprefix("/v1"), data, "application/json")[0] < 500
