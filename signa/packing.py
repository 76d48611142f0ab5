"""One bit per entry in 64-bit words, and arithmetic on the words themselves.

Bit ``e & 63`` of word ``e >> 6`` is entry e, 1 for +1 and 0 for -1; in memory that is least significant bit first in
every byte, numpy's ``packbits(bitorder="little")``. What lies behind the last entry is 0.

On a CPU numpy does the work, elsewhere torch: numpy compares 4 times and gathers rows 2 times as fast as torch, and a
call costs it a third. :mod:`signa.kernels` may do it in one pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .kernels import one_pass_for
from .kernels.image import INTEGERS, signs_of_bytes
from .scratch import own

__all__ = [
    "INTEGERS",
    "WORD",
    "fair",
    "fair_words",
    "majority",
    "ones",
    "present",
    "signs",
    "unpacked",
    "words",
    "words_for",
]

WORD = 64
#: Entries packed or unpacked in one go: on a CPU the scratch of a chunk stays in a core's cache (2 to 5 times the speed
#: of fresh temporaries of full length), elsewhere a chunk must outweigh the launch of its kernels.
_CHUNK = {"cpu": 1 << 18}
_CHUNK_ELSEWHERE = 1 << 24
_GATHER = 0x0102040810204080  # times eight bytes of 0 or 1: the top byte has bit i = byte i
Test = tuple[Any, Any]
"""Of x and 0, by numpy and by torch: where it holds, a bit is clear."""
#: ``x < 0`` is 20 % faster than ``x >= 0`` in numpy.
_MINUS, _ZERO = (np.less, torch.less), (np.equal, torch.eq)
_NOT_PLUS, _NOT_MINUS = (np.less_equal, torch.le), (np.greater_equal, torch.ge)


Seen = Any
"""A tensor as its device's library sees it: numpy's array on a CPU, elsewhere itself."""

if sys.byteorder != "little":  # the wire is little-endian, and words are viewed as bytes
    raise ImportError("SignA's packed formats need a little-endian machine")


def _seen(tensor: Tensor) -> Seen:
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _library(seen: Seen) -> Any:
    return np if isinstance(seen, np.ndarray) else torch


def words_for(entries: int) -> int:
    """How many words hold so many entries.

    >>> words_for(64), words_for(65)
    (1, 2)
    """
    return -(-entries // WORD)


def words(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The sign bits of floats, ``(R, L) -> (R, ceil(L / 64))`` int64: 1 where the sign bit is clear (so for +0.0).

    >>> words(torch.tensor([[1.0, -1.0, 1.0]]))
    tensor([[5]])
    """
    return _packed(x.view(INTEGERS[x.element_size()]), _MINUS, out=out)


def present(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Which entries are not 0, ``(R, L) -> (R, ceil(L / 64))`` int64.

    >>> present(torch.tensor([[1.0, -0.0, -1.0]]))
    tensor([[5]])
    """
    return _packed(_readable(x), _ZERO, out=out)


def _readable(x: Tensor) -> Tensor:
    return x.detach().float() if x.dtype == torch.bfloat16 else x.detach()  # numpy has no bfloat16


def _room(x: Tensor) -> Tensor:
    return torch.empty(x.shape[0], words_for(x.shape[1]), dtype=torch.int64, device=x.device)


def _packed(x: Tensor, test: Test, *, out: Tensor | None) -> Tensor:
    """Words of (R, L), clear where the test of x and 0 holds."""
    out = _room(x) if out is None else out
    if out.numel() and (one_pass := one_pass_for(x.device)):
        one_pass.pack(x, out, present=test is _ZERO)
    else:
        _sweep(x, {test: out})
    return out


def _sweep(x: Tensor, tests: Mapping[Test, Tensor], sure: Callable[[Seen], bool] | None = None) -> bool:
    """Words for each of the tests, many short rows at once, a long row in pieces: each is read once.

    Ends at the first piece that is not ``sure``; whether there were any, and all were.
    """
    (rows, length), chunk = x.shape, _chunk(x.device)
    if not x.numel():
        return False
    wide = min(chunk, words_for(length) * WORD)
    deep = min(rows, max(1, chunk // wide))
    floats, clear = _seen(x), _seen(torch.empty(deep * wide, dtype=torch.bool, device=x.device))
    targets = [(test, _seen(out.view(torch.uint8))) for test, out in tests.items()]
    pack = _pack if _library(floats) is np else _pack_by_torch
    for r in range(0, rows, deep):
        for e in range(0, length, wide):
            piece = floats[r : r + deep, e : e + wide]
            for test, bytes_ in targets:
                pack(piece, test, bytes_[r : r + deep, e // 8 : (e + wide) // 8], clear)
            if sure is not None and not sure(piece):
                return False
    return True


def _decided(bits: Seen) -> bool:
    """Whether no bfloat16 among these, seen as int16, is 0 or NaN."""
    size = bits & 0x7FFF
    return bool(size.min() > 0 and size.max() <= 0x7F80)  # infinity


def _chunk(device: torch.device) -> int:
    return _CHUNK.get(device.type, _CHUNK_ELSEWHERE)


def _pack(x: Seen, test: Test, out: Seen, scratch: Seen) -> None:
    """Bytes (r, b) of x (r, l), l <= 8 b, with 8 r b bools to spare."""
    clear = scratch[: out.size * 8].reshape(len(out), -1)
    clear[:, x.shape[1] :] = True
    test[0](x, 0, out=clear[:, : x.shape[1]])
    np.invert(np.packbits(clear.reshape(-1), bitorder="little").reshape(out.shape), out=out)


def _pack_by_torch(x: Tensor, test: Test, out: Tensor, scratch: Tensor) -> None:
    """The same on any device: one multiplication gathers eight bools into a byte."""
    clear = scratch[: out.numel() * 8].view(len(out), -1)
    clear[:, x.shape[1] :] = True
    test[1](x, 0, out=clear[:, : x.shape[1]])
    gathered = clear.view(-1).view(torch.int64).mul(_GATHER).bitwise_right_shift_(56)
    out.copy_(gathered.bitwise_not_().view(out.shape))


@lru_cache(maxsize=64)
def _table(device: torch.device) -> Tensor:
    """For every byte its eight signs, a byte each, in one int64."""
    return signs_of_bytes().view(torch.int64).view(-1).to(device)


def signs(packed: Tensor, length: int, dtype: torch.dtype, *, out: Tensor | None = None) -> Tensor:
    """The inverse of :func:`words`: ``(R, W) -> (R, length)`` of +1 and -1, a view of ``out`` (R, 64 W).

    >>> signs(torch.tensor([[5]]), 3, torch.float32)
    tensor([[ 1., -1.,  1.]])
    """
    rows, count = packed.shape
    if out is None:
        out = torch.empty(rows, count * WORD, dtype=dtype, device=packed.device)
    _expand(packed.contiguous().view(-1), out.view(-1))
    return out[:, :length]


def unpacked(packed: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """All signs in order, a chunk at a time: (index of its first entry, the entries in a scratch that is reused).

    To apply a direction without ever holding it: ``for a, d in unpacked(w, x.dtype): x[a : a + len(d)].add_(d, ...)``.
    """
    flat = packed.contiguous().view(-1)
    step = _chunk(packed.device) // (16 * dtype.itemsize)  # a chunk of float32, as many bytes of any other
    scratch = torch.empty(min(step, len(flat)) * WORD, dtype=dtype, device=packed.device)
    for a in range(0, len(flat), step):
        piece = flat[a : a + step]
        _expand(piece, scratch[: WORD * len(piece)])
        yield WORD * a, scratch[: WORD * len(piece)]


def _expand(packed: Tensor, out: Tensor) -> None:
    """The signs (64 w,) of words (w,)."""
    if one_pass := one_pass_for(out.device):
        one_pass.unpack(packed, out)
        return
    bytes_, table, step = _seen(packed.view(torch.uint8)), _seen(_table(out.device)), _chunk(out.device) // 8
    eights = own("packing.eights", (min(step, len(bytes_)),), torch.int64, out.device)
    for a in range(0, len(bytes_), step):
        piece = bytes_[a : a + step]
        found = eights[: len(piece)]
        if _library(piece) is np:
            np.take(table, piece, out=_seen(found), mode="clip")  # mode "raise" would buffer the output
        else:
            torch.index_select(table, 0, piece.to(torch.int32), out=found)
        # To floats on all threads: each writes what it will read again, and one core takes from another bytes alone.
        out[8 * a : 8 * (a + len(piece))].copy_(found.view(torch.int8))


def fair(x: Tensor, coins: Callable[[], Tensor]) -> Tensor:
    """The signs of floats (R, L), and a coin's where one is 0 (or NaN); a row of nothing else stays 0.

    Args:
        coins: tosses words (R, ceil(L / 64)); on a CPU it is asked only where a zero exists.

    >>> fair(torch.tensor([[3.0, 0.0, -0.0], [0.0, -0.0, 0.0]]), lambda: torch.tensor([[0b010], [0b010]]))
    tensor([[ 1.,  1., -1.],
            [ 0.,  0.,  0.]])
    """
    if x.numel() and (at_once := getattr(one_pass_for(x.device), "fair", None)):
        return at_once(x, coins())
    filled, silent = fair_words(x, coins)
    fair_signs = signs(filled, x.shape[1], x.dtype)
    if x.device.type != "cpu" or bool(silent.any()):
        fair_signs.masked_fill_(silent.unsqueeze(-1), 0)
    return fair_signs.contiguous()


def fair_words(x: Tensor, coins: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """The words of :func:`fair`, (R, W); and which rows (R,) are zero throughout, so that their words say nothing.

    >>> fair_words(torch.tensor([[3.0, 0.0, -0.0], [0.0, -0.0, 0.0]]), lambda: torch.tensor([[0b010], [0b010]]))
    (tensor([[3],
            [2]]), tensor([False,  True]))
    """
    sign, there = _room(x), _room(x)
    if x.numel() and (one_pass := one_pass_for(x.device)):
        if one_pass.signed(x, sign, there):
            return sign, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    elif x.dtype == torch.bfloat16 and x.device.type == "cpu" and _sweep(x.view(torch.int16), {_MINUS: sign}, _decided):
        return sign, torch.zeros(len(x), dtype=torch.bool)
    else:
        _sweep(_readable(x), {_NOT_PLUS: sign, _NOT_MINUS: there})
        there ^= sign  # of a zero none is set, of a NaN both
    rest = x.shape[1] % WORD
    beyond = -1 << rest if rest else 0  # what lies behind the last entry is no zero
    if x.numel() and x.device.type == "cpu" and _full(there.numpy(), beyond):
        return sign, torch.zeros(len(x), dtype=torch.bool)
    zeros = ~there
    zeros[:, -1:] &= ~beyond
    silent = there.eq(0).all(-1)
    return sign & there | coins() & zeros, silent


def _full(words_: Any, beyond: int) -> bool:
    """Whether every bit of words (R, W) is set; of the last in a row those that are not ``beyond``."""
    return bool((np.bitwise_and.reduce(words_[:, :-1], axis=None) & (words_[:, -1] | beyond) == -1).all())


#: Words that are counted in one go, so that the adders' planes stay in the cache.
_WORDS = {"cpu": 1 << 13}
_WORDS_ELSEWHERE = 1 << 22


class _Adders:
    """Count planes of bits, 64 entries at a time: ``a + b + c = (a ^ b ^ c) + 2 maj(a, b, c)``; exact for any number.

    As soon as three planes have one weight they become two, so that few are ever held, in scratch that is reused.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._width, self._device = width, device
        self._free: list[Seen] = []
        self._low, self._spare = self._take(), self._take()
        self._ops = _library(self._low)

    def _take(self) -> Seen:
        if self._free:
            return self._free.pop()
        return _seen(torch.empty(self._width, dtype=torch.int64, device=self._device))

    def digits(self, planes: list[Seen]) -> list[Seen]:
        """How many of the planes (w,) have each bit, least significant digit first; lent until :meth:`release`."""
        places: list[list[Seen]] = [[]]
        for plane in planes:
            places[0].append(plane)
            place = 0
            while len(places[place]) == 3:
                self._add(places, place)
                place += 1
        for place, column in enumerate(places):  # grows while it is walked
            if len(column) > 1:
                self._add(places, place)
        return [column[0] for column in places]

    def release(self, digits: list[Seen]) -> None:
        """The digits are no longer read."""
        self._free += digits[1:]  # the first is _low, or the only plane

    def _add(self, places: list[list[Seen]], place: int) -> None:
        """Two or three planes of a place become one, and one of the next."""
        a, b, *rest = places[place]
        carry, total = self._take(), a if place else self._low  # the first place's planes are only lent
        self._ops.bitwise_and(a, b, out=carry)
        self._ops.bitwise_xor(a, b, out=total)
        for c in rest:
            self._ops.bitwise_and(total, c, out=self._spare)
            self._ops.bitwise_or(carry, self._spare, out=carry)
            self._ops.bitwise_xor(total, c, out=total)
        if place:
            self._free += [b, *rest]
        places[place] = [total]
        if place + 1 == len(places):
            places.append([])
        places[place + 1].append(carry)


def _counted(planes: Tensor) -> Iterator[tuple[slice, list[Seen]]]:
    """The digits of (V, W) planes, a chunk of words at a time; to be read before the next."""
    seen, words_ = _seen(planes), planes.shape[1]
    step = _WORDS.get(planes.device.type, _WORDS_ELSEWHERE)
    adders = _Adders(min(step, words_), planes.device)
    for a in range(0, words_, step):
        if a + step > words_:
            adders = _Adders(words_ - a, planes.device)
        digits = adders.digits([plane[a : a + step] for plane in seen])
        yield slice(a, a + step), digits
        adders.release(digits)


def ones(planes: Tensor) -> list[Tensor]:
    """How many of the V >= 1 planes have each bit: ``(V, ...)`` words to binary digits, least significant first.

    >>> [bin(digit.item()) for digit in ones(torch.tensor([[0b1100], [0b1010], [0b1000]]))]
    ['0b1110', '0b1000']
    """
    flat = planes.reshape(len(planes), -1)
    out = [torch.empty_like(flat[0]) for _ in range(len(planes).bit_length())]
    for at, digits in _counted(flat):
        for whole, digit in zip(out, digits):  # a further digit would be 0: a count is at most V
            _seen(whole)[at] = digit
    return [digit.view(planes.shape[1:]) for digit in out]


def majority(planes: Tensor, *, out: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Where more than half of the V >= 1 planes have the bit, and where exactly half: ``(V, ...) -> (...), (...)``.

    The count is compared with half V from its least digit up: a digit decides, unless it equals that of half V, and
    then the digits below it do. One voter's majority may be the plane itself.

    >>> more, tie = majority(torch.tensor([[0b1100], [0b1010]]))
    >>> bin(more.item()), bin(tie.item() & 0b1111)
    ('0b1000', '0b110')
    """
    voters, half = len(planes), len(planes) // 2
    if voters == 1 and out is None:  # whose count of a bit is the bit
        return planes[0], torch.zeros_like(planes[0])
    flat = planes.reshape(voters, -1)
    more, tie = out or (torch.empty_like(planes[0]), torch.empty_like(planes[0]))
    above, least = _seen(more.view(-1)), _seen(tie.view(-1))  # count > half and count >= half, of the digits so far
    ops = _library(above)
    for at, digits in _counted(flat):
        above[at], least[at] = 0, -1
        for place, digit in enumerate(digits):
            decide = ops.bitwise_and if half >> place & 1 else ops.bitwise_or
            decide(above[at], digit, out=above[at])
            decide(least[at], digit, out=least[at])
        ops.bitwise_xor(above[at], least[at], out=least[at])
    if voters % 2:
        tie.zero_()  # half V is no whole number
    return more, tie
