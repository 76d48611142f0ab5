"""Who aggregates which piece of a bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from ..codec import Block
from ..packing import WORD, words_for
from .base import Lane

Piece = tuple[int, Block]
"""The index of a lane in its bucket, and a block of it."""


def everything(lanes: Sequence[Lane]) -> list[Piece]:
    """All of it, in one hand."""
    return [(index, Block(0, lane.matrices, 0, lane.entries)) for index, lane in enumerate(lanes)]


def evenly(lanes: Sequence[Lane], ranks: int) -> list[list[Piece]]:
    """Equal chunks of 64-entry words, cut anywhere.

    >>> from signa.transport.cut import _blocks
    >>> _blocks(150, 2, 7)  # 150 entries are 3 words; words 2 to 7 of the stack
    [Block(first=0, last=1, start=128, stop=150), Block(first=1, last=2, start=0, stop=150), \
Block(first=2, last=3, start=0, stop=64)]
    """
    starts, chunk = _chunks(lanes, ranks)
    return [_between(lanes, starts, rank * chunk, (rank + 1) * chunk) for rank in range(ranks)]


def runs(lanes: Sequence[Lane], ranks: int) -> Iterator[tuple[int, list[Piece]]]:
    """What :func:`evenly` gives, neighbours with chunks of one size told once: (how many, the first one's pieces).

    As many as there are matrices at the most, however many ranks there are.
    """
    starts, chunk = _chunks(lanes, ranks)
    rank = 0
    while rank < ranks:
        pieces = _between(lanes, starts, rank * chunk, (rank + 1) * chunk)
        count = 1
        if not pieces:
            count = ranks - rank
        elif len(pieces) == 1 and pieces[0][1].matrices == 1:
            index, block = pieces[0]
            left = words_for(lanes[index].entries) - block.start // WORD
            count = max(1, min((left - 1) // chunk, ranks - rank))  # the last word of a matrix may be a ragged one
        yield count, pieces
        rank += count


def _chunks(lanes: Sequence[Lane], ranks: int) -> tuple[list[int], int]:
    """The first word of every lane, and of what is behind them; how many words a chunk has."""
    starts = [0, *accumulate(lane.matrices * words_for(lane.entries) for lane in lanes)]
    return starts, -(-starts[-1] // ranks)


def _between(lanes: Sequence[Lane], starts: Sequence[int], a: int, b: int) -> list[Piece]:
    """The pieces of words a to b of a bucket."""
    found: list[Piece] = []
    for index, lane in enumerate(lanes):
        first, last = max(a, starts[index]), min(b, starts[index + 1])
        if first < last:
            start = starts[index]
            found += [(index, block) for block in _blocks(lane.entries, first - start, last - start)]
    return found


def _blocks(entries: int, a: int, b: int) -> list[Block]:
    """Words a to b of a stack as rectangles: the end of one matrix, whole ones, the beginning of another."""
    words, found = words_for(entries), []
    while a < b:
        matrix, word = divmod(a, words)
        whole = (b - a) // words if word == 0 else 0
        last = matrix + max(whole, 1)
        stop = words if whole else min(words, word + b - a)
        found.append(Block(matrix, last, word * WORD, min(stop * WORD, entries)))
        a = (last - 1) * words + stop
    return found


def by_parameter(lanes: Sequence[Lane], loads: list[float]) -> list[list[Piece]]:
    """Whole parameters, longest first, each to the rank with the least to do; ``loads`` grows.

    What a server does to a matrix costs about m n min(m, n) (Newton-Schulz).
    """
    tasks = []
    for index, lane in enumerate(lanes):
        m, n = lane.up.m, lane.up.n
        for first in range(0, lane.matrices, lane.per):
            tasks.append((lane.per * m * n * min(m, n), index, first))
    mine: list[list[tuple[int, int]]] = [[] for _ in loads]
    for cost, index, first in sorted(tasks, key=lambda task: (-task[0], *task[1:])):
        rank = loads.index(min(loads))
        loads[rank] += cost
        mine[rank].append((index, first))
    return [_merged(lanes, sorted(own)) for own in mine]


def _merged(lanes: Sequence[Lane], own: list[tuple[int, int]]) -> list[Piece]:
    """Neighbouring parameters of a lane as one block."""
    found: list[Piece] = []
    for index, first in own:
        lane = lanes[index]
        last = first + lane.per
        if found and found[-1][0] == index and found[-1][1].last == first:
            first = found.pop()[1].first
        found.append((index, Block(first, last, 0, lane.entries)))
    return found


__all__ = ["Piece", "by_parameter", "evenly", "everything", "runs"]
