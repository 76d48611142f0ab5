"""The odd polynomials of Newton-Schulz: tables of published coefficients, and where Polar Express gets its own from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["SCHEDULES", "Normalisation", "Row", "Schedule", "polar_express", "rows"]

Row: TypeAlias = tuple[float, float, float]
Normalisation: TypeAlias = Literal["schatten4", "frobenius", "aol"]


def _best_quintic(lower: float, upper: float) -> Row:
    """The odd quintic p that minimises max |1 - p(x)| over lower <= x <= upper, by Remez exchange.

    p(x) = x q(x^2), so p(x_i) = 1 -+ error at four alternating points says which values the quadratic q takes there:
    its third divided difference vanishes, which gives the error, and Newton's form gives q.
    """
    if lower > (1 - 5e-6) * upper:  # the exchange loses its digits; this is its limit
        return 15 / 8 / upper, -10 / 8 / upper**3, 3 / 8 / upper**5
    left, right, error = (3 * lower + upper) / 4, (lower + 3 * upper) / 4, 0.0
    while True:
        points = (lower, left, right, upper)
        t0, t1, t2, t3 = (x * x for x in points)
        weights = (
            1 / ((t0 - t1) * (t0 - t2) * (t0 - t3)),
            1 / ((t1 - t0) * (t1 - t2) * (t1 - t3)),
            1 / ((t2 - t0) * (t2 - t1) * (t2 - t3)),
            1 / ((t3 - t0) * (t3 - t1) * (t3 - t2)),
        )
        terms = [w / x for w, x in zip(weights, points)]
        before, error = error, sum(terms) / (terms[0] - terms[1] + terms[2] - terms[3])
        q0, q1, q2 = (1 - error) / lower, (1 + error) / left, (1 - error) / right
        slope = (q1 - q0) / (t1 - t0)
        c = ((q2 - q1) / (t2 - t1) - slope) / (t2 - t0)
        b = slope - c * (t0 + t1)
        a = q0 - b * t0 - c * t0**2
        if error < before + 1e-15:  # it rises to the optimum, quadratically
            return a, b, c
        root = math.sqrt(9 * b * b - 20 * a * c)  # p' = a + 3 b x^2 + 5 c x^4
        left, right = math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))


def _scaled(row: Row, by: float) -> Row:
    """The coefficients of p(x / by)."""
    return row[0] / by, row[1] / by**3, row[2] / by**5


def polar_express(
    lower: float, steps: int, *, cushion: float, safety: float, safety_inside: bool = False
) -> tuple[Row, ...]:
    """Polar Express: step k is the odd quintic that is optimal for where step k-1 left the singular values.

    They start in [lower, 1]; step k maps [l, u] to [l', 2 - l'], and the next quintic is made for that. All rows but
    the last take x / safety for x, so that rounding cannot throw a value past the interval's end.

    Args:
        lower: the smallest singular value that is to reach 1.
        steps: how many rows.
        cushion: each quintic is optimal on [max(l, cushion * u), u], then rescaled so that p(l) + p(u) = 2 on the true
            interval: smaller values rise a little slower, the others do not stray.
        safety: 1.01 says that a singular value may exceed its bound by one per cent.
        safety_inside: False: the recursion knows nothing of the safety, the finished rows are rescaled. True: each
            rescaled row is what the recursion goes on from (so its interval starts lower), as the published code does.

    Source: arXiv 2505.16932, Algorithm 1 and its section on finite precision.

    >>> [round(value, 4) for value in polar_express(1e-3, 6, cushion=0.02407327424182761, safety=1.01)[-1]]
    [1.8913, -1.268, 0.3768]
    """
    table: list[Row] = []
    upper, inside = 1.0, safety if safety_inside else 1.0
    for step in range(steps):
        a, b, c = _best_quintic(max(lower, cushion * upper), upper)
        centre = 2 / sum(a * x + b * x**3 + c * x**5 for x in (lower, upper))
        a, b, c = _scaled((a * centre, b * centre, c * centre), inside if step < steps - 1 else 1.0)
        table.append((a, b, c))
        lower = a * lower + b * lower**3 + c * lower**5
        upper = 2 - lower
    return (*(_scaled(row, safety / inside) for row in table[:-1]), *table[-1:])


@dataclass(frozen=True)
class Schedule:
    """One (a, b, c) a step, for x <- a x + b x^3 + c x^5, and the norm that brings the singular values under 1.

    >>> len(SCHEDULES["polar6"].coefficients), SCHEDULES["jordan5"].normalisation
    (6, 'frobenius')
    """

    coefficients: tuple[Row, ...]
    normalisation: Normalisation
    source: str


SCHEDULES: dict[str, Schedule] = {
    "polar6": Schedule(
        polar_express(1e-3, 6, cushion=0.02407327424182761, safety=1.01),
        "schatten4",
        "arXiv 2505.16932; cushion and safety from the 8-row table of numerics.md",
    ),
    "polar5": Schedule(
        polar_express(1e-3, 5, cushion=0.02, safety=1.02, safety_inside=True),
        "schatten4",
        "arXiv 2505.16932; as shipped in modded-nanogpt record 40, which normalises by 1.02 times the Frobenius norm",
    ),
    "jordan5": Schedule(
        ((3.4445, -4.7750, 2.0315),) * 5,
        "frobenius",
        "https://kellerjordan.github.io/posts/muon; torch.optim.Muon",
    ),
    "quintic5": Schedule(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        "schatten4",
        "You Jiacheng's per-step quintics for the nanoGPT speedrun ('YOU')",
    ),
    "cubic5": Schedule(
        (
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        "schatten4",
        "numerics.md; two products a step instead of three",
    ),
    "turbo4": Schedule(
        (
            _scaled((4.0098, -7.0585, 2.4635), 1 / 0.85),  # bare, it is below 0 from 0.884 on, and 1 would go to -1
            (3.4585, -5.5479, 2.5959),
            (2.7573, -3.2939, 1.4254),
            (2.7215, -3.0494, 1.3169),
        ),
        "aol",
        "arXiv 2512.04632 (Turbo-Muon); coefficients of numerics.md, of which the first takes 0.85 x",
    ),
}


def rows(coefficients: Sequence[Row], steps: int) -> tuple[Row, ...]:
    """The first `steps` rows of a table; its last row repeats beyond the end.

    >>> rows(((3.0, -4.0, 2.0), (1.875, -1.25, 0.375)), 3)
    ((3.0, -4.0, 2.0), (1.875, -1.25, 0.375), (1.875, -1.25, 0.375))
    """
    return tuple(coefficients[min(step, len(coefficients) - 1)] for step in range(steps))
