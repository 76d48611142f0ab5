"""The stacks of an optimizer, and how a step goes through the parcels that they travel in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from .exact import ExactModel
from .overlap import Facts, Overlap
from .parcel import Parcel, Rows, Scalars, Shared
from .probe import Probe
from .routing import Route
from .scratch import keep_pages
from .spec import ParamGroup
from .stack import Stack
from .transport import Bucket, Clock, Transport
from .transport.planning import SHARE

#: Entries of a stack at the most, so that a step's temporaries stay small; no bit depends on it. In float32 these are
#: 30 MiB: what is longer than 32 the C library does not keep (`scratch.keep_pages`).
MOST = 15 << 19


def turns(names: Sequence[str], *, overlap: bool) -> dict[str, int]:
    """When the turn of each parameter comes, of those listed: by name, so that nothing depends on the list's order.

    With overlap from the last one to the first, as their gradients come; the processes agree on the list then.
    """
    return {name: at for at, name in enumerate(names[::-1] if overlap else sorted(names))}


def stacked(
    groups: Mapping[int, tuple[ParamGroup, Sequence[Route]]], turn: Mapping[str, int], local: range, *, overlap: bool
) -> list[tuple[int, Stack]]:
    """Stacks for the routes of these groups, with the groups' numbers; stateless until they are told what they own.

    Routes are taken turn by turn; with overlap stacks are shorter, in the order of their last ones.
    """
    every = [
        (index, route)
        for index, (_, routes) in groups.items()
        for route in sorted(routes, key=lambda route: turn[route.named.name])
    ]
    alike: dict[tuple[Any, ...], list[Route]] = {}
    for index, route in every:
        p = route.named.parameter
        key = (index, route.layout.m, route.layout.n, route.layout.count, p.dtype, p.device)
        alike.setdefault(key, []).append(route)
    most = min(MOST, sum(_entries(route) for _, route in every) // SHARE) if overlap else MOST
    found: list[tuple[int, Stack]] = []
    for (index, *_), routes in alike.items():
        deep = max(1, most // max(1, _entries(routes[0])))
        deep -= deep % 2 if deep > 1 else 0  # two threads have as much to do
        for members in (routes[first : first + deep] for first in range(0, len(routes), deep)):
            found.append((index, Stack(groups[index][0], members, local)))
    return sorted(found, key=lambda place: last(place[1], turn)) if overlap else found


def last(stack: Stack, turn: Mapping[str, int]) -> int:
    """The turn of its last parameter."""
    return max(turn[route.named.name] for route in stack.routes)


class Engine:
    """Same-shape matrices of a group make a stack; stacks make buckets, as the transport plans them."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.stacks: list[tuple[int, Stack]] = []
        self.phases: list[list[int]] = []  # what was planned together, so that a copy's server is split alike
        self.homes = transport.homes()
        self.exact = ExactModel(self.homes)
        self._users: dict[int, Tensor] = {}  # by the id of the whole tensor
        self.overlap = None if transport.line is None else Overlap(transport.line, self.exact.honour_loads)
        self._buckets: list[Parcel] = []
        keep_pages()

    def add(self, groups: Mapping[int, tuple[ParamGroup, Sequence[Route]]], names: Sequence[str]) -> None:
        """Stacks for the routes of these groups; ``names`` are those of all parameters, as the model lists them.

        All of them are planned together, so every process plans alike. Of a sharded model only those have a stack here
        whose home is here.
        """
        self.phases.append(list(groups))
        self.exact.kept |= any(group.method.step_address.startswith("server.") for group, _ in groups.values())
        wholes = self._settle([route for _, routes in groups.values() for route in routes])
        here = {
            index: (
                group,
                [
                    replace(route, named=replace(route.named, parameter=wholes[route.named.name]))
                    for route in routes
                    if route.named.name in wholes
                ],
            )
            for index, (group, routes) in groups.items()
        }
        turn = turns(names, overlap=self.overlap is not None)
        new = stacked(here, turn, self.transport.local, overlap=self.overlap is not None)
        homes = {id(stack.lane): (index, stack) for index, stack in new if stack.entries}
        parcels = []
        for bucket in self.transport.plan([stack.lane for _, stack in homes.values()]):
            places = [homes[id(lane)] for lane in bucket.lanes]
            for at, (_, stack) in enumerate(places):
                stack.own(bucket.owned(at), self.transport.workers)
                stack.holds = self.overlap is not None
                self.exact.follow(stack, partial(bucket.whole, at))
            parcels.append(Parcel(bucket, places))
        for _, stack in new:
            if id(stack.lane) not in homes:  # without entries there is nothing to send
                stack.own(range(stack.rows), self.transport.workers)
        if self.overlap is not None:
            parcels.sort(key=lambda parcel: max(last(stack, turn) for _, stack in parcel.places))
            self.overlap.extend(parcels)
        self._buckets += parcels
        self.stacks += new

    def _settle(self, routes: Sequence[Route]) -> dict[str, Tensor]:
        """The whole tensors here, by name. A step of m x n costs about m n min(m, n), as in a split server."""
        costs = [float(_entries(route) * min(route.layout.m, route.layout.n)) for route in routes]
        parameters = {route.named.name: route.named.parameter for route in routes}
        wholes = self.homes.settle(dict(zip(parameters, zip(parameters.values(), costs, strict=True), strict=True)))
        self._users |= {id(whole): parameters[name] for name, whole in wholes.items()}
        return wholes

    def views(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The user's parameters, each with its share of the state; of a sharded model those whose home is here."""
        for _, stack in self.stacks:
            for position, whole in enumerate(stack.parameters):
                yield self._users[id(whole)], stack.views(position)

    @property
    def buckets(self) -> list[Bucket]:
        """What travels together."""
        return [parcel.bucket for parcel in self._buckets]

    @contextmanager
    def probe(self, look: Probe) -> Iterator[None]:
        """Inside, ``look`` sees every hop of every stack that is there now, in place of a probe that saw it before."""
        if self.overlap is not None:
            self.overlap.line.settle()
            self.overlap.probed = True
        before = [(stack, stack.probe) for _, stack in self.stacks]
        for stack, _ in before:
            stack.probe = look
        try:
            yield
        finally:
            for stack, probe in before:
                stack.probe = probe
            if self.overlap is not None:
                self.overlap.probed = any(probe is not None for _, probe in before)

    # A step ------------------------------------------------------------------------------------------------------

    def prepare(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> bool:
        """With overlap, everything travels now that has not before; whether any of it is not what a step would send."""
        return self.overlap is not None and self.overlap.finish(rows, scalars, clock)

    def drop(self, *, stale: bool) -> None:
        """With overlap, what has travelled is not used; ``stale``: because of what :meth:`prepare` says somewhere."""
        if self.overlap is not None:
            self.overlap.drop(stale=stale)

    def run(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> None:
        """One step: messages, the wire, and back to the model; ``scalars`` are every group's."""
        if self.overlap is not None and self.overlap.complete:
            for parcel, shared in self.overlap.land():
                parcel.deliver(shared, scalars, clock, self.exact)
            return
        rows = self.homes.collect(rows)
        self.exact.honour_loads()
        for parcel in self._buckets:
            shared = parcel.exchange(parcel.send(rows, scalars, clock), scalars, clock)
            parcel.settle(keep=True)
            parcel.deliver(shared, scalars, clock, self.exact)
        self.homes.spread()

    def deliver(self, shared: Sequence[Sequence[Shared]], scalars: Sequence[Scalars], clock: Clock) -> None:
        """The last third of a step whose server is elsewhere, from what it sent for every parcel."""
        for parcel, own in zip(self._buckets, shared, strict=True):
            parcel.deliver(own, scalars, clock, self.exact)

    # Overlap -----------------------------------------------------------------------------------------------------

    def watch(self, facts: Callable[[], Facts | None]) -> None:
        """With overlap, gradients are sent from now on as they come; ``facts()`` is what a step would be taken with
        (a weak method of the optimizer, so that nothing keeps it)."""
        if self.overlap is not None:
            self.overlap.watch(facts)

    def hold(self) -> AbstractContextManager[None]:
        """Inside, nothing leaves before the step."""
        return nullcontext() if self.overlap is None else self.overlap.hold()

    def forget(self) -> None:
        """A state was loaded."""
        self.exact.forget()
        if self.overlap is not None:
            self.overlap.forget()


def _entries(route: Route) -> int:
    return route.layout.m * route.layout.n * route.layout.count


__all__ = ["Engine", "Parcel", "Scalars", "Shared", "last", "stacked"]
