"""Valid specs at random, from the JSON Schema that the project publishes: what is registered is tried."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

from signa.lab.json_schema import document

_WORDS = ("body", "head", "blocks.*.weight", "*", "on", "x", "o i -> o i", ">=2", "Linear", "spec", "0.1", "2h")
_NUMBERS = (0.0, 0.02, 0.1, 0.5, 0.9, 0.95, 1.0, 2.5, 1e-8)


@cache
def published() -> dict[str, Any]:
    """The schema; made once, for it lists every component."""
    return document()


def drawn(rng: Random) -> Any:
    """A spec, or the file of an ablation, that the schema allows (its parts need not compose)."""
    root = published()
    return _draw(rng, root, root["$defs"], 0)


def _draw(rng: Random, schema: dict[str, Any], defs: dict[str, Any], depth: int) -> Any:
    if "$ref" in schema:
        return _draw(rng, defs[schema["$ref"].rpartition("/")[2]], defs, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if "anyOf" in schema and "properties" not in schema:
        return _draw(rng, rng.choice(schema["anyOf"]), defs, depth)
    kind = schema.get("type", "string")
    kind = rng.choice(kind) if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        return _object(rng, schema, defs, depth)
    if kind == "array":
        return _array(rng, schema, defs, depth)
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    if kind in ("integer", "number"):
        return _number(rng, schema, whole=kind == "integer")
    return rng.choice(_WORDS)


def _object(rng: Random, schema: dict[str, Any], defs: dict[str, Any], depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties", {}), {*schema.get("required", ())}
    if alternatives := [one["required"] for one in schema.get("anyOf", ()) if "required" in one]:
        required |= {*rng.choice(alternatives)}
    share = 0.5 / (1 + depth)
    chosen = [key for key in properties if key in required or rng.random() < share]
    chosen = chosen[: max(len(required), schema.get("maxProperties", len(chosen)))]
    while len(chosen) < schema.get("minProperties", 0):
        chosen = [rng.choice(list(properties))]
    found = {key: _draw(rng, properties[key], defs, depth + 1) for key in chosen}
    if not properties and depth < 6 and rng.random() < 0.5:
        inner = schema.get("additionalProperties")
        found[rng.choice(_WORDS)] = _draw(
            rng, inner if isinstance(inner, dict) else {"type": "number"}, defs, depth + 1
        )
    return found


def _array(rng: Random, schema: dict[str, Any], defs: dict[str, Any], depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [_draw(rng, item, defs, depth + 1) for item in schema["prefixItems"]]
    least = schema.get("minItems", 0)
    count = max(least, rng.choice((0, 1, 1, 2, 3)))
    return [_draw(rng, schema.get("items", {}), defs, depth + 1) for _ in range(min(count, schema.get("maxItems", 9)))]


def _number(rng: Random, schema: dict[str, Any], *, whole: bool) -> int | float:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 8))
    if whole:
        return rng.randint(int(least), int(min(most, least + 8)))
    return min(max(rng.choice(_NUMBERS), least), most)
