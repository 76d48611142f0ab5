"""Which exchange a bucket takes, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..codec import Block
from .base import Lane
from .sums import encodings

#: Seconds before a message's first byte, and per byte, of each backend: 10 Gb/s Ethernet under gloo; one NVLink or
#: InfiniBand port (25 GB/s) under NCCL. They only decide between exchanges; no bit depends on them.
LINKS = {"gloo": (100e-6, 1 / 1.25e9), "nccl": (20e-6, 1 / 25e9)}


#: The exchanges that ``auto`` chooses from. A SUM is for comparison, and for backends that have nothing else.
PACKED = ("alltoall", "allgather")


@dataclass(frozen=True)
class Choice:
    """An exchange, what one rank sends in it in a step, and the time that the model gives it."""

    exchange: str
    sharded: bool
    nbytes: float
    rounds: int
    seconds: float

    def __str__(self) -> str:
        """In a few words."""
        server = ", server sharded" if self.sharded else ""
        return f"{self.exchange}{server}: {self.nbytes / 1e6:.3g} MB, {self.seconds * 1e3:.3g} ms"


def choices(lanes: Sequence[Lane], ranks: int, held: float, link: str) -> list[Choice]:
    """Every exchange that can carry these lanes, with ``held`` workers on each of ``ranks`` ranks.

    ``T = rounds (W - 1) alpha + beta bytes`` for W ranks. For an all-to-all ``bytes = (W - 1) / W (k up + back)`` and
    two rounds, where what comes back is the aggregate, or what a split server made of it; for an all-gather
    ``bytes = (W - 1) k up`` and one; for a sum ``bytes = 2 (W - 1) / W m``, where m is what is summed, and three: who
    takes part, and a ring there and back.
    """
    up, middle, down = (
        sum(getattr(lane, part).nbytes(Block(0, lane.matrices, 0, lane.entries)) for lane in lanes)
        for part in ("up", "middle", "down")
    )
    alpha, beta = LINKS[link]
    serves = any(lane.serves for lane in lanes)
    share = (ranks - 1) / ranks

    def choice(exchange: str, sharded: bool, nbytes: float, rounds: int) -> Choice:
        return Choice(exchange, sharded, nbytes, rounds, rounds * (ranks - 1) * alpha + beta * nbytes)

    if any(lane.aggregate.remembers for lane in lanes):
        return [choice("allgather", False, (ranks - 1) * held * up, 1)]
    found = [
        choice("alltoall", False, share * (held * up + middle), 2),
        choice("allgather", False, (ranks - 1) * held * up, 1),
        *(
            choice(name, False, 2 * share * encoding.nbytes(lanes), 3)
            for name, encoding in encodings(round(held * ranks)).items()
            if not encoding.refuses(lanes[0])
        ),
    ]
    return [choice("alltoall", True, share * (held * up + down), 2), *found] if serves else found


def best(found: Sequence[Choice], *, serves: bool, overlap: bool = False) -> Choice:
    """The fastest; where a server has work to do, the one that sends least, and among those one that splits the work
    (the model knows no compute time, which outweighs a round); with overlap, which hides rounds, also that."""
    if serves or overlap:
        return min(found, key=lambda choice: (round(choice.nbytes), not choice.sharded))
    return min(found, key=lambda choice: choice.seconds)


def choose(found: Sequence[Choice], exchange: str, server: str, *, serves: bool, overlap: bool = False) -> Choice:
    """The best of those that were asked for; where none of them can carry the lanes, the best that packs."""
    allowed = [one for one in found if server == "auto" or not serves or one.sharded == (server == "sharded")] or found
    asked = [one for one in allowed if one.exchange == exchange]
    return best(asked or [one for one in allowed if one.exchange in PACKED], serves=serves, overlap=overlap)


__all__ = ["LINKS", "PACKED", "Choice", "best", "choices", "choose"]
