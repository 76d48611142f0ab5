"""Symmetric matrix factorisation: smooth on a ball."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...rule import Count, Positive
from .base import NormName, Problem, ProblemConfig, gaussian, kappa, oracle, problems

__all__ = ["Factorisation", "FactorisationProblem"]


@problems.register
class Factorisation(ProblemConfig):
    """``f(X) = 1/4 ||X X^T - M||_F^2``, M = Y Y^T of rank ``columns`` and largest eigenvalue 1; constants on a ball.

    The ball is ``||X||_op <= radius``. Every ball of the five norms lies in one: a Frobenius ball of that radius, an
    entrywise ball of radius/sqrt(m n), and so on, so a ``project`` onto any of those keeps the constants true.

    Source: the matrix sensing objective with full measurements, e.g. arXiv 1605.07221, section 2.

    >>> Factorisation(radius=1.0).build().constant("frobenius")
    3.0...
    """

    kind: Literal["factorisation"] = "factorisation"
    rows: Count = 12
    columns: Count = 4
    radius: Positive = 1.5
    seed: int = 0

    def build(self) -> FactorisationProblem:
        """M drawn."""
        Y = gaussian(self.rows, self.columns, seed=self.seed, of="factor")
        Y = Y / torch.linalg.matrix_norm(Y, ord=2)
        return FactorisationProblem(Y @ Y.mT, self.columns, self.radius)


class FactorisationProblem(Problem):
    """f >= 0. The Hessian form is ``<(X X^T - M) D, E> + <(D X^T + X D^T) X, E>``. With ``||X||_op <= R``, M >= 0:

    - frobenius: ``||X X^T - M||_op <= max(R^2, ||M||_op)``, and the second term is at most ``2 R^2 ||D|| ||E||``:
      ``L = max(R^2, ||M||_op) + 2 R^2``.
    - the others: ``kappa^2 L``. For spectral also ``||X X^T||_nuc + ||M||_nuc + 2 ||X^T X||_nuc``, which is at most
      ``3 min(m, n) R^2 + tr M`` (one factor in the nuclear norm, the others in the spectral one); the smaller counts.
    """

    def __init__(self, M: Tensor, columns: int, radius: float) -> None:
        self.M, self.m, self.n, self.radius = M, M.shape[0], columns, radius

    def loss(self, X: Tensor) -> Tensor:
        """1/4 ||X X^T - M||^2."""
        return 0.25 * (X @ X.mT - self.M).square().sum((-2, -1))

    def gradient(self, X: Tensor) -> Tensor:
        """(X X^T - M) X."""
        return (X @ X.mT - self.M) @ X

    def constant(self, norm: NormName) -> float:
        """See the class."""
        square = self.radius**2
        general = (max(square, float(torch.linalg.matrix_norm(self.M, ord=2))) + 2 * square) * kappa(
            norm, self.m, self.n
        ) ** 2
        if norm == "spectral":
            return min(general, 3 * min(self.m, self.n) * square + float(self.M.trace()))
        return general

    def corner(self, norm: NormName) -> tuple[Tensor, Tensor]:
        """X = R times an orthonormal frame, D along it; where a ball has one, its own best direction along X."""
        frame = torch.linalg.qr(gaussian(self.m, self.n, seed=1, of="corner")).Q
        return 0.999 * self.radius * frame, oracle(norm).direction(frame)

    def start(self, seed: int) -> Tensor:
        """A quarter of the ball's radius at most, so that there is room to move."""
        X = super().start(seed)
        return 0.25 * self.radius * X / torch.linalg.matrix_norm(X, ord=2)
