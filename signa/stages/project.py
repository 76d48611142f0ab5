"""Projection of the model onto a ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..linalg import by_singular_values, column_sum, matrix_sum, power_of_two_scale, row_sum
from ..rule import Positive
from ..signal import Role, Signal
from ..stage import Context, Stage, State, stages


@stages.register
class Project(Stage):
    """``X <- argmin ||Y - X||_F over norm(Y) <= radius``, behind ``step``: the model stays in the ball.

    Where decay pulls everything towards 0, a projection leaves alone what is inside, bit for bit.

    Shapes: (..., m, n). Law: a projection of a projection is itself, up to rounding.

    Args:
        norm: ``frobenius`` | ``column`` | ``row`` (the longest of them): what is too long is shortened; ``linf``:
            entries are clamped; ``spectral``: singular values are, by an SVD in float64, whose last bits are LAPACK's
            and may depend on the threads.
        radius: in the norm's own unit.

    Source: Parikh and Boyd, Proximal Algorithms (2014), chapter 6 (norm balls; spectral functions by their values);
    arXiv 1805.10408, section 3 (clipping singular values is the projection).

    >>> Project(norm="frobenius")(torch.tensor([[3.0, 4.0]]), {}, Context())
    tensor([[0.6000, 0.8000]])
    """

    kind: Literal["project"] = "project"
    places: ClassVar[tuple[str, ...]] = ("replica",)
    takes: ClassVar[tuple[Role, ...]] = ("model",)
    norm: Literal["frobenius", "linf", "spectral", "column", "row"] = "spectral"
    radius: Positive = 1.0

    @property
    def waits(self) -> bool:
        """LAPACK's errors are read by the host."""
        return self.norm == "spectral"

    @property
    def rounds(self) -> bool:
        """Whether the last bits are LAPACK's (see :mod:`signa.testing`)."""
        return self.norm == "spectral"

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The nearest model in the ball."""
        match self.norm:
            case "linf":
                return x.clamp(-self.radius, self.radius)
            case "spectral":
                return self._clipped(x)
            case "column":
                return self._shortened(x, column_sum, (-2,))
            case "row":
                return self._shortened(x, row_sum, (-1,))
            case "frobenius":
                return self._shortened(x, matrix_sum, (-2, -1))

    def _shortened(self, x: Tensor, squares_of: Callable[[Tensor], Tensor], axes: tuple[int, ...]) -> Tensor:
        """Each matrix, column or row by itself; sizes in float64 hold every float32's square."""
        scaled, exponent = power_of_two_scale(x, axes)
        size = squares_of(scaled.double().square()).sqrt() * torch.exp2(exponent.double())
        return torch.where(size > self.radius, (x.double() * (self.radius / size)).to(x.dtype), x)

    def _clipped(self, x: Tensor) -> Tensor:
        """x less what its singular values have above the radius."""
        excess = by_singular_values(x, lambda S: (S - self.radius).clamp(min=0))
        return (x.double() - excess).to(x.dtype)

    def signal(self, s: Signal) -> Signal:
        """The model."""
        return s
