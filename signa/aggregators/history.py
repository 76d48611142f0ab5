"""A vote that remembers who was right."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..linalg import matrix_sum
from ..rule import Fraction
from ..signal import Signal
from ..stage import Context, State
from .base import Aggregator, aggregators, in_order
from .rules import MajorityVote, elected

#: A weight is a whole number of these, so that sums of them are exact and a tie is a tie in any order of workers.
_UNITS = 256
#: Who was always right so far is believed as if it were this often: his weight is a number.
_MOST = 0.99


@aggregators.register
class WeightedVote(Aggregator):
    """``sign(sum_j w_j s_j)``, ``w_j = log(p_j / (1 - p_j))`` between 0 and the median, p_j how often j was right.

    Weights of that form are the best that voters who err by themselves can have. What is right nobody knows; worker
    j is measured against what the *others* would have decided without him: of the entries where both have an
    opinion, ``p_j <- history p_j + (1 - history) (share that agrees)``, for each matrix by itself. A coin has
    weight 0, and so has who is wrong more often than right: nobody's vote counts against itself. Nobody weighs more
    than the worker in the middle: without that bound two liars who agree with each other rule. With it three of
    nine still take the record of honest workers that are hardly better than coins (examples/byzantine): this is for
    liars who do not collude. While the one in the middle is no better than a coin, as at the start, all weigh the
    same.

    It must see every vote of a matrix: on ranks everybody gathers them all.

    Shapes: (N, ..., m, n) -> (..., m, n). Norm: sqrt(m n). State: right (..., N, 1, 1), starts at 1/2.

    Args:
        history: how much of p_j stays in a step.
        ties: as of ``majority_vote``.

    Source: Nitzan and Paroush (1982), Optimal decision rules in uncertain dichotomous choice situations, theorem 1 (the
    weights); Littlestone and Warmuth (1994), The weighted majority algorithm (weights from a record).

    >>> votes = torch.tensor([[[1.0, -1.0]], [[1.0, -1.0]], [[-1.0, -1.0]]])
    >>> WeightedVote()(votes, torch.ones(3, dtype=torch.bool), Context())
    tensor([[ 1., -1.]])
    """

    counts_silent: ClassVar[bool] = False
    remembers: ClassVar[bool] = True

    kind: Literal["weighted_vote"] = "weighted_vote"
    history: Fraction = 0.9
    ties: Literal["coin", "zero"] = "coin"

    def init(self, workers: int, x0: Tensor) -> State:
        """Everybody is a coin."""
        return {"right": x0.new_full((*x0.shape[:-2], workers, 1, 1), 0.5, dtype=torch.float64)}

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The sign with more weight; and then everybody's record."""
        there = active[..., None, None]  # (N, ..., 1, 1)
        right = ctx.memory.get("right")
        weights = there.to(messages.dtype)
        if right is not None:
            p = right.movedim(-3, 0).clamp(max=_MOST)
            learnt = (torch.log(p / (1 - p)) * _UNITS).round().clamp(min=0).to(messages.dtype)
            middle = ((there.sum(0, keepdim=True) - 1) // 2).clamp(min=0)
            most = torch.where(there, learnt, torch.inf).sort(0).values.gather(0, middle)
            weights = torch.where(most > 0, torch.minimum(learnt, most) * weights, weights)
        total = in_order(messages * weights)
        if right is not None:
            self._learn(right.movedim(-3, 0), messages, weights, total, there)
        return elected(total, active.sum(0), self.ties, ctx)

    def _learn(self, right: Tensor, messages: Tensor, weights: Tensor, total: Tensor, there: Tensor) -> None:
        for j, message in enumerate(messages):
            both = torch.sign(total - weights[j] * message) * message  # +1 where he agrees, 0 where one has no opinion
            agree, among = matrix_sum(both).double(), matrix_sum(both.abs()).double()
            share = (1 + agree / among.clamp(min=1)) / 2
            new = self.history * right[j] + (1 - self.history) * share
            right[j].copy_(torch.where(there[j] & (among > 0), new, right[j]))

    def signal(self, s: Signal) -> Signal:
        """A direction of +-1.

        Raises:
            Fault: the messages are no signs.
        """
        return MajorityVote(ties=self.ties).counted(s, self.kind)
