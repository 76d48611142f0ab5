"""What an optimizer would be made of: the routes, stacks, lanes and buckets of a spec and a model, without a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..engine import last, stacked, turns
from ..routing import Named, Route, Routing
from ..spec import Spec
from ..stack import Stack
from ..transport.base import Lane
from ..transport.cut import by_parameter
from ..transport.planning import Mates, grouped

__all__ = ["Blueprint", "Bucket"]


@dataclass(frozen=True)
class Bucket:
    """What travels together, and how many neighbouring buckets of the model are just alike."""

    mates: Mates
    stacks: tuple[Stack, ...]
    count: int

    @property
    def entries(self) -> int:
        """Of one of them."""
        return sum(stack.entries for stack in self.stacks)


@dataclass(frozen=True)
class Blueprint:
    """A spec's stacks over a model, by the code that ``signa.build`` makes them with; ``overlap`` as in ``Group``."""

    spec: Spec
    routes: tuple[Route, ...]
    bucket_mb: float = 4.0
    overlap: bool = False

    @classmethod
    def of(cls, spec: Spec, model: Sequence[Named], bucket_mb: float = 4.0, *, overlap: bool = False) -> Blueprint:
        """Route a model of bodiless parameters (see :mod:`.models`).

        Raises:
            RoutingError, UnsupportedParameter: as ``signa.build``.
        """
        return cls(spec, tuple(Routing.of(spec, model)), bucket_mb, overlap)

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """Those that have something to send, in the order in which they are planned."""
        groups = {
            index: (group, own)
            for index, group in enumerate(self.spec.groups)
            if (own := [route for route in self.routes if route.group == index])
        }
        found = stacked(groups, self._turn, range(1), overlap=self.overlap)
        return tuple(stack for _, stack in found if stack.entries)

    @cached_property
    def _turn(self) -> dict[str, int]:
        return turns([route.named.name for route in self.routes], overlap=self.overlap)

    @property
    def entries(self) -> int:
        """Of the whole model."""
        return sum(stack.entries for stack in self.stacks)

    def buckets(self, ranks: int) -> list[Bucket]:
        """What ``Group`` would plan for so many ranks; alike neighbours are told once."""
        homes = {id(stack.lane): stack for stack in self.stacks}
        every = grouped([stack.lane for stack in self.stacks], self.bucket_mb, ranks, overlap=self.overlap)
        if self.overlap:  # they leave as gradients come, the model's last ones first
            every.sort(key=lambda mates: max(last(homes[id(lane)], self._turn) for lane in mates.lanes))
        found: list[list[Mates]] = []
        for mates in every:
            if found and _kind(found[-1][0]) == _kind(mates):
                found[-1].append(mates)
            else:
                found.append([mates])
        return [Bucket(one, tuple(homes[id(lane)] for lane in one.lanes), 1 + len(more)) for one, *more in found]

    def share(self, ranks: int) -> Blueprint:
        """The part of the busiest of so many ranks, where each parameter is one rank's, longest first."""
        if ranks == 1:
            return self
        loads = [0.0] * min(ranks, len(self.routes))
        pieces = by_parameter([stack.lane for stack in self.stacks], loads)[_largest(loads)]
        routes = [
            stack.routes[row // stack.per]
            for stack, block in ((self.stacks[index], block) for index, block in pieces)
            for row in range(block.first, block.last, stack.per)
        ]
        return Blueprint(self.spec, tuple(routes), self.bucket_mb, self.overlap)


def _largest(loads: Sequence[float]) -> int:
    return max(range(len(loads)), key=loads.__getitem__)


def _kind(mates: Mates) -> tuple[object, ...]:
    """What decides what a bucket sends and does."""
    return (mates.cuts, *map(_alike, mates.lanes))


def _alike(lane: Lane) -> tuple[object, ...]:
    return (lane.up, lane.middle, lane.down, lane.matrices, lane.per, str(lane.aggregate), lane.counts_absent)
