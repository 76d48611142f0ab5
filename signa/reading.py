"""From pydantic's errors to a SpecError: the address, the place in the file, the reason and the remedy of each."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from math import log10
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from .address import SILENT, Address, dotted, kind_of, labels, set_address
from .errors import Fault, Problem, SpecError, a_or_an
from .ordinary import ordinary
from .rule import Inside, Registry, closest, plain
from .sources import KEY, Source

M = TypeVar("M", bound=BaseModel)

#: What each of pydantic's complaints says was expected; ``{...}`` are the numbers that it carries.
_EXPECTED = {
    "model_type|model_attributes_type|dict_type|mapping_type": "a mapping",
    "string_type|string_sub_type": "text",
    "float_type|float_parsing": "a number",
    "finite_number": "a finite number",
    "int_type|int_parsing|int_from_float|int_parsing_size": "a whole number",
    "bool_type|bool_parsing": "true or false",
    "tuple_type|list_type|iterable_type": "a list",
    "none_required": "nothing",
    "literal_error": "{expected}",
    "greater_than": "a number > {gt}",
    "greater_than_equal": "a number >= {ge}",
    "less_than": "a number < {lt}",
    "less_than_equal": "a number <= {le}",
    "too_short": "{min_length} or more items",
    "too_long": "{max_length} or fewer items",
    "string_pattern_mismatch": "text like {pattern}",
    "string_too_short": "text of {min_length} or more characters",
    "string_too_long": "text of {max_length} or fewer characters",
}
#: What pydantic only says because of another error.
_ECHOES = ("default_factory_not_called",)
#: Items of a list that are called by their names; behind that by their numbers, for a name costs a look at all before.
_MOST_LABELS = 200
_CALL = re.compile(r"\s*(?P<feedback>\w+)\s*\(\s*(?P<compressor>\w+)\s*\)\s*\Z")


def validated(model: type[M], data: Any, source: Source | None = None, known: list[Problem] | None = None) -> M:
    """``model.model_validate(data)`` with errors that a person can act on, all at once, after those ``known`` before.

    Raises:
        SpecError: with every problem, each at its place in ``source``.
    """
    known, source = known or [], source or Source()
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        wrong = {problem.path for problem in known}  # what stands at or below them may be wrong for their reason
        found = _joined(_Reader(model, model, data, (), ()).problems(error))
        found = [item for item in found if not any(item.path[:end] in wrong for end in range(len(item.path) + 1))]
        known = known + [source.locate(problem) for problem in found]
        raise SpecError(sorted(known, key=lambda problem: (problem.line, problem.column))) from None
    except UnicodeEncodeError as error:
        because = f"{error.object[:60]!a} holds half a character (a lone surrogate), which no text file can"
        raise SpecError([*known, Problem("a text is no Unicode", because=because, instead="write it anew")]) from None
    if known:
        raise SpecError(known)
    return value


def refused(error: ValidationError, model: type[BaseModel], data: Any) -> SpecError:
    """The error of a model that was written in Python, where values have no place but their address."""
    return SpecError([Source().locate(item) for item in _joined(_Reader(model, model, data, (), ()).problems(error))])


def changed(value: M, changes: Mapping[str, Any]) -> M:
    """A validated copy of a model with other values at some addresses.

    Raises:
        SpecError: an address that leads nowhere, or a value that does not fit.
    """
    tree = plain(value, resolved=False)
    new_values, problems = ordinary(changes)
    if problems:
        raise SpecError(problems)
    for address, new in new_values.items():
        try:
            set_address(tree, address, new)
        except SpecError:  # it may lead into what an earlier change wrote in short: a preset's name, a list of words
            tree = plain(validated(type(value), tree), resolved=False)
            set_address(tree, address, new)
    return validated(type(value), tree)


class _Found(NamedTuple):
    """A problem, and what one branch of a union expected at its path (or nothing)."""

    problem: Problem
    expected: str = ""
    got: str = ""


def _joined(found: list[_Found]) -> list[Problem]:
    """Every problem once. A value that fits no branch of a union is one problem; one that went some way into a branch,
    or that a component has its own objection to, is that problem alone."""
    said = {(item.problem.path, item.problem.what): item.problem for item in found if not item.expected}
    branches: dict[Address, list[_Found]] = {}
    paths = dict.fromkeys(item.problem.path for item in found)
    above, spoken = {path[:end] for path in paths for end in range(len(path))}, {path for path, _ in said}
    for item in found:
        path = item.problem.path
        if item.expected and path not in above and path not in spoken:
            branches.setdefault(path, []).append(item)
    for path, items in branches.items():
        words = list(dict.fromkeys(item.expected for item in items))
        remedy = next((item.problem.instead for item in items if item.problem.instead), "")
        what = f"expected {' or '.join(words)}, got {items[0].got}"
        said[(path, what)] = Problem(what, items[0].problem.address, path, "", remedy)
    order = {path: number for number, path in enumerate(paths)}
    return sorted(said.values(), key=lambda problem: order[problem.path])


class _Reader:
    """Follows the errors of one model through the data as a person wrote it.

    Pydantic tells a value's place in the whole form of a spec. What is written may leave out the keys ``SILENT``, name
    a component by a word, list stages as words, and give one for a list of one.
    """

    def __init__(self, root: type[BaseModel], model: type[BaseModel], data: Any, path: Address, named: Address) -> None:
        self.root, self.model, self.data, self.path, self.named = root, model, data, path, named

    def problems(self, error: ValidationError) -> list[_Found]:
        """What is wrong, in pydantic's order."""
        found = []
        for item in error.errors(include_url=False):
            inner = item.get("ctx", {}).get("error")
            if item["type"] in _ECHOES:
                continue
            if isinstance(inner, Inside):
                found += self._inside(tuple(item["loc"]), inner)
            else:
                found += self._one(item, inner)
        return found

    def _inside(self, loc: Address, inner: Inside) -> list[_Found]:
        """The problems of a component's own fields."""
        path, named, value = _follow(self.data, loc)
        if isinstance(value, Mapping) and "kind" not in value and inner.label in value:
            path, value = (*path, inner.label), value[inner.label]
        if loc[-1] in SILENT and loc[-1] not in named[-1:]:
            named = (*named, inner.label)
        return _Reader(self.root, inner.model, value, self.path + path, self.named + named).problems(inner.error)

    def _one(self, item: Any, inner: Any) -> list[_Found]:
        kind, loc = item["type"], tuple(item["loc"])
        missing = kind == "missing"
        path, named, value = _follow(self.data, loc[:-1] if missing else loc)
        if isinstance(inner, Fault):
            path, named, value = _follow(self.data, loc + tuple(inner.at))
            other = "" if inner.at else self._elsewhere(loc, kind_of(value))
            because, instead = (other, "") if other else (inner.because, inner.instead)
            return [_Found(self._problem(inner.what, path, named, because, instead))]
        if missing and isinstance(loc[-1], int):
            expected = f"{loc[-1] + 1} or more items"
            return [_Found(self._problem("", path, named), expected, _shown(value))]
        if missing:
            return [_Found(self._problem(f"'{loc[-1]}' is missing", path, named, "", f"add '{loc[-1]}: ...'"))]
        if kind == "extra_forbidden":
            fields = _fields(_model_at(self.model, loc))
            near = closest(str(loc[-1]), fields) if fields else "it has no keys"
            because, instead = ("", near) if "?" in near else (near, "")
            return [_Found(self._problem(f"unknown key '{loc[-1]}'", (*path, KEY), named, because, instead))]
        text = next((text for kinds, text in _EXPECTED.items() if kind in kinds.split("|")), "")
        if not text:
            return [_Found(self._problem(re.sub(r"\A(Value error|Assertion failed), ", "", item["msg"]), path, named))]
        bounds = {
            key: f"{bound:g}" if isinstance(bound, float) else bound for key, bound in item.get("ctx", {}).items()
        }
        expected = text.format(**bounds)
        return [_Found(self._problem("", path, named, "", _remedy(value, kind, expected)), expected, _shown(value))]

    def _problem(self, what: str, path: Address, named: Address, because: str = "", instead: str = "") -> Problem:
        return Problem(what, dotted(self.named + named), self.path + path, because, instead)

    def _elsewhere(self, loc: Address, name: str) -> str:
        """``'spectral' is a stage, ...`` where the field at ``loc`` wants a component of another sort."""
        call = _CALL.match(name)
        name = call[loc[-1]] if call and loc and loc[-1] in ("feedback", "compressor") else name
        field = next((part for part in reversed(loc) if isinstance(part, str)), "")
        wanted, places = {"preset"} if field == "method" else set(), dict[str, list[str]]()
        for place, registry in _registries(self.root, ""):
            if place.rpartition(".")[2] == field:
                wanted.add(registry.what)
            if name in registry.names():
                places.setdefault(registry.what, []).append(place)
        if not wanted or not places or wanted & places.keys():
            return ""
        sorts = [f"{a_or_an(what)}, for {', '.join(at)}" for what, at in places.items()]
        return f"'{name}' is {', and '.join(sorts)}"


def _follow(data: Any, loc: Address) -> tuple[Address, Address, Any]:
    """Where a pydantic location stands in data as written: its path, its address, and the value there."""
    path: Address = ()
    named: Address = ()
    for segment, after in zip(loc, (*loc[1:], None)):
        if isinstance(data, Mapping):
            if segment in data and not (segment in SILENT and after in data):
                data, path = data[segment], (*path, segment)
                named = named if segment == "method" and after else (*named, segment)
                continue
        if isinstance(segment, int):
            items = data.split() if isinstance(data, str) else [data] if isinstance(data, Mapping) else data
            if isinstance(items, list | tuple) and segment < len(items):
                label = _label(items, segment)
                path = path if items is not data and len(items) == 1 else (*path, segment)
                data, named = items[segment], (*named, label)
    return path, named, data


def _label(items: Sequence[Any], index: int) -> str:
    """``labels(items)[index]``, in the time of what stands before it and is wrong: a long list may be wrong at every
    item, and is looked at no further than errors are shown."""
    return labels(items[: index + 1])[index] if index < _MOST_LABELS else str(index)


def _model_at(model: type[BaseModel], loc: Address) -> type[BaseModel]:
    """The model whose field the last segment of a location should be."""
    for segment in loc[:-1]:
        if isinstance(segment, str) and segment in model.model_fields:
            model = next(_models(model.model_fields[segment].annotation), model)
    return model


def _fields(model: type[BaseModel]) -> list[str]:
    """The keys that a mapping of this model may have, those of a silent key's model included."""
    names = list(model.model_fields)
    for silent in set(SILENT) & model.model_fields.keys():
        names += [name for inner in _models(model.model_fields[silent].annotation) for name in inner.model_fields]
    return [name for name in dict.fromkeys(names) if name != "kind"]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and typing.get_origin(annotation) is None and issubclass(annotation, BaseModel)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions."""
    if _is_model(annotation):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _registries(annotation: Any, field: str) -> Iterator[tuple[str, Registry[Any]]]:
    """Every registry that a model's fields draw on, with the field (``worker``, ``up.compressor``)."""
    if isinstance(annotation, Registry):
        yield field, annotation
    elif _is_model(annotation):
        for name, info in annotation.model_fields.items():
            outer = f"{field}.{name}" if field and name in SILENT else name
            for inner in (info.annotation, *info.metadata):
                yield from _registries(inner, outer)
    else:
        for inner in typing.get_args(annotation):
            yield from _registries(inner, field)


def _shown(value: Any) -> str:
    """A value as a spec writes it, in short."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, float) and not abs(value) < float("inf"):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    if isinstance(value, int) and value.bit_length() > 200:  # Python itself refuses to print thousands of digits
        return f"a number of {round(value.bit_length() * log10(2))} digits"
    shown = json.dumps(value) if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _remedy(value: Any, kind: str, expected: str) -> str:
    """What to write instead, where that can be told."""
    if kind == "literal_error" and isinstance(value, str):
        near = closest(value, re.findall(r"'([^']*)'", expected))
        return near if "?" in near else ""
    if isinstance(value, str) and "number" in expected:
        try:
            number = float(value)
        except ValueError:
            return ""
        return f"write {number!r} without quotes" if abs(number) < float("inf") else "write a finite number"
    return ""
