"""What is compared with: DistributedDataParallel's buckets, and torch.optim's Muon and AdamW behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..routing import Named, Routing
from ..spec import for_preset

__all__ = ["FIRST_BUCKET", "OTHER_BUCKETS", "Dense", "buckets", "dense"]

#: Bytes of gradients of DDP's first bucket and of the others (torch.nn.parallel.DistributedDataParallel: 1 and 25 MiB).
FIRST_BUCKET, OTHER_BUCKETS = 1 << 20, 25 << 20


class Dense(NamedTuple):
    """A model as torch.optim takes it: matrices (m, n) with their number for Muon, and entries for AdamW."""

    matrices: dict[tuple[int, int], int]
    rest: int

    @property
    def entries(self) -> int:
        """Of all."""
        return self.rest + sum(m * n * count for (m, n), count in self.matrices.items())


def dense(model: Sequence[Named]) -> Dense:
    """As the preset ``muon`` routes it; torch's Muon takes parameters of two axes alone, all else goes to AdamW."""
    spec = for_preset("muon")
    matrices: Counter[tuple[int, int]] = Counter()
    rest = 0
    for route in Routing.of(spec, model):
        shape = route.layout.shape
        if len(shape) == 2 and spec.groups[route.group].name == "muon":
            matrices[shape[0], shape[1]] += 1
        else:
            rest += route.layout.count * route.layout.m * route.layout.n
    return Dense(dict(matrices), rest)


def buckets(entries: int) -> list[tuple[int, float]]:
    """DDP's buckets of float32 gradients in the order in which they are sent: (how many alike, entries of each).

    >>> buckets(2_000_000), buckets(100)
    ([(1, 262144), (1, 1737856)], [(1, 100)])
    """
    first, rest = min(entries, FIRST_BUCKET // 4), max(0, entries - FIRST_BUCKET // 4)
    full, last = divmod(rest, OTHER_BUCKETS // 4)
    return [(count, size) for count, size in ((1, first), (full, OTHER_BUCKETS // 4), (1, last)) if count and size]
