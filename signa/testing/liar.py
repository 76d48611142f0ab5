"""A rank that lies about what it aggregates: the trust that each exchange needs, made visible."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..codec import Block
from ..transport import Bucket, Clock, Group, Lane
from ..transport.bucket import WireBucket
from ..transport.payload import Fields
from ..transport.pool import aggregate

__all__ = ["LyingOwner"]


class LyingOwner(Group):
    """A ``Group`` whose rank turns round every aggregate that it computes; its own worker's message is honest.

    In exchange ``alltoall`` it owns a share of every bucket, everybody believes it, and the replicas stay equal: no
    digest finds it. In ``allgather`` everybody aggregates for himself, and it deceives its own replica alone, which the
    next comparison of replicas tells. For tests: give it to one rank of a world, and ``Group`` to the others.
    """

    def plan(self, lanes: Sequence[Lane]) -> Sequence[Bucket]:
        """The same buckets."""
        buckets = super().plan(lanes)
        for bucket in buckets:
            if isinstance(bucket, WireBucket):
                bucket.pool = _turned
        return buckets


def _turned(
    lane: Lane, block: Block, parts: Fields, status: torch.Tensor, clock: Clock, device: torch.device
) -> Fields:
    """The opposite of a piece's aggregate."""
    x = lane.middle.unpack(aggregate(lane, block, parts, status, clock, device), block.start, block.stop)
    return lane.middle.pack(-x)
