"""The tuner: the whole grid, without the steps that cannot change its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...sentence import Method
from .problem import Problem
from .runs import Best, Runs, Trial

__all__ = ["Values", "fewest", "fly", "geomean", "lowest", "on_edge", "slope", "walk"]

Array = npt.NDArray[np.float64]
Values = list[tuple[float, float]]
"""(Best gradient norm, best F) at every horizon."""
EVERY = 10
"""Steps between two looks at which rows have ended; no result depends on it."""
TOGETHER = 8
"""Trials in one stack: 24 rows of 100 x 100 stay in a core's cache, and more take up to 1.4 times as long a row."""


def geomean(values: Any, axis: int = -1) -> Any:
    """``exp(mean(log values))``, 0 where a value is 0."""
    with np.errstate(divide="ignore"):
        return np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64)), axis=axis))


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The slope of log y on log x by least squares, and R^2.

    >>> slope([1, 10, 100], [5, 50, 500])
    (1.0, 1.0)
    """
    u, v = np.log(np.asarray(x, dtype=np.float64)), np.log(np.asarray(y, dtype=np.float64))
    u, v = u - u.mean(), v - v.mean()
    p = float(u @ v / (u @ u))
    rest = float(((v - p * u) ** 2).sum())
    return round(p, 12), round(1 - rest / float(v @ v), 12) if v.any() else 1.0


def on_edge(trial: Trial, lrs: Sequence[float], momenta: Sequence[float]) -> bool:
    """Whether the grid may have cut the answer off: the first or last learning rate, or the largest beta."""
    return trial.lr in (lrs[0], lrs[-1]) or (len(momenta) > 1 and trial.beta == momenta[-1])


def fly(runs: Runs, best: Best, each: Callable[[int, Tensor, Tensor], None] = lambda t, f, g: None) -> Best:
    """Run to the end; a row that diverges is dropped. ``each(t, F, ||gradient||)`` is called before every step."""
    for t in range(runs.steps):
        f, g = runs.look()
        best.note(runs.rows, t, f, g)
        each(t, f, g)
        if t % EVERY == 0:
            runs.keep(~best.diverged[runs.rows])
            if not len(runs.rows):
                break
        runs.step()
    return best


def fewest(
    method: Callable[[float], Method],
    problem: Problem,
    groups: Sequence[Sequence[Trial]],
    steps: int,
    target: float,
    *,
    prune: bool = True,
) -> tuple[Trial, float]:
    """The trial with the smallest mean of iterations to the target, then the smallest best F, and that mean.

    ``groups`` hold trials of one beta each. With S the smallest total over the instances so far, a trial whose
    instances have taken more than S together (those still on the way: the next step at least) is dropped; rows that
    have arrived or diverged are dropped too. Trials that tie are run to the end, for their best F. So the answer is the
    whole grid's (``prune=False``).
    """
    count = len(problem)
    nobody = steps * count
    least, tied = nobody, []
    for trials in (part for group in groups for part in _parts(group)):
        runs = Runs(method(trials[0].beta), problem, trials, steps)
        best = Best(len(runs.rows), steps, target)
        for t in range(steps):
            best.note(runs.rows, t, *runs.look())
            if t % EVERY == 0:
                stays = ~best.diverged
                if prune:
                    ended = best.diverged | (best.iterations < steps)
                    bound = torch.where(ended, best.iterations, min(t + 2, steps)).view(-1, count).sum(1)
                    whole = ended.view(-1, count).all(1)
                    least = min([least, *bound[whole].tolist()])
                    stays = ~ended & ((bound <= least) & ~whole).repeat_interleave(count)
                runs.keep(stays[runs.rows])
                if not len(runs.rows):
                    break
            runs.step()
        totals = best.iterations.view(-1, count).sum(1).tolist()
        least = min([least, *totals])
        values = geomean(best.f.view(-1, count).double().numpy()).tolist()
        tied += list(zip(totals, values, trials))
        tied = [one for one in tied if one[0] == least]
    if prune and least < nobody and len(tied) > 1:  # they stopped at the target: their best F is not known
        tied = [(least, _best_f(method, problem, trial, steps), trial) for _, _, trial in tied]
    total, _, trial = min(tied, key=lambda one: one[:2])
    return trial, total / count


def _best_f(method: Callable[[float], Method], problem: Problem, trial: Trial, steps: int) -> float:
    runs = Runs(method(trial.beta), problem, [trial], steps)
    return float(geomean(fly(runs, Best(len(problem), steps)).f.double().numpy()))


def _parts(trials: Sequence[Trial]) -> list[Sequence[Trial]]:
    """At most `TOGETHER` each; those in the middle of the list first."""
    parts = [trials[at : at + TOGETHER] for at in range(0, len(trials), TOGETHER)]
    return sorted(parts, key=lambda part: abs(trials.index(part[0]) + len(part) / 2 - len(trials) / 2))


def lowest(method: Method, problem: Problem, trials: Sequence[Trial], horizons: Sequence[int]) -> list[Values]:
    """The best gradient norm and the best F of every trial (one beta) within T steps, for every T: [trial][T].

    One run of the longest T yields all of them, since no schedule but ``linear`` knows T. Geometric means over the
    instances; a diverged run counts with what it had reached.
    """
    if len(horizons) > 1 and any(trial.schedule == "linear" for trial in trials):
        raise ValueError("schedule 'linear' depends on T: give one horizon at a time")
    found: dict[Trial, Values] = {trial: [] for trial in trials}
    for part in _parts(trials):
        runs = Runs(method, problem, part, max(horizons))
        best = Best(len(runs.rows), runs.steps)

        def mark(part: Sequence[Trial] = part, best: Best = best) -> None:
            gnorm, f = (geomean(v.view(-1, len(problem)).double().numpy()).tolist() for v in (best.gnorm, best.f))
            for trial, g, value in zip(part, gnorm, f):
                found[trial].append((g, value))

        def each(t: int, f: Tensor, g: Tensor, mark: Callable[[], None] = mark) -> None:
            if t + 1 in horizons:
                mark()

        fly(runs, best, each)
        while len(found[part[0]]) < len(horizons):  # every row had diverged by then
            mark()
    return [found[trial] for trial in trials]


def walk(
    count: int,
    evaluate: Callable[[list[int]], list[list[tuple[float, float]]]],
    *,
    bad: int,
    worse: float,
    start: Sequence[int],
) -> dict[int, list[tuple[float, float]]]:
    """The points of a grid of ``count`` that can matter, with their values [T]: around the best one at every T.

    Begins with the points of ``start`` and walks outward from the best at every T, on each side until ``bad`` points in
    a row are more than ``worse`` times the best. ``bad`` = 0 is the whole grid.

    >>> calls = []
    >>> def parabola(at):
    ...     calls.extend(at)
    ...     return [[(1.0 + (i - 7) ** 2, 0.0)] for i in at]
    >>> sorted(walk(31, parabola, bad=2, worse=2.0, start=range(0, 31, 6))) == sorted(calls)
    True
    >>> sorted(calls)
    [0, 4, 5, 6, 7, 8, 9, 10, 12, 18, 24, 30]
    """
    known: dict[int, Values] = {}
    wanted = sorted(set(start)) if bad else list(range(count))
    while wanted:
        known |= zip(wanted, evaluate(wanted))
        wanted = []
        for T in range(len(next(iter(known.values()))) if bad else 0):
            best = min(known, key=lambda i: known[i][T])
            for way in (-1, 1):
                at, row = best + way, 0
                while 0 <= at < count and row < bad:
                    if at not in known:
                        wanted.append(at)
                    row = 0 if at in known and known[at][T][0] <= worse * known[best][T][0] else row + 1
                    at += way
        wanted = sorted(set(wanted))
    return known
