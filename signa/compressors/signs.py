"""One bit per entry: the sign, and the sign with a scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ..codec import Codec, ScaledSigns
from ..linalg import column_sum, matrix_sum, row_sum
from ..rule import Count
from ..signal import BITS, SQRT_MN, Signal
from ..stage import Context
from .base import Compressor, compressors


@compressors.register
class Sign(Compressor):
    """``C(x) = sign(x)``: one bit per entry, whatever the size of x.

    Shapes: (..., m, n). Norm: sqrt(m n). Law: no contraction (C(x) does not approximate x), so ``ef21`` refuses it. A
    matrix that is zero throughout stays zero: its sender abstains.

    Args:
        zeros: what an exact zero inside a matrix becomes: a fair ``coin`` (1 bit, unbiased), ``positive`` (1 bit,
            biased), or ``keep`` (0, an abstention, which needs a second bit plane).

    Source: arXiv 1802.04434 (signSGD); arXiv 2605.16311 (Sign-Muon).

    >>> Sign(zeros="keep")(torch.tensor([[0.3, -2.0, 0.0]]), Context())
    tensor([[ 1., -1.,  0.]])
    """

    kind: Literal["sign"] = "sign"
    zeros: Literal["coin", "positive", "keep"] = "coin"

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """+-1, with zeros resolved as the rule says."""
        if self.zeros == "coin":
            return ctx.fair_sign(x)
        sign = torch.sign(x)
        if self.zeros == "keep":
            return sign
        opinion = sign.ne(0).flatten(-2).any(-1)[..., None, None]
        return torch.where(sign.eq(0) & opinion, torch.ones_like(sign), sign)

    @property
    def packs(self) -> bool:
        """If zeros become coins."""
        return self.zeros == "coin"

    def packed(self, x: Tensor, ctx: Context) -> tuple[Sequence[Tensor], Tensor]:
        """Words of signs, never as floats."""
        words, silent = ctx.fair_words(x)
        return [words], silent

    def contraction(self, m: int, n: int) -> None:
        """None: the size of x is lost."""
        return None

    def bits(self, s: Signal, m: int, n: int) -> float:
        """1, or 2 with zeros kept."""
        return BITS[self.signal(s).alphabet]

    def signal(self, s: Signal) -> Signal:
        """A direction of +-1."""
        return Signal("direction", "ternary" if self.zeros == "keep" else "sign", SQRT_MN)


@compressors.register
class ScaledSign(Compressor):
    """``C(x) = mean|x| sign(x)``, one scale per matrix, row, column or block of entries.

    Shapes: (..., m, n); a block is ``block`` consecutive entries of the row-major matrix, the last one may be shorter.
    Law: delta = |x|_1^2 / (d |x|_2^2) for the d entries that share a scale, so at least 1 / d. Zeros become coins
    (times the scale), so every entry is one bit.

    Source: arXiv 1901.09847 (EF-SignSGD), Lemma 8.

    >>> ScaledSign()(torch.tensor([[1.0, -3.0]]), Context())
    tensor([[ 2., -2.]])
    """

    kind: Literal["scaled_sign"] = "scaled_sign"
    per: Literal["matrix", "row", "column", "block"] = "matrix"
    block: Count = 256

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """Scale times sign."""
        return self._scale(x.abs()) * ctx.fair_sign(x)

    def _scale(self, size: Tensor) -> Tensor:
        m, n = size.shape[-2:]
        if self.per == "matrix":
            return matrix_sum(size) / (m * n)
        if self.per == "row":
            return row_sum(size) / n
        if self.per == "column":
            return column_sum(size) / m
        flat = functional.pad(size.flatten(-2), (0, -(m * n) % self.block))
        blocks = rearrange(flat, "... (b e) -> ... b e", e=self.block)
        count = torch.full((blocks.shape[-2], 1), self.block, dtype=size.dtype, device=size.device)
        count[-1] = m * n - self.block * (blocks.shape[-2] - 1)
        means = (row_sum(blocks) / count).expand_as(blocks)
        return means.flatten(-2)[..., : m * n].view(size.shape)

    def scales(self, m: int, n: int) -> int:
        """How many scales a matrix has."""
        return {"matrix": 1, "row": m, "column": n, "block": -(-m * n // self.block)}[self.per]

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        """Signs and scales."""
        return ScaledSigns(m, n, dtype, self.per, self.block)

    def contraction(self, m: int, n: int) -> float:
        """1 / d for the d entries that share a scale."""
        return 1 / {"matrix": m * n, "row": n, "column": m, "block": min(self.block, m * n)}[self.per]

    def bits(self, s: Signal, m: int, n: int) -> float:
        """One bit and the share of a float32 scale."""
        return 1 + 32 * self.scales(m, n) / (m * n)

    def signal(self, s: Signal) -> Signal:
        """The same signal, told in signs and scales."""
        return s.but(alphabet="scaled_sign")
