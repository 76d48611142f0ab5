"""The convex control: a quadratic with a Kronecker Hessian."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...rule import Count, Positive
from .base import NormName, Problem, ProblemConfig, gaussian, kappa, oracle, problems

__all__ = ["Quadratic", "QuadraticProblem"]


@problems.register
class Quadratic(ProblemConfig):
    """``f(X) = 1/2 <X - C, A (X - C) B>`` with A, B > 0; eigenvalues spaced evenly in the logarithm, from 1/kappa to 1.

    >>> round(Quadratic(rows=4, columns=3).build().constant("frobenius"), 6)
    1.0
    """

    kind: Literal["quadratic"] = "quadratic"
    rows: Count = 10
    columns: Count = 16
    condition: Positive = 100.0
    seed: int = 0

    def build(self) -> QuadraticProblem:
        """A, B and C drawn."""
        A, B = (_spd(size, self.condition, self.seed, of) for size, of in ((self.rows, "A"), (self.columns, "B")))
        return QuadraticProblem(A, B, gaussian(self.rows, self.columns, seed=self.seed, of="C"))


def _spd(size: int, condition: float, seed: int, of: str) -> Tensor:
    Q = torch.linalg.qr(gaussian(size, size, seed=seed, of=of)).Q
    values = condition ** -torch.linspace(1, 0, size, dtype=torch.float64)
    return Q @ torch.diag(values) @ Q.mT


class QuadraticProblem(Problem):
    """The Hessian form is ``q(D, E) = <D, A E B>``, positive, so L is the largest q(D, D) on the unit ball.

    - frobenius: ``a_1 b_1``, the largest eigenvalues.
    - spectral: ``sum_k a_k b_k`` over eigenvalues in falling order, for the nuclear norm of A D B is at most
      ``sum_k s_k(A) s_k(D) s_k(B)`` (Horn); equal at ``D = Q_A Q_B^T``, eigenvectors in that order.
    - column: ``q(D, D) = sum_jl B_jl <d_j, A d_l> <= a_1 sum_jl |B_jl|``, and at most ``kappa^2 a_1 b_1``.
    - row: the same of the transpose.
    - linf: ``min(sum |A_ij| sum |B_jl|, kappa^2 a_1 b_1)``.
    """

    def __init__(self, A: Tensor, B: Tensor, C: Tensor) -> None:
        self.A, self.B, self.C = A, B, C
        self.m, self.n = C.shape
        self._a, self._b = (torch.linalg.eigvalsh(x).flip(0) for x in (A, B))

    def loss(self, X: Tensor) -> Tensor:
        """1/2 <X - C, A (X - C) B>."""
        return 0.5 * ((X - self.C) * self.gradient(X)).sum((-2, -1))

    def gradient(self, X: Tensor) -> Tensor:
        """A (X - C) B."""
        return self.A @ (X - self.C) @ self.B

    def constant(self, norm: NormName) -> float:
        """See the class."""
        if norm == "spectral":
            count = min(self.m, self.n)
            return float((self._a[:count] * self._b[:count]).sum())
        largest = float(self._a[0] * self._b[0])
        rough = {
            "frobenius": largest,
            "linf": float(self.A.abs().sum() * self.B.abs().sum()),
            "column": float(self._a[0] * self.B.abs().sum()),
            "row": float(self._b[0] * self.A.abs().sum()),
        }[norm]
        return min(rough, kappa(norm, self.m, self.n) ** 2 * largest)

    def corner(self, norm: NormName) -> tuple[Tensor, Tensor]:
        """Anywhere; D by the power method for a form: D <- lmo(A D B), which never lowers a convex form."""
        D = oracle(norm).direction(torch.outer(torch.linalg.eigh(self.A).eigenvectors[:, -1],
                                               torch.linalg.eigh(self.B).eigenvectors[:, -1]))  # fmt: skip
        return self.C, climb(lambda E: self.A @ E @ self.B, D, norm)


def climb(hessian: object, D: Tensor, norm: NormName, steps: int = 200) -> Tensor:
    """``D <- argmax <H D, E>`` over the unit ball: a power method that never lowers <D, H D> of a positive H."""
    ball = oracle(norm)
    for _ in range(steps):
        D = ball.direction(hessian(D))  # type: ignore[operator]
    return D
