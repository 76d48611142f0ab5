"""How fast a step could be: its FLOPs at the rate of a product, its bytes at the rate of a copy.

Neither counts what a program is free to leave out: calls, temporaries, fresh memory, a second pass over the same data.
A floor is of one process; what N simulated workers do there is N times as much, but for the model, of which there is
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..planner import timing
from .shapes import Shapes

__all__ = ["TRAFFIC", "Floor", "Rates", "newton_schulz_flops"]

_FLOAT = 4.0  # bytes of a gradient's, a momentum's and a parameter's entry
_BIT = 1 / 8

#: Bytes per entry that each part must move, for N workers in one process.
TRAFFIC: dict[str, Callable[[int], float]] = {
    "momentum": lambda workers: 3 * _FLOAT * workers,  # g and m are read, m is written
    "sign": lambda workers: _FLOAT * workers,  # the direction is read
    "pack": lambda workers: _BIT * workers,  # its bits are written
    "vote": lambda workers: _BIT * (workers + 1) if workers > 1 else 0.0,  # everybody's are read, the result written
    "update": lambda workers: _BIT + 2 * _FLOAT,  # the result is read, W is read and written
}


def newton_schulz_flops(m: int, n: int, steps: int) -> float:
    """``K (4 r + 2) s^3`` for K quintic steps, s the smaller side of m x n and r s the longer one.

    A step is X X^T (2 r s^3), A A (2 s^3) and Q X (2 r s^3). Half of the first two could be left out, since they are
    symmetric; nobody's dense product does.

    >>> newton_schulz_flops(64, 64, 5) == 5 * 6 * 64**3
    True
    """
    side, length = min(m, n), max(m, n)
    return steps * (4.0 * length + 2.0 * side) * side**2


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second: bytes that a copy moves (read and written), FLOPs of a product by shape.

    A copy is of a working set as large as that of the matrices, so that a cache serves both or neither; a product is
    one of a Newton-Schulz step of the shape in bfloat16 (in float32 on a CPU that multiplies that in its place), for as
    many matrices at once as fit.
    """

    copy: float
    gemm: Mapping[tuple[int, int], float] = field(default_factory=dict)

    @classmethod
    def measured(cls, shapes: Shapes, device: str, *, products: bool = True) -> Rates:
        """Of this machine, for these matrices, with torch's number of threads."""
        (copied,) = timing.copy(max(1024, min(3 * shapes.entries // 2, 1 << 25)), device)  # g, m and W: 12 B, not 8
        every = shapes.matrices.items() if products else ()
        return cls(2 * copied, {(m, n): timing.gemm(m, n, count, device)[0] for (m, n), count in every})


@dataclass(frozen=True)
class Floor:
    """FLOPs by shape, and bytes.

    >>> floor = Floor.spectral({(64, 64): 2}, steps=5) + Floor.traffic(entries=1000, parts=("momentum",))
    >>> floor.seconds(Rates(copy=12e6, gemm={(64, 64): 2 * 30 * 64**3}))
    1.001
    """

    flops: Mapping[tuple[int, int], float] = field(default_factory=dict)
    moved: float = 0.0

    @classmethod
    def spectral(cls, matrices: Mapping[tuple[int, int], int], *, steps: int, workers: int = 1) -> Floor:
        """Of the Newton-Schulz iterations of all workers; its own traffic hides behind the products."""
        return cls({(m, n): workers * count * newton_schulz_flops(m, n, steps) for (m, n), count in matrices.items()})

    @classmethod
    def traffic(cls, *, entries: int, parts: Sequence[str], workers: int = 1) -> Floor:
        """Of these parts (the keys of :data:`TRAFFIC`)."""
        return cls(moved=entries * sum(TRAFFIC[part](workers) for part in parts))

    def __add__(self, other: Floor) -> Floor:
        """Of one after the other."""
        shapes = {**self.flops, **other.flops}
        flops = {shape: self.flops.get(shape, 0.0) + other.flops.get(shape, 0.0) for shape in shapes}
        return Floor(flops, self.moved + other.moved)

    def seconds(self, rates: Rates) -> float:
        """At these rates."""
        return sum(flops / rates.gemm[shape] for shape, flops in self.flops.items()) + self.moved / rates.copy
