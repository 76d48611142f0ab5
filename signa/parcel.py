"""A bucket with its stacks: the thirds of a step before, between and behind the two halves of the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .exact import ExactModel
from .stack import Stack
from .stage import Rate
from .transport import Aggregate, Bucket, Clock, Message
from .transport.homes import Rows
from .transport.matrices import Matrices

Scalars = tuple[Rate, float]
"""A group's learning rate and weight decay."""

Shared = tuple[Matrices, Sequence[int]]
"""A server's message for a stack, and the matrices that it is for."""


@dataclass(frozen=True)
class Parcel:
    """A bucket, and its stacks with the numbers of their groups."""

    bucket: Bucket
    places: Sequence[tuple[int, Stack]]

    @cached_property
    def parameters(self) -> Sequence[Tensor]:
        """Of all stacks."""
        return [parameter for _, stack in self.places for parameter in stack.parameters]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.places[0][1].lane.device

    def send(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> list[Message]:
        """The local workers' messages."""
        return [
            stack.send([[row[id(p)] for p in stack.parameters] for row in rows], *scalars[index], clock)
            for index, stack in self.places
        ]

    def serve(
        self, messages: Sequence[Message], aggregates: Sequence[Aggregate], scalars: Sequence[Scalars], clock: Clock
    ) -> list[Matrices]:
        """The server's messages for the matrices whose server is here."""
        for (_, stack), message, (x, here, _) in zip(self.places, messages, aggregates, strict=True):
            if stack.probe is not None:
                stack.show("aggregate", here, message.dense, x.dense)
        return [
            stack.serve(x, here, *scalars[index], clock) if len(here) else Matrices(stack.lane.down, dense=x.dense)
            for (index, stack), (x, here, _) in zip(self.places, aggregates, strict=True)
        ]

    def exchange(self, messages: Sequence[Message], scalars: Sequence[Scalars], clock: Clock) -> list[Shared]:
        """From the local workers' messages to the server's, wherever that is."""
        aggregates = self.bucket.collect(messages, clock)
        shared = self.bucket.share(self.serve(messages, aggregates, scalars, clock), aggregates)
        return [(x, aggregate.taking) for x, aggregate in zip(shared, aggregates, strict=True)]

    def settle(self, *, keep: bool) -> None:
        """What a step has written to copies of the state is kept, or dropped."""
        for _, stack in self.places:
            stack.settle(keep=keep)

    def deliver(self, shared: Iterable[Shared], scalars: Sequence[Scalars], clock: Clock, exact: ExactModel) -> None:
        """The server's messages reach the model; matrices without one stay."""
        for (index, stack), (x, taking) in zip(self.places, shared, strict=True):
            if len(taking):
                stack.deliver(x, taking, *scalars[index], clock)
                exact.note(stack)


__all__ = ["Parcel", "Rows", "Scalars", "Shared"]
