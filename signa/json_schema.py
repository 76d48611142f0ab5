"""The JSON Schema of spec files: pydantic's own, and the short ways of writing that validators understand."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from .presets.registry import presets
from .sentence import PARTS

_STAGES = ("worker", "server", "replica")


def document(spec: type[BaseModel]) -> dict[str, Any]:
    """The schema for a spec's model, listing the components and presets that are registered now."""
    tree = spec.model_json_schema()
    kinds_required(tree)
    defs = tree["$defs"]
    channel, method, group = defs["Channel"], defs["Method"]["properties"], defs["ParamGroup"]["properties"]
    for name, schema in channel["properties"].items():
        defs[name] = {"title": name, "anyOf": schema["anyOf"]}
        channel["properties"][name] = {"$ref": f"#/$defs/{name}"}
    feedbacks, compressors = (_names(defs[name]) for name in ("feedback", "compressor"))
    call = {"type": "string", "pattern": rf"^\s*({'|'.join(feedbacks)})\s*\(\s*({'|'.join(compressors)})\s*\)\s*$"}
    defs["Channel"] = {"title": "Channel", "anyOf": [call, {"$ref": "#/$defs/compressor"}, channel]}
    defs["stage"] = {"title": "stage", "anyOf": method["worker"]["items"]["anyOf"]}
    stage, words = {"$ref": "#/$defs/stage"}, rf"^\s*(({'|'.join(_names(defs['stage']))})(\s+|$))*$"
    for part in _STAGES:
        method[part] = {"anyOf": [{"type": "string", "pattern": words}, stage, {"type": "array", "items": stage}]}
    named = {"enum": presets.names()}
    defs["Method"]["properties"]["method"] = named
    group.update({part: method[part] for part in PARTS})
    group["method"] = {"anyOf": [named, {"$ref": "#/$defs/Method"}]}
    defs["ParamGroup"]["required"] = ["lr"]
    defs["ParamGroup"]["anyOf"] = [{"required": [key]} for key in ("method", *PARTS)]
    group["ndim"] = {"type": ["integer", "string"], "pattern": "^( *(==|>=|<=|>|<)? *[0-9]{1,3} *)?$"}
    for place in (group["match"], group["module"], tree["properties"]["plugins"]):
        place["type"] = ["string", "array"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "SignA spec", **tree}


def _names(schema: dict[str, Any]) -> list[str]:
    """The words that name a component."""
    return list(schema["anyOf"][0]["enum"])


def kinds_required(node: Any) -> None:
    """A mapping of fields names its component; else the fields of any would do."""
    if isinstance(node, dict):
        properties = node.get("properties")
        if isinstance(properties, dict) and "const" in properties.get("kind", {}):
            node["required"] = sorted({*node.get("required", ()), "kind"})
        for child in node.values():
            kinds_required(child)
    elif isinstance(node, list):
        for child in node:
            kinds_required(child)
