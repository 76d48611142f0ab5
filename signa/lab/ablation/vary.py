"""What is varied: axes of options, each option a few changes of a spec."""

from __future__ import annotations

import itertools
import json
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from random import Random as Generator
from typing import Annotated, Any, Literal

from pydantic import Field

from ...errors import Fault
from ...rule import Count, Registry, Rule
from ...sources import read_value
from ..refusal import refusal

__all__ = ["Axis", "Grid", "OneAtATime", "Option", "Random", "Sampler", "axes_of", "parse_vary", "samplers", "shown"]

#: Options of one axis by position; ``AS_GIVEN`` leaves what the spec says.
Choice = tuple[int, ...]
AS_GIVEN = -1
#: Of one ablation: each is trained with every seed.
MOST_ARMS = 1000
_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""


@dataclass(frozen=True)
class Option:
    """Changes that are made together, and what they are called."""

    label: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """Options of which an arm takes one."""

    name: str
    options: tuple[Option, ...]


class Sampler(Rule):
    """Which of the combinations of the axes' options become arms."""

    @abstractmethod
    def choices(self, sizes: Sequence[int]) -> Iterator[Choice]:
        """The combinations, for axes of these numbers of options."""


samplers: Registry[Sampler] = Registry("sampler", Sampler)


@samplers.register
class Grid(Sampler):
    """Every combination.

    >>> list(Grid().choices([2, 2]))
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """

    kind: Literal["grid"] = "grid"

    def choices(self, sizes: Sequence[int]) -> Iterator[Choice]:
        """The product, the last axis fastest."""
        return itertools.product(*map(range, sizes))


@samplers.register
class OneAtATime(Sampler):
    """The spec as it is, then every single change of it.

    >>> list(OneAtATime().choices([2, 1]))
    [(-1, -1), (0, -1), (1, -1), (-1, 0)]
    """

    kind: Literal["one_at_a_time"] = "one_at_a_time"

    def choices(self, sizes: Sequence[int]) -> Iterator[Choice]:
        """One axis after the other."""
        base = (AS_GIVEN,) * len(sizes)
        yield base
        for axis, size in enumerate(sizes):
            for option in range(size):
                yield (*base[:axis], option, *base[axis + 1 :])


@samplers.register
class Random(Sampler):
    """The spec as it is and so many different combinations of the grid, drawn evenly with the sampler's own seed.

    >>> [len(list(Random(arms=arms).choices([10, 10]))) for arms in (3, 1000)]
    [4, 101]
    """

    kind: Literal["random"] = "random"
    arms: Annotated[Count, Field(le=MOST_ARMS)] = 8
    seed: int = Field(default=0, strict=True, ge=0)

    def choices(self, sizes: Sequence[int]) -> Iterator[Choice]:
        """In the order of the draw; the whole grid where it is no larger."""
        yield (AS_GIVEN,) * len(sizes)
        total = prod(sizes)
        if total > sys.maxsize:
            raise refusal(f"{len(sizes)} axes have more combinations than can be drawn from", instead="vary less")
        for number in Generator(self.seed).sample(range(total), min(self.arms, total)):
            choice = []
            for size in reversed(sizes):  # the digits of the combination's number in the grid
                number, digit = divmod(number, size)
                choice.append(digit)
            yield tuple(reversed(choice))


def parse_vary(text: str) -> Axis:
    """The axis of one ``--vary``: ``a.b=1,2,3``, or ``a=1;b=2 | a=3;b=4`` where addresses change together.

    >>> [dict(option.changes) for option in parse_vary("groups.1.worker=[momentum, spectral],momentum").options]
    [{'groups.1.worker': ['momentum', 'spectral']}, {'groups.1.worker': 'momentum'}]
    >>> [dict(option.changes) for option in parse_vary("a=1;b=x | a=3;b=y").options]
    [{'a': 1, 'b': 'x'}, {'a': 3, 'b': 'y'}]

    Raises:
        SpecError: the text is no such list.
    """
    options = [[_assigned(part, text) for part in _split(option, ";", text)] for option in _split(text, "|", text)]
    if len(options) == 1 and len(options[0]) == 1:
        ((address, values),) = options[0]
        changes = [{address: read_value(value)} for value in _split(values, ",", text)]
        return Axis(address, tuple(Option("", change) for change in changes))
    for address, value in itertools.chain(*options):
        if len(_split(value, ",", text)) > 1:
            raise _wrong(text, f"'{address}' has several values in one option", "write an option each: a=1 | a=2")
    together = [{address: read_value(value) for address, value in option} for option in options]
    return Axis(
        " & ".join(dict.fromkeys(a for a, _ in itertools.chain(*options))), tuple(Option("", c) for c in together)
    )


def _assigned(part: str, text: str) -> tuple[str, str]:
    address, equals, value = part.partition("=")
    if not (equals and address.strip() and value.strip()):
        raise _wrong(text, f"'{part.strip()}' is not ADDRESS=VALUE", "write groups.1.lr=0.01,0.02")
    return address.strip(), value.strip()


def _split(text: str, at: str, whole: str) -> list[str]:
    """The parts between the ``at`` that stand outside brackets and quotation marks."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and not parts[-1].strip().rpartition(" ")[2].isidentifier():
            quote = letter  # an apostrophe inside a word is none
        elif letter in _OPENING + _CLOSING:
            depth += 1 if letter in _OPENING else -1
        elif letter == at and depth == 0:
            parts.append("")
            continue
        parts[-1] += letter
    if depth or quote:
        raise _wrong(whole, "a bracket or a quotation mark is not closed", "close it")
    if not all(part.strip() for part in parts):
        raise _wrong(
            whole, f"there is nothing on one side of '{at}'", "remove it, or quote it where it is meant as text"
        )
    return [part.strip() for part in parts]


def _wrong(text: str, what: str, instead: str) -> Exception:
    return refusal(f"--vary '{text}': {what}", instead=instead)


def axes_of(vary: Any) -> tuple[Axis, ...]:
    """The axes of a file's ``vary:``: an address and its values, or a name and its options' changes.

    >>> axes = axes_of({"groups.1.lr": [0.1], "size": {"big": {"a": 2}}})
    >>> [[option.label for option in axis.options] for axis in axes]
    [[''], ['big']]

    Raises:
        Fault: something else stands there.
    """
    example = "write an address and a list of values, or a name and a mapping of options: {small: {address: value}}"
    if not isinstance(vary, Mapping):
        raise Fault("vary is a mapping", instead=example)
    axes = []
    for name, values in vary.items():
        if isinstance(values, list | tuple) and values:
            axes.append(Axis(name, tuple(Option("", {name: value}) for value in values)))
        elif isinstance(values, Mapping) and values and all(isinstance(v, Mapping) for v in values.values()):
            axes.append(Axis(name, tuple(Option(label, dict(changes)) for label, changes in values.items())))
        else:
            raise Fault(f"'{name}' has no options", instead=example, at=(name,))
    return tuple(axes)


def shown(value: Any) -> str:
    """A value in short, for names.

    >>> shown(["momentum", "spectral"]), shown({"kind": "spectral", "schedule": "exact"}), shown(True), shown(1e-4)
    ('momentum spectral', 'spectral(schedule=exact)', 'true', '0.0001')
    """
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    if isinstance(value, Mapping):
        fields = ", ".join(f"{key}={shown(item)}" for key, item in value.items() if key != "kind")
        kind = value.get("kind", "")
        return f"{kind}({fields})" if fields else str(kind)
    return json.dumps(value)


def labelled(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """The axes with a label for every option: addresses by the shortest end that is no other address' end.

    >>> axes = axes_of({"groups.0.lr": [0.1], "groups.1.lr": [0.2], "train.batch": [4]})
    >>> [option.label for axis in labelled(axes) for option in axis.options]
    ['0.lr=0.1', '1.lr=0.2', 'batch=4']
    """
    addresses = list(dict.fromkeys(a for axis in axes for option in axis.options for a in option.changes))
    ends = {address: _end(address, addresses) for address in addresses}
    done = []
    for axis in axes:
        labels: list[str] = []
        for option in axis.options:
            own = option.label or ", ".join(f"{ends[a]}={shown(value)}" for a, value in option.changes.items())
            own = own if len(own) <= 60 else f"{own[:57]}..."
            labels.append(own if own not in labels else f"{own} #{len(labels) + 1}")
        done.append(Axis(axis.name, tuple(Option(label, o.changes) for label, o in zip(labels, axis.options))))
    return tuple(done)


def _end(address: str, addresses: Sequence[str]) -> str:
    parts = address.split(".")
    for length in range(1, len(parts)):
        end = ".".join(parts[-length:])
        if not any(other != address and f".{other}".endswith(f".{end}") for other in addresses):
            return end
    return address
