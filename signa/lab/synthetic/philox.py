"""The random numbers of a CUDA generator, on any machine.

The published instances were drawn on a GPU, whose generator is counter-based: element i of a small tensor is thread
i's first word, a function of (seed, draws before, i). So they can be drawn again without one.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Draws", "Mersenne", "Philox", "philox4x32"]

Words = npt.NDArray[np.uint64]

# Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011), section 3: multipliers and key increments.
_M0, _M1, _W0, _W1 = (np.uint64(value) for value in (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85))
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int], rounds: int = 10) -> tuple[Words, ...]:
    """Four 32-bit words per counter; ten rounds of multiplying, exchanging and adding the key.

    >>> zero = np.zeros(1, np.uint64)
    >>> [hex(word[0]) for word in philox4x32((zero,) * 4, (0, 0))]  # Random123's known answer
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = (np.uint64(word) for word in key)
    for _ in range(rounds):
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


class Draws(Protocol):
    """A stream of random tensors."""

    def rand(self, *shape: int) -> Tensor:
        """Uniform on [0, 1), float32."""
        ...

    def randn(self, *shape: int) -> Tensor:
        """Standard normal, float32."""
        ...


class Mersenne:
    """torch's generator on a CPU."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self._generator)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)


class Philox:
    """torch's generator on a GPU, for tensors so small that every thread draws once.

    >>> Philox(1337).rand(2)
    tensor([0.8543, 0.6048])
    """

    def __init__(self, seed: int) -> None:
        self._key, self._offset = (seed & 0xFFFFFFFF, seed >> 32), 0

    def _words(self, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The first two words of every thread; the next tensor draws further on."""
        thread = np.arange(int(np.prod(shape)), dtype=np.uint64)
        before = np.full_like(thread, self._offset // 4)
        self._offset += 4
        x, y, _, _ = philox4x32((before, np.zeros_like(thread), thread, np.zeros_like(thread)), self._key)
        return x.astype(np.float32), y.astype(np.float32)

    def rand(self, *shape: int) -> Tensor:
        word, _ = self._words(shape)
        unit = word * np.float32(2.0**-32) + np.float32(2.0**-33)
        return torch.from_numpy(np.where(unit == 1, np.float32(0), unit)).view(shape)

    def randn(self, *shape: int) -> Tensor:
        """Box-Muller, the sine."""
        x, y = self._words(shape)
        u = x * np.float32(2.0**-32) + np.float32(2.0**-33)
        v = y * np.float32(2 * np.pi * 2.0**-32) + np.float32(np.pi * 2.0**-32)
        return torch.from_numpy(np.sqrt(np.float32(-2) * np.log(u)) * np.sin(v)).view(shape)
