"""How lanes become buckets: arithmetic, without a process group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ..codec import Block
from .base import Lane

Exchange = Literal["auto", "alltoall", "allgather", "int8", "lanes", "ring"]
Server = Literal["auto", "replicated", "sharded"]
SHARE = 6  # with overlap, about so many stacks and buckets
LEAST = 64 << 10  # and no bucket with fewer bytes to each rank


class Mates(NamedTuple):
    """Lanes that travel together, and whether a bucket of them may be cut anywhere (else between parameters)."""

    lanes: list[Lane]
    cuts: bool


def grouped(lanes: Sequence[Lane], bucket_mb: float, ranks: int, *, overlap: bool) -> list[Mates]:
    """Lanes that can be treated alike; neighbours share a bucket as long as it is not too large."""
    classes: dict[tuple[Any, ...], list[Lane]] = {}
    for lane in lanes:
        cuts = lane.up.pieces and lane.aggregate.coordinatewise
        key = (type(lane.up), type(lane.middle), type(lane.down), lane.up.dtype, lane.device, lane.serves, cuts)
        classes.setdefault((*key, lane.aggregate), []).append(lane)
    found: list[Mates] = []
    for key, every in classes.items():
        most = bucket_mb * 1e6
        if overlap:  # some buckets, but none whose messages to one rank are short
            most = min(most, max(sum(map(_nbytes, every)) / SHARE, LEAST * ranks))
        size = most + 1
        for lane in every:
            if (size := size + _nbytes(lane)) > most:
                found.append(Mates([], key[6]))
                size = _nbytes(lane)
            found[-1].lanes.append(lane)
    return found


def _nbytes(lane: Lane) -> int:
    return lane.up.nbytes(Block(0, lane.matrices, 0, lane.entries))


__all__ = ["SHARE", "Exchange", "Mates", "Server", "grouped"]
