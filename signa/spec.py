"""Specs: a whole optimizer as data. Loading one never executes code from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .address import set_address
from .errors import Advice, Fault, Problem, RegistryError, SpecError
from .sentence import PARTS, Method
from .plugin import load_plugins
from .presets import MethodField, presets
from .reading import validated
from .rule import Frozen, NonNegative, closest, plain
from .scaling import Scaling, UnitGain, scalings
from .sources import Source, read

SCHEMA_VERSION = 1


def _strings(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_strings)]


def _bound(value: Any) -> Any:
    text = str(value).replace(" ", "")
    digits = text.lstrip("<>=")
    if (
        isinstance(value, bool)
        or not digits.isdecimal()
        or text[: -len(digits)] not in ("", "==", ">=", "<=", ">", "<")
    ):
        raise Fault(f"ndim cannot be compared with {value!r}", instead="write a number, or '>=2'")
    return text


class Group(Frozen):
    """Parameters that one method updates: which ones, by what, how fast.

    A parameter belongs to the first group of which it meets every condition given.

    Args:
        name: for printing and for addresses (``groups.head.lr``); the position serves as well.
        match: globs over parameter names (``blocks.*.weight``), any of which fits.
        ndim: number of axes, ``2`` or ``">=2"``.
        module: class names of the module that owns the parameter (``Embedding``), any of which fits.
        tied: whether the parameter is shared by several modules.
        optional: whether the group may stay empty.
        method: a preset's name or the six parts; parts may stand in the group itself and then replace the preset's.
        lr, weight_decay: start values of the param_group.
        scaling: rule of the layers' learning-rate multipliers.
        matrix: an einops pattern ``"(three h d) i -> three h d i"`` whose last two axes are the matrix; the others are a
            batch. Empty: ``o i ... -> o (i ...)``, and a column for 0 and 1 axes.
        sizes: lengths of axes that the pattern splits.
    """

    name: str = ""
    match: Strings = ()
    ndim: Annotated[str, BeforeValidator(_bound)] | Literal[""] = ""
    module: Strings = ()
    tied: bool | None = None
    optional: bool = False
    method: MethodField
    lr: NonNegative
    weight_decay: NonNegative = 0.0
    scaling: Annotated[Scaling, scalings] = UnitGain()
    matrix: str = ""
    sizes: dict[str, int] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not data.keys() & set(PARTS):
            return data
        rest = {key: value for key, value in data.items() if key not in PARTS}
        parts = {key: value for key, value in data.items() if key in PARTS}
        base = rest.get("method")
        return rest | {"method": {"method": base, **parts} if base is not None else parts}


def _has_groups(groups: tuple[Group, ...]) -> tuple[Group, ...]:
    if not groups:
        raise Fault("a spec needs at least one group", instead="add one: {match: ['*'], method: signmuon, lr: 0.02}")
    return groups


class Spec(Frozen):
    """A whole optimizer: ordered groups, first match wins, nothing left over.

    ``train`` holds settings of ``signa train``; the optimizer and the spec id leave them aside. ``plugins`` names the
    files whose components the spec uses; their code runs only when the caller passes them as well.

    >>> spec = Spec.load({"groups": [{"match": "*", "method": "signmuon", "lr": 0.02}]})
    >>> spec.groups[0].method.worker[0].beta, len(spec.id)
    (0.95, 12)
    """

    version: Literal[1] = SCHEMA_VERSION
    groups: Annotated[tuple[Group, ...], AfterValidator(_has_groups)]
    plugins: Strings = ()
    train: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def load(cls, source: Any, *, plugins: Iterable[str | Path] = (), set: Mapping[str, Any] | None = None) -> Spec:
        """A spec from a path, a mapping, a preset's name, a Method or a Spec, with some addresses overridden.

        Raises:
            SpecError: everything that is wrong with it, each problem at its place.
        """
        load_plugins(plugins)
        data, places, problems = _data(source)
        named = data.get("plugins", ()) if isinstance(data, Mapping) else ()
        wanted = [named] if isinstance(named, str) else list(named or ())
        missing = {str(name) for name in wanted} - {Path(p).name for p in plugins} - {str(p) for p in plugins}
        try:
            if set:
                data = json.loads(json.dumps(data))
                for address, value in set.items():
                    set_address(data, address, value)
            return validated(cls, data, places, problems)
        except Fault as fault:
            raise SpecError(
                [Problem(fault.what, str(fault.at[0]), because=fault.because, instead=fault.instead)]
            ) from None
        except SpecError as error:
            if not missing:
                raise
            what = f"the spec names plug-ins that were not passed: {', '.join(sorted(missing))}"
            because = "a spec is data: a plug-in's code runs only when the caller names the file as well"
            remedy = f"pass --plugin {sorted(missing)[0]}, or plugins=['{sorted(missing)[0]}']"
            first = places.locate(Problem(what, "plugins", ("plugins",), because, remedy))
            raise SpecError([first, *error.problems]) from None

    @property
    def id(self) -> str:
        """Twelve hex digits of sha256 over the canonical JSON of version and groups."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    def canonical(self) -> str:
        """The resolved version and groups as JSON with sorted keys and no spaces; equal specs give equal text."""
        data = {"version": self.version, "groups": plain(self.groups)}
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def replace(self, changes: Mapping[str, Any]) -> Spec:
        """A validated copy with other values at some addresses, ``{"groups.1.worker.momentum.beta": 0.9}``.

        Raises:
            SpecError: an address that leads nowhere, or a value that does not fit.
        """
        return type(self).load(self, set=changes)

    def dump(self, form: Literal["yaml", "json", "toml"] = "yaml", *, resolved: bool = True) -> str:
        """The spec as text; ``resolved`` writes every default out. Reading the text back gives an equal spec."""
        data = plain(self, resolved=resolved)
        data = {key: value for key, value in data.items() if value not in ([], {})}
        if form == "json":
            return json.dumps(data, indent=2) + "\n"
        if form == "toml":
            raise SpecError([Problem("specs are not written as TOML", instead="write YAML or JSON (TOML is read)")])
        return "# yaml-language-server: $schema=./signa.schema.json\n" + dump_yaml(data)

    def save(self, path: str | Path) -> None:
        """Write the resolved spec to a ``.yaml`` or ``.json`` file."""
        path = Path(path)
        form: Literal["json", "toml", "yaml"] = {".json": "json", ".toml": "toml"}.get(path.suffix, "yaml")  # type: ignore[assignment]
        path.write_text(self.dump(form), encoding="utf-8")

    def __str__(self) -> str:
        """The YAML of what was given, without the defaults."""
        return self.dump(resolved=False)


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec file, listing what is registered now."""
    document = Spec.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "SignA spec", **document}


def for_preset(method: str | Method, lr: float | None = None) -> Spec:
    """The spec of a preset's name (or a Method): embeddings, tied weights and heads to AdamW, matrices to the method."""
    if isinstance(method, str):
        try:
            preset = presets.get(method)
        except RegistryError:
            names = presets.names()
            near = closest(method, names)
            what = f"unknown preset '{method}'"
            remedy = near if "?" in near else "name a preset, or a spec file with its suffix"
            raise SpecError([Problem(what, because=f"known: {', '.join(names)}", instead=remedy)]) from None
        method, lr, name = preset.method, preset.lr if lr is None else lr, presets.canonical(method)
    else:
        name = "matrices"
    if lr is None:
        raise SpecError([Problem("a Method needs a learning rate", instead="pass lr=0.02 to signa.build")])
    aux = {"method": presets.get("adamw").method, "lr": 3e-4, "optional": True}
    groups = [
        {"name": "embeddings", "module": "Embedding", **aux},
        {"name": "tied", "tied": True, **aux},
        {"name": "heads", "match": ("*embed*", "*head*", "*classifier*"), **aux},
        {"name": name, "ndim": ">=2", "method": method, "lr": lr, "optional": True},
        {"name": "rest", "match": "*", **aux},
    ]
    return validated(Spec, {"groups": groups})


def dump_yaml(data: Any) -> str:
    """Block YAML with short lists in one line and floats that YAML 1.1 and 1.2 both read as floats."""

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def number(dumper: yaml.SafeDumper, value: float) -> yaml.Node:
        text = repr(value)
        if "e" in text and "." not in text:
            text = text.replace("e", ".0e")
        return dumper.represent_scalar("tag:yaml.org,2002:float", text)

    Dumper.add_representer(float, number)
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, default_flow_style=None, width=110))


def _data(source: Any) -> tuple[Any, Source, list[Problem]]:
    if isinstance(source, Spec):
        return plain(source, resolved=False), Source(), []
    if isinstance(source, Mapping):
        return dict(source), Source(), []
    if (
        isinstance(source, str)
        and Path(source).suffix not in (".yaml", ".yml", ".json", ".toml")
        or isinstance(source, Method)
    ):
        return plain(for_preset(source), resolved=False), Source(), []
    if isinstance(source, str | Path):
        data, places, problems = read(Path(source))
        return ({} if data is None else data), places, problems
    what = f"a {type(source).__name__} is no spec"
    raise SpecError([Problem(what, instead="pass a preset's name, a path, a mapping, a Method or a Spec")])


__all__ = ["Advice", "Group", "Spec", "dump_yaml", "for_preset", "schema"]
