"""One bit per entry in 64-bit words, and arithmetic on the words themselves.

Bit ``e & 63`` of word ``e >> 6`` is entry e, 1 for +1 and 0 for -1; in memory that is least significant bit first in
every byte, numpy's ``packbits(bitorder="little")``. What lies behind the last entry is 0.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["WORD", "majority", "ones", "signs", "words", "words_for"]

WORD = 64
#: Entries packed or unpacked in one go: the scratch of a chunk stays in a core's cache (256 Ki: 2 to 5 times the speed
#: of fresh temporaries of full length).
_CHUNK = 1 << 18
_WORDS = 1 << 13
_GATHER = 0x0102040810204080  # times eight bytes of 0 or 1: the top byte has bit i = byte i

if sys.byteorder != "little":  # the wire is little-endian, and words are viewed as bytes
    raise ImportError("SignA's packed formats need a little-endian machine")


def words_for(entries: int) -> int:
    """How many words hold so many entries.

    >>> words_for(64), words_for(65)
    (1, 2)
    """
    return -(-entries // WORD)


def words(x: Tensor) -> Tensor:
    """The sign bits of floats, ``(R, L) -> (R, ceil(L / 64))`` int64: 1 where the sign bit is clear (so for +0.0).

    >>> words(torch.tensor([[1.0, -1.0, 1.0]]))
    tensor([[5]])
    """
    rows, length = x.shape
    whole = words_for(length)
    out = torch.empty(rows, whole * 8, dtype=torch.uint8, device=x.device)
    if length == whole * WORD:
        _fill(x.reshape(-1), out.view(-1))
        return out.view(torch.int64)
    for row, bytes_ in zip(x, out):
        full = length // 8
        _fill(row[: full * 8], bytes_[:full])
        rest = torch.full((8 * (whole * 8 - full),), -1.0, dtype=x.dtype, device=x.device)
        rest[: length - full * 8] = row[full * 8 :]
        _fill(rest, bytes_[full:])
    return out.view(torch.int64)


def _fill(x: Tensor, out: Tensor) -> None:
    """Sign bits of a flat x of 8 len(out) entries into bytes."""
    x = x.contiguous()
    integers = x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
    for a in range(0, len(out), _CHUNK // 8):
        b = min(a + _CHUNK // 8, len(out))
        pack_chunk(integers[8 * a : 8 * b], out[a:b])


def pack_chunk(x: Tensor, out: Tensor) -> None:
    """``x >= 0`` of integers, eight to a byte. On a CPU by numpy, whose comparison is 3 times as fast as torch's."""
    if x.device.type == "cpu":
        np.copyto(out.numpy(), np.packbits(x.numpy() >= 0, bitorder="little"))
    else:
        pack_chunk_by_torch(x, out)


def pack_chunk_by_torch(x: Tensor, out: Tensor) -> None:
    """The same on any device: one multiplication gathers eight comparisons into a byte."""
    out.copy_((x.ge(0).view(torch.int64) * _GATHER).bitwise_right_shift_(56))


class _Tables:
    """For every byte its eight signs, once for each dtype and device."""

    def __init__(self) -> None:
        self._tables: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        if (dtype, device) not in self._tables:
            byte = torch.arange(256, device=device).unsqueeze(1)
            bits = (byte >> torch.arange(8, device=device)) & 1
            self._tables[dtype, device] = (bits * 2 - 1).to(dtype)
        return self._tables[dtype, device]


_tables = _Tables()


def signs(packed: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`words`: ``(R, W) -> (R, length)`` of +1 and -1.

    >>> signs(torch.tensor([[5]]), 3, torch.float32)
    tensor([[ 1., -1.,  1.]])
    """
    rows, count = packed.shape
    out = torch.empty(rows, count * WORD, dtype=dtype, device=packed.device)
    for a, part in _bytes(packed):
        _expand(part, out.view(-1, 8)[a : a + len(part)])
    return out[:, :length]


def unpacked(packed: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """All signs in order, a chunk at a time: (index of its first entry, the entries in a scratch that is reused).

    To apply a direction without ever holding it: ``for a, d in unpacked(w, x.dtype): x[a : a + len(d)].add_(d, ...)``.
    """
    scratch = torch.empty(min(_CHUNK // 8, max(1, packed.numel() * 8)), 8, dtype=dtype, device=packed.device)
    for a, part in _bytes(packed):
        _expand(part, scratch[: len(part)])
        yield 8 * a, scratch[: len(part)].view(-1)


def _bytes(packed: Tensor) -> Iterator[tuple[int, Tensor]]:
    flat = packed.contiguous().view(-1).view(torch.uint8)
    for a in range(0, len(flat), _CHUNK // 8):
        yield a, flat[a : a + _CHUNK // 8]


def _expand(part: Tensor, out: Tensor) -> None:
    torch.index_select(_tables(out.dtype, out.device), 0, part.to(torch.int32), out=out)


def ones(planes: Tensor) -> list[Tensor]:
    """How many of the planes have each bit: ``(V, ...)`` words to binary digits, least significant first.

    Carry-save adders, ``a + b + c = (a ^ b ^ c) + 2 maj(a, b, c)``, on 64 entries at a time; exact for any V.
    """
    places: list[list[Tensor]] = [list(planes)]
    for place, column in enumerate(places):  # grows while it is walked
        carries: list[Tensor] = []
        while len(column) > 2:
            a, b, c = column.pop(), column.pop(), column.pop()
            either = a ^ b
            carries.append((a & b).bitwise_or_(either & c))
            column.append(either.bitwise_xor_(c))
        if len(column) == 2:
            a, b = column
            carries.append(a & b)
            places[place] = [a ^ b]
        if carries:
            places.append(carries)
    return [column[0] for column in places]


def majority(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Where more than half of the V planes have the bit, and where exactly half have it: ``(V, ...) -> (...), (...)``.

    >>> more, tie = majority(torch.tensor([[0b1100], [0b1010]]))
    >>> bin(more.item()), bin(tie.item() & 0b1111)
    ('0b1000', '0b110')
    """
    voters, half = len(planes), len(planes) // 2
    flat = planes.reshape(voters, -1)
    more = torch.empty_like(flat[0])
    tie = torch.zeros_like(flat[0])
    for a in range(0, flat.shape[1], _WORDS):  # the adders' planes of a chunk stay in the cache
        digits = ones(flat[:, a : a + _WORDS])
        above, same = torch.zeros_like(digits[0]), torch.full_like(digits[0], -1)
        for place in reversed(range(max(len(digits), half.bit_length()))):
            digit = digits[place] if place < len(digits) else torch.zeros_like(above)
            if half >> place & 1:
                same &= digit
            else:
                above |= same & digit
                same &= ~digit
        more[a : a + _WORDS] = above
        if voters % 2 == 0:
            tie[a : a + _WORDS] = same
    return more.view(planes.shape[1:]), tie.view(planes.shape[1:])
