"""Two Triton kernels: floats to words of bits, and words of bits to floats. Imported only where triton is.

Both see floats as integers of their size. So one code serves every dtype; NaN, -0.0 and subnormals are what their bits
say; and there is no arithmetic that a compiler could fuse or flush: the bits are those of :mod:`signa.packing`.

A word is two halves of 32 bits, the low one first, because a GPU's integers have 32. Half h of all rows is half
``h % halves`` of row ``h // halves``. int32 numbers the halves of 2^36 entries; addresses are int64.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .image import INTEGERS, image_of

__all__ = ["fair", "pack", "signed", "unpack"]

KIND = "triton"

_BLOCK = 64  # halves: 2048 entries, 16 for each thread of 4 warps


@triton.jit
def _to_words(
    x: tl.tensor, words: tl.tensor, words_stride: tl.tensor,
    length: tl.tensor, halves: tl.tensor, count: tl.tensor, row_stride: tl.tensor, stride: tl.tensor,
    KEEP: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """Bit e of a row is whether LEAST <= x[e] & KEEP <= MOST; 0 behind the last entry."""
    half = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bit = tl.arange(0, 32)[None, :]
    row, entry = (half // halves).to(tl.int64), (half % halves).to(tl.int64)[:, None] * 32 + bit
    there = (half < count)[:, None] & (entry < length)
    value = tl.load(x + row[:, None] * row_stride + entry * stride, mask=there, other=0) & KEEP
    yes = there & (value >= LEAST) & (value <= MOST)
    place = words + row * words_stride + half % halves
    tl.store(place, tl.sum(yes.to(tl.int32) << bit, axis=1), mask=half < count)


@triton.jit
def _to_floats(
    words: tl.tensor, x: tl.tensor, opinion: tl.tensor, out: tl.tensor,
    length: tl.tensor, halves: tl.tensor, count: tl.tensor, row_stride: tl.tensor, stride: tl.tensor,
    PLUS: tl.constexpr, MINUS: tl.constexpr, KEEP: tl.constexpr, MOST: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """PLUS where the bit is set, else MINUS. Where there is an x, its own sign comes first if 1 <= x & KEEP <= MOST; a
    row without opinion is 0."""
    half = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bit = tl.arange(0, 32)[None, :]
    row, entry = (half // halves).to(tl.int64), (half % halves).to(tl.int64)[:, None] * 32 + bit
    there = (half < count)[:, None] & (entry < length)
    word = tl.load(words + half, mask=half < count, other=0)[:, None]
    plus = ((word >> bit) & 1) != 0
    if x is not None:
        value = tl.load(x + row[:, None] * row_stride + entry * stride, mask=there, other=0)
        size = value & KEEP
        plus = tl.where((size >= 1) & (size <= MOST), value >= 0, plus)
    sign = tl.where(plus, PLUS, MINUS)
    if opinion is not None:
        sign = tl.where((tl.load(opinion + row, mask=half < count, other=0) != 0)[:, None], sign, 0)
    tl.store(out + row[:, None] * length + entry, sign, mask=there)


def _integers(x: Tensor) -> Tensor:
    return x.detach().view(INTEGERS[x.element_size()])


def _words(x: Tensor, words: Tensor, keep: int, least: int, most: int) -> None:
    """Integers (R, L) of any strides to words (R, W), of which the rows may lie apart."""
    halves = words.view(torch.int32)
    if count := halves.numel():
        with torch.cuda.device_of(x):
            _to_words[(triton.cdiv(count, _BLOCK),)](
                x, halves, halves.stride(0), x.shape[1], halves.shape[1], count, *x.stride(),
                KEEP=keep, LEAST=least, MOST=most, BLOCK=_BLOCK,
            )  # fmt: skip


def _floats(words: Tensor, out: Tensor, x: Tensor | None = None, opinion: Tensor | None = None) -> None:
    """Words (R, W) to floats (R, L); x (R, L) of any strides is asked first."""
    halves, image = words.view(-1).view(torch.int32), image_of(out.dtype)
    asked, strides = (None, (0, 0)) if x is None else (_integers(x), x.stride())
    if count := halves.numel():
        with torch.cuda.device_of(out):
            _to_floats[(triton.cdiv(count, _BLOCK),)](
                halves, asked, opinion, _integers(out), out.shape[1], 2 * words.shape[1], count, *strides,
                PLUS=image.plus, MINUS=image.minus, KEEP=image.size, MOST=image.infinity, BLOCK=_BLOCK,
            )  # fmt: skip


def pack(x: Tensor, words: Tensor, *, present: bool) -> None:
    """Words (R, W) of floats (R, L) or their integers: which are not 0, or else whose sign bit is clear."""
    x = _integers(x)
    largest = torch.iinfo(x.dtype).max
    _words(x, words, largest if present else -1, int(present), largest)


def signed(x: Tensor, sign: Tensor, there: Tensor) -> bool:
    """Words (R, W) of floats (R, L): whose sign bit is clear, and which are neither 0 nor NaN.

    Returns:
        False: the host does not wait to see whether all are.
    """
    image = image_of(x.dtype)
    pack(x, sign, present=False)
    _words(_integers(x), there, image.size, 1, image.infinity)
    return False


def unpack(words: Tensor, out: Tensor) -> None:
    """+1 and -1 (64 w,) of words (w,)."""
    _floats(words.view(1, -1), out.view(1, -1))


def fair(x: Tensor, coins: Tensor) -> Tensor:
    """Signs of floats (R, L), that of the coin (R, W) where one is 0 or NaN; a row of nothing else is 0."""
    image, out = image_of(x.dtype), torch.empty(x.shape, dtype=x.dtype, device=x.device)
    some = torch.empty(coins.shape, dtype=coins.dtype, device=x.device)
    _words(_integers(x), some, image.size, 1, image.infinity)
    _floats(coins, out, x, some.any(-1).view(torch.uint8))
    return out
