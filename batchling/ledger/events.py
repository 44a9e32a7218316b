"""What a journal may say: the kinds of events, what is in them, and in which phase of an attempt they may come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchling.ledger.state import UNCERTAIN, UNSENT, Phase

Event = Mapping[str, Any]

TRANSITIONS: dict[str, tuple[frozenset[Phase], Phase]] = {
    "upload_intent": (UNSENT, Phase.UPLOADING),
    "uploaded": (frozenset({Phase.UPLOADING}), Phase.UPLOADED),
    "create_intent": (frozenset({Phase.UPLOADED}), Phase.CREATING),
    # Found in a list it may belong to any attempt that has no batch: whatever the journal believed, it is ours.
    "created": (UNSENT | UNCERTAIN | {Phase.ABSENT, Phase.DROPPED}, Phase.CREATED),
    "rejected": (frozenset({Phase.CREATING, Phase.UPLOADING, Phase.UPLOADED}), Phase.UPLOADED),
    "fenced": (frozenset({Phase.CREATING, Phase.FENCED}), Phase.FENCED),
    "absent": (UNCERTAIN, Phase.ABSENT),
    "parked": (UNCERTAIN, Phase.PARKED),
    "ended": (frozenset({Phase.CREATED}), Phase.ENDED),
    "throttled": (frozenset({Phase.ENDED}), Phase.THROTTLED),
    "collected": (frozenset({Phase.ENDED}), Phase.COLLECTED),
    "closed": (frozenset({Phase.COLLECTED}), Phase.CLOSED),
    "dropped": (UNSENT | UNCERTAIN | {Phase.CREATED, Phase.ENDED}, Phase.DROPPED),
}
"""Event kind → phases it may come in, phase it leads to."""

_TEXT, MAYBE_TEXT = (str,), (str, type(None))
_WHOLE, _MAYBE_WHOLE = (int,), (int, type(None))
_NUMBER, _MAYBE_NUMBER = (int, float), (int, float, type(None))
_MONEY, _MAYBE_MONEY = (str, int, float), (str, int, float, type(None))
_MAP, _LIST = (dict,), (list, tuple)

Types = tuple[type, ...]

FIELDS: dict[str, dict[str, Types]] = {
    "planned": {"shards": _LIST},
    "awaited": {"plan_id": _TEXT},
    "taking_over": {"plan_id": _TEXT},
    "session": {"fingerprints": _MAP},
    "learned": {"group": _TEXT, "model": _TEXT, "limit": _WHOLE},
    "cancel_wanted": {"shards": _LIST},
    "alias": {"shard": _WHOLE, "attempt": _WHOLE, "batch_id": _TEXT},
    "duplicate": {"shard": _WHOLE, "attempt": _WHOLE, "batch_id": _TEXT},
    "cancelling": {"shard": _WHOLE, "attempt": _WHOLE},
    "finished": {"state": _TEXT},
    "uploaded": {"file_id": _TEXT},
    "create_intent": {"file_id": _TEXT},
    "created": {"batch_id": _TEXT},
    "ended": {"reason": _TEXT},
    "collected": {"files": _LIST},
    "closed": {"counts": _MAP, "usd": _MONEY},
}
"""Event kind → what must be in it, beside `shard` and `attempt` in every one that is about an attempt."""

MAYBE: dict[str, dict[str, Types]] = {
    "planned": {"replaces": _LIST, "left": _MAP},
    "plan_created": {"awaits": _LIST, "files": _MAP},
    "awaited": {"awaits": _LIST},
    "rejected": {"retry_at": _MAYBE_NUMBER, "refusals": _WHOLE},
    "fenced": {"mark": MAYBE_TEXT},
    "ended": {
        "output_file_id": MAYBE_TEXT,
        "error_file_id": MAYBE_TEXT,
        "completed": _MAYBE_WHOLE,
        "failed": _MAYBE_WHOLE,
    },
    "throttled": {"retry_at": _MAYBE_NUMBER},
    "closed": {"kept": _MAP, "again": _WHOLE, "retry": _WHOLE, "fatal": MAYBE_TEXT},
}
"""The same for what may be left out."""

SHARD_FIELDS: dict[str, Types] = {
    "shard": _WHOLE,
    "lane": _WHOLE,
    "rows": _WHOLE,
    "bytes": _WHOLE,
    "sha256": _TEXT,
    "input_tokens": _MAYBE_WHOLE,
    "max_usd": _MAYBE_MONEY,
    "row_attempt": _WHOLE,
    "kind": _TEXT,
}
"""What a `planned` event says of a shard."""

_ABOUT: dict[str, Types] = {"shard": _WHOLE, "attempt": _WHOLE}
ENVELOPE: dict[str, Types] = {"seq": _WHOLE, "ts": _NUMBER, "kind": _TEXT}

MUST = {
    kind: tuple({**(_ABOUT if kind in TRANSITIONS else {}), **FIELDS.get(kind, {})}.items())
    for kind in {*FIELDS, *TRANSITIONS}
}
DOUBTS = (("doubts", _WHOLE),)
MAY = {kind: tuple(fields.items()) for kind, fields in MAYBE.items()}
