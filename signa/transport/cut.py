"""Who aggregates which piece of a bucket."""

from __future__ import annotations

from collections.abc import Sequence

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
    ends, total = [], 0
    for lane in lanes:
        total += lane.matrices * words_for(lane.entries)
        ends.append(total)
    chunk = -(-total // ranks)
    found: list[list[Piece]] = [[] for _ in range(ranks)]
    for rank in range(ranks):
        a, b = rank * chunk, min((rank + 1) * chunk, total)
        for index, lane in enumerate(lanes):
            start = ends[index] - lane.matrices * words_for(lane.entries)
            first, last = max(a, start), min(b, ends[index])
            if first < last:
                found[rank] += [(index, block) for block in _blocks(lane.entries, first - start, last - start)]
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


__all__ = ["Piece", "by_parameter", "evenly", "everything"]
