"""The JSON Schema of whole spec files: that of `signa.schema()`, with what may stand under `train:` and `ablate:`."""

from __future__ import annotations

from typing import Any

from .. import json_schema
from .ablation.section import Referring, Written
from .settings import Settings

__all__ = ["document"]


def document() -> dict[str, Any]:
    """The schema of a spec, of an experiment, and of an ablation that stands beside its spec or names it."""
    tree = json_schema.document(Written)
    defs = tree.pop("$defs")
    referring = Referring.model_json_schema()
    for model, name in ((Settings, "Settings"), (Referring, "Referring")):
        found = referring if model is Referring else model.model_json_schema()
        defs |= {key: value for key, value in found.pop("$defs", {}).items() if key not in defs}
        defs[name] = found
    tree["properties"]["train"] = {"$ref": "#/$defs/Settings"}
    _short_forms(defs)
    json_schema.kinds_required(defs)
    head = {key: tree.pop(key) for key in ("$schema", "title")}
    defs["Written"] = {"title": "A spec, with or without train: and ablate:", **tree}
    return {**head, "anyOf": [{"$ref": "#/$defs/Written"}, {"$ref": "#/$defs/Referring"}], "$defs": defs}


def _short_forms(defs: dict[str, Any]) -> None:
    """What a person may write where validators understand more than pydantic's own schema tells."""
    seeds, rates = defs["Ablation"]["properties"]["seeds"], defs["Tune"]["properties"]["lr"]
    defs["Ablation"]["properties"]["seeds"] = {"anyOf": [{"type": "integer", "minimum": 1}, seeds]}
    rates["type"] = ["string", "array"]
