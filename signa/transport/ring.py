"""The dense all-reduce: fewest rounds of code, not equal to the simulation bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..aggregators import in_order
from . import header
from .base import ABSENT, Aggregate, Clock, Lane, Message, rows_of
from .bucket import Talk
from .ranks import Ranks


class RingBucket:
    """Dense lanes with a linear aggregate: who takes part by a small all-gather, the sum by an all-reduce.

    The backend adds in an order of its own, so runs are neither equal to ``Loopback`` nor across world sizes.
    """

    exchange = "ring"
    sharded = False

    def __init__(self, lanes: Sequence[Lane], ranks: Ranks, held: Sequence[int], number: int, talk: Talk) -> None:
        self.lanes, self.ranks, self.held = tuple(lanes), ranks, tuple(held)
        self.number, self.talk = number, talk
        self.home = ranks.home(lanes[0].device)

    def owned(self, lane: int) -> Sequence[int]:
        """Every server is here, too."""
        return range(self.lanes[lane].matrices)

    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]:
        """The aggregates of everybody's messages, from their sums."""
        self.ranks.step = clock.step
        what = f"step {clock.step}, bucket {self.number}, ring"
        local = torch.cat([message.status for message in messages], 1)
        total = local.shape[1]
        payload = torch.zeros(header.SIZE + local.numel(), dtype=torch.uint8)
        payload[header.SIZE :] = local.flatten()
        payload = payload.to(self.home)
        self.talk.head(clock, self.number).write(payload)
        sizes = [header.SIZE + count * total for count in self.held]
        came = self.ranks.gather(payload, sizes, what)
        self.talk.listen(header.read(came, self.ranks, self.talk.head(clock, self.number), what), self.ranks.rank)
        status = torch.cat([part[header.SIZE :].view(-1, total).cpu() for part in came])
        sums = torch.cat([in_order(message.rows).flatten() for message in messages]).to(self.home)
        self.ranks.total(sums, what)
        return self._split(sums.to(self.lanes[0].device), status)

    def _split(self, sums: Tensor, status: Tensor) -> list[Aggregate]:
        found = []
        for lane in self.lanes:
            size = lane.matrices * lane.entries
            x, sums = sums[:size].view(lane.matrices, lane.up.m, lane.up.n), sums[size:]
            mine, status = status[:, : lane.matrices], status[:, lane.matrices :]
            present = lane.active(mine).sum(0).to(x.device)
            taking = (mine != ABSENT).any(0).nonzero().flatten().tolist()
            result = lane.aggregate.of_sum(x, present)
            assert result is not None  # the plan asks before it chooses this exchange
            found.append(Aggregate(rows_of(result, taking), taking, taking))
        return found

    def share(self, messages: Sequence[Tensor], aggregates: Sequence[Aggregate]) -> list[Tensor]:
        """Nothing to share: everybody served."""
        return list(messages)

    def whole(self, lane: int, x: Tensor) -> Tensor:
        """X itself."""
        return x


__all__ = ["RingBucket"]
