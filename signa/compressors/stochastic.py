"""Compressors that toss: unbiased ternary, sign by chance, entries by chance. All of it from ``ctx.uniform``."""

from __future__ import annotations

from math import ceil, log2
from typing import Literal

import torch
from torch import Tensor

from ..codec import Codec, ScaledTernary, Sparse
from ..linalg import matrix_sum, power_of_two_scale
from ..rule import Flag, Share
from ..signal import SQRT_MN, Signal
from ..stage import Context
from .base import Compressor, compressors


@compressors.register
class Ternary(Compressor):
    """``C(x) = s sign(x) b`` with ``s = max |x_ij|`` and ``b_ij = 1`` with probability ``|x_ij| / s``, else 0.

    Unbiased: E C(x) = x. Its variance is ``s |x|_1 - |x|_2^2``, for many entries far above |x|_2^2, so it is no
    contraction. Every worker has a scale of its own; the paper's clipping of outliers is the stage ``clip`` before it.

    Shapes: (..., m, n), one scale per matrix.
    Source: arXiv 1705.07878, equations 2 to 4 (TernGrad).

    >>> Ternary()(torch.tensor([[0.0, -4.0, 3.0, 0.5]]), Context())
    tensor([[ 0., -4.,  4.,  0.]])
    """

    kind: Literal["ternary"] = "ternary"

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """The scale, with the entry's sign, as often as the entry is large."""
        scaled = power_of_two_scale(x)[0].abs().double()  # subnormal products would round up to the scale
        kept = ctx.uniform(x) * scaled.amax((-2, -1), keepdim=True) < scaled
        return torch.where(kept, torch.sign(x) * x.abs().amax((-2, -1), keepdim=True), 0)

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        """Signs, presence and the scale."""
        return ScaledTernary(m, n, dtype)

    def contraction(self, m: int, n: int) -> float | None:
        """None, but for a single entry, which is its own scale."""
        return 1.0 if m * n == 1 else None

    def bits(self, s: Signal, m: int, n: int) -> float:
        """Two bits and the share of a float32 scale."""
        return 2 + 32 / (m * n)

    def signal(self, s: Signal) -> Signal:
        """Dense in the mean; one message holds three values."""
        return s.but(alphabet="scaled_ternary")


@compressors.register
class StochasticSign(Compressor):
    """``C(x)_ij = +1 with probability 1/2 + x_ij / (2 ||x||)``, else -1: ``E C(x) = x / ||x||``, one bit per entry.

    Unlike ``sign`` it points along x in the mean, so that a vote of many workers knows which entries are large.

    Shapes: (..., m, n), one norm per matrix; a matrix that is zero throughout stays zero. Norm: sqrt(m n).

    Args:
        norm: ``linf``, the largest magnitude (the least noise that such a rule can have), or ``l2``, Frobenius (with
            which nearly every entry of a large matrix is a fair coin).

    Source: arXiv 1905.12938, Definition 1 (l2); arXiv 2002.10940, Definition 1 (sto-sign with one bound, linf).

    >>> StochasticSign()(torch.tensor([[2.0, -2.0, 0.5]]), Context())
    tensor([[ 1., -1.,  1.]])
    """

    kind: Literal["stochastic_sign"] = "stochastic_sign"
    norm: Literal["linf", "l2"] = "linf"

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """+-1 by chance."""
        scaled = power_of_two_scale(x)[0].double()
        if self.norm == "linf":
            size = scaled.abs().amax((-2, -1), keepdim=True)
        else:
            size = matrix_sum(scaled.square()).sqrt()
        sign = torch.where((2 * ctx.uniform(x) - 1) * size < scaled, 1.0, -1.0)
        return torch.where(size == 0, 0.0, sign).to(x.dtype)

    def contraction(self, m: int, n: int) -> None:
        """None: the size of x is lost."""
        return None

    def bits(self, s: Signal, m: int, n: int) -> float:
        """1."""
        return 1.0

    def signal(self, s: Signal) -> Signal:
        """A direction of +-1."""
        return Signal("direction", "sign", SQRT_MN)


@compressors.register
class RandomK(Compressor):
    """``k = max(1, round(fraction m n))`` entries, drawn anew in every step by every worker; the others become 0.

    In the mean it contracts, ``E ||C(x) - x||^2 = (1 - k / (m n)) ||x||^2``, but not for every draw, so it declares no
    contraction (unless it keeps everything), and ``ef21`` refuses it.

    Shapes: (..., m, n), one draw per matrix.

    Args:
        fraction: of the entries that are kept.
        unbiased: multiply them by ``m n / k``, so that E C(x) = x.

    Source: arXiv 1809.07599, section 2 (rand_k); arXiv 1710.09854 (unbiased sparsification).

    >>> RandomK(fraction=0.5, unbiased=True)(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), Context())
    tensor([[ 0., -6.],
            [ 0.,  1.]])
    """

    kind: Literal["random_k"] = "random_k"
    fraction: Share = 0.01
    unbiased: Flag = False

    def kept(self, m: int, n: int) -> int:
        """K for one shape."""
        return min(max(1, round(self.fraction * m * n)), m * n)

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """x where the draw is among the k largest, else 0."""
        m, n = x.shape[-2:]
        at = ctx.uniform(x).flatten(-2).topk(self.kept(m, n), dim=-1, sorted=False).indices
        flat = x.flatten(-2)
        values = flat.gather(-1, at) + 0.0  # no -0.0
        if self.unbiased:
            values *= m * n / self.kept(m, n)
        return torch.zeros_like(flat).scatter(-1, at, values).view(x.shape)

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        """Values and places: the receiver of packed bytes tosses no coins of a sender."""
        return Sparse(m, n, dtype, self.kept(m, n))

    def contraction(self, m: int, n: int) -> float | None:
        """1 where everything is kept, else None."""
        return 1.0 if self.kept(m, n) == m * n else None

    def bits(self, s: Signal, m: int, n: int) -> float:
        """A float32 value and an index of ceil(log2(m n)) bits for each of the k entries."""
        return self.kept(m, n) * (32 + ceil(log2(max(m * n, 2)))) / (m * n)

    def signal(self, s: Signal) -> Signal:
        """Sparse values of the same nominal size."""
        return s.but(alphabet="sparse")
