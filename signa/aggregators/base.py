"""How the workers' messages become one."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from ..rule import Registry, Rule
from ..signal import Signal
from ..stage import Context


class Aggregator(Rule):
    """A map of the messages (N, ..., m, n) of N workers to one signal (..., m, n).

    ``active`` (N, ...) is False where a worker has no message for a matrix (its row is zero then). Law: workers are
    anonymous, so any order gives the same result up to rounding; a coordinate-wise rule treats entries alone.
    ``linear`` says that the aggregate of sums is the sum of the aggregates, which a receiver that adds up needs.
    """

    linear: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The aggregate."""

    @abstractmethod
    def signal(self, s: Signal) -> Signal:
        """What aggregation does to the nominal description.

        Raises:
            Fault: this rule cannot read such messages.
        """


aggregators: Registry[Aggregator] = Registry("aggregator", Aggregator)


def in_order(messages: Tensor) -> Tensor:
    """The sum over workers, row by row in worker order, so that every transport adds the same bits."""
    total = messages[0].clone()
    for message in messages[1:]:
        total += message
    return total
