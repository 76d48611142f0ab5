"""Learning-rate schedules in closed form: each value is a function of the step and the number of steps alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

from ..rule import Fraction, Registry, Rule, Share

__all__ = ["Constant", "Cosine", "InverseSqrt", "Linear", "Schedule", "Wsd", "schedules"]


class Schedule(Rule):
    """The multiple of every group's learning rate, step by step.

    A linear rise over `warmup`, a fraction of the steps, then the schedule's shape; t = k / steps is the part of the
    rest that is over.
    """

    warmup: Fraction = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The multiple at `step` = 0 .. steps - 1. It is not 0 within the run, so no step is wasted."""
        rising = round(self.warmup * steps)
        return (step + 1) / rising if step < rising else self.shape(step - rising, max(1, steps - rising))

    @abstractmethod
    def shape(self, k: int, steps: int) -> float:
        """The multiple at k = 0 .. steps - 1, counted from the end of the warm-up."""


schedules: Registry[Schedule] = Registry("schedule", Schedule)


@schedules.register
class Constant(Schedule):
    """`1`.

    >>> [Constant(warmup=0.5).factor(i, 4) for i in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """

    kind: Literal["constant"] = "constant"

    def shape(self, k: int, steps: int) -> float:
        """1."""
        return 1.0


@schedules.register
class Linear(Schedule):
    """`1 - t`.

    >>> [Linear().factor(i, 4) for i in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    kind: Literal["linear"] = "linear"

    def shape(self, k: int, steps: int) -> float:
        """1 - t."""
        return 1.0 - k / steps


@schedules.register
class Cosine(Schedule):
    """`(1 + cos(pi t)) / 2` (arXiv 1608.03983, equation 5, without restarts).

    >>> [round(Cosine().factor(i, 4), 3) for i in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """

    kind: Literal["cosine"] = "cosine"

    def shape(self, k: int, steps: int) -> float:
        """(1 + cos(pi t)) / 2."""
        return 0.5 * (1.0 + math.cos(math.pi * (k / steps)))


@schedules.register
class Wsd(Schedule):
    """Warm-up, stable, decay: `min(1, (1 - t) / cooldown)`, linear over the last part (arXiv 2404.06395, section 4).

    >>> [Wsd(cooldown=0.5).factor(i, 4) for i in range(4)]
    [1.0, 1.0, 1.0, 0.5]
    """

    kind: Literal["wsd"] = "wsd"
    cooldown: Share = 0.4

    def shape(self, k: int, steps: int) -> float:
        """min(1, (1 - t) / cooldown)."""
        return min(1.0, (1.0 - k / steps) / self.cooldown)


@schedules.register
class InverseSqrt(Schedule):
    """`1 / sqrt(1 + k)`: the anytime step size of the convergence theorems; it knows no horizon.

    >>> [round(InverseSqrt().factor(i, 4), 3) for i in range(4)]
    [1.0, 0.707, 0.577, 0.5]
    """

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"

    def shape(self, k: int, steps: int) -> float:
        """1 / sqrt(1 + k)."""
        return 1.0 / math.sqrt(1.0 + k)
