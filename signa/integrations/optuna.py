"""Optuna: values of a spec drawn by a trial. (`signa ablate --optuna N` runs whole studies by itself.)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import Problem, SpecError
from ..ordinary import ordinary
from ..rule import closest
from ..sentence import Method
from ..spec import Spec

__all__ = ["suggest"]

_RANGE = {"low", "high", "log", "step"}


def suggest(
    trial: Any,
    spec: str | Path | Method | Mapping[str, Any] | Spec,
    space: Mapping[str, Any],
    *,
    plugins: Iterable[str | Path] = (),
) -> Spec:
    """The spec with other values at the addresses of ``space``, as the trial draws them.

    An address has a list of choices (names, numbers, true or false), or a range ``{low, high}`` with ``log: true`` or
    ``step`` where wanted; of two whole numbers it is one of whole numbers. The trial's parameters are called by their
    addresses, so ``Spec.load(spec).replace(study.best_params)`` is the best spec.

    Raises:
        SpecError: an address that leads nowhere, a space that is none, or a drawn value that does not fit.

    >>> from types import SimpleNamespace
    >>> trial = SimpleNamespace(suggest_float=lambda name, low, high, step=None, log=False: high,
    ...                         suggest_categorical=lambda name, choices: choices[-1])
    >>> space = {"groups.signmuon.lr": {"low": 1e-3, "high": 0.1, "log": True}}
    >>> space["groups.signmuon.method"] = ["signmuon", "muon"]
    >>> group = suggest(trial, "signmuon", space).groups[3]
    >>> group.lr, group.method.up.compressor.kind
    (0.1, 'identity')
    """
    given, problems = ordinary(space)
    problems += [problem for address, values in given.items() for problem in _problems(address, values)]
    if problems:
        raise SpecError(problems)
    base = Spec.load(spec, plugins=plugins)
    return base.replace({address: _drawn(trial, address, values) for address, values in given.items()})


def _problems(address: str, values: Any) -> list[Problem]:
    """Why these values are no choice and no range, if so."""
    example = "write a list of choices, or {low: 0.001, high: 0.1, log: true}"
    if isinstance(values, list) and values:
        odd = [value for value in values if not isinstance(value, str | int | float)]
        what = f"a choice is a name, a number, true or false, not {odd[0]!r}" if odd else ""
        instead = "Optuna keeps no more of it: register a plug-in by a name, or choose between its fields"
        return [Problem(what, address, instead=instead)] if odd else []
    if not isinstance(values, dict):
        return [Problem(f"{values!r} is no space", address, instead=example)]
    if unknown := sorted(values.keys() - _RANGE):
        return [Problem(f"a range has no '{unknown[0]}'", address, instead=closest(unknown[0], sorted(_RANGE)))]
    if missing := sorted({"low", "high"} - values.keys()):
        return [Problem(f"the range has no '{missing[0]}'", address, instead=example)]
    return []


def _drawn(trial: Any, address: str, values: Sequence[Any] | Mapping[str, Any]) -> Any:
    if not isinstance(values, Mapping):
        return trial.suggest_categorical(address, values)
    whole = all(isinstance(values[key], int) for key in ("low", "high"))
    return (trial.suggest_int if whole else trial.suggest_float)(address, **values)
