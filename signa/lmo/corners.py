"""Balls whose corners are rank one or one entry: the nuclear norm and l1."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..rule import Count
from ..signal import ONE, Alphabet, Norm
from .base import LMO, lmos
from .newton_schulz import leading_pair


@lmos.register
class Nuclear(LMO):
    """``u v^T`` of the largest singular value, the oracle of the nuclear norm ``sum_i sigma_i`` (Frank-Wolfe).

    By repeated squaring of the Gram matrix, so no LAPACK: <g, d> falls short of sigma_1 by a share of about
    ``(1 - r^2) r^(2^(k+2))`` with r = sigma_2 / sigma_1 and k squarings, at most 2^-(k+1).

    Shapes: (..., m, n); a squaring costs min(m, n)^3. Norm: dual = sigma_1, nominal Frobenius norm 1.

    Args:
        squarings: k.

    Source: Jaggi 2013, Revisiting Frank-Wolfe, section 4.3 and table 1 (matrices of bounded trace norm).

    >>> Nuclear().direction(torch.tensor([[0.0, -3.0], [2.0, 0.0]]))
    tensor([[ 0., -1.],
            [ 0., -0.]])
    """

    kind: Literal["nuclear"] = "nuclear"
    frobenius: ClassVar[Norm] = ONE
    squarings: Count = 12

    def direction(self, g: Tensor) -> Tensor:
        """u v^T."""
        return leading_pair(g, self.squarings)

    def norm(self, x: Tensor) -> Tensor:
        """The sum of the singular values."""
        return torch.linalg.matrix_norm(x, ord="nuc")

    def dual(self, g: Tensor) -> Tensor:
        """The largest singular value."""
        return torch.linalg.matrix_norm(g, ord=2)


@lmos.register
class L1(LMO):
    """``sign(g_ij)`` at the largest magnitude (the first on ties) and 0 elsewhere, the oracle of ``sum |x_ij|``.

    Shapes: (..., m, n). Norm: dual = max |g_ij|, nominal Frobenius norm 1.
    Source: Jaggi 2013, Revisiting Frank-Wolfe, section 3 and table 1 (sparse vectors).

    >>> L1().direction(torch.tensor([[2.0, -5.0, 5.0]]))
    tensor([[ 0., -1.,  0.]])
    """

    kind: Literal["l1"] = "l1"
    alphabet: ClassVar[Alphabet] = "ternary"
    frobenius: ClassVar[Norm] = ONE

    def direction(self, g: Tensor) -> Tensor:
        """One entry of +-1."""
        flat = g.flatten(-2)
        at = flat.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(flat).scatter(-1, at, flat.gather(-1, at).sign()).view(g.shape)

    def norm(self, x: Tensor) -> Tensor:
        """The sum of the magnitudes."""
        return x.abs().sum((-2, -1))

    def dual(self, g: Tensor) -> Tensor:
        """The largest magnitude."""
        return g.abs().amax((-2, -1))
