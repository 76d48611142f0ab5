"""Quadratics with a Kronecker Hessian, in stacks of instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from ...errors import Fault
from ...rule import Count, Frozen, NonNegative, Real
from .philox import Draws, Mersenne, Philox

__all__ = ["PUBLISHED", "Instances", "Problem", "published"]

PUBLISHED = Path(__file__).parent / "published.npz"
SEEDS, START = (1337, 1338, 1339), 42


@dataclass(frozen=True)
class Problem:
    """``F_i(X) = 1/2 <X - C_i, A_i (X - C_i) B_i>`` for I instances; F* = 0, the Hessian is the product of A and B.

    Shapes: A (I, m, m), B (I, n, n), C and x0 (I, m, n), L and sigma (I,): the largest and smallest curvature.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    x0: Tensor
    L: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        """I."""
        return len(self.A)

    def rows(self, index: Tensor) -> Problem:
        """A stack in which row r is instance ``index[r]``."""
        return Problem(*(getattr(self, name)[index] for name in ("A", "B", "C", "x0", "L", "sigma")))

    def gradient(self, x: Tensor) -> Tensor:
        """``A (X - C) B``, (I, m, n)."""
        return self.look(x)[1]

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F (I,) and its gradient (I, m, n)."""
        away = x - self.C
        gradient = torch.bmm(torch.bmm(self.A, away), self.B)
        return 0.5 * away.mul_(gradient).sum((-2, -1)), gradient


class Instances(Frozen):
    """Which problems: one per seed, drawn in the order la, Q_A, lb, Q_B, C from one generator.

    Args:
        rows, columns: m and n.
        spectrum: the eigenvalues of A and of B, ``uniform`` on [0, 1), or ``logspace`` from kappa^(-1/2) to 1, so that
            L = 1 and L / sigma = kappa.
        basis: eigenvectors: ``haar`` (the Q of a Gaussian's QR) or ``diagonal`` (the axes).
        shift: C is a Gaussian times this; 0 draws none.
        generator: ``philox``, as on a GPU (the published instances), or ``mersenne``, torch's on a CPU.

    >>> problem = Instances(seeds=(1337,)).build()
    >>> round(float(problem.L[0]), 10), f"{float(problem.sigma[0]):.6e}"
    (0.9905046225, '2.713366e-05')
    """

    rows: Count = 100
    columns: Count = 100
    seeds: tuple[int, ...] = SEEDS
    spectrum: Literal["uniform", "logspace"] = "uniform"
    kappa: Real = 1e4
    basis: Literal["haar", "diagonal"] = "haar"
    shift: NonNegative = 0.0
    start: int = START
    generator: Literal["philox", "mersenne"] = "philox"

    @model_validator(mode="after")
    def _possible(self) -> Instances:
        if self.kappa < 1:
            raise Fault(f"kappa {self.kappa:g} is below 1", because="it is L / sigma", instead="write 1 or more")
        if not self.seeds:
            raise Fault("no seeds", because="every instance has one", instead="write seeds: [1337]", at=("seeds",))
        return self

    def build(self) -> Problem:
        """Draw them."""
        draws = Philox if self.generator == "philox" else Mersenne
        x0 = 0.1 * draws(self.start).randn(self.rows, self.columns)
        parts = [self._one(draws(seed)) for seed in self.seeds]
        A, B, C, L, sigma = (torch.stack(same) for same in zip(*parts))
        return Problem(A, B, C, x0.expand_as(C).clone(), L, sigma)

    def _one(self, draws: Draws) -> tuple[Tensor, ...]:
        la, A = self._side(draws, self.rows)
        lb, B = self._side(draws, self.columns)
        shape = (self.rows, self.columns)
        C = draws.randn(*shape) * self.shift if self.shift else torch.zeros(shape)
        return A, B, C, la.max() * lb.max(), la.min() * lb.min()

    def _side(self, draws: Draws, dim: int) -> tuple[Tensor, Tensor]:
        """Eigenvalues, and the matrix."""
        if self.spectrum == "uniform":
            values = draws.rand(dim)
        else:
            values = torch.logspace(float(np.log10(self.kappa)) * -0.5, 0, dim)
        if self.basis == "diagonal":
            return values, torch.diag(values)
        Q = torch.linalg.qr(draws.randn(dim, dim)).Q
        return values, (Q * values) @ Q.T


def published() -> Problem:
    """The three instances behind the published tables, as a GPU drew them; `Instances()` draws the same up to rounding.

    Source: github intsystems/SignMuon, seeds 1337, 1338, 1339 and start 42 on CUDA.

    >>> problem = published()
    >>> [f"{value:.3f}" for value in problem.look(problem.x0)[0].tolist()]
    ['11.775', '11.346', '15.674']
    """
    with np.load(PUBLISHED) as stored:
        A, B = (torch.stack([torch.from_numpy(stored[f"{side}/{seed}"]) for seed in SEEDS]) for side in "AB")
        x0 = torch.from_numpy(stored["x0"]).expand(len(SEEDS), -1, -1).clone()
    exact = Instances().build()
    return Problem(A, B, torch.zeros_like(x0), x0, exact.L, exact.sigma)
