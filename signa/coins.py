"""Fair coins that are a function of who tosses them, not of when or in which order they are tossed.

Entry ``e`` of a matrix takes bit ``e & 63`` of ``hash(seed, step, hop, parameter, actor, first + (e >> 6))``, where
``first`` is the matrix's first word in its parameter: any stack, bucket, chunk and device tosses alike, and one 64-bit
hash serves 64 entries. No two places on the path share a coin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .host import constant
from .packing import WORD, signs, words_for

SERVER = -1
"""The actor that tosses for the server; workers are 0, 1, 2, ..."""

_MASK = (1 << 64) - 1
_UNIFORM = 0x756E69666F726D  # "uniform" in ASCII: draws have words of their own, apart from the coins of their hop
_SHORTS = 0x73686F727473  # "shorts", likewise
_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64, Steele et al. 2014


@lru_cache(maxsize=1 << 16)
def name_key(name: str) -> int:
    """64 bits that stand for a parameter's name, whatever its position in the model."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def mix(z: int) -> int:
    """The finaliser of splitmix64 on one Python integer.

    >>> hex(mix(0x9E3779B97F4A7C15))
    '0xe220a8397b1dcdaf'
    """
    z &= _MASK
    z = ((z ^ (z >> 30)) * _MIX1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX2) & _MASK
    return z ^ (z >> 31)


def _signed(z: int) -> int:
    return z - (1 << 64) if z >> 63 == 1 else z


def _shift(z: Any, by: int) -> Any:
    """Logical right shift of int64 (torch's and numpy's own are arithmetic)."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def mix_words(z: Any) -> Any:
    """The same of int64 words, torch's or numpy's."""
    z = (z ^ _shift(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX2)
    return z ^ _shift(z, 31)


def _few(words: Tensor) -> Any:
    """A few words to be mixed: on a CPU as numpy's array, whose calls cost a third of torch's."""
    return words.numpy() if words.device.type == "cpu" else words


@dataclass(frozen=True)
class Coins:
    """The coins of a stack of matrices: row r belongs to one parameter and one actor.

    Args:
        seed, step: of the run; the step may be counted on the rows' device, as an integer tensor ().
        parameters: one :func:`name_key` per row.
        offsets: where in its parameter the row begins, in words of 64 entries. Matrix b of a parameter begins at word
            ``b ceil(m n / 64)``.
        actors: the worker's number, or :data:`SERVER`, per row.
        hop: the :func:`name_key` of the place on the path that tosses, so that no two places share a coin.
    """

    seed: int = 0
    step: int | Tensor = 0
    parameters: Sequence[int] = ()
    offsets: Sequence[int] = ()
    actors: Sequence[int] = ()
    hop: int = 0

    def at(self, hop: str) -> Coins:
        """The coins of another place on the path, ``up`` or ``aggregate``."""
        return replace(self, hop=name_key(hop))

    def part(self, rows: slice) -> Coins:
        """The coins of some of the rows."""
        return replace(self, parameters=self.parameters[rows], offsets=self.offsets[rows], actors=self.actors[rows])

    def words(self, rows: int, count: int, device: torch.device | str = "cpu") -> Tensor:
        """The first ``count`` words of every row, ``(rows, count)`` int64: 64 coins each."""
        parameters, offsets, actors = (
            list(given) or [0] * rows for given in (self.parameters, self.offsets, self.actors)
        )
        if not rows == len(parameters) == len(offsets) == len(actors):
            raise ValueError(f"coins for {len(parameters)} rows were asked to fill {rows}")
        device = torch.device(device)
        names, first, who = (constant([_signed(z) for z in given], device) for given in (parameters, offsets, actors))
        key = torch.as_tensor(mix_words(mix_words(_few(names) ^ self._start()) + _few(who)))
        counter = first[:, None] + torch.arange(1, count + 1, device=device)
        return mix_words(key[:, None] + counter * _signed(_GOLDEN))

    def _start(self) -> Any:
        """What all rows have in common."""
        seed = mix(self.seed & _MASK)
        if isinstance(self.step, Tensor):
            return mix_words(_few(self.step.view(1)) + _signed(seed)) ^ _signed(self.hop)
        return _signed(mix(seed + self.step) ^ self.hop)

    def toss(self, like: Tensor) -> Tensor:
        """+1 or -1 for every entry of ``like`` (..., m, n), whose leading axes flatten to the rows.

        >>> Coins().toss(torch.zeros(2, 3))
        tensor([[ 1.,  1.,  1.],
                [ 1., -1.,  1.]])
        """
        entries = like.shape[-2] * like.shape[-1]
        rows = like.shape[:-2].numel()
        tossed = self.words(rows, words_for(entries), like.device)
        return signs(tossed, entries, like.dtype).contiguous().view(like.shape)

    def uniform(self, like: Tensor) -> Tensor:
        """A number in [0, 1) for every entry of ``like`` (..., m, n), in float64: 53 bits of a word for each entry.

        Entry e of a row takes word ``64 offset + e``, so a piece that begins with a word of coins draws what the whole
        draws there. Always float64, whatever ``like`` is: 24 bits would tie among millions of entries.

        >>> Coins().uniform(torch.zeros(1, 3))
        tensor([[0.4492, 0.8081, 0.4849]], dtype=torch.float64)
        """
        entries = like.shape[-2] * like.shape[-1]
        own = replace(self, hop=self.hop ^ _UNIFORM, offsets=[WORD * offset for offset in self.offsets])
        drawn = own.words(like.shape[:-2].numel(), entries, like.device)
        return _shift(drawn, 11).double().mul_(2.0**-53).view(like.shape)

    def shorts(self, like: Tensor) -> Tensor:
        """A whole number from 0 to 65,535 for every entry of ``like`` (..., m, n), in int32: four to a word.

        >>> Coins().shorts(torch.zeros(1, 3))
        tensor([[60892, 16269, 38904]], dtype=torch.int32)
        """
        entries = like.shape[-2] * like.shape[-1]
        own = replace(self, hop=self.hop ^ _SHORTS, offsets=[WORD // 4 * offset for offset in self.offsets])
        drawn = own.words(like.shape[:-2].numel(), -(-entries // 4), like.device).view(torch.int16)
        return drawn[:, :entries].to(torch.int32).bitwise_and_(0xFFFF).view(like.shape)
