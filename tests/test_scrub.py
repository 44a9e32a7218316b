"""A key that comes back in a text is blotted out, whatever was done to it on the way."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.scrub import Scrubber

KEYS = ["sk-canaryQ7w3Zt9XkP2mVb8Nf4Ld", 'odd"key\\with/slash&amp;<e>', "a b c d e f g", "%41%42%43%44"]


def shapes(key: str) -> dict[str, str]:
    padded = {f"base64+{n}": base64.b64encode(b"x" * n + key.encode() + b"yz").decode() for n in range(3)}
    return {
        "raw": key,
        "repr": repr(key),
        "repr of bytes": repr(key.encode()),
        "json": json.dumps({"m": key}),
        "json in json": json.dumps(json.dumps(key)),
        "escaped": "".join(f"\\u{ord(c):04x}" for c in key),
        "hex": key.encode().hex(),
        "html": html.escape(key),
        "url": quote(key, safe=""),
        "utf-16": key.encode("utf-16-le").decode("latin-1"),
        **padded,
    }


@pytest.mark.parametrize("key", KEYS)
def test_no_shape_of_a_key_is_left_in_a_text(key: str) -> None:
    scrubber = Scrubber([key])
    for name, shape in shapes(key).items():
        text = f"before {shape} after"
        left = scrubber.text(text)
        assert left.startswith("before ") and left.endswith(" after"), name
        for other, form in shapes(key).items():
            inner = form.strip("\"'")
            assert inner not in left or not inner, (name, other, left)
        # Of base64 the characters at the ends, which other bytes share, may stay.
        assert len(left) < len(text) and "***" in left, name


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=80), st.data())
def test_any_eight_characters_of_a_key_in_a_row_are_blotted(key: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(key) - 8))
    part = key[start : start + data.draw(st.integers(8, len(key) - start))]
    assert part not in Scrubber([key]).text(f"key {part} refused")


def test_an_answer_is_found_to_hold_a_key_however_its_characters_are_escaped() -> None:
    key = KEYS[0]
    scrubber = Scrubber([key])
    mixed = "".join(f"\\u{ord(c):04x}" if i % 3 else c for i, c in enumerate(key))
    line = b'{"custom_id":"k1-1","text":"your key is ' + mixed.encode() + b'"}'
    assert scrubber.finds(line)
    assert orjson.loads(scrubber.line(line)) == {"custom_id": "k1-1", "text": "your key is ***"}
    assert not scrubber.finds(b'{"custom_id":"k1-1","text":"\\u00e9 sk-canary"}')


def test_ids_that_share_characters_with_a_key_stay_and_messages_do_not() -> None:
    scrubber = Scrubber(["batch_key_0123456789"])
    document = {"id": "batch_key_01234", "error": {"message": "no such key batch_key_01234"}, "n": 1, "none": None}
    assert scrubber.value(document) == {
        "id": "batch_key_01234",
        "error": {"message": "no such key ***"},
        "n": 1,
        "none": None,
    }


def test_a_placeholder_for_a_key_damages_no_text() -> None:
    scrubber = Scrubber(["none", "1", ""])
    assert not scrubber and scrubber.text("none of 11") == "none of 11"


def test_a_scrubber_does_not_show_what_it_knows() -> None:
    assert KEYS[0] not in repr(Scrubber([KEYS[0]]))
