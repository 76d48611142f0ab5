"""Compressors that keep values: all of them, or the largest."""

from __future__ import annotations

from math import ceil, log2
from typing import Literal

import torch
from torch import Tensor

from ..codec import Codec, Sparse
from ..rule import Share
from ..signal import BITS, Signal
from ..stage import Context
from .base import Compressor, compressors


@compressors.register
class Identity(Compressor):
    """``C(x) = x``: 32 bits per entry, or what the signal's own alphabet costs (a vote is 1 bit already).

    Shapes: (..., m, n). Source: the control of every compressor.

    >>> Identity().bits(Signal(), 4, 4), Identity().bits(Signal(alphabet="sign"), 4, 4)
    (32.0, 1.0)
    """

    kind: Literal["identity"] = "identity"

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """X itself."""
        return x

    def contraction(self, m: int, n: int) -> float:
        """1: nothing is lost."""
        return 1.0

    def bits(self, s: Signal, m: int, n: int) -> float:
        """What the alphabet costs."""
        return BITS.get(s.alphabet, BITS["dense"])

    def signal(self, s: Signal) -> Signal:
        """Unchanged."""
        return s


@compressors.register
class TopK(Compressor):
    """The ``k = max(1, round(fraction m n))`` entries of largest magnitude; the others become 0.

    Shapes: (..., m, n), one selection per matrix. Law: delta = k / (m n).
    Source: arXiv 1809.07599 (sparsified SGD with memory), section 2.

    >>> TopK(fraction=0.5)(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), Context())
    tensor([[ 0., -3.],
            [ 2.,  0.]])
    """

    kind: Literal["top_k"] = "top_k"
    fraction: Share = 0.01

    def kept(self, m: int, n: int) -> int:
        """K for one shape."""
        return max(1, round(self.fraction * m * n))

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """x where it is among the k largest, else 0."""
        flat = x.flatten(-2)
        at = flat.abs().topk(min(self.kept(*x.shape[-2:]), flat.shape[-1]), dim=-1).indices
        return torch.zeros_like(flat).scatter(-1, at, flat.gather(-1, at) + 0.0).view(x.shape)  # + 0.0: no -0.0

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        """Values and places."""
        return Sparse(m, n, dtype, min(self.kept(m, n), m * n))

    def contraction(self, m: int, n: int) -> float:
        """K / (m n)."""
        return self.kept(m, n) / (m * n)

    def bits(self, s: Signal, m: int, n: int) -> float:
        """A float32 value and an index of ceil(log2(m n)) bits for each of the k entries."""
        return self.kept(m, n) * (32 + ceil(log2(max(m * n, 2)))) / (m * n)

    def signal(self, s: Signal) -> Signal:
        """Sparse values of the same nominal size."""
        return s.but(alphabet="sparse")
