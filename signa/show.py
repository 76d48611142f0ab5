"""What is registered, and what a component, a preset or a spec comes to: the data and the text of `list` and `show`."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .aggregators import aggregators
from .compressors import compressors
from .errors import Problem, RegistryError, SpecError
from .feedback import feedbacks
from .lmo import lmos
from .lmo.schedules import SCHEDULES
from .presets.registry import Preset, presets
from .routing import Routing
from .rule import Registry, Rule, closest, plain
from .scaling import Scaling, UnitGain, scalings
from .sentence import Method, MethodBits
from .signal import Norm
from .spec import ParamGroup, Spec, dump_yaml
from .stage import stages
from .theory import Claim, claims_text, theory

SHAPE = (768, 768)
LR = 0.02  # of a sentence, which has none of its own
#: JSON Schema's types in the words of spec errors.
_TYPES = {
    "array": "list",
    "boolean": "true | false",
    "integer": "whole number",
    "object": "mapping",
    "string": "text",
}


@dataclass(frozen=True)
class Entry:
    """One thing that has a name: what sort it is of, what it says about itself in a line, and the thing."""

    sort: str
    name: str
    summary: str
    item: Any


def catalogue(sort: str = "", pattern: str = "*", more: dict[str, Registry[Any]] | None = None) -> list[Entry]:
    """Everything that has a name, sort by sort; ``more`` are registries of a higher floor.

    Raises:
        SpecError: there is no such sort.
    """
    with suppress(RegistryError):
        stages.get("")  # an unknown name makes the registry look for installed plug-ins
    registries: dict[str, Registry[Any]] = {"lmos": lmos, "stages": stages, "compressors": compressors}
    registries |= {"feedbacks": feedbacks, "aggregators": aggregators, "scalings": scalings, **(more or {})}
    found = [Entry("presets", name, presets.get(name).summary, presets.get(name)) for name in presets.names()]
    for plural, registry in registries.items():
        own = [name for name in registry.names() if registry is not stages or name not in lmos.names()]
        found += [Entry(plural, name, _summary(registry.get(name)), registry.get(name)) for name in own]
    found += [Entry("iterations", name, _rows(name), SCHEDULES[name]) for name in SCHEDULES]
    sorts = list(dict.fromkeys(entry.sort for entry in found))
    if sort and sort not in sorts and f"{sort}s" not in sorts:
        near = closest(sort, sorts)
        raise SpecError([Problem(f"nothing of the sort '{sort}' is registered", instead=near)])
    return [e for e in found if (not sort or e.sort in (sort, f"{sort}s")) and fnmatchcase(e.name, pattern)]


def _summary(cls: type[Rule]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "`")


def _rows(name: str) -> str:
    schedule = SCHEDULES[name]
    return f"spectral's schedule of {len(schedule.coefficients)} steps, {schedule.normalisation}; {schedule.source}"


def list_text(entries: list[Entry]) -> str:
    """A paragraph for every sort, a line for every name."""
    lines: list[str] = []
    width = max((len(entry.name) for entry in entries), default=0)
    for index, entry in enumerate(entries):
        if index == 0 or entries[index - 1].sort != entry.sort:
            lines += ["", entry.sort]
        lines.append(f"  {entry.name:<{width}}  {entry.summary}")
    return "\n".join(lines[1:])


def describe(entry: Entry, shape: tuple[int, int] = SHAPE, *, proofs: bool = False) -> dict[str, Any]:
    """What there is to say about an entry, as data; with ``proofs`` what :mod:`signa.theory` says of a preset too."""
    about: dict[str, Any] = {"name": entry.name, "sort": entry.sort, "summary": entry.summary}
    if isinstance(entry.item, Preset):
        preset = entry.item
        spec = {"groups": [{"match": ["*"], "lr": preset.lr, **plain(preset.method)}]}
        about |= {"formula": preset.formula, "source": preset.source, "lr": preset.lr}
        return about | describe_method(preset.method, UnitGain(), shape, proofs=proofs) | {"spec": spec}
    if isinstance(entry.item, Method):
        spec = {"groups": [{"match": ["*"], "lr": LR, **plain(entry.item, resolved=False)}]}
        about |= {"formula": "", "source": "", "lr": LR}
        return about | describe_method(entry.item, UnitGain(), shape, proofs=proofs) | {"spec": spec}
    if isinstance(entry.item, type):
        return about | {"doc": inspect.getdoc(entry.item) or "", "fields": _fields(entry.item), "at": _file(entry.item)}
    schedule = entry.item
    return about | {"coefficients": schedule.coefficients, "source": schedule.source}


def describe_method(
    method: Method, scaling: Scaling, shape: tuple[int, int] = SHAPE, *, proofs: bool = False
) -> dict[str, Any]:
    """The trace of a method, its bits and multiplier for one shape, and what speaks against it, as data.

    >>> [claim["result"] for claim in describe_method(presets.get("muon").method, UnitGain(), proofs=True)["theory"]]
    ['Theorem A']
    """
    bits = method.bits(*shape)
    return {
        "shape": list(shape),
        "trace": [
            {
                "hop": hop.address,
                "role": hop.signal.role,
                "alphabet": hop.signal.alphabet,
                "norm": _norm(hop.signal.norm),
                "bits": method.bits_at(hop.address, *shape),
            }
            for hop in method.trace()
        ],
        "bits": {"up": bits.up, "down": bits.down},
        "scaling": str(scaling),
        "lam": method.multiplier(scaling, *shape),
        "advice": method.advice(),
        **({"theory": [claim.data() for claim in theory(method)]} if proofs else {}),
    }


def _norm(norm: Norm | None) -> str:
    return norm.text if norm else "free"


def _file(cls: type[Rule]) -> str:
    try:
        return f"{Path(inspect.getfile(cls))}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return cls.__module__


def _fields(cls: type[Rule]) -> list[dict[str, str]]:
    """Name, values and default of every field."""
    properties = cls.model_json_schema().get("properties", {})
    fields = []
    for name, info in cls.model_fields.items():
        default = "required" if info.is_required() else "derived" if info.default_factory else _brief(info.default)
        if name != "kind":
            fields.append({"name": name, "values": _values(properties.get(name, {})), "default": default})
    return fields


def _values(schema: dict[str, Any]) -> str:
    """What a field may hold, from its JSON Schema."""
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(map(_values, schema["anyOf"])))
    if "enum" in schema or "const" in schema:
        return " | ".join(map(str, schema.get("enum", [schema.get("const")])))
    words = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in words.items() if key in schema]
    name = schema.get("type", "") or str(schema.get("$ref", "mapping")).rpartition("/")[2]
    name = _TYPES.get(name, name)
    return f"{name} {', '.join(bounds)}".strip()


def show_text(about: dict[str, Any]) -> str:
    """What :func:`describe` says, for people."""
    lines = [f"{about['name']}: {about['summary']}" if "trace" in about else f"{about['name']} ({about['sort']})", ""]
    if "trace" in about:
        lines += [f"  {about['formula']}", ""] if about["formula"] else []
        lines += [f"source: {about['source']}", ""] if about["source"] else []
        lines += [method_text(about), "", "As a spec:", "", dump_yaml(about["spec"]).rstrip()]
    elif "doc" in about:
        lines += [about["doc"].replace("``", "`"), ""]
        rows = [("field", "values", "default"), *(tuple(field.values()) for field in about["fields"])]
        lines += [table(rows), ""] if about["fields"] else []
        lines += [f"defined in {about['at']}"]
    else:
        lines += [f"source: {about['source']}", "", table([("a", "b", "c"), *about["coefficients"]])]
    return "\n".join(lines)


def method_text(about: dict[str, Any]) -> str:
    """The trace as a table, and what it comes to."""
    rows = [("hop", "role", "alphabet", "norm", "bits per entry")]
    for hop in about["trace"]:
        rows.append((hop["hop"], hop["role"], hop["alphabet"], hop["norm"], f"{hop['bits']:.4g}"))
    m, n = about["shape"]
    up, down = about["bits"]["up"], about["bits"]["down"]
    lines = [table(rows), "", f"for {m}x{n}: {up:.4g} bits per entry up, {down:.4g} down; float32 is 32 and 32"]
    lines += [f"lam = {about['lam']:.4g} ({about['scaling']}): the step is lr times lam times the signal before 'step'"]
    lines += [f"advice: {advice}" for advice in about["advice"]]
    return "\n".join(lines + (["", theory_text(about["theory"])] if "theory" in about else []))


def theory_text(claims: list[dict[str, Any]]) -> str:
    """What is proven of a method and what speaks against it, for people."""
    return claims_text([Claim(**claim) for claim in claims])


def describe_group(
    index: int, group: ParamGroup, shape: tuple[int, int] = SHAPE, *, proofs: bool = False
) -> dict[str, Any]:
    """A group of a spec, as data."""
    fields = {key: value for key, value in plain(group).items() if key not in ("method", "scaling")}
    about = describe_method(group.method, group.scaling, shape, proofs=proofs)
    return {"group": index, **fields, "sentence": str(group.method), **about}


def group_text(about: dict[str, Any]) -> str:
    """A group of a spec, for people."""
    fields = ("match", "ndim", "module", "tied", "optional", "matrix", "sizes", "lr", "weight_decay")
    said = [f"{key}: {_brief(about[key])}" for key in fields if about[key] not in (None, "", [], {}, False)]
    name = f" '{about['name']}'" if about["name"] else ""
    head = f"group {about['group']}{name}: {', '.join(said)}"
    return "\n".join([head, "", f"  {about['sentence']}", "", method_text(about)])


def _brief(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def table(rows: list[tuple[Any, ...]]) -> str:
    """Columns of text, left-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def find(name: str, more: dict[str, Registry[Any]] | None = None) -> list[Entry]:
    """Everything that is called ``name``.

    Raises:
        SpecError: nothing is; the message says what is near.
    """
    entries = catalogue(more=more)
    found = [entry for entry in entries if entry.name == name]
    found = found or [entry for entry in entries if entry.sort == "presets" and entry.name == presets.canonical(name)]
    if not found:
        near = closest(name, [entry.name for entry in entries])
        remedy = "see `signa list`, give a spec file with its suffix, or a sentence: 'momentum spectral | sign'"
        remedy = near if "?" in near else remedy
        raise SpecError([Problem(f"nothing is called '{name}'", instead=remedy)])
    return found


def sentence(method: Method) -> Entry:
    """A sentence that was written down, as something that can be described like a preset.

    >>> print(show_text(describe(sentence(presets.get("muon").method))).splitlines()[0])
    a sentence: momentum | identity | mean | spectral | identity | step
    """
    return Entry("sentences", "a sentence", str(method), method)


def layers(routing: Routing) -> list[dict[str, Any]]:
    """What every parameter of a model comes to: its matrices, its group, lam, lr times lam, and its bits."""
    found = []
    for route in routing:
        group, layout = routing.spec.groups[route.group], route.layout
        lam = group.method.multiplier(group.scaling, layout.m, layout.n)
        bits = group.method.bits(layout.m, layout.n) if layout.m * layout.n else MethodBits(0.0, 0.0)
        found.append(
            {
                "parameter": route.named.name,
                "shape": list(layout.shape),
                "matrices": [layout.count, layout.m, layout.n],
                "group": group.name or str(route.group),
                "lam": lam,
                "step": group.lr * lam,
                "bits": {"up": bits.up, "down": bits.down},
            }
        )
    return found


def layers_text(found: list[dict[str, Any]]) -> str:
    """The same for people."""
    rows: list[tuple[Any, ...]] = [("parameter", "group", "matrices", "lam", "lr lam", "bits up", "down")]
    for layer in found:
        count, m, n = layer["matrices"]
        numbers = (layer["lam"], layer["step"], layer["bits"]["up"], layer["bits"]["down"])
        rows.append((layer["parameter"], layer["group"], f"{count} of {m}x{n}", *(f"{x:.4g}" for x in numbers)))
    return table(rows)


def spec_text(spec: Spec, shape: tuple[int, int] = SHAPE, *, proofs: bool = False) -> str:
    """Every group of a spec, for people."""
    groups = [group_text(describe_group(i, group, shape, proofs=proofs)) for i, group in enumerate(spec.groups)]
    return "\n\n\n".join([f"spec {spec.id}", *groups])
