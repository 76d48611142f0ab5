"""Theorem 4's problem: a smooth 2 x 2 objective, one per momentum and variant, on which EF21-SignMuon climbs.

Reference 2.4: EF21-SignMuon with lr 1, no scaling, exact polar factors and X_0 = 0 passes through the same points for
every momentum. Everything is plain Python and float64; nothing here knows signa.
"""

from __future__ import annotations

import math
from fractions import Fraction as F

import torch
from torch import Tensor

GAMMA, TAU, RADIUS = 7 / 12, 1 / 200, 1 / 50
PERIODS, START = (21 / 20, 7 / 20), 30.5 / 200
RATE = F(49, 480)
MOMENTA = (0.0, 0.25, 0.5, 0.9, 0.95, 0.99)

#: X_t = [X00, X01, X10, X11] for t = 0 ... 7, whatever the momentum.
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


def psi(w: float, period: float) -> float:
    """The smoothed square wave, derivative of :func:`phi`."""
    r, half, s = (w - START) % period, period / 2, math.pi / (2 * TAU)
    if r < TAU:
        return math.sin(s * r)
    if r < half - TAU:
        return 1.0
    if r < half + TAU:
        return -math.sin(s * (r - half))
    return -1.0 if r < period - TAU else math.sin(s * (r - period))


def phi(w: float, period: float) -> float:
    """The integral of psi from START: periodic."""
    r, half, s = (w - START) % period, period / 2, math.pi / (2 * TAU)
    total = (1 - math.cos(s * min(r, TAU))) / s
    if r >= TAU:
        total += min(r, half - TAU) - TAU
    if r >= half - TAU:
        total += math.cos(s * (min(r, half + TAU) - half)) / s
    if r >= half + TAU:
        total -= min(r, period - TAU) - half - TAU
    if r >= period - TAU:
        total -= math.cos(s * (period - r)) / s
    return total


def h(v: float) -> float:
    """-v, then a quarter of a sine, then flat."""
    return -v if v <= 1 else -1 - 2 / math.pi * math.sin(math.pi * (min(v, 2.0) - 1) / 2)


def dh(v: float) -> float:
    """h'."""
    return -1.0 if v <= 1 else -math.cos(math.pi * (v - 1) / 2) if v <= 2 else 0.0


class Problem:
    """f and its gradient, for a momentum and a variant ("standard" or "nesterov")."""

    def __init__(self, mu: float, variant: str) -> None:
        nesterov = variant == "nesterov" and mu > 0
        nu = 1 / (1 + 2 * mu) if nesterov else 1.0
        self.amplitude = nu * (1 + mu) / (1 - mu)
        S1, S2 = matrix(-4 / 5, 3 / 5, -3 / 5, -4 / 5), matrix(3 / 5, -4 / 5, 0, 0)
        M1, M2 = S1, S2
        if nesterov:
            tau = (140 * (1 + mu) ** 2 / (1 + 2 * mu) - 44) * (1 + mu) / (117 * mu)
            M1 = S1 @ matrix(1, 0, 0, 1 + tau) / (1 + mu)
            M2 = (S2 + mu * M1) / (1 + mu)
        M3 = matrix(0, -nu, -nu, -GAMMA)
        targets = (M1, M2 - mu * M1, M3 - mu * M2)
        self.centres = (matrix(0, 0, 0, 0), matrix(0.7, -0.7, 0.7, 0.7), matrix(0.35, -0.35, 0.35, 0.35))
        self.slopes = tuple(M / (1 - mu) - self.field(Z) for M, Z in zip(targets, self.centres, strict=True))

    def field(self, W: Tensor) -> Tensor:
        """The gradient without the three bumps."""
        (_, w01), (w10, w11) = W.tolist()
        A = self.amplitude
        return matrix(0, A * psi(w01, PERIODS[0]), A * psi(w10, PERIODS[1]), GAMMA * dh(w11))

    def f(self, W: Tensor) -> float:
        """The objective."""
        (_, w01), (w10, w11) = W.tolist()
        value = GAMMA * h(w11) + self.amplitude * (phi(w01, PERIODS[0]) + phi(w10, PERIODS[1]))
        for C, Z in zip(self.slopes, self.centres, strict=True):
            s = float(torch.linalg.matrix_norm(W - Z)) / RADIUS
            value += float((C * (W - Z)).sum()) * math.cos(math.pi * s / 2) ** 2 if s < 1 else 0.0
        return value

    def grad(self, W: Tensor) -> Tensor:
        """Its gradient."""
        g = self.field(W)
        for C, Z in zip(self.slopes, self.centres, strict=True):
            distance = float(torch.linalg.matrix_norm(W - Z))
            s = distance / RADIUS
            if s < 1:
                g = g + math.cos(math.pi * s / 2) ** 2 * C
                if distance > 0:
                    slope = -math.pi / 2 * math.sin(math.pi * s) / RADIUS
                    g = g + float((C * (W - Z)).sum()) * slope / distance * (W - Z)
        return g


def matrix(a: float, b: float, c: float, d: float) -> Tensor:
    """[[a, b], [c, d]] in float64."""
    return torch.tensor([[a, b], [c, d]], dtype=torch.float64)
