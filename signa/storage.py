"""How a state is held between steps: as it is computed, or in fewer bits.

A stage sees its state as it is computed, always; what lies between two steps is one of these forms. Rounding is
stochastic, ``E[stored] = value``: momentum moves by ``(1 - beta) (g - m)``, Adam's v by a thousandth, and to the
nearest bfloat16 such a step is no step at all. The coins are a function of seed, step, place, parameter, worker and
entry, so any stack and any rank rounds alike, and roots and products round alike everywhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from .coins import Coins

__all__ = ["FORMS", "SCALE", "Form", "Storage", "read", "write"]

Form = Literal["full", "bfloat16", "int8"]
"""``full`` is as computed: float32, or float64 where the parameters are."""

#: Entries of a matrix that share a scale in 8 bits (arXiv 2110.02861 has 2,048; shorter ones cost 0.11 bit more and
#: keep an outlier to itself).
BLOCK = 256
#: Behind a state's name, that of its scales.
SCALE = ":scale"
#: Entries that are rounded in one go: on a CPU few, that temporaries stay in a core's cache, elsewhere what outweighs a
#: launch.
_CHUNK, _CHUNK_ELSEWHERE = 1 << 16, 1 << 24
_TOP = 127
_UNIT = 1.0 / (1 << 16)  # a draw has 16 bits: as many as bfloat16 drops


class Storage(ABC):
    """A form of states (R, m, n): one or two tensors with R rows each."""

    @abstractmethod
    def names(self, name: str) -> tuple[str, ...]:
        """What the tensors of the state ``name`` are called."""

    @abstractmethod
    def write(self, x: Tensor, coins: Coins | None) -> tuple[Tensor, ...]:
        """The tensors for states (R, m, n); without coins to the nearest."""

    @abstractmethod
    def read(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """The states, in memory of their own."""


class BFloat16(Storage):
    """Two bytes an entry: float32's exponent and 8 of its 24 bits.

    16 random bits are added to the 16 that are dropped. An infinity and NaN stay what they are.

    Source: arXiv 1502.02551, section 3 (stochastic rounding); arXiv 2010.06192 (bfloat16 without float32 copies).

    >>> x = torch.tensor([[[1.0, 0.3]]])
    >>> form = BFloat16()
    >>> form.read(form.write(x, None), torch.float32)
    tensor([[[1.0000, 0.3008]]])
    """

    def names(self, name: str) -> tuple[str, ...]:
        """One tensor."""
        return (name,)

    def write(self, x: Tensor, coins: Coins | None) -> tuple[Tensor, ...]:
        """(R, m, n) bfloat16."""
        x = x.float()
        if coins is None:
            return (x.bfloat16(),)
        bits = x.contiguous().view(torch.int32) + coins.shorts(x)
        up = bits.bitwise_and_(-(1 << 16)).view(torch.float32)
        return (torch.where(x.isfinite(), up, x).bfloat16(),)

    def read(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """The same numbers."""
        return stored[0].to(dtype)


class Int8(Storage):
    """A byte an entry and a float for every 256 of a matrix: ``x = sign(k) (k / 127)^4 scale``, scale = max |x|.

    A dynamic map: its levels are 3 % apart near the block's largest entry and reach down to 4e-9 of it (the paper's, a
    table over powers of ten, to 1e-7), so that Adam's v keeps entries whose roots differ by a factor of 16,000. Fourth
    roots are two square roots, which every device rounds alike. An entry that is not 0 never becomes 0: there m over
    the root of v would have no bound. What is not finite makes its block NaN or infinite.

    Source: arXiv 2110.02861, section 2 (block-wise dynamic quantisation); the map is ours.

    >>> x = torch.tensor([[[1.0, -0.25, 0.0, 1e-9]]])
    >>> form = Int8()
    >>> codes, scale = form.write(x, None)
    >>> codes[0, 0].tolist(), scale.item()
    ([127, -90, 0, 1], 1.0)
    >>> form.read((codes, scale), torch.float32)
    tensor([[[ 1.0000e+00, -2.5221e-01,  0.0000e+00,  3.8440e-09]]])
    """

    def names(self, name: str) -> tuple[str, ...]:
        """Codes and scales."""
        return name, name + SCALE

    def write(self, x: Tensor, coins: Coins | None) -> tuple[Tensor, ...]:
        """Codes (R, m, n) and scales (R, 1, blocks)."""
        size = _blocks(x.abs())  # (R, blocks, 256)
        scale = size.amax(-1, keepdim=True)
        size = size.div_(torch.where(scale > 0, scale, 1))
        code = size.sqrt().sqrt_().mul_(_TOP).floor_().clamp_(max=_TOP - 1)
        low, high = _level(code), _level(code + 1)
        draw = 0.5 if coins is None else _blocks((coins.shorts(x) + 0.5) * _UNIT).to(x.dtype)
        code += size - low > draw * (high - low)
        code = torch.where(size > 0, code.clamp_(min=1), 0)
        entries = code.flatten(1)[:, : x.shape[1:].numel()].reshape(x.shape)
        return torch.copysign(entries, x).to(torch.int8), scale.view(len(x), 1, size.shape[1])

    def read(self, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        """Codes to levels."""
        code, scale = stored
        x = _blocks(code.to(dtype))
        x = _level(x.abs()).mul_(scale.to(dtype).mT).copysign_(x)
        return x.flatten(1)[:, : code.shape[1:].numel()].reshape(code.shape)


def _blocks(x: Tensor) -> Tensor:
    """(R, m, n) as (R, blocks, 256), filled up with zeros; a copy."""
    flat = x.flatten(1)
    return pad(flat, (0, -flat.shape[1] % BLOCK)).unflatten(1, (-(-flat.shape[1] // BLOCK), BLOCK))


def _level(code: Tensor) -> Tensor:
    """``(k / 127)^4``."""
    return (code / _TOP).square_().square_()


def write(storage: Storage, x: Tensor, coins: Coins | None) -> tuple[Tensor, ...]:
    """``storage.write``, some rows at a time: its temporaries stay in the cache."""
    found: list[Tensor] = []
    for rows in _rows(x):
        part = storage.write(x[rows], coins and coins.part(rows))
        if len(part[0]) == len(x):
            return part
        found = found or [own.new_empty(len(x), *own.shape[1:]) for own in part]
        for whole, own in zip(found, part, strict=True):
            whole[rows] = own
    return tuple(found)


def read(storage: Storage, stored: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """``storage.read``, likewise."""
    x = torch.empty(stored[0].shape, dtype=dtype, device=stored[0].device)
    for rows in _rows(x):
        x[rows] = storage.read(tuple(own[rows] for own in stored), dtype)
    return x


def _rows(x: Tensor) -> Iterator[slice]:
    deep = max(1, (_CHUNK if x.device.type == "cpu" else _CHUNK_ELSEWHERE) // max(1, x.shape[1:].numel()))
    for first in range(0, max(1, len(x)), deep):
        yield slice(first, first + deep)


FORMS: dict[Form, Storage] = {"bfloat16": BFloat16(), "int8": Int8()}
"""The forms that are not ``full``."""
