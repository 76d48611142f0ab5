"""The stacks of an optimizer, the parcels that they travel in, and the three thirds of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from .exact import ExactModel
from .routing import Route
from .spec import ParamGroup
from .stack import Probe, Stack
from .transport import Aggregate, Bucket, Clock, Message, Transport

#: Entries of a stack at the most (32 MiB of float32), so that a step's temporaries stay small; no bit depends on it.
MOST = 1 << 23

Scalars = tuple[float, float]
"""A group's learning rate and weight decay."""

Rows = Sequence[Mapping[int, Tensor | None]]
"""Local worker k's gradients by the parameter's id."""

Shared = tuple[Tensor, Sequence[int]]
"""A server's message for a stack, and the matrices that it is for."""


class Parcel(NamedTuple):
    """A bucket, and its stacks with the numbers of their groups: what a step does before, between and behind the two
    halves of the wire."""

    bucket: Bucket
    places: Sequence[tuple[int, Stack]]

    def send(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> list[Message]:
        """The local workers' messages."""
        return [
            stack.send([[row[id(p)] for p in stack.parameters] for row in rows], *scalars[index], clock)
            for index, stack in self.places
        ]

    def serve(
        self, messages: Sequence[Message], aggregates: Sequence[Aggregate], scalars: Sequence[Scalars], clock: Clock
    ) -> list[Tensor]:
        """The server's messages for the matrices whose server is here."""
        for (_, stack), message, (x, here, _) in zip(self.places, messages, aggregates, strict=True):
            stack.show("aggregate", here, message.rows, x)
        return [
            stack.serve(x, here, *scalars[index], clock) if len(here) else x
            for (index, stack), (x, here, _) in zip(self.places, aggregates, strict=True)
        ]

    def deliver(self, shared: Iterable[Shared], scalars: Sequence[Scalars], clock: Clock, exact: ExactModel) -> None:
        """The server's messages reach the model; matrices without one stay."""
        for (index, stack), (x, taking) in zip(self.places, shared, strict=True):
            if len(taking):
                stack.deliver(x, taking, *scalars[index], clock)
                exact.note(stack)


class Engine:
    """Same-shape matrices of a group make a stack; stacks make buckets, as the transport plans them."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.stacks: list[tuple[int, Stack]] = []
        self.phases: list[list[int]] = []  # what was planned together, so that a copy's server is split alike
        self.exact = ExactModel()
        self._buckets: list[Parcel] = []

    def add(self, groups: Mapping[int, tuple[ParamGroup, Sequence[Route]]]) -> None:
        """Stacks for the routes of these groups. All of them are planned together, so every process plans alike.

        Routes are taken by name, so that nothing depends on the order in which a process lists its parameters.
        """
        self.phases.append(list(groups))
        new: list[tuple[int, Stack]] = []
        for index, (group, routes) in groups.items():
            alike: dict[tuple[Any, ...], list[Route]] = {}
            for route in sorted(routes, key=lambda route: route.named.name):
                p = route.named.parameter
                key = (route.layout.m, route.layout.n, route.layout.count, p.dtype, p.device)
                alike.setdefault(key, []).append(route)
            for key, every in alike.items():
                most = max(1, MOST // max(1, key[0] * key[1] * key[2]))
                for members in (every[i : i + most] for i in range(0, len(every), most)):
                    new.append((index, Stack(group, members, self.transport.local)))
        homes = {id(stack.lane): (index, stack) for index, stack in new if stack.entries}
        for bucket in self.transport.plan([stack.lane for _, stack in homes.values()]):
            places = [homes[id(lane)] for lane in bucket.lanes]
            for at, (_, stack) in enumerate(places):
                stack.own(bucket.owned(at))
                self.exact.follow(stack, partial(bucket.whole, at))
            self._buckets.append(Parcel(bucket, places))
        for _, stack in new:
            if id(stack.lane) not in homes:  # without entries there is nothing to send
                stack.own(range(stack.rows))
        self.stacks += new

    def views(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Every parameter with its share of the state."""
        for _, stack in self.stacks:
            for position, parameter in enumerate(stack.parameters):
                yield parameter, stack.views(position)

    @property
    def buckets(self) -> list[Bucket]:
        """What travels together."""
        return [parcel.bucket for parcel in self._buckets]

    @contextmanager
    def probe(self, look: Probe) -> Iterator[None]:
        """Inside, ``look`` sees every hop of every stack that is there now, in place of a probe that saw it before."""
        before = [(stack, stack.probe) for _, stack in self.stacks]
        for stack, _ in before:
            stack.probe = look
        try:
            yield
        finally:
            for stack, probe in before:
                stack.probe = probe

    def run(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> None:
        """One step: messages, the wire, and back to the model; ``scalars`` are every group's."""
        self.exact.honour_loads()
        for parcel in self._buckets:
            messages = parcel.send(rows, scalars, clock)
            aggregates = parcel.bucket.collect(messages, clock)
            shared = parcel.bucket.share(parcel.serve(messages, aggregates, scalars, clock), aggregates)
            takings = [aggregate.taking for aggregate in aggregates]
            parcel.deliver(zip(shared, takings, strict=True), scalars, clock, self.exact)

    def deliver(self, shared: Sequence[Sequence[Shared]], scalars: Sequence[Scalars], clock: Clock) -> None:
        """The last third of a step whose server is elsewhere, from what it sent for every parcel."""
        for parcel, own in zip(self._buckets, shared, strict=True):
            parcel.deliver(own, scalars, clock, self.exact)


__all__ = ["Engine", "Parcel", "Scalars", "Shared"]
