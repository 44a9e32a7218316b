"""From any JSON Schema to the subset that OpenAI's strict mode accepts.

Strict mode wants a root object, every property required, `additionalProperties: false`, no
defaults and only some keywords (https://platform.openai.com/docs/guides/structured-outputs,
as of February 2026). Three things happen to what it does not take:

* said otherwise: an optional property becomes nullable, `oneOf` whose branches exclude each other
  becomes `anyOf`, a `$ref` with keywords beside it is inlined;
* left to the check of the answer: a constraint that only narrows (`minLength`, `uniqueItems`, a
  pattern with look-around …) is not sent, and named in `Strict.unsent`;
* an error with the path: what allows values that strict mode cannot produce (open objects, any
  value, tuples, `allOf`, conditions).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from urllib.parse import unquote

from batchling.errors import SchemaError
from batchling.schema.limits import OPENAI_LIMITS, StrictLimits, check_limits, too_large
from batchling.schema.nodes import Node, resolve, takes_null


@dataclass(frozen=True, slots=True)
class Strict:
    """A strict schema, and the constraints that only the check of the answer knows (`path: keyword`)."""

    schema: Node
    unsent: tuple[str, ...]


_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KEPT = ("minItems", "maxItems", *_NUMBER)
_UNSENT = (
    "minLength",
    "maxLength",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "contentEncoding",
    "contentMediaType",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
)
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_REFUSED = {
    "patternProperties": "names that follow a pattern",
    "unevaluatedProperties": "open objects",
    "dependentRequired": "conditions between properties",
    "dependentSchemas": "conditions between properties",
    "dependencies": "conditions between properties",
    "if": "conditions",
    "then": "conditions",
    "else": "conditions",
    "not": "negation",
    "prefixItems": "tuples; use an object with named fields",
    "additionalItems": "tuples; use an object with named fields",
    "unevaluatedItems": "tuples; use an object with named fields",
    "$dynamicRef": "dynamic references",
    "$recursiveRef": "dynamic references",
}
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_LOOKS_AROUND = re.compile(r"\(\?(?!:)|\\[1-9]|\\k")
_TYPE_OF = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_MAX_NODES = 100_000  # inlining can grow a schema without bound
_TYPES = {"string", "number", "integer", "boolean", "null", "array", "object"}


def strict(schema: Node, limits: StrictLimits = OPENAI_LIMITS) -> Strict:
    """The strict form of a JSON Schema.

    Raises:
        SchemaError: strict mode cannot express it, or it is too large; the message names the path.
    """
    converter = _Converter(schema)
    result = converter.convert_root()
    check_limits(result, limits)
    return Strict(result, tuple(dict.fromkeys(converter.unsent)))


class _Converter:
    def __init__(self, root: Node):
        self.root = root
        self.unsent: list[str] = []
        self.defs: dict[str, Node] = {}  # name in the result -> converted definition
        self.names: dict[str, str] = {}  # $ref as written -> name in the result
        self.inlining: list[str] = []
        self.nodes = 0

    def convert_root(self) -> Node:
        root: Any = self.root
        seen = set()
        while isinstance(root, dict) and "$ref" in root and root["$ref"] not in seen:
            seen.add(root["$ref"])
            root = self.merged(root, "schema")
        if not isinstance(root, dict) or "anyOf" in root or "oneOf" in root:
            raise SchemaError(
                "schema: the root is a union; strict mode wants an object there",
                next_command="put the union into a field of an object",
            )
        if root.get("type") != "object" and not ("type" not in root and "properties" in root):
            raise SchemaError(
                f"schema: the root is {root.get('type', 'not an object')!r}; strict mode wants an object there",
                next_command="wrap it, e.g. an object with the field `items`",
            )
        result = self.convert(root, "schema")
        if self.defs:
            result["$defs"] = self.defs
        return result

    def convert(self, node: Any, path: str) -> Node:
        """The strict form of one subschema."""
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise too_large("schema", self.nodes, _MAX_NODES, "subschemas after references are inlined")
        if node is False:
            raise SchemaError(f"{path}: nothing is allowed here (`false`)")
        if node is True or (isinstance(node, dict) and not (node.keys() - _ANNOTATIONS)):
            raise SchemaError(
                f"{path}: any value is allowed, which strict mode cannot express",
                next_command="give it a type, or set schema.strict: false",
            )
        if not isinstance(node, dict):
            raise SchemaError(f"{path}: a schema is an object, not {node!r}")
        if "$ref" in node:
            return self.convert_ref(node, path)
        if "allOf" in node:
            return self.convert(self.without_all_of(node, path), path)
        for keyword, what in _REFUSED.items():
            if keyword in node and not (keyword == "unevaluatedProperties" and node[keyword] is False):
                raise SchemaError(
                    f"{path}: strict mode cannot express {what} (`{keyword}`)",
                    next_command="simplify it, or set schema.strict: false to only check the answers",
                )
        if "oneOf" in node or "anyOf" in node:
            return self.convert_union(node, path)
        return self.convert_plain(node, path)

    def convert_plain(self, node: Node, path: str) -> Node:
        out: Node = {}
        types = self.types(node, path)
        if types:
            out["type"] = types[0] if len(types) == 1 else types
        out.update(_notes(node))
        if "enum" in node:
            out["enum"] = list(node["enum"])
        if "const" in node:
            out["const"] = node["const"]
        if "object" in types:
            self.add_object(out, node, path)
        if "array" in types:
            if not isinstance(node.get("items"), dict | bool):
                what = "tuples; use an object with named fields" if "items" in node else "lists of anything"
                raise SchemaError(
                    f"{path}: strict mode cannot express {what} (`items`)", next_command="say what the items are"
                )
            out["items"] = self.convert(node["items"], f"{path}[]")
        for keyword in _KEPT:
            if keyword in node:
                out[keyword] = node[keyword]
        if "pattern" in node:
            if _LOOKS_AROUND.search(node["pattern"]):
                self.unsent.append(f"{path}: pattern")
            else:
                out["pattern"] = node["pattern"]
        if "format" in node:
            if node["format"] in _FORMATS:
                out["format"] = node["format"]
            else:
                self.unsent.append(f"{path}: format {node['format']}")
        self.unsent.extend(f"{path}: {keyword}" for keyword in _UNSENT if keyword in node)
        return out

    def types(self, node: Node, path: str) -> list[str]:
        """The node's types, from `type` or what else tells them."""
        given = node.get("type")
        if given is not None:
            types = given if isinstance(given, list) else [given]
        elif "enum" in node or "const" in node:
            values = node["enum"] if "enum" in node else [node["const"]]
            types = list(dict.fromkeys(_TYPE_OF.get(type(v), "object") for v in values))
        elif "properties" in node:
            types = ["object"]
        elif "items" in node:
            types = ["array"]
        else:
            raise SchemaError(f"{path}: no type given, so any value is allowed", next_command="add `type`")
        for name in types:
            if name not in _TYPES:
                raise SchemaError(f"{path}: unknown type {name!r}")
        values = [*node.get("enum", []), *([node["const"]] if "const" in node else [])]
        if any(isinstance(v, dict | list) for v in values):
            raise SchemaError(f"{path}: strict mode cannot express objects or lists as enum values")
        return list(types)

    def add_object(self, out: Node, node: Node, path: str) -> None:
        extra = node.get("additionalProperties", "absent")
        properties = node.get("properties")
        if isinstance(extra, dict) or (not properties and extra is not False and (extra is True or properties is None)):
            raise SchemaError(
                f"{path}: strict mode cannot express objects with free names (`additionalProperties`)",
                next_command="use a list of objects with the fields `key` and `value`, or set schema.strict: false",
            )
        required = node.get("required", [])
        missing = [name for name in required if name not in (properties or {})]
        if missing:
            raise SchemaError(f"{path}: required, but not among the properties: {', '.join(missing)}")
        out["properties"] = {}
        for name, value in (properties or {}).items():
            below = f"{path}.{name}"
            converted = self.convert(value, below)
            out["properties"][name] = converted if name in required else nullable(converted, self.root, value)
        out["required"] = list(out["properties"])
        out["additionalProperties"] = False

    def convert_union(self, node: Node, path: str) -> Node:
        if "oneOf" in node and "anyOf" in node:
            raise SchemaError(f"{path}: strict mode cannot express `oneOf` and `anyOf` together")
        branches = node.get("oneOf", node.get("anyOf"))
        if not isinstance(branches, list) or not branches:
            raise SchemaError(f"{path}: a union needs at least one branch")
        beside = node.keys() - _ANNOTATIONS - {"oneOf", "anyOf", "discriminator", "$defs", "definitions"}
        if beside == {"type"} and all(isinstance(b, dict) and "type" in b for b in branches):
            beside = set()
        if beside:
            raise SchemaError(f"{path}: strict mode cannot express a union with {', '.join(sorted(beside))} beside it")
        if "oneOf" in node:
            for one, other in combinations(range(len(branches)), 2):
                if not self.exclusive(branches[one], branches[other]):
                    raise SchemaError(
                        f"{path}: branches {one + 1} and {other + 1} of `oneOf` do not exclude each other, which strict mode cannot express",
                        next_command="use anyOf, or give each branch a field with its own const",
                    )
        converted = [self.convert(branch, f"{path}<{i}>") for i, branch in enumerate(branches, 1)]
        return {"anyOf": converted, **_notes(node)}

    def exclusive(self, one: Any, other: Any) -> bool:
        """Whether no value fits both: other types, or another constant in a field that both require."""
        a, b = (self.followed(node) for node in (one, other))
        types = [set(self.types(n, "schema")) for n in (a, b)]
        if "integer" in types[0] | types[1]:
            types = [t | {"number"} if "integer" in t else t for t in types]
        if not types[0] & types[1]:
            return True
        if _values(a) and _values(b) and not _values(a) & _values(b):
            return True
        shared = set(a.get("required", [])) & set(b.get("required", []))
        for name in shared:
            mine, yours = (_values(self.followed(n.get("properties", {}).get(name, {}))) for n in (a, b))
            if mine and yours and not mine & yours:
                return True
        return False

    def followed(self, node: Any) -> Node:
        for _ in range(100):
            if not isinstance(node, dict):
                return {}
            if "$ref" not in node:
                return node
            node = resolve(self.root, node["$ref"])
        return {}

    def without_all_of(self, node: Node, path: str) -> Node:
        """`allOf` with one branch is that branch with what stands beside it."""
        branches = node["allOf"]
        if len(branches) != 1 or not isinstance(branches[0], dict):
            raise SchemaError(f"{path}: strict mode cannot express `allOf`", next_command="write the merged object")
        rest = {k: v for k, v in node.items() if k != "allOf"}
        clash = branches[0].keys() & rest.keys() - _ANNOTATIONS
        if clash:
            raise SchemaError(f"{path}: strict mode cannot express `allOf` with {', '.join(sorted(clash))} beside it")
        return {**branches[0], **rest}

    def convert_ref(self, node: Node, path: str) -> Node:
        ref = node["$ref"]
        beside = {k: v for k, v in node.items() if k not in ("$ref", "$defs", "definitions")}
        notes = _notes(beside)
        constraints = beside.keys() - _ANNOTATIONS
        if not constraints and not notes:
            return {"$ref": self.reference(ref, path)}
        if not constraints and self.is_recursive(ref):
            return {"anyOf": [{"$ref": self.reference(ref, path)}], **notes}
        if ref in self.inlining:
            raise SchemaError(
                f"{path}: strict mode cannot express a recursive $ref with {', '.join(sorted(constraints))} beside it"
            )
        self.inlining.append(ref)
        try:
            return self.convert(self.merged(node, path), path)
        finally:
            self.inlining.pop()

    def merged(self, node: Node, path: str) -> Node:
        """A `$ref` replaced by its target, with what stands beside it."""
        target = resolve(self.root, node["$ref"], path)
        if not isinstance(target, dict):
            raise SchemaError(f"{path}: $ref {node['$ref']!r} does not point to a schema object")
        beside = {k: v for k, v in node.items() if k not in ("$ref", "$defs", "definitions")}
        clash = (target.keys() & beside.keys()) - _ANNOTATIONS
        if clash:
            raise SchemaError(f"{path}: {', '.join(sorted(clash))} appears both beside a $ref and in its definition")
        return {**target, **beside}

    def reference(self, ref: str, path: str) -> str:
        """The name of a definition in the result; converts it when it is met first."""
        if ref == "#":
            return "#"
        if ref not in self.names:
            target = resolve(self.root, ref, path)
            if isinstance(target, dict) and "$ref" in target and not self.followed(target):
                raise SchemaError(f"{path}: $ref {ref!r} refers to nothing but itself")
            name = re.sub(r"[^A-Za-z0-9_.-]", "_", unquote(ref.rsplit("/", 1)[-1]))
            while name in self.defs:
                name += "_"
            self.names[ref] = name
            self.defs[name] = {}  # takes the name before the definition refers to itself
            self.defs[name] = self.convert(target, name)
        return f"#/$defs/{self.names[ref]}"

    def is_recursive(self, ref: str) -> bool:
        """Whether a definition contains itself."""
        todo, seen = [ref], set()
        while todo:
            for found in _refs(resolve(self.root, todo.pop())):
                if found == ref:
                    return True
                if found not in seen:
                    seen.add(found)
                    todo.append(found)
        return False


def _notes(node: Node) -> Node:
    """What is told to the model about a node: its description, nothing else."""
    return {"description": node["description"]} if node.get("description") else {}


def nullable(converted: Node, root: Node, original: Any) -> Node:
    """A strict node that also takes null, for a property that may be left out."""
    if takes_null(original, root):
        return converted
    notes = {k: converted.pop(k) for k in ("description",) if k in converted}
    branches = converted.get("anyOf", [converted])
    return {"anyOf": [*branches, {"type": "null"}], **notes}


def _values(node: Node) -> set[str]:
    """The constants that a node allows, written so that 1, True and "1" differ; empty when it allows more."""
    if "const" in node:
        return {f"{type(node['const']).__name__}:{node['const']!r}"}
    return {f"{type(v).__name__}:{v!r}" for v in node.get("enum", [])}


def _refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for key, value in node.items():
            if key not in ("$defs", "definitions", "enum", "const", "default", "examples"):
                yield from _refs(value)
    elif isinstance(node, list):
        for value in node:
            yield from _refs(value)
