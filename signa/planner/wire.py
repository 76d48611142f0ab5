"""What a blueprint's buckets cost on a link: the transport's own bytes, and the seconds around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..transport.costs import Choice, choices, choose
from ..transport.traffic import Phase, phases
from .blueprint import Blueprint, Bucket
from .machine import Machine, aggregate_name, codec_name, stack_name, sum_name
from .times import Link, Load, Turn, a_round, all_reduce

__all__ = ["Cost", "Moves", "Wire", "cost", "moves", "offered"]


@dataclass(frozen=True)
class Wire:
    """``ranks`` that talk over links, by a backend with limits of its own."""

    machine: Machine
    link: Link
    ranks: int

    @property
    def alpha(self) -> float:
        """Seconds before a message's first byte: the link's, and what the backend does for each."""
        return self.link.latency + (self.machine.seconds("messages", 1) if self.link.backend == "gloo" else 0.0)

    def goodput(self, kind: str) -> float:
        """Bytes per second of payload: the link's, or the backend's own limit where that is less."""
        own = self.link.goodput
        return min(own, 1 / self.machine.seconds(kind, 1)) if self.link.backend == "gloo" else own

    def phase(self, phase: Phase) -> float:
        """Seconds of a collective."""
        if phase.kind == "allreduce":
            whole = phase.busiest * self.ranks / (2 * max(1, self.ranks - 1))
            return self.ring(whole, "float32")
        return self.round(phase.kind, phase.busiest)

    def round(self, kind: str, nbytes: float) -> float:
        """Seconds of an all-to-all or all-gather in which a rank sends so many bytes."""
        return a_round(nbytes, self.ranks, self.alpha, self.goodput(kind)) if self.ranks > 1 else 0.0

    def ring(self, nbytes: float, dtype: str) -> float:
        """Seconds of an all-reduce of so many bytes."""
        goodput = self.goodput(f"allreduce {dtype}")
        return all_reduce(nbytes, self.ranks, self.alpha, goodput) if self.ranks > 1 else 0.0


class Cost(NamedTuple):
    """What all buckets cost: bytes that all ranks send together, and a turn for each kind of bucket."""

    total: float
    turns: list[Turn]

    @property
    def whole(self) -> Load:
        """The sum of all turns."""
        return Load(*(sum(turn.number * turn.load[part] for turn in self.turns) for part in range(3)))


def offered(blueprint: Blueprint, ranks: int, backend: str) -> list[tuple[str, str]]:
    """Every (exchange, server) that ``Group`` could be asked for and that some bucket of this blueprint can take."""
    found: dict[tuple[str, str], None] = {}
    for bucket in blueprint.buckets(ranks):
        lanes = bucket.mates.lanes
        for choice in choices(lanes, ranks, 1, backend):
            asked = lanes[0].serves and choice.exchange == "alltoall"
            found[choice.exchange, ("sharded" if choice.sharded else "replicated") if asked else "auto"] = None
    split = {exchange for exchange, server in found if server != "auto"}
    return sorted(way for way in found if way[1] != "auto" or way[0] not in split)


class Move(NamedTuple):
    """What some alike buckets move, and in which exchange."""

    bucket: Bucket
    number: int
    phases: list[Phase]
    choice: Choice


class Moves(NamedTuple):
    """What all buckets move; ``share`` of a split server's work is the busiest rank's."""

    every: list[Move]
    share: float


def moves(blueprint: Blueprint, ranks: int, backend: str, exchange: str, server: str) -> Moves:
    """The collectives of all buckets where ``Group(exchange=..., server=...)`` is asked for these."""
    loads = [0.0] * min(ranks, len(blueprint.routes))
    found = []
    for bucket in blueprint.buckets(ranks):
        lanes = bucket.mates.lanes
        choice = choose(
            choices(lanes, ranks, 1, backend), exchange, server, serves=lanes[0].serves, overlap=blueprint.overlap
        )
        if choice.sharded:  # one by one: each is cut by what the servers have already
            found += [Move(bucket, 1, phases(bucket.mates, choice, ranks, loads), choice) for _ in range(bucket.count)]
        else:
            found.append(Move(bucket, bucket.count, phases(bucket.mates, choice, ranks, loads), choice))
    return Moves(found, max(loads) / sum(loads) if any(loads) else 0.0)


def cost(moved: Moves, wire: Wire) -> Cost:
    """The same in seconds."""
    turns = [Turn(move.number, _load(move, moved.share, wire), move.bucket.entries) for move in moved.every]
    return Cost(sum(move.number * phase.total for move in moved.every for phase in move.phases), turns)


def _load(move: Move, share: float, wire: Wire) -> Load:
    """A bucket's seconds before, on and behind the link."""
    bucket, _, moved, choice = move
    machine, ranks, sharded = wire.machine, wire.ranks, choice.sharded
    before, behind = sum(_stage("send", bucket, machine)), sum(_stage("deliver", bucket, machine))
    behind += sum(_stage("serve", bucket, machine)) * (share if sharded else 1.0)
    if moved[-1].kind == "allreduce":
        before += machine.seconds(sum_name("fold", choice.exchange), bucket.entries)
        behind += machine.seconds(sum_name("unfold", choice.exchange), bucket.entries)
        return Load(before, sum(map(wire.phase, moved)), behind)
    split = len(moved) == 2  # every rank aggregates its share, else everything
    for stack in bucket.stacks:
        lane, entries = stack.lane, stack.entries
        before += machine.seconds(codec_name("pack", lane, "up"), entries)
        behind += machine.seconds(aggregate_name(lane), entries if split else entries * ranks)
        behind += machine.seconds(codec_name("unpack", lane, "middle"), entries / ranks if sharded else entries)
        if sharded:
            behind += machine.seconds(codec_name("pack", lane, "down"), entries / ranks)
            behind += machine.seconds(codec_name("unpack", lane, "down"), entries)
    for phase in moved:
        written = phase.busiest if phase.kind == "alltoall" else phase.busiest / max(1, ranks - 1)
        before += machine.seconds("payload", written if phase is moved[0] else 0)
        behind += machine.seconds("payload", phase.busiest + (0 if phase is moved[0] else written))
    return Load(before, sum(map(wire.phase, moved)), behind)


def _stage(part: str, bucket: Bucket, machine: Machine) -> Iterator[float]:
    return (machine.seconds(stack_name(part, stack), stack.rows) for stack in bucket.stacks)
