"""The stacks of an optimizer, the buckets that they travel in, and the three loops of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from .exact import ExactModel
from .routing import Route
from .spec import ParamGroup
from .stack import Probe, Stack
from .transport import Bucket, Clock, Transport

#: Entries of a stack at the most (32 MiB of float32), so that a step's temporaries stay small; no bit depends on it.
MOST = 1 << 23

Scalars = tuple[float, float]
"""A group's learning rate and weight decay."""


class Engine:
    """Same-shape matrices of a group make a stack; stacks make buckets, as the transport plans them."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.stacks: list[tuple[int, Stack]] = []
        self.phases: list[list[int]] = []  # what was planned together, so that a copy's server is split alike
        self.exact = ExactModel()
        self._buckets: list[tuple[Bucket, list[tuple[int, Stack]]]] = []

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
            self._buckets.append((bucket, places))
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
        return [bucket for bucket, _ in self._buckets]

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

    def run(self, rows: Sequence[Mapping[int, Tensor | None]], scalars: Sequence[Scalars], clock: Clock) -> None:
        """One step: messages, the wire, and back to the model.

        ``rows[k]`` has local worker k's gradients by the parameter's id, ``scalars`` every group's learning rate and
        weight decay.
        """
        self.exact.honour_loads()
        for bucket, places in self._buckets:
            messages = []
            for index, stack in places:
                gradients = [[row[id(p)] for p in stack.parameters] for row in rows]
                messages.append(stack.send(gradients, *scalars[index], clock))
            aggregates = bucket.collect(messages, clock)
            for (_, stack), message, (x, here, _) in zip(places, messages, aggregates, strict=True):
                stack.show("aggregate", here, message.rows, x)
            served = [
                stack.serve(x, here, *scalars[index], clock) if len(here) else x
                for (index, stack), (x, here, _) in zip(places, aggregates, strict=True)
            ]
            shared = bucket.share(served, aggregates)
            for (index, stack), (_, _, taking), x in zip(places, aggregates, shared, strict=True):
                if len(taking):
                    stack.deliver(x, taking, *scalars[index], clock)
                    self.exact.note(stack)


__all__ = ["Engine"]
