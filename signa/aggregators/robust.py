"""Aggregation that bounds what a few lying workers can do: trimmed mean, centred clipping."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import Fault
from ..linalg import matrix_sum, power_of_two_scale
from ..rule import Count, Positive
from ..signal import Signal
from ..stage import Context
from .base import Aggregator, aggregators
from .rules import Median, in_size


@aggregators.register
class TrimmedMean(Aggregator):
    """``mean of x_(trim+1) ... x_(k-trim)``, entry by entry: of k sorted values without the ends.

    Up to ``trim`` workers may send what they like: the result stays between the least and the largest value that the
    others sent. What is not finite is no value; where so few are there that nothing would be left, it is their median.

    Shapes: (N, ..., m, n) -> (..., m, n). Law: trim of (N - 1) // 2 is the median.

    Args:
        trim: how many values fall away at either end.

    Raises:
        Fault: there are not more than 2 trim workers.

    Source: arXiv 1803.01498, Definition 2 (with beta = trim / N).

    >>> sent = torch.tensor([1.0, 9.0, 2.0, -5.0, 3.0]).view(5, 1, 1)
    >>> TrimmedMean(trim=1)(sent, torch.ones(5, dtype=torch.bool), Context())
    tensor([[2.]])
    """

    coordinatewise: ClassVar[bool] = True

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    trim: Count = 1

    def admit(self, workers: int) -> None:
        """More workers than fall away.

        Raises:
            Fault: so few that nobody would be left.
        """
        if workers <= 2 * self.trim:
            most = (workers - 1) // 2
            raise Fault(
                f"aggregate 'trimmed_mean' drops {2 * self.trim} of {workers} values",
                because=f"trim: {self.trim} takes so many from either end",
                instead=f"write trim: {most}, or use more workers" if most else "use 3 workers or more, or 'mean'",
            )

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The mean of what is left, added in pairs from both ends, so that -x gives the opposite, bit for bit."""
        ordered, count = in_size(messages, active)
        dropped = ((count - 1) // 2).clamp(max=self.trim)
        total, last = torch.zeros_like(messages[0]), len(messages) - 1
        for place in range((len(messages) + 1) // 2):
            low, high = dropped + place, count - 1 - dropped - place
            one, other = (ordered.gather(0, at.clamp(0, last)) for at in (low, high))
            pair = torch.where(low < high, one + other, torch.where(low == high, one, 0))
            total += pair[0]
        return torch.where(active.any(0)[..., None, None], total / (count - 2 * dropped)[0], 0)

    def signal(self, s: Signal) -> Signal:
        """Dense values of the same nominal size."""
        return s.but(alphabet="dense")


@aggregators.register
class CenteredClip(Aggregator):
    """``v <- v + mean_j (x_j - v) min(1, tau / ||x_j - v||_F)``, from the workers' median v, matrix by matrix.

    Nobody moves the result by more than tau / N in an iteration, however far away his message is; one that is not
    finite moves it not at all. The source starts at the last step's result; the median needs no memory, and the only
    message of one worker is then the result. A matrix is judged as a whole, so it is aggregated in one piece.

    Shapes: (N, ..., m, n) -> (..., m, n). Law: ``||v - median||_F <= iterations tau``.

    Args:
        radius: tau, in its unit.
        unit: ``median``: the median of the distances ||x_j - v||, anew in each iteration, so that one number fits every
            signal; ``frobenius``: 1, as in the source.
        iterations: how often.

    Source: arXiv 2012.10333, Algorithm 2 (CENTEREDCLIP).

    >>> sent = torch.tensor([0.0, 1.0, -1.0, 2.0, 1e6]).view(5, 1, 1)
    >>> CenteredClip(radius=1.0, unit="frobenius", iterations=1)(sent, torch.ones(5, dtype=torch.bool), Context())
    tensor([[1.]])
    """

    kind: Literal["centered_clip"] = "centered_clip"
    radius: Positive = 1.0
    unit: Literal["median", "frobenius"] = "median"
    iterations: Count = 3

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The centre after so many iterations."""
        v = Median()(messages, active, ctx)
        there = active[..., None, None]
        count = there.sum(0).clamp(min=1)
        for _ in range(self.iterations):
            far = torch.stack([_length(message - v) for message in messages])  # (N, ..., 1, 1)
            far = torch.where(there & far.isfinite(), far, torch.inf)
            within = self._radius(far, count)
            share = torch.where(far > within, within / far, 1).to(v.dtype)
            moved = torch.zeros_like(v)
            for message, part, finite in zip(messages, share, far.isfinite(), strict=True):
                moved += torch.where(finite, (message - v) * part, 0)
            v = v + moved / count
        return v

    def _radius(self, far: Tensor, count: Tensor) -> Tensor | float:
        """tau (..., 1, 1), from everybody's distance, of which the absent ones' are infinite."""
        if self.unit == "frobenius":
            return self.radius
        middle = far.sort(0).values.gather(0, ((count - 1) // 2)[None])[0]
        return self.radius * torch.where(middle.isfinite(), middle, 0)

    def signal(self, s: Signal) -> Signal:
        """Dense values of the same nominal size."""
        return s.but(alphabet="dense")


def _length(x: Tensor) -> Tensor:
    """The Frobenius norm (..., 1, 1) in float64, which holds that of every float32 matrix; NaN if x is not finite."""
    scaled, exponent = power_of_two_scale(x)
    return matrix_sum(scaled.square()).sqrt().double() * torch.exp2(exponent.double())
