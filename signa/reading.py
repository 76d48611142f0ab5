"""From pydantic's errors to a SpecError: the address, the place in the file, the reason and the remedy of each."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from .errors import Fault, Problem, SpecError
from .rule import Inside, closest
from .sources import Source

M = TypeVar("M", bound=BaseModel)
Path = tuple[str | int, ...]


def validated(model: type[M], data: Any, source: Source | None = None, known: list[Problem] | None = None) -> M:
    """``model.model_validate(data)`` with errors that a person can act on, all at once, after those ``known`` before.

    Raises:
        SpecError: with every problem, each at its place in ``source``.
    """
    known = known or []
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        found = _merged(_problems(error, model, data, (), ()))
        raise SpecError(known + [(source or Source()).locate(problem) for problem in found]) from None
    if known:
        raise SpecError(known)
    return value


def _problems(error: ValidationError, model: type[BaseModel], data: Any, path: Path, address: Path) -> list[Problem]:
    found = []
    for item in error.errors(include_url=False):
        loc = tuple(item["loc"])
        inner = item.get("ctx", {}).get("error")
        if isinstance(inner, Inside):
            real, _ = _real(data, loc)
            label = (inner.label,) if inner.label and real and isinstance(real[-1], int) else ()
            below = path + real
            named = address + (real[:-1] + label if label else real)
            value, short = _get(data, real), ()
            if isinstance(value, Mapping) and "kind" not in value and inner.label in value:
                value, short = value[inner.label], (inner.label,)
            found += _problems(inner.error, inner.model, value, below + short, named)
        else:
            found.append(_problem(item, inner, model, data, path, address))
    return found


def _problem(item: Any, inner: Any, model: type[BaseModel], data: Any, path: Path, address: Path) -> Problem:
    loc, kind = tuple(item["loc"]), item["type"]
    real, missed = _real(data, loc)
    if isinstance(inner, Fault):
        at = real + tuple(inner.at)
        named = _named(data, at)
        return Problem(inner.what, _dotted(address + named), path + at, inner.because, inner.instead)
    if kind == "extra_forbidden":
        names = list(_model_at(model, loc).model_fields)
        near = closest(str(loc[-1]), names)
        key = (*path, *real, "*key*")
        return Problem(f"unknown key '{loc[-1]}'", _dotted(address + real), key, instead=near)
    if kind == "missing":
        what = f"'{loc[-1]}' is missing"
        return Problem(what, _dotted(address + real), path + real, instead=f"add '{loc[-1]}: ...'")
    value = _get(data, real)
    what = item["msg"][0].lower() + item["msg"][1:].removeprefix("nput ")
    what = item["msg"].removeprefix("Input ").removeprefix("Value error, ")
    remedy = ""
    if isinstance(value, str) and kind in ("float_type", "int_type") and _is_number(value):
        remedy = f"write {float(value)!r} without quotes"
    return Problem(f"{what}, got {value!r}", _dotted(address + real), path + real, instead=remedy)


def _merged(problems: list[Problem]) -> list[Problem]:
    """One problem per place: the branches of a union become one sentence."""
    merged: dict[tuple[Path, str], Problem] = {}
    for problem in problems:
        what, comma, got = problem.what.partition(", got ")
        key = (problem.path, comma and got)
        if comma and key in merged:
            first = merged[key].what.partition(", got ")[0]
            if what not in first:
                what = f"{first}, or {what.removeprefix('should be ')}"
                merged[key] = Problem(
                    f"{what}, got {got}", problem.address, problem.path, "", merged[key].instead or problem.instead
                )
        else:
            merged[key if comma else (problem.path, problem.what)] = problem
    return list(merged.values())


def _real(data: Any, loc: Path) -> tuple[Path, Path]:
    """The part of a pydantic location that exists in the data, and the rest (union tags, missing keys)."""
    node = data
    for depth, segment in enumerate(loc):
        if isinstance(node, Mapping) and segment in node:
            node = node[segment]
        elif isinstance(node, list | tuple) and isinstance(segment, int) and segment < len(node):
            node = node[segment]
        else:
            return loc[:depth], loc[depth:]
    return loc, ()


def _get(data: Any, path: Path) -> Any:
    for segment in path:
        data = data[segment]
    return data


def _named(data: Any, path: Path) -> Path:
    """Indices of stages as their names, where the data names them."""
    named: list[str | int] = []
    for depth, segment in enumerate(path):
        real, missed = _real(data, path[: depth + 1])
        item = None if missed else _get(data, real)
        kind = item if isinstance(item, str) else item.get("kind") if isinstance(item, Mapping) else None
        named.append(kind if isinstance(segment, int) and isinstance(kind, str) else segment)
    return tuple(named)


def _dotted(path: Path) -> str:
    return ".".join(str(segment) for segment in path)


def _model_at(model: type[BaseModel], loc: Path) -> type[BaseModel]:
    """The model whose field the last segment of a location should be."""
    for segment in loc[:-1]:
        if isinstance(segment, str) and segment in model.model_fields:
            model = _first_model(model.model_fields[segment].annotation) or model
    return model


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return annotation
    return next(filter(None, map(_first_model, typing.get_args(annotation))), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
