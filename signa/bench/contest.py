"""Contestants take turns, so that whatever else the machine does meets all of them; medians and quartiles."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple, Protocol

from ..planner.timing import taken
from .shapes import Shapes

__all__ = ["Act", "Case", "Contestant", "Figure", "Row", "Taken", "contest", "figure", "ratio", "row"]

_TURN = 0.02  # seconds that a turn is to last, in so many calls of what is faster
_CALLS = 50


class Contestant(Protocol):
    """What is timed: ``ready()`` is not, a call is."""

    def ready(self) -> None:
        """Whatever must be there before a call."""

    def __call__(self) -> object:
        """The work."""

    @property
    def inner(self) -> float:
        """Seconds of the last call that a part of it took, of which a row of its own tells; 0 if there is none."""
        ...


class Act:
    """A function as a contestant."""

    inner = 0.0

    def __init__(self, act: Any) -> None:
        self._act = act

    def ready(self) -> None:
        """Nothing."""

    def __call__(self) -> object:
        """Call it."""
        return self._act()


class Taken(NamedTuple):
    """Seconds of a call in each round, and those of its part."""

    seconds: list[float]
    inner: list[float]


def contest(
    contestants: Mapping[str, Contestant], rounds: int, device: str, *, quick: bool = False
) -> dict[str, Taken]:
    """What each took in each round, all of them in turn, after two calls that are not counted.

    A turn is of several calls where one takes less than 20 ms (unless ``quick``), all of the same number, and every
    round begins with another contestant, so that nobody always follows the same one.
    """
    calls = {}
    for name, one in contestants.items():
        _turn(one, 1, device)
        seconds, _ = _turn(one, 1, device)
        calls[name] = 1 if quick else max(1, min(_CALLS, int(_TURN / seconds)))
    found = {name: Taken([], []) for name in contestants}
    order = list(contestants)
    for at in range(rounds):
        gc.collect()
        first = at % len(order)
        for name in order[first:] + order[:first]:
            seconds, inner = _turn(contestants[name], calls[name], device)
            found[name].seconds.append(seconds)
            found[name].inner.append(inner)
    return found


def _turn(one: Contestant, calls: int, device: str) -> tuple[float, float]:
    seconds = inner = 0.0
    for _ in range(calls):
        one.ready()
        seconds += taken(one, device)
        inner += one.inner
    return seconds / calls, inner / calls


class Figure(NamedTuple):
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float


def figure(values: Sequence[float]) -> Figure:
    """Of what was measured.

    >>> figure([3.0, 1.0, 2.0, 4.0, 5.0])
    Figure(median=3.0, low=2.0, high=4.0)
    """
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return Figure(median(ordered), ordered[quarter], ordered[-1 - quarter])


def ratio(values: Sequence[float], others: Sequence[float]) -> Figure:
    """Of neighbours in a round, each pair by itself: a drift of the machine's speed is in both."""
    return figure([a / b for a, b in zip(values, others, strict=True)])


@dataclass(frozen=True)
class Row:
    """A figure, the floor under it, and how many times as long one of ours takes; or why there is none.

    ``of``: the row of ours that ``ratio`` compares with this one, in the same rounds.
    """

    name: str
    seconds: Figure | None = None
    floor: float | None = None
    of: str = ""
    ratio: Figure | None = None
    note: str = ""

    @property
    def over_floor(self) -> float | None:
        """The median over the floor."""
        return self.seconds.median / self.floor if self.seconds and self.floor else None

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "seconds": self.seconds and self.seconds._asdict(),
            "floor": self.floor,
            "over_floor": self.over_floor,
            "of": self.of,
            "ratio": self.ratio and self.ratio._asdict(),
            "note": self.note,
        }


def row(name: str, values: Sequence[float], floor: float | None = None, *, note: str = "") -> Row:
    """One of ours."""
    return Row(name, figure(values), floor, note=note)


@dataclass(frozen=True)
class Case:
    """The rows about one set of matrices, and the rates that its floors were worked out with."""

    shapes: Shapes
    rows: list[Row]
    rates: dict[str, float]

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "shapes": self.shapes.name,
            "about": str(self.shapes),
            "matrices": {f"{m}x{n}": count for (m, n), count in self.shapes.matrices.items()},
            "entries": self.shapes.entries,
            "whole": self.shapes.whole,
            "rates": self.rates,
            "rows": [one.data() for one in self.rows],
        }
