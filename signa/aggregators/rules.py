"""Coordinate-wise aggregation: vote, mean, weighted mean, median."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import Fault, a_or_an
from ..host import certain, constant
from ..packing import majority
from ..rule import Positive
from ..signal import SQRT_MN, Signal
from ..stage import Context
from .base import Aggregator, aggregators, in_order


@aggregators.register
class MajorityVote(Aggregator):
    """``sign(sum_j s_j)`` over messages of +-1, entry by entry.

    Shapes: (N, ..., m, n) -> (..., m, n). Norm: sqrt(m n). A message that is zero throughout a matrix abstains, so its
    sender is not active; where nobody is, the result is 0.

    Args:
        ties: ``coin`` (a fair one from the server: 1 bit, unbiased) or ``zero`` (the entry does not move; the result is
            ternary). A constant rule would bias every weight; an odd number of workers has no ties.

    Source: arXiv 1810.05291 (signSGD with majority vote), Algorithm 1.

    >>> votes = torch.tensor([[[1.0, -1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]])
    >>> MajorityVote()(votes, torch.ones(3, dtype=torch.bool), Context())
    tensor([[ 1., -1.]])
    """

    coordinatewise: ClassVar[bool] = True
    counts_silent: ClassVar[bool] = False

    kind: Literal["majority_vote"] = "majority_vote"
    ties: Literal["coin", "zero"] = "coin"

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The sign that more workers sent."""
        return self.of_sum(in_order(messages), active.sum(0), ctx)

    def of_sum(self, total: Tensor, present: Tensor, ctx: Context) -> Tensor:
        """Its sign; where it is 0, and anybody voted, a coin (or nothing)."""
        return elected(total, present, self.ties, ctx)

    def of_words(self, planes: Tensor, coins: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """The majority, by carry-save adders over 64 votes at a time."""
        more, tie = majority(planes)
        if self.ties == "zero":
            return more, ~tie
        return (more if len(planes) % 2 else more | (tie & coins())), torch.full_like(more, -1)

    def signal(self, s: Signal) -> Signal:
        """A direction of +-1.

        Raises:
            Fault: the messages are no signs.
        """
        return self.counted(s, self.kind)

    def counted(self, s: Signal, kind: str) -> Signal:
        """What a vote of that name puts out.

        Raises:
            Fault: the messages are no signs.
        """
        if s.alphabet not in ("sign", "ternary"):
            raise Fault(
                f"aggregate '{kind}' counts +-1 messages, but 'up' delivers {a_or_an(s.alphabet)} signal",
                instead="set 'up: sign', or aggregate with 'mean'",
            )
        return Signal("direction", "sign" if self.ties == "coin" else "ternary", SQRT_MN)


def elected(total: Tensor, present: Tensor, ties: Literal["coin", "zero"], ctx: Context) -> Tensor:
    """The sign of a sum of votes; where it is 0, and anybody voted, a coin (or nothing)."""
    vote = torch.sign(total)
    if ties == "zero" or certain(vote):
        return vote
    return torch.where(vote.eq(0) & present.gt(0)[..., None, None], ctx.coins(vote), vote)


@aggregators.register
class Mean(Aggregator):
    """``sum_j x_j / (number of workers present)``, added in worker order.

    Shapes: (N, ..., m, n) -> (..., m, n). Norm: the messages' own. Source: parallel SGD; the control of every vote.

    >>> Mean()(torch.tensor([[[1.0]], [[3.0]]]), torch.ones(2, dtype=torch.bool), Context())
    tensor([[2.]])
    """

    linear: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = True

    kind: Literal["mean"] = "mean"

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The mean over those present."""
        return self.of_sum(in_order(messages), active.sum(0), ctx)

    def of_sum(self, total: Tensor, present: Tensor, ctx: Context) -> Tensor:
        """The sum over how many there are."""
        return total / present.clamp(min=1)[..., None, None]

    def signal(self, s: Signal) -> Signal:
        """Dense values of the same nominal size."""
        return s.but(alphabet="dense")


@aggregators.register
class WeightedMean(Aggregator):
    """``sum_j w_j x_j / sum_j w_j`` over the workers present, added in worker order.

    Federated averaging weighs a worker by its number of samples. Behind ``up: sign`` it is the balance of a weighted
    vote, which ``down: sign`` (or a server's ``linf``) decides.

    Shapes: (N, ..., m, n) -> (..., m, n). Norm: the messages' own. Law: the common factor of the weights is nothing.

    Args:
        weights: one per worker, in worker order; equal ones if there are none.

    Raises:
        Fault: there are weights, but not as many as workers.

    Source: arXiv 1602.05629, Algorithm 1 (FedAvg, n_k / n); arXiv 2403.16372 (votes weighted by worker).

    >>> WeightedMean(weights=(3, 1))(torch.tensor([[[1.0]], [[5.0]]]), torch.ones(2, dtype=torch.bool), Context())
    tensor([[2.]])
    """

    linear: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = True

    kind: Literal["weighted_mean"] = "weighted_mean"
    weights: tuple[Positive, ...] = ()

    def admit(self, workers: int) -> None:
        """As many weights as workers, or none.

        Raises:
            Fault: another number of weights.
        """
        if len(self.weights) not in (0, workers):
            raise Fault(
                f"aggregate 'weighted_mean' has {len(self.weights)} weights for {workers} workers",
                because="worker j's message is multiplied by weight j",
                instead=f"give {workers} weights in worker order, or none for equal ones",
            )

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The weighted mean over those present."""
        self.admit(len(messages))
        given = constant(self.weights or (1.0,) * len(messages), messages.device, messages.dtype)
        present = in_order(given.view(-1, *[1] * (active.ndim - 1)) * active)[..., None, None]
        total = messages[0] * given[0]
        for weight, message in zip(given[1:], messages[1:]):
            total += message * weight
        return total / torch.where(present > 0, present, 1)

    def signal(self, s: Signal) -> Signal:
        """Dense values of the same nominal size."""
        return s.but(alphabet="dense")


def in_size(messages: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """The finite values of those present, ascending and then infinities (N, ..., m, n), and how many of them each entry
    has (1, ..., m, n): one at the least, an infinite one."""
    there = active[..., None, None] & messages.isfinite()
    return torch.where(there, messages, torch.inf).sort(0).values, there.sum(0, keepdim=True).clamp(min=1)


@aggregators.register
class Median(Aggregator):
    """``median_j x_j``, entry by entry, over those present (for an even number the mean of the middle two).

    A value that is not finite is none; where nobody sends another one, the result is not finite either.

    Shapes: (N, ..., m, n) -> (..., m, n). Source: arXiv 1803.01498, Definition 1 (Byzantine-robust median).

    >>> Median()(torch.tensor([[[1.0]], [[9.0]], [[2.0]]]), torch.ones(3, dtype=torch.bool), Context())
    tensor([[2.]])
    """

    coordinatewise: ClassVar[bool] = True

    kind: Literal["median"] = "median"

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The middle value of every entry."""
        ordered, count = in_size(messages, active)
        low, high = (ordered.gather(0, at)[0] for at in ((count - 1) // 2, count // 2))
        return torch.where(active.any(0)[..., None, None], (low + high) / 2, 0)

    def signal(self, s: Signal) -> Signal:
        """Dense values of the same nominal size."""
        return s.but(alphabet="dense")
