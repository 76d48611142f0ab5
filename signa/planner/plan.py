"""A plan: what each way of training sends and takes in a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .times import Link

__all__ = ["BASE", "HALF", "Plan", "Row"]

#: The rows that others are compared with.
BASE, HALF = "DDP float32 + Muon", "DDP bfloat16 + Muon"


@dataclass(frozen=True)
class Row:
    """A way of training: bits per parameter and bytes that a rank sends to other hosts in a step, and seconds of it.

    ``communication`` is what the links take, ``hidden`` what of that passes behind other work, ``compute`` the forward
    and backward passes, the optimizer, and packing and counting. Bytes are the mean over ranks, seconds the busiest's.
    """

    name: str
    bits: float
    sent: float
    communication: float
    compute: float
    hidden: float = 0.0

    @property
    def waiting(self) -> float:
        """Seconds of a step in which only the network works."""
        return self.communication - self.hidden

    @property
    def step(self) -> float:
        """Seconds of a whole step.

        >>> Row("ddp", bits=48.0, sent=6e6, communication=0.5, compute=0.25, hidden=0.125).step
        0.625
        """
        return self.compute + self.waiting


class Plan(Mapping[str, Row]):
    """Rows by name: ours first, ``signa`` being what ``Group()`` would choose by itself; then what they are compared
    with."""

    def __init__(self, rows: Sequence[Row], workers: int, link: Link) -> None:
        self.rows, self.workers, self.link = tuple(rows), workers, link
        self._named = {row.name: row for row in rows}

    def __getitem__(self, name: str) -> Row:
        """The row of that name."""
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._named)

    def __len__(self) -> int:
        """How many."""
        return len(self._named)

    @property
    def ours(self) -> list[Row]:
        """The rows of SignA."""
        return [row for row in self.rows if row.name not in (BASE, HALF)]

    @property
    def best(self) -> Row:
        """The fastest of ours."""
        return min(self.ours, key=lambda row: row.step)

    def speedup(self, name: str, against: str = BASE) -> float:
        """How many times as fast a step is."""
        return self[against].step / self[name].step
