"""The work that is measured: bank customers' messages, a long system message, a schema of 77 labels.

About 3.1 kB a request line, like a classification of the banking77 data set. All of it is made here, from a
formula: nothing is downloaded and every machine measures the same bytes.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

_WORDS = [
    "card",
    "payment",
    "transfer",
    "account",
    "balance",
    "exchange",
    "rate",
    "top",
    "up",
    "pending",
    "declined",
    "refund",
    "charge",
    "fee",
    "cash",
    "withdrawal",
    "passcode",
    "identity",
    "verify",
    "contactless",
    "virtual",
    "physical",
    "delivery",
    "country",
    "currency",
    "statement",
    "limit",
    "beneficiary",
]
_OPENINGS = (
    "Why has my {} been {} again, and what should I do about the {}?",
    "I still don't see the {} on my {} after the {}.",
    "Is there a way to get a {} without a new {} for my {}?",
    "My {} didn't work yesterday when I wanted the {} with a {}",
    "How long does a {} take until the {} shows my {}?",
)

LABELS = tuple(f"{a}_{b}_{n:02d}" for n, (a, b) in enumerate((a, b) for a in _WORDS[:11] for b in _WORDS[15:22]))[:77]
"""77 labels, as many as banking77 has."""

SYSTEM = " ".join(
    f"Rule {n}: read the customer's message with care, think of what the bank can do, and choose one label only."
    for n in range(1, 7)
)
USER = "Customer message:\n{text}\n\nAnswer with the label that fits best, your confidence and a short rationale."
MODEL = "gpt-4o-mini"
MAX_OUTPUT_TOKENS = 300


def text(number: int) -> str:
    """The message of a row; all of them differ."""
    n = len(_WORDS)
    words = (_WORDS[number % n], _WORDS[(number // n + 7) % n], _WORDS[(number * 7 + number // 31) % n])
    return f"{_OPENINGS[number % len(_OPENINGS)].format(*words)} (ticket {number})"


def write_rows(path: Path, rows: int) -> None:
    """A CSV file with the columns id, text and label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "label"))
        writer.writerows((f"t{n:08d}", text(n), LABELS[n % len(LABELS)]) for n in range(rows))


def answer(number: int) -> dict[str, Any]:
    """What a model might say to a row; valid by the schema."""
    rationale = f"The message speaks of {_WORDS[number % len(_WORDS)]}, which is what this label is about."
    return {"rationale": rationale, "label": LABELS[number * 31 % len(LABELS)], "confidence": 0.5 + number % 50 / 100}


def json_schema() -> dict[str, Any]:
    """The schema of an answer, as the plain loops send it."""
    properties = {
        "rationale": {"type": "string"},
        "label": {"type": "string", "enum": list(LABELS)},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def experiment(folder: Path, rows: Path, **more: Any) -> Path:
    """An experiment's folder over these rows. Keys of `more` replace those of its config."""
    config: dict[str, Any] = {
        "defaults": ["/base", {"override /model": MODEL}, "_self_"],
        "name": "bench",
        "data": {"path": str(rows), "id": "id"},
        "model": {"params": {"temperature": 0}, "max_output_tokens": MAX_OUTPUT_TOKENS},
        "prompt": {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]},
        "schema": {
            "fields": {
                "rationale": "string",
                "label": {"enum": list(LABELS)},
                "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            }
        },
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return folder
