"""The loops of ``native.c``, by ctypes: on a CPU what :mod:`signa.kernels.one_pass` is on a GPU, and two more.

Floats are integers there, as they are in the Triton kernels, and no bit depends on the number of threads.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .compiled import library
from .image import image_of, signs_of_bytes

__all__ = ["add", "bfloat16", "finite", "gather", "pack", "reads", "signed", "unpack"]

KIND = "native"

_PLAIN = frozenset({Tensor, torch.nn.Parameter})
_ON_CPU, _DTYPE = attrgetter("is_cpu"), attrgetter("dtype")
_ALONE = 1 << 16
"""Bytes: with fewer, one thread is done before a second one has started."""


def pack(x: Tensor, words: Tensor, *, present: bool) -> None:
    """Words (R, W) of floats (R, L) or their integers: which are not 0, or else whose sign bit is clear."""
    top = _sign_bit(x)
    _words(x, words, (top - 1, 1, top - 1) if present else (top, 0, 0))


def signed(x: Tensor, sign: Tensor, there: Tensor) -> bool:
    """Words (R, W) of floats (R, L): whose sign bit is clear; and, unless all are, which are neither 0 nor NaN.

    Returns:
        Whether all are: ``there`` is left as it was.
    """
    image = image_of(x.dtype)
    opinion = (image.size, 1, image.infinity)
    sure = _words(x, sign, (image.size + 1, 0, 0), opinion)
    if not sure:
        _words(x, there, opinion)
    return sure


def _sign_bit(x: Tensor) -> int:  # of floats, or of their integers
    return 1 << (8 * x.element_size() - 1)


def _words(x: Tensor, out: Tensor, test: tuple[int, int, int], sure: tuple[int, int, int] = (0, 0, 0)) -> bool:
    """Words (R, W), whose rows may lie apart, of (R, L) of any strides: whether least <= x & keep <= most, of the three
    numbers of a test. Whether the second one holds throughout."""
    (rows, length), (down, along), threads = x.shape, x.stride(), _threads(x.numel() * x.element_size())
    call = library().words[x.element_size()]
    place, apart = out.data_ptr(), out.stride(0)
    return bool(call(x.data_ptr(), down, along, rows, length, place, apart, *test, *sure, threads))


def unpack(words: Tensor, out: Tensor) -> None:
    """+1 and -1 (64 w,) of words (w,)."""
    table, size = _table(out.dtype), out.element_size()
    threads = _threads(out.numel() * size)
    library().unpack[size](words.data_ptr(), 8 * len(words), table.data_ptr(), out.data_ptr(), threads)


def add(words: Tensor, models: Sequence[Tensor], step: float) -> None:
    """Contiguous floats of one dtype and size, which the rows of words (R, W) are shared out to, plus step where the
    bit is set, else minus step: the bits of ``x.add_(signs, alpha=step)``."""
    increment_version(models)  # as every operation of torch's that writes
    rows, dtype, places = len(words), models[0].dtype, _addresses(models)
    per, entries = rows // len(models), len(models) * models[0].numel()
    steps, threads = _table(dtype) * step, _threads(entries * dtype.itemsize)
    call = library().add[dtype.itemsize]
    call(words.data_ptr(), words.stride(0), rows, entries // rows, steps.data_ptr(), _place(places), per, threads)


@lru_cache(maxsize=16)
def _table(dtype: torch.dtype) -> Tensor:
    return signs_of_bytes().to(dtype)


def reads(blocks: Sequence[Tensor]) -> bool:
    """Whether these are nothing but contiguous memory of a CPU, of one dtype: what :func:`finite`, :func:`gather`,
    :func:`add` and :func:`bfloat16` may be given."""
    plain = _PLAIN.issuperset(map(type, blocks)) and all(map(Tensor.is_contiguous, blocks))
    return plain and len(set(map(_DTYPE, blocks))) == 1 and all(map(_ON_CPU, blocks))


def finite(blocks: Sequence[Tensor]) -> bool:
    """Whether no entry is infinite or NaN in contiguous tensors of one floating dtype, at least one."""
    dtype, lengths = blocks[0].dtype, array("q", map(Tensor.numel, blocks))
    threads, starts = _threads(sum(lengths) * dtype.itemsize), _addresses(blocks)
    call = library().finite[dtype.itemsize]
    return bool(call(_place(starts), _place(lengths), len(blocks), image_of(dtype).infinity, threads))


def gather(blocks: Sequence[Tensor], out: Tensor) -> None:
    """Contiguous tensors of one shape and dtype, at least one, one behind the other in a contiguous ``out``."""
    size, starts = blocks[0].numel() * out.element_size(), _addresses(blocks)
    library().gather(_place(starts), len(blocks), size, out.data_ptr(), _threads(len(blocks) * size))


def bfloat16(x: Tensor, c: float = 1.0, y: Tensor | None = None, b: float = 0.0) -> Tensor:
    """``c x + b y``, or x alone, in place and rounded to bfloat16; all are contiguous float32, and stay it: the bits of
    ``x.mul_(c).add_(y * b)`` and of its rounding."""
    length, threads = x.numel(), _threads(4 * x.numel())
    library().bfloat16(x.data_ptr(), c, None if y is None else y.data_ptr(), b, length, threads)
    return x


def _addresses(blocks: Sequence[Tensor]) -> array[int]:
    return array("q", map(Tensor.data_ptr, blocks))


def _place(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


def _threads(bytes_: int) -> int:
    return torch.get_num_threads() if bytes_ > _ALONE else 1
