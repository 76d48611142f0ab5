"""What an exchange of a bucket moves between ranks, to the byte, without any ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import header
from .costs import Choice
from .cut import Piece, by_parameter, everything, runs
from .payload import payload_size
from .planning import Mates
from .sums import encodings


class Phase(NamedTuple):
    """One collective: its kind, the bytes that all ranks send together, and those that the busiest rank sends or
    receives, whichever is more."""

    kind: str
    total: int
    busiest: int


def phases(mates: Mates, choice: Choice, ranks: int, loads: list[float]) -> list[Phase]:
    """The collectives of a step, one worker to a rank. ``loads`` are the servers' of all buckets, and grow.

    Ranks that own nothing may be left out of ``loads``: there are never more owners than parameters.
    """
    lanes = mates.lanes
    ups, matrices = [lane.up for lane in lanes], sum(lane.matrices for lane in lanes)
    if encoding := encodings(ranks).get(choice.exchange):  # who takes part, and the sum
        told, own = header.SIZE + matrices, 2 * encoding.nbytes(lanes) * (ranks - 1) // ranks
        return [
            Phase("allgather", ranks * (ranks - 1) * told, (ranks - 1) * told),
            Phase("allreduce", ranks * own, own),
        ]
    if choice.exchange == "allgather":
        message = payload_size(ups, everything(lanes), 1, matrices)
        return [Phase("allgather", ranks * (ranks - 1) * message, (ranks - 1) * message)]
    if choice.sharded or not mates.cuts:
        owners = [(1, pieces) for pieces in by_parameter(lanes, loads) if pieces]
        owners += [(idle, [])] if (idle := ranks - len(owners)) else []
    else:
        owners = list(runs(lanes, ranks))
    backs = [lane.down if choice.sharded else lane.middle for lane in lanes]
    there = [(count, payload_size(ups, pieces, 1, matrices)) for count, pieces in owners]
    back = [
        (count, payload_size(backs, pieces, 1, _matrices(pieces) if choice.sharded else 0)) for count, pieces in owners
    ]
    return [_scattered("alltoall", there, ranks), _scattered("allgather", back, ranks)]


def _matrices(pieces: Sequence[Piece]) -> int:
    return sum(block.matrices for _, block in pieces)


def _scattered(kind: str, owners: Sequence[tuple[int, int]], ranks: int) -> Phase:
    """Everybody's bytes go to every owner, or every owner's to everybody, from (how many owners, bytes of each)."""
    once = sum(count * size for count, size in owners)
    sizes = [size for _, size in owners]
    return Phase(kind, (ranks - 1) * once, max((ranks - 1) * max(sizes), once - min(sizes)))


__all__ = ["Phase", "phases"]
