"""Learning-rate multipliers lam(m, n) per layer, all from the Signal at the hop before ``step``.

(m, n) = (fan_out, fan_in) of one matrix. A signal whose nominal norm is sqrt(m n) (signs) belongs to the sign family;
one without a nominal norm (sgd, adam, ef14) gets 1 from every rule.
"""

from __future__ import annotations

from abc import abstractmethod
from math import sqrt
from typing import Literal

from .rule import Flag, Positive, Real, Registry, Rule
from .signal import SQRT_MN, Signal


class Scaling(Rule):
    """A rule for the layer's learning-rate multiplier."""

    def __call__(self, s: Signal, m: int, n: int) -> float:
        """lam(m, n), 1 where the signal has no nominal norm."""
        if s.norm is None or m * n == 0:
            return 1.0
        return self.sign(m, n) if s.norm == SQRT_MN else self.other(s.norm(m, n), m, n)

    def other(self, norm: float, m: int, n: int) -> float:
        """The multiplier of a signal of this norm that is not made of signs: unit gain, sqrt(m) / norm."""
        return sqrt(m) / norm

    @abstractmethod
    def sign(self, m: int, n: int) -> float:
        """The multiplier of a signal of signs, norm sqrt(m n)."""


scalings: Registry[Scaling] = Registry("scaling", Scaling)


@scalings.register
class UnitGain(Scaling):
    """``sqrt(m) / norm``: every layer's step has the same RMS gain; 1/sqrt(n) for signs, sqrt(max(1, m/n)) for polar.

    Source: arXiv 2310.17813 (updates whose gain is the same in every layer); https://kellerjordan.github.io/posts/muon.

    >>> UnitGain()(Signal("direction", "sign", SQRT_MN), 64, 25)
    0.2
    """

    kind: Literal["unit_gain"] = "unit_gain"

    def sign(self, m: int, n: int) -> float:
        """1 / sqrt(n)."""
        return 1 / sqrt(n)


@scalings.register
class MuP(Scaling):
    """``1/n`` for signs, else unit gain.

    Source: arXiv 2203.03466 (muP: an entrywise optimizer's rate falls as 1 / fan-in).
    """

    kind: Literal["mup"] = "mup"

    def sign(self, m: int, n: int) -> float:
        """1 / n."""
        return 1 / n


@scalings.register
class Legacy(Scaling):
    """``1`` for signs, else unit gain.

    Source: github intsystems/SignMuon, the rule of that name.
    """

    kind: Literal["legacy"] = "legacy"

    def sign(self, m: int, n: int) -> float:
        """1."""
        return 1.0


@scalings.register
class NoScaling(Scaling):
    """``1`` for everything.

    Source: signSGD as published, arXiv 1802.04434: one rate for every layer.
    """

    kind: Literal["none"] = "none"

    def sign(self, m: int, n: int) -> float:
        """1."""
        return 1.0

    def other(self, norm: float, m: int, n: int) -> float:
        """1."""
        return 1.0


@scalings.register
class Mishra(Scaling):
    """``1 / norm``, so every step has Frobenius norm lr; 1/sqrt(m n) for signs.

    Source: arXiv 2605.16311 analyses it.
    """

    kind: Literal["mishra"] = "mishra"

    def sign(self, m: int, n: int) -> float:
        """1 / sqrt(m n)."""
        return 1 / sqrt(m * n)

    def other(self, norm: float, m: int, n: int) -> float:
        """1 / norm."""
        return 1 / norm


@scalings.register
class Power(Scaling):
    """``m^-beta n^-alpha`` for signs, else unit gain. alpha = 0.5 is unit_gain, 1 is mup, 0.5 and beta 0.5 is mishra.

    Source: the family that holds those three (arXiv 2203.03466, arXiv 2605.16311), to be searched.

    >>> Power(alpha=0.5)(Signal("direction", "sign", SQRT_MN), 64, 25)
    0.2
    """

    kind: Literal["power"] = "power"
    alpha: Real = 0.5
    beta: Real = 0.0

    def sign(self, m: int, n: int) -> float:
        """m^-beta n^-alpha."""
        return float(m**-self.beta * n**-self.alpha)


@scalings.register
class MatchAdamW(Scaling):
    """``rms sqrt(m n) / norm``: every step's entries have root mean square lr * rms, about that of AdamW's.

    So AdamW's learning rate and weight decay carry over. For polar it is ``rms sqrt(max(m, n))``, for signs ``rms``.

    Source: arXiv 2502.16982, section 2.2 and equation 4 (0.2, in the range of AdamW's own).

    >>> MatchAdamW()(Signal("direction", "sign", SQRT_MN), 64, 25)
    0.2
    """

    kind: Literal["match_adamw"] = "match_adamw"
    rms: Positive = 0.2

    def sign(self, m: int, n: int) -> float:
        """Signs have root mean square 1."""
        return self.rms

    def other(self, norm: float, m: int, n: int) -> float:
        """Rms sqrt(m n) / norm."""
        return self.rms * sqrt(m * n) / norm


@scalings.register
class Semantic(Scaling):
    """Unit gain on the layer's meant (fan-out, fan-in), for weights that are stored as (fan-in, fan-out).

    ``sqrt(fan_out) / norm``: sqrt(n) / norm of an m x n matrix stored transposed, 1 / sqrt(m) for signs. It
    differs from ``unit_gain`` by sqrt(n / m): by 2 for a transposed 768 x 3072.

    Args:
        transposed: rows are inputs; without it, it is ``unit_gain``.

    Source: the criterion of ``unit_gain`` (equal RMS gain ``||A||_F / sqrt(fan_out)``) on the transposed matrix.

    >>> Semantic()(Signal("direction", "sign", SQRT_MN), 25, 64)
    0.2
    """

    kind: Literal["semantic"] = "semantic"
    transposed: Flag = True

    def sign(self, m: int, n: int) -> float:
        """1 / sqrt(fan_in)."""
        return 1 / sqrt(m if self.transposed else n)

    def other(self, norm: float, m: int, n: int) -> float:
        """Sqrt(fan_out) / norm."""
        return sqrt(n if self.transposed else m) / norm
