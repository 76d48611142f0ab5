"""The ten methods, their families, and the grids that they are tuned on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from ...lmo import Frobenius, Linf, Spectral
from ...presets import method as preset
from ...sentence import Method
from ...stage import Stage
from ..refusal import refusal

__all__ = ["METHODS", "MOMENTA", "Dtype", "Entry", "Family", "Grid"]

Family = Literal["sign", "lmo", "sgd", "adam"]
Dtype = Literal["bfloat16", "float32"]

MOMENTA = (0.0, 0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Grid:
    """Learning rates ``low 10^(i / per_decade)`` up to ``high``, both included. Written ``1e-5:1e0:x6``.

    >>> [f"{value:.4g}" for value in Grid.parse("1e-3:1e-2:x2").values]
    ['0.001', '0.003162', '0.01']
    """

    low: float
    high: float
    per_decade: int

    @classmethod
    def parse(cls, text: str) -> Grid:
        """Read the short form.

        Raises:
            SpecError: it is none.
        """
        try:
            low, high, per = text.split(":")
            found = cls(float(low), float(high), int(per.removeprefix("x")))
            if not (0 < found.low <= found.high < math.inf and found.per_decade > 0):
                raise ValueError
        except ValueError:
            raise refusal(f"'{text}' is no grid", instead="write LOW:HIGH:xPER_DECADE, as 1e-5:1e0:x6") from None
        return found

    @cached_property
    def values(self) -> tuple[float, ...]:
        """In rising order."""
        count = math.floor(math.log10(self.high / self.low) * self.per_decade + 1e-9)
        return tuple(self.low * 10 ** (i / self.per_decade) for i in range(count + 1))

    def __str__(self) -> str:
        """The short form."""
        return f"{self.low:g}:{self.high:g}:x{self.per_decade}"


@dataclass(frozen=True)
class Entry:
    """A method of the benchmark: a preset with the reference's Newton-Schulz, and what family it is tuned as.

    ``dual`` names the norm that the analysis measures gradients in: the dual of the norm that the method descends in.
    """

    name: str
    family: Family

    @property
    def grid(self) -> Grid:
        """The learning rates of the tuner."""
        return {"sign": Grid(1e-5, 1e0, 6), "lmo": Grid(1e-4, 1e1, 6)}.get(self.family, Grid(1e-3, 1e1, 6))

    @property
    def floor_grid(self) -> Grid:
        """The learning rates of the noise-floor study."""
        return {"sign": Grid(6e-5, 2e-3, 4), "sgd": Grid(6e-3, 2e-1, 4)}.get(self.family, Grid(6e-4, 2e-2, 4))

    @property
    def momenta(self) -> tuple[float, ...]:
        """The values of beta of the tuner; Adam keeps its own two."""
        return (0.0,) if self.family == "adam" else MOMENTA

    @property
    def orthogonalises(self) -> bool:
        """Whether the precision of Newton-Schulz means anything to it."""
        return any(isinstance(stage, Spectral) for _, stage in self._stages(preset(self.name)))

    def method(self, beta: float, dtype: Dtype = "bfloat16") -> Method:
        """The sentence: momentum beta (an EMA; a heavy ball for SGD), five of Jordan's steps in this dtype.

        >>> print(METHODS["muonsign"].method(0.5))
        momentum(beta=0.5) | sign | majority_vote | spectral(schedule=jordan5, steps=5, normalisation=frobenius) | \
sign | step
        """
        base = preset(self.name)
        changes: dict[str, object] = {}
        for address, stage in self._stages(base):
            if isinstance(stage, Spectral):
                changes |= {f"{address}.schedule": "jordan5", f"{address}.dtype": dtype}
            elif stage.kind == "momentum":
                changes[f"{address}.beta"] = beta
        return base.replace(changes)

    @staticmethod
    def _stages(method: Method) -> list[tuple[str, Stage]]:
        return [found for part in ("worker", "server", "replica") for found in method.stages(part)]

    def dual(self, gradient: Tensor) -> Tensor:
        """``||gradient||`` in the dual norm, (R,): the sum of magnitudes (sign), nuclear (lmo), else Frobenius."""
        ball = {"sign": Linf(), "lmo": Spectral()}.get(self.family, Frobenius())
        return ball.dual(gradient)


_FAMILIES: dict[Family, tuple[str, ...]] = {
    "sign": ("signmuon", "muonsign", "signsgd"),
    "lmo": ("muon", "muonusign", "ef21signmuon", "ef21muonusign", "ef21muonsign"),
    "sgd": ("sgd",),
    "adam": ("adam",),
}

METHODS = {name: Entry(name, family) for family, names in _FAMILIES.items() for name in names}
"""By the reference's names, which are those of the presets."""
