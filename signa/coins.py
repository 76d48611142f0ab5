"""Fair coins that are a function of who tosses them, not of when or in which order they are tossed.

Entry ``e`` of a parameter takes bit ``e & 63`` of ``hash(seed, step, parameter, actor, e >> 6)``: any stack, bucket,
chunk and device tosses alike, and one 64-bit hash serves 64 entries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SERVER = -1
"""The actor that tosses for the server; workers are 0, 1, 2, ..."""

_MASK = (1 << 64) - 1
_GOLDEN, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64, Steele et al. 2014


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
    return z - (1 << 64) if z >> 63 else z


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX2)
    return z ^ _shift(z, 31)


@dataclass(frozen=True)
class Coins:
    """The coins of a stack of matrices: row r belongs to one parameter and one actor.

    Args:
        seed, step: of the run.
        parameters: one :func:`name_key` per row.
        offsets: where in its parameter the row's first entry lies (entries count in matrix layout, row-major).
        actors: the worker's number, or :data:`SERVER`, per row.
    """

    seed: int = 0
    step: int = 0
    parameters: Sequence[int] = ()
    offsets: Sequence[int] = ()
    actors: Sequence[int] = ()

    def toss(self, like: Tensor) -> Tensor:
        """+1 or -1 for every entry of ``like`` (..., m, n), whose leading axes flatten to the rows.

        >>> Coins().toss(torch.zeros(2, 3))
        tensor([[ 1.,  1.,  1.],
                [ 1., -1.,  1.]])
        """
        entries = like.shape[-2] * like.shape[-1]
        rows = like.shape[:-2].numel()
        parameters, offsets, actors = (
            list(given) or [0] * rows for given in (self.parameters, self.offsets, self.actors)
        )
        if not rows == len(parameters) == len(offsets) == len(actors):
            raise ValueError(f"coins for {len(parameters)} rows were asked to fill {rows}")
        start = mix(mix(self.seed & _MASK) + self.step)
        keys = [_signed(mix(mix(start ^ name) + actor)) for name, actor in zip(parameters, actors, strict=True)]
        first = [offset >> 6 for offset in offsets]
        within = [offset & 63 for offset in offsets]
        words = (entries + max(within, default=0) + 63) >> 6
        device = like.device
        key = torch.tensor(keys, dtype=torch.int64, device=device).view(-1, 1)
        base = torch.tensor(first, dtype=torch.int64, device=device).view(-1, 1)
        counter = base + torch.arange(1, words + 1, device=device)
        word = _mix(key + counter * _signed(_GOLDEN))
        bits = ((word.unsqueeze(-1) >> torch.arange(64, device=device)) & 1).view(rows, words * 64)
        if any(within):
            at = torch.tensor(within, device=device).view(-1, 1) + torch.arange(entries, device=device)
            bits = bits.gather(1, at)
        return (bits[:, :entries] * 2 - 1).to(like.dtype).view(like.shape)
