"""What a problem with a known smoothness constant is, and what the five norms cost each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf, sqrt
from typing import Literal, get_args

import torch
from torch import Tensor

from ...lmo import LMO, lmos
from ...rule import Registry, Rule
from ..tasks.base import seed_of

__all__ = ["NORMS", "NormName", "Problem", "ProblemConfig", "kappa", "oracle", "problems"]

NormName = Literal["frobenius", "spectral", "linf", "column", "row"]
#: The norms in which every problem states its constant: those of the LMOs of the same names.
NORMS: tuple[NormName, ...] = get_args(NormName)


def kappa(norm: NormName, m: int, n: int) -> float:
    """``max ||X||_F / ||X||`` over m x n matrices, which is ``max ||G||_* / ||G||_F`` of the dual norm as well.

    All five satisfy ``||X|| <= ||X||_F <= kappa ||X||`` and ``||G||_F <= ||G||_* <= kappa ||G||_F``: the first pair by
    looking at one entry, row, column or singular value, the second by duality. So a constant L_F of the Frobenius norm
    gives ``L <= kappa^2 L_F``.

    >>> kappa("spectral", 4, 9), kappa("linf", 4, 9), kappa("column", 4, 9), kappa("row", 4, 9)
    (2.0, 6.0, 3.0, 2.0)
    """
    return sqrt({"frobenius": 1, "spectral": min(m, n), "linf": m * n, "column": n, "row": m}[norm])


def oracle(norm: NormName) -> LMO:
    """The LMO of a norm, exact (spectral by SVD in float64)."""
    cls = lmos.get(norm)
    return cls.model_validate({"schedule": "exact"} if norm == "spectral" else {})


class Problem(ABC):
    """A smooth function of an m x n matrix, in float64, and what is known of it.

    Args:
        m, n: of the matrix.
        lower: a number below (or equal to) every value of f.
        radius: the constants hold where the spectral norm of X is at most this (infinity: everywhere).
    """

    m: int
    n: int
    lower: float = 0.0
    radius: float = inf

    @abstractmethod
    def loss(self, X: Tensor) -> Tensor:
        """f(X): (..., m, n) -> (...)."""

    @abstractmethod
    def gradient(self, X: Tensor) -> Tensor:
        """The gradient, (..., m, n) -> (..., m, n)."""

    @abstractmethod
    def constant(self, norm: NormName) -> float:
        """L with ``||grad f(X) - grad f(Y)||_* <= L ||X - Y||``, derived in the class's docstring."""

    @abstractmethod
    def corner(self, norm: NormName) -> tuple[Tensor, Tensor]:
        """A point X and a unit direction D where the gradient changes about as fast as anywhere, for tests."""

    def start(self, seed: int) -> Tensor:
        """X_0, a function of the seed."""
        generator = torch.Generator().manual_seed(seed_of("start", seed))
        return torch.randn(self.m, self.n, generator=generator, dtype=torch.float64)


class ProblemConfig(Rule):
    """The numbers of a problem."""

    @abstractmethod
    def build(self) -> Problem:
        """The problem, its data drawn or read."""


problems: Registry[ProblemConfig] = Registry("problem", ProblemConfig)


def gaussian(*shape: int, seed: int, of: str) -> Tensor:
    """Independent standard normals that are a function of the seed and of what they are for."""
    generator = torch.Generator().manual_seed(seed_of("smooth", of, seed))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
