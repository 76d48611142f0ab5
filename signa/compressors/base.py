"""What a channel may do to a message before it is sent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..codec import Codec, codec_for
from ..rule import Registry, Rule
from ..signal import Signal
from ..stage import Context


class Compressor(Rule):
    """A map C of matrices to matrices with few bits; the dense image is what everybody computes with.

    Law: if :meth:`contraction` gives delta, ``||C(x) - x||_F^2 <= (1 - delta) ||x||_F^2`` for every x.
    """

    @abstractmethod
    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """C(x), dense, (..., m, n)."""

    @property
    def packs(self) -> bool:
        """Whether :meth:`packed` is cheaper than to make C(x) first."""
        return False

    def packed(self, x: Tensor, ctx: Context) -> tuple[Sequence[Tensor], Tensor]:
        """C(x) in the fields of its codec, (R, columns) for the R leading indices, and which of them are zero
        throughout, (R,). Law: what packing C(x) gives, and nothing that shares memory with x."""
        raise NotImplementedError(f"{self.kind} makes its messages as floats")

    def codec(self, s: Signal, m: int, n: int, dtype: torch.dtype) -> Codec:
        """How C(x) travels for inputs described by ``s``. Law: it brings C(x) back bit for bit.

        What the message's alphabet needs, unless a compressor says more: floats where nothing else fits.
        """
        return codec_for(self.signal(s).alphabet, m, n, dtype)

    @abstractmethod
    def contraction(self, m: int, n: int) -> float | None:
        """The guaranteed delta in (0, 1], or None where C(x) does not approximate x."""

    @abstractmethod
    def bits(self, s: Signal, m: int, n: int) -> float:
        """Logical bits per entry of a message, scales and indices included, for an input described by ``s``."""

    @abstractmethod
    def signal(self, s: Signal) -> Signal:
        """What compression does to the nominal description of the message."""


compressors: Registry[Compressor] = Registry("compressor", Compressor)
