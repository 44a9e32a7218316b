"""A value that satisfies a JSON schema, chosen by seeded draws.

Knows what strict structured outputs know (type, enum, const, properties, items, anyOf, $ref and
$defs, recursion, bounds, pattern, format) and the common rest of JSON Schema. The schema comes
from strangers: work is bounded, and what cannot be done is `CannotSample`.
"""

from __future__ import annotations

import math
from typing import Any

from batchling.local.engines.draws import Draws
from batchling.local.engines.pattern_sample import UnknownPattern, from_pattern
from batchling.local.engines.string_formats import FORMATS
from batchling.local.jsonl import dump

MAX_NODES = 20_000
"""Values in one sample: a schema can ask for 10^9 items, an answer would not have them."""

MAX_LENGTH = 100_000
"""Characters of one string."""

SHALLOW = 5
"""Depth from which the shortest way out of a recursive schema is taken."""

MAX_DEPTH = 60


class CannotSample(ValueError):
    """The schema is contradictory, unbounded or beyond what is known here; the message says which."""


def sample(schema: Any, draws: Draws) -> Any:
    """A value that satisfies `schema`.

    Raises:
        CannotSample: no value was found.
    """
    return _Sampler(schema, draws).value(schema, 0)


def unfit(schema: Any, value: Any, draws: Draws) -> str:
    """Text of an answer that does not satisfy `schema`, in one of the ways that models have: a property with a value that
    is none of its choices, or of another type; JSON that ends in the middle.

    Args:
        value: one that does satisfy it.
    """
    text = dump(value).decode()
    wrong: dict[str, Any] = {}
    if isinstance(value, dict) and isinstance(schema, dict):
        properties = _Sampler(schema, draws).resolved(schema).get("properties")
        for name, kind in properties.items() if isinstance(properties, dict) else ():
            if name not in value or not isinstance(kind, dict) or isinstance(value[name], dict):
                continue
            if "enum" in kind or "const" in kind:
                wrong[name] = "none of the choices (simulated)"
            elif kind.get("type") in ("string", "integer", "number", "boolean", "array"):
                wrong[name] = {"simulated": "of another type"}
    if wrong and draws.below(3):
        name = draws.choice(sorted(wrong))
        return dump({**value, name: wrong[name]}).decode()
    return f"Simulated: {text[: max(1, len(text) - 1)]}"


class _Sampler:
    def __init__(self, root: Any, draws: Draws):
        self.root = root
        self.draws = draws
        self.nodes = 0

    def value(self, schema: Any, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise CannotSample(f"an answer would need more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise CannotSample(
                "the recursion never ends: a recursive property needs a way out (null, or an array that may be empty)"
            )
        schema = self.resolved(schema)
        if "const" in schema:
            return schema["const"]
        if isinstance(enum := schema.get("enum"), list):
            if not enum:
                raise CannotSample("an enum is empty")
            return self.draws.choice(enum)
        branches = schema.get("anyOf", schema.get("oneOf"))
        if isinstance(branches, list) and branches:
            rest = {k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}
            return self.value(_merged(rest, self.resolved(self.branch(branches, depth))), depth + 1)
        kind = self.kind(schema, depth)
        if kind == "null":
            return None
        if kind == "boolean":
            return self.draws.below(2) == 1
        if kind == "integer":
            return self.integer(schema)
        if kind == "number":
            return self.number(schema)
        if kind == "string":
            return self.string(schema)
        if kind == "array":
            return self.array(schema, depth)
        if kind == "object":
            return self.object(schema, depth)
        raise CannotSample(f"unknown type {kind!r}")

    def resolved(self, schema: Any) -> dict[str, Any]:
        """The schema with references followed and `allOf` merged in."""
        for _ in range(50):
            if schema is True:
                return {}
            if not isinstance(schema, dict):
                raise CannotSample("a schema is neither an object nor true")
            if isinstance(reference := schema.get("$ref"), str):
                rest = {k: v for k, v in schema.items() if k != "$ref"}
                target = self.target(reference)
                schema = _merged(rest, target) if rest and isinstance(target, dict) else target
            elif isinstance(parts := schema.get("allOf"), list) and parts:
                rest = {k: v for k, v in schema.items() if k != "allOf"}
                for part in parts[:100]:
                    if isinstance(part, dict):
                        rest = _merged(rest, part)
                schema = rest
            else:
                return schema
        raise CannotSample("its references go in a circle")

    def target(self, reference: str) -> Any:
        if not reference.startswith("#"):
            raise CannotSample(f"the reference {reference[:80]!r} leaves the schema")
        node = self.root
        for part in filter(None, reference[1:].split("/")):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
                node = node[int(name)]
            else:
                raise CannotSample(f"the reference {reference[:80]!r} points nowhere")
        return node

    def branch(self, branches: list[Any], depth: int) -> Any:
        """One of several alternatives; deep down the one that ends soonest."""
        if depth < SHALLOW:
            return self.draws.choice(branches)
        return min(branches, key=self.weight)

    def weight(self, schema: Any) -> int:
        """How far a schema is from an end, roughly: null 0, scalars 1, arrays that may be empty 2, everything else more."""
        try:
            schema = self.resolved(schema)
        except CannotSample:
            return 9
        kind = schema.get("type")
        if kind == "null" or "const" in schema:
            return 0
        if kind in ("boolean", "integer", "number", "string") or "enum" in schema:
            return 1
        if kind == "array":
            return 2 if not schema.get("minItems") else 4
        return 3 if kind == "object" and not schema.get("required") else 5

    def kind(self, schema: dict[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            if depth >= SHALLOW and "null" in kind:
                return "null"
            kind = self.draws.choice(kind)
        if isinstance(kind, str):
            return kind
        if "properties" in schema or "required" in schema:
            return "object"
        if "items" in schema or "prefixItems" in schema:
            return "array"
        if {"minimum", "maximum", "multipleOf", "exclusiveMinimum", "exclusiveMaximum"} & schema.keys():
            return "number"
        return "string"

    def integer(self, schema: dict[str, Any]) -> int:
        step = _number(schema.get("multipleOf")) or 1
        if not float(step).is_integer():
            if not (1 / step).is_integer():
                raise CannotSample("multipleOf of an integer is not one")
            step = 1
        low, high = self.whole_range(schema, abs(int(step)))
        return low + self.draws.below((high - low) // abs(int(step)) + 1) * abs(int(step))

    def whole_range(self, schema: dict[str, Any], step: int) -> tuple[int, int]:
        """Lowest and highest multiples of `step` within the bounds; an open side is 100 steps away."""
        least, most = _number(schema.get("minimum")), _number(schema.get("maximum"))
        above, below = _number(schema.get("exclusiveMinimum")), _number(schema.get("exclusiveMaximum"))
        lows = [math.ceil(v) for v in (least,) if v is not None] + [
            math.floor(v) + 1 for v in (above,) if v is not None
        ]
        highs = [math.floor(v) for v in (most,) if v is not None] + [
            math.ceil(v) - 1 for v in (below,) if v is not None
        ]
        high = min(highs) // step * step if highs else None
        low = max(lows) if lows else 0 if high is None or high >= 0 else high - 100 * step
        low = -(-low // step) * step
        high = low + 100 * step if high is None else high
        if low > high:
            raise CannotSample("no integer lies between its bounds")
        return low, high

    def number(self, schema: dict[str, Any]) -> float | int:
        step = _number(schema.get("multipleOf"))
        if step is not None and step > 0:
            if float(step).is_integer():
                return self.integer(schema)
            low, high = _number(schema.get("minimum")), _number(schema.get("maximum"))
            first = math.ceil((low if low is not None else 0) / step)
            last = math.floor(high / step) if high is not None else first + 100
            if first > last:
                raise CannotSample("no multiple lies between the bounds")
            return (first + self.draws.below(last - first + 1)) * step
        low, high = _number(schema.get("minimum")), _number(schema.get("maximum"))
        above, below = _number(schema.get("exclusiveMinimum")), _number(schema.get("exclusiveMaximum"))
        bottom = low if above is None else above if low is None else max(low, above)
        top = high if below is None else below if high is None else min(high, below)
        if bottom is None:
            bottom = 0.0 if top is None or top > 0 else top - 100.0
        if top is None:
            top = bottom + 100.0
        if bottom > top or (bottom == top and (above is not None or below is not None)):
            raise CannotSample("no number lies between its bounds")
        exact = bottom + (top - bottom) * (0.001 + 0.998 * self.draws.unit())
        rounded = round(exact, 3)
        return rounded if bottom < rounded < top else exact

    def string(self, schema: dict[str, Any]) -> str:
        if isinstance(pattern := schema.get("pattern"), str):
            try:
                return from_pattern(pattern, self.draws, MAX_LENGTH)
            except UnknownPattern:
                pass  # lookarounds and the like: a plain string is the best there is
        made = FORMATS.get(schema.get("format", "")) if isinstance(schema.get("format"), str) else None
        if made is not None:
            return made(self.draws)
        shortest, longest = _count(schema.get("minLength")) or 0, _count(schema.get("maxLength"))
        if shortest > MAX_LENGTH or (longest is not None and shortest > longest):
            raise CannotSample("no string has a length between its bounds")
        text = self.draws.words(2 + self.draws.below(5))
        while len(text) < shortest:
            text += " " + self.draws.words(8)
        return text if longest is None else text[:longest].ljust(shortest, "a")

    def array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        heads = first if isinstance(first, list) else []
        fewest = _count(schema.get("minItems")) or 0
        most = _count(schema.get("maxItems"))
        if fewest > MAX_NODES or (most is not None and fewest > most):
            raise CannotSample("no array has a length between its bounds")
        items = schema.get("items", {})
        extra = 0 if depth >= SHALLOW else self.draws.below(3) + (1 if fewest == 0 else 0)
        count = max(fewest, len(heads)) + (extra if items is not False else 0)
        if most is not None:
            count = min(count, most)
        made = [self.value(head, depth + 1) for head in heads[:count]]
        unique = schema.get("uniqueItems") is True
        tries = 0
        while len(made) < count:
            value = self.value(items, depth + 1)
            if unique and value in made:
                tries += 1
                if tries > 50 + 10 * count:
                    if len(made) >= fewest:
                        break
                    raise CannotSample("there are not enough different items")
                continue
            made.append(value)
        return made

    def object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        given = schema.get("properties")
        properties: dict[str, Any] = given if isinstance(given, dict) else {}
        wanted = schema.get("required")
        required = {name for name in wanted if isinstance(name, str)} if isinstance(wanted, list) else set()
        made: dict[str, Any] = {}
        for name, part in properties.items():
            if name in required or (depth < SHALLOW and self.draws.below(10) < 7):
                made[name] = self.value(part, depth + 1)
        others = schema.get("additionalProperties", {})
        for name in sorted(required - made.keys()):
            made[name] = self.value(others if isinstance(others, dict) else {}, depth + 1)
        fewest = _count(schema.get("minProperties")) or 0
        if isinstance(others, dict) and others and not properties and depth < SHALLOW:
            fewest = max(fewest, 1 + self.draws.below(2))
        if fewest > MAX_NODES:
            raise CannotSample("too many properties are asked for")
        for name, part in properties.items():
            if len(made) >= fewest:
                break
            if name not in made:
                made[name] = self.value(part, depth + 1)
        while len(made) < fewest and others is not False:
            made[f"{self.draws.words(1)}_{len(made)}"] = self.value(
                others if isinstance(others, dict) else {}, depth + 1
            )
        return made


def _merged(left: dict[str, Any], right: Any) -> dict[str, Any]:
    """Both schemas at once, near enough: properties and required are joined, of other keywords the right one wins."""
    if not isinstance(right, dict):
        return left
    merged = {**left, **right}
    if isinstance(left.get("properties"), dict) and isinstance(right.get("properties"), dict):
        merged["properties"] = {**left["properties"], **right["properties"]}
    if isinstance(left.get("required"), list) and isinstance(right.get("required"), list):
        merged["required"] = [*left["required"], *right["required"]]
    return merged


def _number(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
