"""Sums of a scalar link of linear measurements: log cosh, with a wave that makes it non-convex."""

from __future__ import annotations

from math import log
from typing import Literal

import torch
from torch import Tensor

from ...rule import Count, NonNegative
from .base import NormName, Problem, ProblemConfig, gaussian, kappa, oracle, problems
from .quadratic import climb

__all__ = ["LogCosh", "LogCoshProblem"]


@problems.register
class LogCosh(ProblemConfig):
    """``f(X) = mean_i phi(<A_i, X> - b_i)``, ``phi(z) = log cosh z + wave (1 - cos z)``, b_i = <A_i, C>.

    Convex for ``wave`` = 0 and for no other: phi'' = sech^2 z + wave cos z is sech^2 z - wave at odd multiples of pi,
    and sech^2 z falls to 0 along them (it is 0.007 at pi, 3e-8 at 3 pi). Minimum 0 at X = C.

    >>> LogCosh(samples=8, wave=0.0).build().loss(LogCosh(samples=8).build().C) < 1e-12
    tensor(True)
    """

    kind: Literal["log_cosh"] = "log_cosh"
    samples: Count = 256
    rows: Count = 10
    columns: Count = 16
    wave: NonNegative = 0.5
    seed: int = 0

    def build(self) -> LogCoshProblem:
        """Measurements of norm about 1 and the solution C."""
        size = (self.rows * self.columns) ** 0.5
        A = gaussian(self.samples, self.rows, self.columns, seed=self.seed, of="measurements") / size
        return LogCoshProblem(A, gaussian(self.rows, self.columns, seed=self.seed, of="solution"), self.wave)


class LogCoshProblem(Problem):
    """f >= 0. The Hessian form is ``mean_i phi''_i <A_i, D> <A_i, E>`` with ``|phi''| <= 1 + wave``. So L is at most
    (1 + wave) times the smaller of

    - ``mean_i ||A_i||_*^2`` (each product by duality), and
    - ``kappa^2 s_1``, s_1 the largest eigenvalue of the second moment of the vectorised A_i (exact for frobenius).
    """

    def __init__(self, A: Tensor, C: Tensor, wave: float) -> None:
        self.A, self.C, self.wave = A, C, wave
        self.m, self.n = C.shape
        self._flat = A.flatten(1)  # (samples, m n)
        self._b = self._flat @ C.flatten()

    def _links(self, X: Tensor) -> Tensor:
        return X.flatten(-2) @ self._flat.mT - self._b  # (..., samples)

    def loss(self, X: Tensor) -> Tensor:
        """The mean of phi."""
        z = self._links(X)
        size = z.abs()  # log cosh z = |z| + log(1 + exp(-2 |z|)) - log 2, which does not overflow
        return (size + torch.log1p(torch.exp(-2 * size)) - log(2) + self.wave * (1 - z.cos())).mean(-1)

    def gradient(self, X: Tensor) -> Tensor:
        """mean_i phi'(z_i) A_i with phi' = tanh z + wave sin z."""
        z = self._links(X)
        return ((z.tanh() + self.wave * z.sin()) @ self._flat / len(self._flat)).unflatten(-1, (self.m, self.n))

    def constant(self, norm: NormName) -> float:
        """See the class."""
        each = oracle(norm).dual(self.A).square().mean()
        s = torch.linalg.matrix_norm(self._flat, ord=2) ** 2 / len(self._flat)
        return (1 + self.wave) * float(torch.minimum(each, kappa(norm, self.m, self.n) ** 2 * s))

    def corner(self, norm: NormName) -> tuple[Tensor, Tensor]:
        """X = C, where every phi'' is 1 + wave; D by the power method."""
        top = torch.linalg.svd(self._flat, full_matrices=False).Vh[0].view(self.m, self.n)
        D = oracle(norm).direction(top)
        return self.C, climb(lambda E: ((E.flatten() @ self._flat.mT) @ self._flat).view(self.m, self.n), D, norm)

    def start(self, seed: int) -> Tensor:
        """Far enough from C for the wave to matter: <A_i, X - C> is about 3 N(0, 1)."""
        return self.C + 3 * super().start(seed)
