"""The registry of presets: named methods with their formula and source, one YAML file each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from ..errors import Fault, RegistryError
from ..sentence import Method
from ..reading import validated
from ..rule import Frozen, Positive, closest
from ..sources import read


class Preset(Frozen):
    """A method with a name: what it does, where it is from, and a learning rate to start from (with ``unit_gain``)."""

    summary: str
    formula: str
    source: str
    lr: Positive
    method: Method


class PresetRegistry:
    """Presets by name; spelling variants (``EF21-MuonSign``) and the reference's aliases are understood."""

    _aliases = {
        "muonserver": "muon",
        "signum": "signsgd",
        "adam": "adamw",
        "muon_server": "muon",
        "muonlmoserver": "muon",
    }

    def __init__(self) -> None:
        self._added: dict[str, Preset] = {}

    @cached_property
    def _files(self) -> dict[str, Path]:
        return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}

    def register(self, name: str, preset: Preset | Method, **about: Any) -> None:
        """Add a preset, or a method with ``summary``, ``formula``, ``source`` and ``lr``.

        Raises:
            RegistryError: the name is taken.
        """
        if name in self.names():
            raise RegistryError(f"preset '{name}' is registered already")
        if isinstance(preset, Method):
            preset = Preset(
                **{"summary": name, "formula": str(preset), "source": "", "lr": 0.01} | about, method=preset
            )
        self._added[name] = preset

    def unregister(self, name: str) -> None:
        """Take a preset out again (for notebooks and tests)."""
        self._added.pop(name, None)

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted({*self._files, *self._added})

    def canonical(self, name: str) -> str:
        """The registered name behind a spelling.

        >>> presets.canonical("EF21-MuonSign")
        'ef21muonsign'
        """
        plain = name.lower().replace("-", "_")
        spellings = {known.replace("_", ""): known for known in self.names()}
        return (
            plain if plain in self.names() else self._aliases.get(plain) or spellings.get(plain.replace("_", ""), name)
        )

    def get(self, name: str) -> Preset:
        """The preset behind a name.

        Raises:
            RegistryError: there is none; the message says what is near.
        """
        name = self.canonical(name)
        if name not in self._added:
            if name not in self._files:
                raise RegistryError(f"unknown preset '{name}': {closest(name, self.names())}")
            data, source, problems = read(self._files[name])
            self._added[name] = validated(Preset, data, source, problems)
        return self._added[name]


presets = PresetRegistry()


def method(name: str, **fields: Any) -> Method:
    """The method of a preset, with parts replaced.

    >>> print(method("signmuon", up="ef21(scaled_sign)", aggregate="mean"))
    momentum spectral | ef21(scaled_sign) | mean |  | identity | step

    Raises:
        SpecError: no such preset, or the parts do not compose.
    """
    return validated(Spelled, {"method": {"method": name, **fields}}).method


def _spelled(value: Any) -> Any:
    """A preset's name, or ``{method: name, up: ...}``, as a mapping of parts."""
    if isinstance(value, str):
        value = {"method": value}
    if not (isinstance(value, Mapping) and "method" in value):
        return value
    parts = {key: part for key, part in value.items() if key != "method"}
    base = value["method"]
    if isinstance(base, str):
        try:
            base = presets.get(base).method
        except RegistryError:
            near = closest(base, presets.names())
            known = ", ".join(presets.names())
            raise Fault(
                f"unknown preset '{base}'", because=f"known: {known}", instead=near if "?" in near else ""
            ) from None
    if isinstance(base, Method):
        base = {name: getattr(base, name) for name in Method.model_fields if name in base.model_fields_set}
    return base if not parts else {**base, **parts}


MethodField = Annotated[Method, BeforeValidator(_spelled)]


class Spelled(Frozen):
    """A method as a field: by name, by parts, or both."""

    method: MethodField
