"""Linear minimisation oracles: the best direction in a norm ball."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from ..linalg import matrix_sum
from ..rule import Positive, Registry
from ..signal import Alphabet, Norm, Signal
from ..stage import Context, Stage, State, stages


class LMO(Stage):
    """``d(g) = argmax <g, d> over ||d|| <= 1``, the direction to *subtract*; a stage without state.

    A subclass gives :meth:`direction` and :meth:`norm`; ``frobenius``, the nominal Frobenius norm of a direction, makes
    the unit-gain learning-rate multiplier of its layer (None: no multiplier); ``keeps_signs`` says that d(g) has the
    signs of g, so that nothing is left of it behind a sign. ``radius`` multiplies what is put out and never the Signal
    (unit gain would cancel it).
    """

    alphabet: ClassVar[Alphabet] = "dense"
    frobenius: ClassVar[Norm | None] = None
    keeps_signs: ClassVar[bool] = False
    radius: Positive = 1.0

    @abstractmethod
    def direction(self, g: Tensor) -> Tensor:
        """The maximiser of <g, d> over the unit ball, (..., m, n); 0 for g = 0, and d(c g) = d(g) for c > 0."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """The ball's norm, (...,)."""

    def dual(self, g: Tensor) -> Tensor:
        """The dual norm ``<g, d(g)>``, (...,)."""
        return matrix_sum(g * self.direction(g))[..., 0, 0]

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """``radius * d(x)``."""
        direction = self.direction(x)
        return direction if self.radius == 1.0 else direction * self.radius

    def signal(self, s: Signal) -> Signal:
        """A direction of known size; times a radius, its values are of no alphabet."""
        return Signal("direction", self.alphabet if self.radius == 1.0 else "dense", self.frobenius)


lmos: Registry[LMO] = Registry("LMO", LMO, within=stages)
