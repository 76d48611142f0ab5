"""The best few directions of a matrix, without LAPACK: the same bits alone, in a stack and under any threads."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..linalg import column_sum, ieee_products, matrix_sum, power_of_two_scale, row_sum
from ..rule import Count
from ..signal import BITS, Signal
from ..stage import Context
from .base import Compressor, compressors

_SIDE, _WIDTH = 32, 320  # products of padded sides and of inner lengths up to this know no threads (docs/numerics.md)


@compressors.register
class Rank(Compressor):
    """``C(x) = x P^T P`` with r orthonormal rows P: the part of x in a subspace that holds its largest directions.

    P starts from r rows of x (the smaller side), each the one of which most is left (pivoted Gram-Schmidt), and
    turns by ``P <- orth(P x^T x)``, which never loses any of ``||x P^T||``. It is a function of x alone: no warm start,
    no coins.

    Every pivot takes at least its row's share of what is left, so r of M = min(m, n) rows leave at most
    ``(1 - r / M) ||x||^2``: as much as the best approximation of rank r guarantees.

    Shapes: (..., m, n). Law: delta = min(1, r / min(m, n)). A matrix of at most r rows or columns is x itself.
    The factors would be ``32 r (m + n) / (m n)`` bits per entry, but no factors can be found again in the dense image
    bit for bit, so the message travels as floats and ``bits`` says 32: this part studies what rank r does to a method,
    not what it saves.

    Args:
        rank: r.
        iterations: turns of P.

    Source: arXiv 1905.13727, Algorithm 1 (PowerSGD); Halko, Martinsson and Tropp, arXiv 0909.4061, Algorithm 4.4
    (subspace iteration).

    >>> x = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    >>> Rank(rank=2)(x, Context())
    tensor([[3., 0., 0.],
            [0., 2., 0.],
            [0., 0., 0.]])
    """

    kind: Literal["rank"] = "rank"
    rank: Count = 4
    iterations: Count = 2

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """x P^T P."""
        m, n = x.shape[-2:]
        if self.rank >= min(m, n):
            return x
        if m > n:
            return self(x.mT, ctx).mT.contiguous()
        rows = x.reshape(-1, m, n).contiguous()
        with ieee_products(x.device):
            P = _orthonormal(rows, self.rank)  # (B, r, n)
            for _ in range(self.iterations):
                scaled = power_of_two_scale(rows)[0]  # squares of x neither over- nor underflow
                P = _orthonormal(_product(_product(scaled, P.mT).mT, scaled), self.rank)
            return _product(_product(rows, P.mT), P).view(x.shape)

    def contraction(self, m: int, n: int) -> float:
        """R / min(m, n)."""
        return min(1.0, self.rank / min(m, n))

    def bits(self, s: Signal, m: int, n: int) -> float:
        """Floats travel."""
        return BITS["dense"]

    def signal(self, s: Signal) -> Signal:
        """Dense values of the same nominal size."""
        return s.but(alphabet="dense")


def _orthonormal(x: Tensor, count: int) -> Tensor:
    """Orthonormal rows in the span of x's, (B, a, n) -> (B, count, n), the longest rest first; 0 where nothing is."""
    rest, _ = power_of_two_scale(x)
    found = x.new_zeros(len(x), count, x.shape[-1])
    for i in range(count):
        longest = row_sum(rest.square()).argmax(-2, keepdim=True)  # (B, 1, 1)
        q = _unit(rest.gather(-2, longest.expand(-1, 1, x.shape[-1])))
        q = _unit(q - column_sum(found * row_sum(found * q)))
        q = q - column_sum(found * row_sum(found * q))  # twice is enough, unless what was left is rounding alone
        q = torch.where(matrix_sum(q.square()) > 0.5, _unit(q), 0)
        found[:, i : i + 1] = q
        rest = rest - row_sum(rest * q) * q
    return found


def _unit(x: Tensor) -> Tensor:
    scaled, _ = power_of_two_scale(x)
    size = matrix_sum(scaled.square()).sqrt()
    return scaled / torch.where(size == 0, 1, size)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b, (B, m, k), (B, k, n) -> (B, m, n): sides padded, blocks of the inner side added in order."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    a = functional.pad(a, (0, -k % _SIDE, 0, -m % _SIDE))
    b = functional.pad(b, (0, -n % _SIDE, 0, -k % _SIDE))
    pairs = zip(a.split(_WIDTH, -1), b.split(_WIDTH, -2))
    first, *others = (torch.bmm(left.contiguous(), right.contiguous()) for left, right in pairs)
    for other in others:
        first += other
    return first[:, :m, :n].contiguous()


__all__ = ["Rank"]
