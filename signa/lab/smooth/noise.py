"""Gradient noise of known size: a function of the seed, the worker and the step."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from ...errors import Fault
from ...rule import Frozen, NonNegative, Positive
from ..tasks.base import seed_of

__all__ = ["Noise", "Source"]

_BLOCK = 64  # steps drawn in one go; a run's noise does not depend on its length


class Noise(Frozen):
    """Independent entries of deviation ``sigma``: symmetric about 0, with one mode.

    Args:
        law: ``gaussian``, or ``student`` with ``freedom`` degrees of freedom, scaled to the same variance: heavy tails.

    >>> noise = Noise(sigma=2.0).source(seeds=[0], workers=3, m=2, n=2)
    >>> noise.draw(0).shape
    torch.Size([3, 1, 2, 2])
    """

    law: Literal["gaussian", "student"] = "gaussian"
    sigma: NonNegative = 0.0
    freedom: Positive = 3.0

    @model_validator(mode="after")
    def _has_a_variance(self) -> Noise:
        if self.freedom <= 2:
            raise Fault(
                f"Student's t with {self.freedom:g} degrees of freedom has no variance",
                because="the noise is scaled to the deviation sigma",
                instead="write freedom: 2.1 or more",
                at=("freedom",),
            )
        return self

    def source(self, *, seeds: list[int], workers: int, m: int, n: int) -> Source:
        """Where a run's noise comes from."""
        return Source(self, seeds, workers, m, n)


class Source:
    """Noise (N, S, m, n) of N workers and S seeds, step by step. Worker j's is the same for every N."""

    def __init__(self, noise: Noise, seeds: list[int], workers: int, m: int, n: int) -> None:
        self._noise, self._shape = noise, (m, n)
        self._generators = [
            [torch.Generator().manual_seed(seed_of("noise", noise.law, seed, j)) for seed in seeds]
            for j in range(workers)
        ]
        self._block = torch.zeros(0)
        self._first = -_BLOCK

    def draw(self, step: int) -> Tensor:
        """The noise of the steps 0, 1, 2, ..., in this order."""
        if step == self._first + _BLOCK:
            self._block = torch.stack([torch.stack([self._fill(g) for g in row]) for row in self._generators])
            self._first = step
        return self._noise.sigma * self._block[:, :, step - self._first]

    def _fill(self, generator: torch.Generator) -> Tensor:
        shape = (_BLOCK, *self._shape)
        if self._noise.law == "gaussian":
            return torch.randn(*shape, generator=generator, dtype=torch.float64)
        freedom = self._noise.freedom
        # Bailey 1994 (Math. Comp. 62, 779), with U = 1 - u in (0, 1].
        u, v = (torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
        size = (freedom * ((1 - u) ** (-2 / freedom) - 1)).sqrt()
        return size * torch.cos(2 * torch.pi * v) * ((freedom - 2) / freedom) ** 0.5
