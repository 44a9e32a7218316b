"""An upstream that answers anything at all is asked once for each row, and every row is over after that.

Hundreds of bodies by default, 10,000 with `--long`.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from typing import Any

import pytest

from batchling.collect import Join, Row, Verdict
from batchling.local.engines.http import HttpEngine
from batchling.models import KEY_LENGTH, Outcome, RowState
from batchling.providers.openai.decode import decode
from batchling.runner.reading import RETRIED
from batchling.spec import EngineConfig
from tests.local.conftest import CHAT, Lab, Upstream, chat_line, completion

FIELDS = [
    "id",
    "choices",
    "message",
    "content",
    "usage",
    "model",
    "output",
    "data",
    "index",
    "text",
    "created",
    "x",
    "role",
]
KINDS = ["application/json", "text/html", "image/png", "", "application/json; charset=utf-16", "\x01"]


def value(rng: random.Random, depth: int = 0) -> Any:
    pick = rng.randrange(9 if depth < 4 else 6)
    if pick == 0:
        return rng.choice([None, True, False])
    if pick == 1:
        return rng.choice([0, -1, 10 ** rng.randrange(1, 30), rng.random(), 1e308, -0.0])
    if pick in (2, 3):
        return rng.choice(["", "x" * rng.randrange(50), "9" * 30, "\ud800", "\u2028\0", "é", "stop", "length"])
    if pick in (4, 5):
        return rng.choice([{}, [], [[]], "{}", "[1]"])
    if pick == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(FIELDS): value(rng, depth + 1) for _ in range(rng.randrange(5))}


def wrong(rng: random.Random, body: dict[str, Any]) -> Any:
    """A good answer with something wrong somewhere."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(body)
    for node, key in rng.sample(places, rng.randrange(1, 3)):
        node[key] = value(rng)
    return body


def hostile(rng: random.Random) -> tuple[dict[str, str], bytes]:
    """Headers and body of one answer."""
    good = completion({"model": "m"})
    text = json.dumps(good).encode()
    at = rng.randrange(len(text))
    headers = {"Content-Type": rng.choice(KINDS[:1] * 5 + KINDS[1:5])}
    match rng.randrange(14):
        case 0:
            body = rng.randbytes(rng.randrange(300))
        case 1:
            depth = rng.choice([99, 101, 255, 600, 1_500, 60_000])
            body = text[:-1] + b',"x":' + b"[" * depth + b"]" * rng.choice([0, depth]) + b"}"
        case 2:
            number = rng.choice(
                [b"9" * 400, b"9" * 5_000, b"1e999", b"-1e-999", b"0" * 20, b"1" + b"0" * 4_000 + b".5"]
            )
            body = text.replace(b": 7", b": " + number)
        case 3:
            body = b'{"choices": [], "usage": 5, ' + text[1:]
        case 4 | 5:
            body = json.dumps(wrong(rng, good)).encode()
        case 6:
            body = text[:at] + rng.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xfe\xff"]) + text[at:]
        case 7:
            body = text.replace(b": 7", rng.choice([b": NaN", b": Infinity", b": -Infinity", b": nan"]))
        case 8:
            body = text[:at]
        case 9:
            headers["Content-Encoding"] = rng.choice(["gzip", "br", "gzip, gzip", "identity", "x"])
            body = rng.choice([text, gzip.compress(text), b"\x1f\x8b" + text])
        case 10:
            body = text.replace(b"from upstream", b"x" * rng.choice([10_000, 300_000]))
        case 11:
            body = text.replace(
                b"from upstream", rng.choice([b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\\x", b"\n", b"\x00"])
            )
        case 12:
            body = json.dumps(value(rng)).encode()
        case _:
            body = rng.choice(
                [b"", b" ", b"\xef\xbb\xbf" + text, text.decode().encode("utf-16"), text * 2, text + b"\0", b"null"]
            )
    return headers, body


@pytest.mark.parametrize("seed", [35, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(100, 110))])
def test_each_answered_row_is_asked_for_once(lab: Lab, upstream: Upstream, seed: int) -> None:
    rng, rows = random.Random(seed), 150 if seed == 35 else 1_000
    answers = {f"k1-{number:0{KEY_LENGTH - 3}d}": hostile(rng) for number in range(rows)}

    def reply(number: int, body: Any) -> tuple[int, dict[str, str], Any]:
        return 200, *answers[body["messages"][0]["content"]]

    upstream.reply = reply
    lab.start(engine=EngineConfig(kind="http", upstream=upstream.url, retries=3, concurrency=4))
    batch = lab.run(b"".join(chat_line(key, key) for key in answers))
    asked = Counter(body["messages"][0]["content"] for _, _, body in upstream.seen)
    assert asked == Counter(answers.keys())
    assert batch.request_counts is not None and batch.request_counts.completed == rows
    assert batch.error_file_id is None
    join = Join(
        map(Row, answers), suffix="", judge=lambda response: Verdict(RowState.OK), shard=1, attempt=1, decode=decode
    )
    made = list(join.read("output", [lab.client.files.content(batch.output_file_id or "").read()]))
    made += join.finish()
    summary = join.summary
    assert (len(made), summary.missing, summary.garbage, summary.foreign, summary.duplicates) == (rows, 0, 0, 0, 0)
    assert not RETRIED & summary.outcomes.keys(), summary.outcomes
    assert summary.outcomes[Outcome.OK] > rows / 10, "some of them can be read, and are"
    assert summary.outcomes[Outcome.ERROR] > rows / 10


def test_the_sync_endpoint_passes_them_on_without_an_error_of_its_own(lab: Lab, upstream: Upstream) -> None:
    rng = random.Random(36)
    upstream.reply = lambda number, body: (200, *hostile(rng))
    engine = HttpEngine(EngineConfig(kind="http", upstream=upstream.url, retries=3))
    for number in range(1, 100):
        answer = engine.answer(CHAT, {"model": "m", "messages": [{"role": "user", "content": "x"}]})
        assert (answer.status, len(upstream.seen)) == (200, number)
        assert isinstance(json.loads(answer.body), dict)
