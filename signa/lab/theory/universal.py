"""Theorem 4: a smooth 2 x 2 objective, one per momentum and variant, on which EF21-SignMuon climbs for ever.

EF21-SignMuon with lr 1, no layer scaling, exact polar factors and X_0 = 0 passes through the same points for every
momentum: three bumps steer it into a 2-cycle of the estimator, which a pair of square waves then keeps fed.
Source: github intsystems/SignMuon, Theorem 4 (the universal instance). Plain Python and float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction as F
from typing import Literal

import torch
from torch import Tensor

__all__ = ["DRIFT", "GAMMA", "ITERATES", "MOMENTA", "RATE", "Universal", "Variant", "climbs"]

Variant = Literal["standard", "nesterov"]

GAMMA = 7 / 12
_TAU, _RADIUS = 1 / 200, 1 / 50  # half a flank of the square waves; a bump's radius
_PERIODS, _START = (21 / 20, 7 / 20), 30.5 / 200

#: What f gains in a step, on the average of two, from step 3 on.
RATE = F(49, 480)
#: The momenta that the instance is published for.
MOMENTA = (0.0, 0.25, 0.5, 0.9, 0.95, 0.99)
#: X_t = (X00, X01, X10, X11) for t = 0 ... 7, whatever the momentum.
ITERATES = tuple(
    tuple(F(x) for x in row.split())
    for row in (
        "0 0 0 0",
        "7/10 -7/10 7/10 7/10",
        "7/20 -7/20 7/20 7/20",
        "131/200 131/200 131/200 131/200",
        "0 7/10 0 0",
        "61/200 341/200 61/200 61/200",
        "-7/20 7/4 -7/20 -7/20",
        "-9/200 551/200 -9/200 -9/200",
    )
)
#: X_{t+2} - X_t for t >= 3.
DRIFT = (F(-7, 20), F(21, 20), F(-7, 20), F(-7, 20))


class Universal:
    """``f(W) = gamma h(W11) + A (Phi1(W01) + Phi2(W10)) + three bumps``, and its gradient.

    ``amplitude`` is A, ``centres`` and ``slopes`` are the bumps' Z_k and C_k.

    Args:
        mu: the momentum that the instance is made for, in [0, 1).
        variant: of that momentum.

    >>> problem = Universal(0.5, "nesterov")
    >>> problem.amplitude, round(Universal(0.0, "standard").f(torch.zeros(2, 2, dtype=torch.float64)), 10)
    (1.5, 0.3013661977)
    """

    def __init__(self, mu: float, variant: Variant) -> None:
        nesterov = variant == "nesterov" and mu > 0
        nu = 1 / (1 + 2 * mu) if nesterov else 1.0
        self.amplitude = nu * (1 + mu) / (1 - mu)
        S1, S2 = _matrix(-4 / 5, 3 / 5, -3 / 5, -4 / 5), _matrix(3 / 5, -4 / 5, 0, 0)
        M1, M2 = S1, S2
        if nesterov:
            tau = (140 * (1 + mu) ** 2 / (1 + 2 * mu) - 44) * (1 + mu) / (117 * mu)
            M1 = S1 @ _matrix(1, 0, 0, 1 + tau) / (1 + mu)
            M2 = (S2 + mu * M1) / (1 + mu)
        M3 = _matrix(0, -nu, -nu, -GAMMA)
        targets = (M1, M2 - mu * M1, M3 - mu * M2)
        self.centres = (_matrix(0, 0, 0, 0), _matrix(0.7, -0.7, 0.7, 0.7), _matrix(0.35, -0.35, 0.35, 0.35))
        self.slopes = tuple(M / (1 - mu) - self.field(Z) for M, Z in zip(targets, self.centres, strict=True))

    def field(self, W: Tensor) -> Tensor:
        """The gradient without the bumps, (2, 2)."""
        (_, w01), (w10, w11) = W.tolist()
        A = self.amplitude
        return _matrix(0, A * _psi(w01, _PERIODS[0]), A * _psi(w10, _PERIODS[1]), GAMMA * _dh(w11))

    def f(self, W: Tensor) -> float:
        """The objective at W (2, 2)."""
        (_, w01), (w10, w11) = W.tolist()
        value = GAMMA * _h(w11) + self.amplitude * (_phi(w01, _PERIODS[0]) + _phi(w10, _PERIODS[1]))
        for C, Z in zip(self.slopes, self.centres, strict=True):
            s = float(torch.linalg.matrix_norm(W - Z)) / _RADIUS
            value += float((C * (W - Z)).sum()) * math.cos(math.pi * s / 2) ** 2 if s < 1 else 0.0
        return value

    def grad(self, W: Tensor) -> Tensor:
        """Its gradient, (2, 2)."""
        g = self.field(W)
        for C, Z in zip(self.slopes, self.centres, strict=True):
            distance = float(torch.linalg.matrix_norm(W - Z))
            s = distance / _RADIUS
            if s < 1:
                g = g + math.cos(math.pi * s / 2) ** 2 * C
                if distance > 0:
                    slope = -math.pi / 2 * math.sin(math.pi * s) / _RADIUS
                    g = g + float((C * (W - Z)).sum()) * slope / distance * (W - Z)
        return g


def climbs(values: Sequence[float]) -> bool:
    """Whether f grows every two steps over the second half of a run, evenly (to 5 %): divergence by a cycle.

    >>> climbs([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]), climbs([0.0] * 8)
    (True, False)
    """
    half = values[len(values) // 2 :]
    gains = [after - before for before, after in zip(half, half[2:])]
    return min(gains) > 1e-6 and (max(gains) - min(gains)) < 0.05 * sum(gains) / len(gains)


def _psi(w: float, period: float) -> float:
    """The smoothed square wave, derivative of :func:`_phi`."""
    r, half, s = (w - _START) % period, period / 2, math.pi / (2 * _TAU)
    if r < _TAU:
        return math.sin(s * r)
    if r < half - _TAU:
        return 1.0
    if r < half + _TAU:
        return -math.sin(s * (r - half))
    return -1.0 if r < period - _TAU else math.sin(s * (r - period))


def _phi(w: float, period: float) -> float:
    """The integral of psi from its zero _START: periodic."""
    r, half, s = (w - _START) % period, period / 2, math.pi / (2 * _TAU)
    total = (1 - math.cos(s * min(r, _TAU))) / s
    if r >= _TAU:
        total += min(r, half - _TAU) - _TAU
    if r >= half - _TAU:
        total += math.cos(s * (min(r, half + _TAU) - half)) / s
    if r >= half + _TAU:
        total -= min(r, period - _TAU) - half - _TAU
    if r >= period - _TAU:
        total -= math.cos(s * (period - r)) / s
    return total


def _h(v: float) -> float:
    """-v, then a quarter of a sine, then flat."""
    return -v if v <= 1 else -1 - 2 / math.pi * math.sin(math.pi * (min(v, 2.0) - 1) / 2)


def _dh(v: float) -> float:
    return -1.0 if v <= 1 else -math.cos(math.pi * (v - 1) / 2) if v <= 2 else 0.0


def _matrix(a: float, b: float, c: float, d: float) -> Tensor:
    """[[a, b], [c, d]] in float64."""
    return torch.tensor([[a, b], [c, d]], dtype=torch.float64)
