"""The spectral ball: Muon's oracle, by Newton-Schulz or exactly."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from ..errors import Fault
from ..rule import Count, Flag, Frozen, Positive, Real, Share, closest
from ..signal import SQRT_MIN, Norm
from ..stage import Context, State
from .base import LMO, lmos
from .newton_schulz import exact_polar, orthogonalise
from .schedules import SCHEDULES, Normalisation, polar_express, rows

#: The slowest row of all, (1.5, -0.5, 0), brings a singular value of 1e-16 to 1 in 96 steps; who needs more wants
#: ``exact``, and a table is made when a spec is read.
MOST_STEPS = 100
Steps = Annotated[Count, Field(le=MOST_STEPS)]


class PolarExpress(Frozen):
    """Coefficients to be generated: optimal odd quintics for singular values in [lower, 1].

    Source: arXiv 2505.16932, Algorithm 1. See :func:`signa.lmo.schedules.polar_express`.
    """

    lower: Share = 1e-3
    steps: Steps = 6
    cushion: Share = 0.02407327424182761
    safety: Positive = 1.01
    safety_inside: Flag = False

    @property
    def table(self) -> tuple[tuple[float, float, float], ...]:
        """The rows (a, b, c).

        >>> own = PolarExpress(steps=5, cushion=0.02, safety=1.02, safety_inside=True)
        >>> own.table == SCHEDULES["polar5"].coefficients
        True
        """
        inside = self.safety_inside
        return polar_express(self.lower, self.steps, cushion=self.cushion, safety=self.safety, safety_inside=inside)


def _listed(value: Any) -> Any:
    """Lists of numbers (as YAML has them) become the tuples that a frozen spec holds."""
    if isinstance(value, list):
        return tuple(tuple(row) if isinstance(row, list) else row for row in value)
    if isinstance(value, str) and value != "exact" and value not in SCHEDULES:
        names = [*SCHEDULES, "exact"]
        raise Fault(f"unknown schedule '{value}'", because=f"known: {', '.join(names)}", instead=closest(value, names))
    return value


Row = tuple[Real, Real, Real]
Table = Annotated[tuple[Row, ...], Field(min_length=1, max_length=MOST_STEPS)]
Schedule = Annotated[str | PolarExpress | Table, BeforeValidator(_listed)]


def _coefficients(schedule: Any) -> tuple[tuple[float, float, float], ...]:
    if isinstance(schedule, PolarExpress):
        return schedule.table
    return SCHEDULES[schedule].coefficients if isinstance(schedule, str) else schedule


def _own_steps(data: dict[str, Any]) -> int:
    schedule = data.get("schedule", "exact")
    return 1 if schedule == "exact" else len(_coefficients(schedule))


def _own_normalisation(data: dict[str, Any]) -> Normalisation:
    schedule = data.get("schedule")
    return SCHEDULES[schedule].normalisation if isinstance(schedule, str) and schedule in SCHEDULES else "schatten4"


@lmos.register
class Spectral(LMO):
    """``polar(g) = U V^T`` for ``g = U S V^T``, the oracle of the spectral norm (Muon).

    By ``x <- a x + b x x^T x + c (x x^T)^2 x`` with the rows (a, b, c) of a schedule, or exactly by a rank-truncated
    SVD in float64 (``schedule: exact``). The schedule belongs to the spec: another one flips 4 to 8 % of the signs that
    SignMuon sends.

    Shapes: (..., m, n); the iteration runs on the smaller side. Norm: ||x|| = sigma_max, dual = sum of singular values,
    nominal Frobenius norm sqrt(min(m, n)). Law: a zero matrix gives zero; d(c g) = d(g) exactly for c a power of two.

    Args:
        schedule: ``polar6`` | ``polar5`` | ``jordan5`` | ``quintic5`` | ``cubic5`` | ``turbo4`` | ``exact``, a list of
            (a, b, c), or the Polar Express generator's arguments ``{lower, steps, cushion, safety, safety_inside}``.
        steps: how many rows; the schedule's own number unless given. Beyond the table its last row repeats.
        dtype: of the iteration; ``parameter`` is the dtype that the optimizer computes in for that parameter.
        normalisation: ``schatten4`` (from the first Gram matrix, free) | ``frobenius`` | ``aol`` (each row of the
            smaller side by itself: fewer steps, but the polar factor of the rescaled matrix, so d(U g) is not U d(g));
            the schedule's own unless given.

    Source: Muon, https://kellerjordan.github.io/posts/muon (jordan5); arXiv 2505.16932 (Polar Express);
    arXiv 2512.04632 (turbo4, Turbo-Muon).

    >>> Spectral(schedule="exact").direction(torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
    tensor([[ 1.,  0.],
            [ 0., -1.]])
    """

    kind: Literal["spectral"] = "spectral"
    frobenius: ClassVar[Norm] = SQRT_MIN
    schedule: Schedule = "polar6"
    steps: Steps = Field(default_factory=_own_steps)
    dtype: Literal["bfloat16", "float32", "parameter"] = "bfloat16"
    normalisation: Normalisation = Field(default_factory=_own_normalisation)

    @model_validator(mode="after")
    def _exact_has_no_steps(self) -> Spectral:
        if self.schedule == "exact" and self.steps != 1:
            raise Fault("'exact' takes no steps", because="it is an SVD", instead="leave 'steps' out", at=("steps",))
        return self

    @property
    def waits(self) -> bool:
        """LAPACK's errors are read by the host."""
        return self.schedule == "exact"

    def direction(self, g: Tensor) -> Tensor:
        """polar(g), approximately (a schedule) or exactly."""
        return self._polar(g, g.dtype)

    def lean(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The direction in the iteration's own dtype, if that is narrower."""
        if self.radius != 1.0 or self.schedule == "exact":
            return self(x, state, ctx)
        return self._polar(x, min(x.dtype, self._dtype(x), key=lambda dtype: dtype.itemsize))

    def _dtype(self, g: Tensor) -> torch.dtype:
        return g.dtype if self.dtype == "parameter" else getattr(torch, self.dtype)

    def _polar(self, g: Tensor, out: torch.dtype) -> Tensor:
        if self.schedule == "exact":
            return exact_polar(g)
        table = rows(_coefficients(self.schedule), self.steps)
        return orthogonalise(g, table, normalisation=self.normalisation, dtype=self._dtype(g), out=out)

    def norm(self, x: Tensor) -> Tensor:
        """The largest singular value."""
        return torch.linalg.matrix_norm(x, ord=2)

    def dual(self, g: Tensor) -> Tensor:
        """The nuclear norm."""
        return torch.linalg.matrix_norm(g, ord="nuc")
