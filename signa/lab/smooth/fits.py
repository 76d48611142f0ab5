"""Exponents: a line through logarithms, with an interval from resampled seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..tasks.base import seed_of

__all__ = ["Slope", "slope"]

_DRAWS = 2000


class Slope(NamedTuple):
    """An exponent and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """``-0.50 [-0.52, -0.48]``."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def slope(x: Sequence[float], y: Sequence[Sequence[float]]) -> Slope:
    """The exponent p of ``y ~ x^p``, by least squares on logarithms of the mean over seeds.

    ``y[i][s]`` is what seed s measured at x[i]. The interval is the 2.5 and 97.5 percentile over resampled seeds (whole
    seeds, since one seed's values share their noise).

    >>> slope([1.0, 2.0, 4.0], [[3.0, 5.0], [6.0, 10.0], [12.0, 20.0]])
    Slope(value=1.0, low=1.0, high=1.0)
    """
    log_x, values = np.log(np.asarray(x, dtype=float)), np.asarray(y, dtype=float)
    centred = log_x - log_x.mean()
    generator = np.random.default_rng(seed_of("bootstrap", len(x), values.shape[1]))
    picks = generator.integers(0, values.shape[1], (_DRAWS, values.shape[1]))
    resampled = np.log(values[:, picks].mean(-1))  # (points, draws)
    found = centred @ resampled / (centred @ centred)
    own = float(centred @ np.log(values.mean(1)) / (centred @ centred))
    low, high = np.percentile(found, [2.5, 97.5])
    return Slope(*(round(float(value), 9) for value in (own, low, high)))
