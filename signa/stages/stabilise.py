"""Stabilisers: clipping and second-moment normalisation."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor

from ..linalg import matrix_sum, power_of_two_scale, row_sum
from ..rule import Fraction, Positive
from ..signal import SQRT_MN, Signal
from ..stage import Context, Stage, State, stages


@stages.register
class Clip(Stage):
    """The nearest point of the ball ``norm(x) <= most``, matrix by matrix.

    Args:
        most: the ball's radius, in the norm's own unit.
        norm: ``rms`` (root mean square, so the same number fits every shape) | ``frobenius``: scale down;
            ``linf``: clamp every entry.

    Shapes: (..., m, n). Law: clip(clip(x)) = clip(x); x inside the ball is untouched.
    Source: arXiv 1804.04235, section 6 (update clipping by RMS, Adafactor).

    >>> Clip(most=1.0, norm="frobenius")(torch.tensor([[3.0, 4.0]]), {}, Context())
    tensor([[0.6000, 0.8000]])
    """

    kind: Literal["clip"] = "clip"
    most: Positive = 1.0
    norm: Literal["rms", "frobenius", "linf"] = "rms"

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """x, shortened where it is too long."""
        if self.norm == "linf":
            return x.clamp(-self.most, self.most)
        scaled, exponent = power_of_two_scale(x)
        count = prod(x.shape[-2:]) if self.norm == "rms" else 1
        # Compared as logarithms base 2 would lose bits; a float64 size holds every float32 norm.
        size = (matrix_sum(scaled.square()) / count).sqrt().double() * torch.exp2(exponent.double())
        return torch.where(size > self.most, (x.double() * (self.most / size)).to(x.dtype), x)

    def signal(self, s: Signal) -> Signal:
        """The same signal, dense."""
        return s.but(alphabet="dense")


@stages.register
class Normalise(Stage):
    """Root mean square 1, after the neurons' running second moment if wanted.

    Args:
        per: ``rms``: ``x / rms(x)``; ``neuron`` (NorMuon): ``v_i <- beta v_i + (1 - beta) mean_j x_ij^2``, then
            ``y_ij = x_ij / sqrt(v_i)``, then ``y / rms(y)``, so that rows (neurons) share the update evenly.
        beta: how much of v stays.

    Shapes: (..., m, n). State (neuron): v (..., m, 1), starts at 0. Norm: sqrt(m n). Law: a zero row or matrix stays 0.
    Source: arXiv 2510.05491, Algorithm 1 (NorMuon).

    >>> Normalise()(torch.tensor([[3.0, -3.0]]), {}, Context())
    tensor([[ 1., -1.]])
    """

    kind: Literal["normalise"] = "normalise"
    per: Literal["rms", "neuron"] = "rms"
    beta: Fraction = 0.95

    def init(self, x0: Tensor) -> State:
        """No second moment yet."""
        return (
            {"v": torch.zeros_like(x0[..., :1], memory_format=torch.contiguous_format)} if self.per == "neuron" else {}
        )

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """X of root mean square 1."""
        m, n = x.shape[-2:]
        if self.per == "neuron":
            v = state["v"].mul_(self.beta).add_(row_sum(x.square()) / n, alpha=1 - self.beta)
            x = _over_root(x, v)
        scaled, _ = power_of_two_scale(x)
        return _over_root(scaled, matrix_sum(scaled.square()) / (m * n))

    def signal(self, s: Signal) -> Signal:
        """A direction of known size."""
        return Signal("direction", "dense", SQRT_MN)


def _over_root(x: Tensor, square: Tensor) -> Tensor:
    """x / sqrt(square), and 0 where that is 0 / 0."""
    there = square > 0
    return torch.where(there, x / torch.where(there, square, 1).sqrt(), 0)
