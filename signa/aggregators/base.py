"""How the workers' messages become one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from ..rule import Registry, Rule
from ..signal import Signal
from ..stage import Context, State


class Aggregator(Rule):
    """A map of the messages (N, ..., m, n) of N workers to one signal (..., m, n).

    ``active`` (N, ...) is False where a worker has no message for a matrix (its row is zero then). Law: workers are
    anonymous, so any order gives the same result up to rounding.

    ``linear``: the aggregate of sums is the sum of the aggregates, which a receiver that adds up needs.
    ``coordinatewise``: an entry of the aggregate depends on that entry of the messages alone, so a matrix may be cut
    anywhere and its pieces aggregated apart.
    ``counts_silent``: whether a message that is zero throughout a matrix counts (else it is no message, and its sender
    is not active).
    ``remembers``: it has a state, which is lent to it as ``ctx.memory`` and written in place (without one a call is a
    first step); on ranks such messages are gathered everywhere, so that everybody remembers the same.
    """

    linear: ClassVar[bool] = False
    coordinatewise: ClassVar[bool] = False
    counts_silent: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    def init(self, workers: int, x0: Tensor) -> State:
        """What it remembers of so many workers' messages for matrices like ``x0`` (..., m, n), with their leading axes.

        Law: where nobody is active, it stays as it is.
        """
        return {}

    @abstractmethod
    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The aggregate."""

    def of_words(self, planes: Tensor, coins: Callable[[], Tensor]) -> tuple[Tensor, Tensor] | None:
        """The aggregate of +-1 messages without unpacking them, or None where there is no such way.

        Args:
            planes: sign words (V, R, W) of the V active workers.
            coins: tosses words (R, W).

        Returns:
            sign words (R, W), and words that have a bit where the aggregate is not 0.
        """
        return None

    def of_sum(self, total: Tensor, present: Tensor, ctx: Context) -> Tensor | None:
        """The aggregate from the messages' sum (..., m, n) and how many are active (...), where that is enough; else
        None."""
        return None

    def admit(self, workers: int) -> None:
        """Refuse a number of workers that this rule cannot work with.

        Raises:
            Fault: with the reason and the remedy.
        """

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
