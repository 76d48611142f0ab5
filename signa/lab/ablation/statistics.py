"""What can be said of a few seeds: paired differences, their intervals, and when a curve reaches a level.

Two arms run with the same seeds share the model's start and every batch, so their difference seed by seed varies less
than either. An interval of it that holds 0 says that the arms cannot be told apart with these seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from .section import Interval

__all__ = ["Difference", "Summary", "confidence", "difference", "mean_curve", "reaches", "summary", "t_quantile"]

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Summary:
    """The mean and the sample standard deviation (NaN for one value) of the runs that are over and did not diverge."""

    mean: float
    std: float
    count: int
    diverged: int


def summary(values: Sequence[float]) -> Summary:
    """Mean and spread; what is not finite is counted apart.

    >>> summary([1.0, 2.0, 3.0, float("nan")])
    Summary(mean=2.0, std=1.0, count=3, diverged=1)
    """
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else math.nan
    std = statistics.stdev(finite) if len(finite) > 1 else math.nan
    return Summary(mean, std, len(finite), len(values) - len(finite))


@dataclass(frozen=True)
class Difference:
    """The mean of the paired differences (an arm's minus the base's), its interval, and what follows.

    ``verdict`` is ``better``, ``worse``, ``indistinguishable`` (the interval holds 0, or there is none), ``not run``
    (there is no pair of seeds yet), or ``diverged`` and ``base diverged``: where a seed of either did, the others would
    be a choice that flatters it.
    """

    mean: float
    low: float
    high: float
    pairs: int
    verdict: str


def difference(arm: Mapping[int, float], base: Mapping[int, float], interval: Interval, best: str) -> Difference:
    """Compare an arm with the base over the seeds that both have; values by seed, NaN where a run diverged.

    >>> d = difference({0: 1.0, 1: 1.1, 2: 0.9}, {0: 2.0, 1: 2.2, 2: 1.8}, Interval(), "min")
    >>> round(d.mean, 3), round(d.low, 3), round(d.high, 3), d.verdict
    (-1.0, -1.248, -0.752, 'better')
    """
    seeds = sorted(arm.keys() & base.keys())
    if any(not math.isfinite(value) for value in arm.values()):
        return Difference(math.nan, math.nan, math.nan, 0, "diverged")
    if any(not math.isfinite(base[seed]) for seed in seeds):
        return Difference(math.nan, math.nan, math.nan, 0, "base diverged")
    gaps = [arm[seed] - base[seed] for seed in seeds]
    if not gaps:
        return Difference(math.nan, math.nan, math.nan, 0, "not run")
    low, high = confidence(gaps, interval)
    verdict = "indistinguishable"
    if low > 0 or high < 0:
        verdict = "better" if (high < 0) == (best == "min") else "worse"
    return Difference(statistics.fmean(gaps), low, high, len(gaps), verdict)


def confidence(values: Sequence[float], interval: Interval) -> tuple[float, float]:
    """The interval of the mean; without bounds where one value has no spread to tell of.

    ``t``: mean -+ t_(n-1) s / sqrt(n), exact for normal differences at any n. ``percentile`` and ``bca`` (Efron,
    J. Amer. Statist. Assoc. 82, 171 (1987), equations 2.3 and 6.6) ask nothing of the distribution, and are too narrow
    for few values: of 5 normal ones an interval of 95 % holds the mean in 84 % of the cases (docs/ablations.md).

    >>> [round(x, 3) for x in confidence([1.0, 2.0, 3.0], Interval())], confidence([1.0], Interval())
    ([-0.484, 4.484], (-inf, inf))
    """
    n, tail = len(values), (1 - interval.level) / 2
    if n < 2:
        return -math.inf, math.inf
    mean = statistics.fmean(values)
    if interval.kind == "t":
        half = t_quantile(1 - tail, n - 1) * statistics.stdev(values) / math.sqrt(n)
        return mean - half, mean + half
    data = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(interval.seed).integers(n, size=(interval.draws, n))
    means = data[drawn].mean(axis=1)
    ends = (tail, 1 - tail) if interval.kind == "percentile" else _bca(data, means, tail)
    low, high = np.quantile(means, ends)
    return float(low), float(high)


def _bca(data: np.ndarray, means: np.ndarray, tail: float) -> tuple[float, float]:
    """The tails of a percentile interval, corrected for bias and acceleration."""
    normal, mean = NormalDist(), data.mean()
    below = float(np.mean(means < mean) + np.mean(means == mean) / 2)
    z0 = normal.inv_cdf(min(max(below, 1e-6), 1 - 1e-6))
    pulls = mean - (data.sum() - data) / (len(data) - 1)  # the jackknife's
    scale = float((pulls**2).sum()) ** 1.5
    a = float((pulls**3).sum()) / (6 * scale) if scale > 0 else 0.0

    def corrected(p: float) -> float:
        z = z0 + normal.inv_cdf(p)
        return normal.cdf(z0 + z / (1 - a * z))

    return corrected(tail), corrected(1 - tail)


@lru_cache
def t_quantile(p: float, df: int) -> float:
    """The p-quantile of Student's t with a whole number of degrees of freedom, by bisection of its closed form.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    >>> [round(t_quantile(0.975, df), 3) for df in (1, 2, 4, 9, 1000)]
    [12.706, 4.303, 2.776, 2.262, 1.962]
    """
    low, high = 0.0, 1.0
    while _t_below(high, df) < p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, df) < p else (low, middle)
    return (low + high) / 2


def _t_below(t: float, df: int) -> float:
    """P(T <= t) for t >= 0."""
    angle = math.atan2(t, math.sqrt(df))
    cosine = math.cos(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + inside) / 2


def mean_curve(curves: Sequence[Curve]) -> list[tuple[float, float]]:
    """The mean over seeds at the steps that every curve has: nothing is carried over from an earlier step.

    >>> mean_curve([[(1, 2.0), (2, 1.0)], [(1, 4.0)]])
    [(1, 3.0)]
    """
    if not curves:
        return []
    each = [dict(curve) for curve in curves]
    steps = set(each[0]).intersection(*each[1:])
    return [(step, statistics.fmean(curve[step] for curve in each)) for step in sorted(steps)]


def reaches(curve: Curve, level: float, best: str) -> float:
    """The step at which a curve first reaches a level, linearly between its points; NaN if it never does.

    >>> reaches([(0, 4.0), (10, 2.0), (20, 1.0)], 1.5, "min"), reaches([(0, 4.0)], 1.5, "min")
    (15.0, nan)
    """
    sign = 1.0 if best == "min" else -1.0
    before: tuple[float, float] | None = None
    for step, value in curve:
        if sign * value <= sign * level:
            if before is None:
                return float(step)
            part = (before[1] - level) / (before[1] - value)
            return before[0] + part * (step - before[0])
        before = (step, value)
    return math.nan


def level_at(curve: Curve, part: float) -> float:
    """The value of a curve at a part of its last step, linearly between its points; NaN before the first.

    >>> level_at([(0, 4.0), (10, 2.0)], 0.75)
    2.5
    """
    if not curve:
        return math.nan
    at = part * curve[-1][0]
    if at < curve[0][0]:
        return math.nan
    steps, values = zip(*curve)
    return float(np.interp(at, steps, values))
