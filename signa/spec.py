"""Specs: a whole optimizer as data. Loading one never executes code from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .channel import Channel
from .errors import Fault, Problem, RegistryError, SpecError, a_or_an
from .json_schema import document
from .ordinary import ordinary
from .plugin import load_plugins
from .presets.registry import MethodField, presets, unknown_preset
from .reading import changed, validated
from .rule import Count, Flag, Frozen, NonNegative, closest, plain
from .scalars import FLOAT
from .scaling import Scaling, UnitGain, scalings
from .sentence import PARTS, Method
from .sources import Source, read
from .stage import Stage
from .stages import Step
from .storage import Form

SCHEMA_VERSION: Literal[1] = 1
#: From a version to the function that turns its data into the next version's. Version 1 is the first.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
#: A group's later fields, with the value that says what was so before.
_LATER = [("state", "full")]


def _strings(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise Fault(f"expected text or a list of texts, got {value!r}")
    return (value,) if isinstance(value, str) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_strings)]


def _bound(value: Any) -> Any:
    text = "" if isinstance(value, bool) else str(value).replace(" ", "")
    if value != "" and not re.fullmatch(r"(==|>=|<=|>|<)?[0-9]{1,3}", text):
        raise Fault(f"ndim cannot be compared with {value!r}", instead="write a number, or '>=2'")
    return text.removeprefix("==")


class ParamGroup(Frozen):
    """Parameters that one method updates: which ones, by what, how fast.

    A parameter belongs to the first group of which it meets every condition given.

    Args:
        name: for printing and for addresses (``groups.head.lr``); the position serves as well.
        match: globs over parameter names (``blocks.*.weight``), any of which fits.
        ndim: number of axes, ``2`` or ``">=2"``.
        module: class names (``Embedding``) of which the module that owns the parameter is an instance, any fits.
        tied: whether the parameter is shared by several modules.
        optional: whether the group may stay empty.
        method: a preset's name or the six parts; parts may stand in the group itself and then replace the preset's.
        lr, weight_decay: start values of the param_group.
        scaling: rule of the layers' learning-rate multipliers.
        matrix: an einops pattern ``"(three h d) i -> three h d i"`` whose last two axes are the matrix; the others are
            a batch. Empty: ``o i ... -> o (i ...)``, and a column for 0 and 1 axes.
        sizes: lengths of axes that the pattern splits.
        state: how what stages and channels remember is held between steps: ``full`` (as computed), ``bfloat16`` or
            ``int8`` (see :mod:`signa.storage`); or that for some of them alone, ``{momentum: int8}``, where ``up`` and
            ``down`` are the channels' memories.

    Raises:
        Fault: ``state`` names no stage, or would round a memory that must be exact.
    """

    name: str = ""
    match: Strings = ()
    ndim: Annotated[str, BeforeValidator(_bound)] = ""
    module: Strings = ()
    tied: Flag | None = None
    optional: Flag = False
    method: MethodField
    lr: NonNegative
    weight_decay: NonNegative = 0.0
    scaling: Annotated[Scaling, scalings] = UnitGain()
    matrix: str = ""
    sizes: dict[str, Count] = Field(default_factory=dict)
    state: Form | dict[str, Form] = "full"

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not data.keys() & set(PARTS):
            return data
        rest = {key: value for key, value in data.items() if key not in PARTS}
        parts = {key: value for key, value in data.items() if key in PARTS}
        base = rest.get("method")
        return rest | {"method": {"method": base, **parts} if base is not None else parts}

    @model_validator(mode="after")
    def _holds(self) -> ParamGroup:
        if isinstance(self.state, dict):
            places = [*_remembering(self.method), "up", "down"]
            for label in self.state:
                if label not in places:
                    raise Fault(
                        f"no stage called '{label}' remembers anything",
                        because=f"there are {', '.join(places)}",
                        instead=closest(label, places),
                        at=("state", label),
                    )
        for place in ("up", "down"):
            channel: Channel = getattr(self.method, place)
            if channel.feedback.mirrored and (form := self.form(f"server.{place}")) != "full":
                kept = ", ".join(f"{label}: {form}" for label in _remembering(self.method))
                raise Fault(
                    f"state {form} cannot hold the memory of {place}: {channel}",
                    because="the receiver adds up what was sent, so a sender's sum that is rounded leaves it",
                    instead=f"write state: {{{kept}}}, and that memory stays as it is computed",
                    at=("state",),
                )
        return self

    def form(self, address: str) -> Form:
        """How the state at an address (``worker.momentum``, ``worker.up``) is held; that of ``step`` is the model."""
        label = address.partition(".")[2]
        if label == "step":
            return "full"
        return self.state.get(label, "full") if isinstance(self.state, dict) else self.state


def _remembering(method: Method) -> list[str]:
    """The labels of the stages that remember anything."""
    placed = [place for part in ("worker", "server", "replica") for place in method.stages(part)]
    own = [address for address, stage in placed if type(stage).init is not Stage.init and not isinstance(stage, Step)]
    return list(dict.fromkeys(address.partition(".")[2] for address in own))


def _known_version(version: Any) -> Any:
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise Fault(
            f"specs of version {version!r} are not understood",
            because=f"this SignA reads version {SCHEMA_VERSION}",
            instead="install a newer SignA" if newer else f"write version: {SCHEMA_VERSION}",
        )
    return version


def _has_groups(groups: tuple[ParamGroup, ...]) -> tuple[ParamGroup, ...]:
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

    version: Annotated[Literal[1], BeforeValidator(_known_version)] = SCHEMA_VERSION
    groups: Annotated[tuple[ParamGroup, ...], AfterValidator(_has_groups)]
    plugins: Strings = ()
    train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | Spec):
            raise Fault("a spec is a mapping with the key 'groups'", instead="write groups: and the list below it")
        return data

    @classmethod
    def load(cls, source: Any, *, plugins: Iterable[str | Path] = (), set: Mapping[str, Any] | None = None) -> Spec:
        """A spec from a path, a mapping, a preset's name, a Method or a Spec; ``set`` then changes it, by address.

        Raises:
            SpecError: everything that is wrong with it, each problem at its place.
        """
        plugins = list(plugins)
        load_plugins(plugins)
        data, places, problems = _data(source)
        try:
            spec = validated(cls, _migrated(data), places, problems)
        except SpecError as error:
            absent = _not_passed(data, plugins)
            raise SpecError([*map(places.locate, absent), *error.problems]) from None
        return changed(spec, set) if set else spec

    @property
    def id(self) -> str:
        """Twelve hex digits of sha256 over the canonical JSON of version and groups."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:12]

    def canonical(self) -> str:
        """The resolved version and groups as JSON with sorted keys and no spaces; equal specs give equal text.

        What came later than the first ids is left out where it says what was so before, so that these stay.
        """
        groups = [
            {key: value for key, value in group.items() if (key, value) not in _LATER} for group in plain(self.groups)
        ]
        data = {"version": self.version, "groups": groups}
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    def admit(self, workers: int, local: range | None = None) -> None:
        """Refuse a number of workers that an aggregator or a stage cannot work with.

        Args:
            local: those of them in this process; all of them if not given.

        Raises:
            SpecError: naming the group and the part.
        """
        here = range(workers) if local is None else local
        for index, group in enumerate(self.groups):
            method = group.method
            parts: list[tuple[str, Callable[[], None]]] = [("aggregate", partial(method.aggregate.admit, workers))]
            for part in ("worker", "server", "replica"):
                parts += [(address, partial(stage.admit, workers, here)) for address, stage in method.stages(part)]
            for address, admit in parts:
                try:
                    admit()
                except Fault as fault:
                    at = f"groups.{group.name or index}.{address}"
                    raise SpecError([Problem(fault.what, at, because=fault.because, instead=fault.instead)]) from None

    def replace(self, changes: Mapping[str, Any]) -> Spec:
        """A validated copy with other values at some addresses, ``{"groups.1.worker.momentum.beta": 0.9}``.

        Raises:
            SpecError: an address that leads nowhere, or a value that does not fit.
        """
        return changed(self, changes)

    def dump(self, form: Literal["yaml", "json", "toml"] = "yaml", *, resolved: bool = True) -> str:
        """The spec as text; ``resolved`` writes every default out. Reading the text back gives an equal spec.

        Raises:
            SpecError: for TOML, which is read and not written, and where ``train`` holds what the form cannot say.
        """
        if form == "toml":
            raise SpecError([Problem("specs are not written as TOML", instead="write YAML or JSON (TOML is read)")])
        data = plain(self, resolved=resolved)
        data = {key: value for key, value in data.items() if value not in ([], {})}
        try:
            if form == "json":
                return json.dumps(data, indent=2, allow_nan=False) + "\n"
            text = dump_yaml(data)
        except (ValueError, TypeError, yaml.YAMLError) as error:  # a number that is not finite, a date, an object
            what = f"the spec cannot be written as {form}"
            raise SpecError([Problem(what, "train", because=str(error), instead="write text or numbers")]) from None
        return "# yaml-language-server: $schema=./signa.schema.json\n" + text

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
    return document(Spec)


def for_preset(method: str | Method, lr: float | None = None) -> Spec:
    """The spec of a preset (or a Method): embeddings, tied weights and heads to AdamW, other matrices to the method."""
    if isinstance(method, Method):
        name, rate, sentence = "matrices", lr, method
    else:
        try:
            preset = presets.get(method)
        except RegistryError:
            fault = unknown_preset(method)
            raise SpecError([Problem(fault.what, because=fault.because, instead=fault.instead)]) from None
        name, rate, sentence = presets.canonical(method), preset.lr if lr is None else lr, preset.method
    if rate is None:
        raise SpecError([Problem("a Method needs a learning rate", instead="pass lr=0.02")])
    aux = {"method": presets.get("adamw").method, "lr": 3e-4, "optional": True}
    groups = [
        {"name": "embeddings", "module": "Embedding", **aux},
        {"name": "tied", "tied": True, **aux},
        {"name": "heads", "match": ("*embed*", "*head*", "*classifier*"), **aux},
        {"name": name, "ndim": ">=2", "method": sentence, "lr": rate, "optional": True},
        {"name": "rest", "match": "*", **aux},
    ]
    return validated(Spec, {"groups": groups})


def dump_yaml(data: Any) -> str:
    """Block YAML with short lists in one line and scalars that YAML 1.1 and 1.2 read alike.

    >>> print(dump_yaml({"lr": 1e-05, "match": ["1e-3", "head.*"]}), end="")
    lr: 1.0e-05
    match: ['1e-3', head.*]
    """
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110))


class _Dumper(yaml.SafeDumper):
    """PyYAML's, without aliases, and quoting text that YAML 1.2 would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def real(self, value: float) -> yaml.Node:
        text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
        text = text.replace("e", ".0e") if "e" in text and "." not in text else text
        return self.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _Dumper.real)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def _data(source: Any) -> tuple[Any, Source, list[Problem]]:
    """The data of whatever a spec is made from, its places, and what is wrong with its text."""
    if isinstance(source, Spec):
        return plain(source, resolved=False), Source(), []
    if isinstance(source, Mapping):
        data, problems = ordinary(source)
        return data, Source(), problems
    path = Path(source) if isinstance(source, str | Path) else None
    if isinstance(source, Method) or (isinstance(source, str) and path and not path.suffix and path.name == source):
        return plain(for_preset(source), resolved=False), Source(), []
    if path:
        data, places, problems = read(path)
        if data is None and not problems:
            remedy = "begin with groups: [{match: ['*'], method: signmuon, lr: 0.02}]"
            raise places.refuse("the spec is empty", instead=remedy)
        return data, places, problems
    what = f"{a_or_an(type(source).__name__)} is no spec"
    raise SpecError([Problem(what, instead="pass a preset's name, a path, a mapping, a Method or a Spec")])


def _migrated(data: Any) -> Any:
    """Data of an older version as this version's. A spec that names no version is of this one."""
    while isinstance(data, dict) and isinstance(version := data.get("version"), int) and version in MIGRATIONS:
        data = MIGRATIONS[version](data)
    return data


def _not_passed(data: Any, plugins: list[str | Path]) -> list[Problem]:
    """That a spec names plug-ins whose code the caller did not ask for, if so."""
    named = data.get("plugins", ()) if isinstance(data, Mapping) else ()
    named = [named] if isinstance(named, str) else named if isinstance(named, list | tuple) else []
    passed = {Path(path).name for path in plugins}
    absent = [name for name in named if isinstance(name, str) and Path(name).name not in passed]
    if not absent:
        return []
    what = f"the spec names plug-ins that were not passed: {', '.join(absent)}"
    because = "a spec is data: a plug-in's code runs only when the caller names the file as well"
    return [Problem(what, "plugins", ("plugins",), because, f"pass --plugin {absent[0]}, or plugins=['{absent[0]}']")]


__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "ParamGroup", "Spec", "dump_yaml", "for_preset", "schema"]
