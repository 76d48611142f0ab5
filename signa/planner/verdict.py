"""What a plan comes to in words, and from where on: the links and numbers of workers at which ours is faster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import ceil, floor, log10
from typing import NamedTuple, TypeVar

from ..errors import SpecError
from .plan import BASE, HALF, Plan, Row
from .predict import Inside, Planner
from .times import Link
from .units import in_words

__all__ = ["GAIN", "Crossing", "crossings", "gains", "rival", "series", "verdict"]

#: What counts as a gain: less than this is within what a prediction is off by.
GAIN = 1.05
_SLOWEST, _FASTEST = 1e5, 1e13  # bits per second of the links that are looked at
_MOST = 10_000  # workers
Number = TypeVar("Number", int, float)


def rival(plan: Plan) -> Row:
    """The faster one of what ours is compared with."""
    return min(plan[BASE], plan[HALF], key=lambda row: row.step)


def gains(plan: Plan) -> bool:
    """Whether a gain is to be expected: ours is faster than both, and the network is what is gained on."""
    other = rival(plan)
    return other.step / plan.best.step >= GAIN and other.step / (other.step - other.waiting) >= GAIN


def verdict(plan: Plan) -> str:
    """The plan in plain words."""
    best, other = plan.best, rival(plan)
    share = other.waiting / other.step
    waited, whole = in_words(other.waiting, "s"), in_words(other.step, "s")
    waits = f"{other.name} waits for the network for {waited} of a step of {whole}"
    if gains(plan):
        both = " and ".join(f"{plan.speedup(best.name, name):.2f} times as fast as {name}" for name in (BASE, HALF))
        return f"gain expected: '{best.name}' is {both}. {waits}."
    if other.step / (other.step - other.waiting) < GAIN:
        ratio = plan.speedup(best.name, other.name)
        rest = "" if abs(ratio - 1) < GAIN - 1 else (
            f" The best of ours takes {1 / ratio:.2f} times as long by another cause: the optimizers' arithmetic "
            "on this machine."
        )  # fmt: skip
        return f"no gain expected: {waits} ({share:.1%}), and fewer bits can save no more than that.{rest}"
    return (
        f"no gain expected: '{best.name}', the best of ours, takes {best.step / other.step:.2f} times as long as "
        f"{other.name}. {waits} ({share:.1%}); what ours saves of it, it spends on packing and its own arithmetic."
    )


class Crossing(NamedTuple):
    """Against whom; the rates of the link and the numbers of workers between which ours is faster by :data:`GAIN`."""

    against: str
    rates: list[tuple[float, float]]
    workers: list[tuple[int, int]]

    def __str__(self) -> str:
        """In words."""
        rates = [
            f"below {in_words(high, 'bit/s')}"
            if low == _SLOWEST
            else f"above {in_words(low, 'bit/s')}"
            if high == _FASTEST
            else f"from {in_words(low, 'bit/s')} to {in_words(high, 'bit/s')}"
            for low, high in self.rates
        ]
        links = f"on links {' and '.join(rates)}" if rates else "on no link"
        if self.rates == [(_SLOWEST, _FASTEST)]:
            links = "on any link"
        many = [f"{low:,} to {high:,}" if low < high else f"{low:,}" for low, high in self.workers]
        return f"{links}; on this link with {' and '.join(many) or 'no number of'} workers"


def crossings(planner: Planner, workers: int, link: Link, inside: Inside | None = None) -> list[Crossing]:
    """Where ours is faster than each of what it is compared with, all else as given.

    Rates are looked at by quarters of a decade, and edges between two of them are then found to a percent; numbers of
    workers are looked at by 1, 2, 5, 10, ... to 10,000.
    """
    local = inside.ranks if inside else 1
    rates = [_SLOWEST * 10 ** (quarter / 4) for quarter in range(round(4 * log10(_FASTEST / _SLOWEST)) + 1)]
    counts = [local * nodes for nodes in series(2, max(2, _MOST // local))]

    def at(workers: int, rate: float) -> Plan | None:
        try:
            return planner.at(workers, replace(link, rate=rate), inside)
        except SpecError:  # an aggregator that does not take so many
            return None

    by_rate = [(rate, at(workers, rate)) for rate in rates]
    by_count = [(count, at(count, link.rate)) for count in counts]
    found = []
    for against in (BASE, HALF):
        spans = _spans([(rate, _faster(plan, against)) for rate, plan in by_rate])
        edges = []
        for low, high in spans:  # an edge lies between a rate that was looked at and the next one
            below, above = rates.index(low), rates.index(high)
            low = _edge(partial(at, workers), against, low, rates[below - 1]) if below else low
            high = _edge(partial(at, workers), against, high, rates[above + 1]) if high < rates[-1] else high
            edges.append((low, high))
        found.append(Crossing(against, edges, _spans([(count, _faster(plan, against)) for count, plan in by_count])))
    return found


def _faster(plan: Plan | None, against: str) -> bool:
    return plan is not None and plan.speedup(plan.best.name, against) >= GAIN


def _edge(at: Callable[[float], Plan | None], against: str, inner: float, outer: float) -> float:
    """The last rate from ``inner``, where ours is faster, towards ``outer``, where it is not."""
    while not 0.99 < inner / outer < 1.01:
        middle = (inner * outer) ** 0.5
        inner, outer = (middle, outer) if _faster(at(middle), against) else (inner, middle)
    return inner


def _spans(found: Sequence[tuple[Number, bool]]) -> list[tuple[Number, Number]]:
    """The first and last of neighbours for which it holds.

    >>> _spans([(1, True), (2, True), (5, False), (10, True)])
    [(1, 2), (10, 10)]
    """
    spans: list[tuple[Number, Number]] = []
    before = False
    for value, holds in found:
        if holds:
            spans.append((spans.pop()[0] if before else value, value))
        before = holds
    return spans


def series(low: float, high: float) -> list[int]:
    """1, 2, 5, 10, ... from ``low`` to ``high``, and these two.

    >>> series(3, 60)
    [3, 5, 10, 20, 50, 60]
    """
    first = floor(log10(low))
    steps = [digit * 10**power for power in range(first, ceil(log10(high)) + 1) for digit in (1, 2, 5)]
    return sorted({round(low), round(high), *(step for step in steps if low < step < high)})
