"""Balls whose oracle needs no decomposition: l-infinity, columns, rows, Frobenius."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..linalg import column_sum, matrix_sum, power_of_two_scale, row_sum
from ..signal import ONE, SQRT_M, SQRT_MN, SQRT_N, Alphabet, Norm
from .base import LMO, lmos


def _unit(g: Tensor, squares_of: Callable[[Tensor], Tensor], axes: tuple[int, ...] = (-2, -1)) -> Tensor:
    """g over the root of a sum of its squares; 0 where that sum is 0. Scaled first, so nothing over- or underflows."""
    scaled, _ = power_of_two_scale(g, axes)
    total = squares_of(scaled.square())
    return torch.where(total > 0, scaled * torch.where(total > 0, total, 1).rsqrt(), 0)


@lmos.register
class Linf(LMO):
    """``sign(g)``, the oracle of ``max |x_ij|`` (SignSGD, Lion); d(0) = 0, so its alphabet is ternary.

    Shapes: (..., m, n). Norm: dual = sum |g_ij|, nominal Frobenius norm sqrt(m n).
    Source: arXiv 1802.04434 (signSGD); arXiv 2502.07529, table 2 (Scion).

    >>> Linf().direction(torch.tensor([[2.0, -0.5, 0.0]]))
    tensor([[ 1., -1.,  0.]])
    """

    kind: Literal["linf"] = "linf"
    alphabet: ClassVar[Alphabet] = "ternary"
    frobenius: ClassVar[Norm] = SQRT_MN
    keeps_signs: ClassVar[bool] = True

    def direction(self, g: Tensor) -> Tensor:
        """sign(g)."""
        return torch.sign(g)

    def norm(self, x: Tensor) -> Tensor:
        """The largest magnitude."""
        return x.abs().amax((-2, -1))


@lmos.register
class Column(LMO):
    """Every column over its own l2 norm, the oracle of ``max_j ||x_:j||_2`` (1 -> 2 operator norm).

    Shapes: (..., m, n). Norm: dual = sum_j ||g_:j||_2, nominal Frobenius norm sqrt(n).
    Source: arXiv 2502.07529, table 2 (Scion's ColNorm is this with radius sqrt(m)).

    >>> Column().direction(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    tensor([[0.6000, 0.0000],
            [0.8000, 0.0000]])
    """

    kind: Literal["column"] = "column"
    frobenius: ClassVar[Norm] = SQRT_N
    keeps_signs: ClassVar[bool] = True

    def direction(self, g: Tensor) -> Tensor:
        """g_ij / ||g_:j||."""
        return _unit(g, column_sum, (-2,))

    def norm(self, x: Tensor) -> Tensor:
        """The longest column."""
        return torch.linalg.vector_norm(x, dim=-2).amax(-1)


@lmos.register
class Row(LMO):
    """Every row over its own l2 norm, the oracle of ``max_i ||x_i:||_2`` (2 -> infinity operator norm).

    Shapes: (..., m, n). Norm: dual = sum_i ||g_i:||_2, nominal Frobenius norm sqrt(m).
    Source: arXiv 2502.07529, table 2 (Scion's RowNorm is this with radius 1 / sqrt(n)).

    >>> Row().direction(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """

    kind: Literal["row"] = "row"
    frobenius: ClassVar[Norm] = SQRT_M
    keeps_signs: ClassVar[bool] = True

    def direction(self, g: Tensor) -> Tensor:
        """g_ij / ||g_i:||."""
        return _unit(g, row_sum, (-1,))

    def norm(self, x: Tensor) -> Tensor:
        """The longest row."""
        return torch.linalg.vector_norm(x, dim=-1).amax(-1)


@lmos.register
class Frobenius(LMO):
    """``g / ||g||_F``, the oracle of the Frobenius ball (normalised SGD).

    Shapes: (..., m, n). Norm: its own dual, nominal Frobenius norm 1.
    Source: arXiv 2002.03305 (normalised SGD with momentum).

    >>> Frobenius().direction(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor([[0.6000, 0.0000],
            [0.0000, 0.8000]])
    """

    kind: Literal["frobenius"] = "frobenius"
    frobenius: ClassVar[Norm] = ONE
    keeps_signs: ClassVar[bool] = True

    def direction(self, g: Tensor) -> Tensor:
        """g / ||g||_F."""
        return _unit(g, matrix_sum)

    def norm(self, x: Tensor) -> Tensor:
        """||x||_F."""
        return torch.linalg.vector_norm(x, dim=(-2, -1))
