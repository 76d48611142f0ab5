"""The aggregate of one piece, from the packed messages of all workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..codec import Block, Field, Signs, Ternary
from ..host import certain
from ..packing import WORD, words_for
from .base import VOICE, WORKING, Clock, Lane
from .matrices import Matrices
from .payload import Fields


def aggregate(lane: Lane, block: Block, parts: Fields, status: Tensor, clock: Clock, device: torch.device) -> Fields:
    """A block's aggregate in the middle codec's fields, from everybody's fields (N, matrices, columns).

    Signs are counted as words where the aggregator knows how and the host knows who votes; all else is unpacked, a
    piece after the other.
    """
    status = status[:, block.first : block.last]
    known = status.device.type == "cpu"
    if known and _countable(lane) and (counted := _count(lane, block, parts[0], lane.active(status), clock)):
        return counted[: len(lane.middle.fields)]
    pieces = list(_pieces(lane, block, len(status)))
    if len(pieces) == 1:
        return _unpacked(lane, block, parts, status, clock)
    whole = [
        torch.empty(block.matrices, _columns(field, block, block).stop, dtype=field.dtype, device=device)
        for field in lane.middle.fields
    ]
    for piece in pieces:
        own = slice(piece.first - block.first, piece.last - block.first)
        came = [part[:, own, _columns(field, block, piece)] for field, part in zip(lane.up.fields, parts, strict=True)]
        made = _unpacked(lane, piece, came, status[:, own], clock)
        for to, field, part in zip(whole, lane.middle.fields, made, strict=True):
            to[own, _columns(field, block, piece)] = part
    return whole


def _unpacked(lane: Lane, block: Block, parts: Fields, status: Tensor, clock: Clock) -> Fields:
    """The aggregate of one piece by way of its floats."""
    rows = lane.up.unpack([part.flatten(0, 1) for part in parts], block.start, block.stop)
    rows = rows.view(len(status), block.matrices, 1, block.length)
    voice = status == VOICE
    rows = rows if certain(voice) else torch.where(voice[..., None, None].to(rows.device), rows, 0)
    ctx = lane.context(clock, range(block.first, block.last), block.start // WORD)
    x = lane.aggregate(rows, lane.active(status).to(rows.device), ctx)
    return lane.middle.pack(x.flatten(-2))


def _pieces(lane: Lane, block: Block, workers: int) -> Iterator[Block]:
    """A block in pieces of :data:`WORKING` entries of all workers at the most, where the aggregator lets it be cut."""
    deep = max(1, WORKING // max(1, workers * block.length))
    wide = (
        max(1, WORKING // (workers * WORD)) * WORD if lane.aggregate.coordinatewise and lane.up.pieces else block.length
    )
    for first in range(block.first, block.last, deep):
        for start in range(block.start, block.stop, wide):
            yield Block(first, min(first + deep, block.last), start, min(start + wide, block.stop))


def _columns(field: Field, block: Block, piece: Block) -> slice:
    """Of the columns of a block those of a piece of it."""
    every, own = field.part(block.start, block.stop), field.part(piece.start, piece.stop)
    return slice(own.start - every.start, own.stop - every.start)


def everywhere(lane: Lane) -> Block:
    """All of its entries."""
    return Block(0, lane.matrices, 0, lane.entries)


def pooled(lane: Lane, fields: Fields, status: Tensor) -> Matrices:
    """What :func:`aggregate` made of whole matrices, zero where nobody takes part: bytes cannot tell."""
    return Matrices(lane.middle, fields=fields, silent=~lane.active(status).any(0))


def _countable(lane: Lane) -> bool:
    """Whether words say everything: +-1 goes in, no silent message is counted, and signs come out."""
    return (
        isinstance(lane.up, Signs)
        and isinstance(lane.middle, Signs | Ternary)
        and not (lane.aggregate.counts_silent or lane.counts_absent)
    )


def _count(lane: Lane, block: Block, planes: Tensor, active: Tensor, clock: Clock) -> Fields | None:
    """Words of signs and of presence, from sign words (N, matrices, W); None if the aggregator cannot count."""
    whole: list[Tensor] = []
    for matrices, voters in alike(active):
        if not voters:
            continue
        coin = lane.context(clock, [block.first + b for b in matrices], block.start // WORD).coin
        coins = partial(coin.words, len(matrices), words_for(block.length), planes.device)
        everything = len(matrices) == block.matrices and len(voters) == len(planes)
        pair = lane.aggregate.of_words(planes if everything else planes[voters][:, matrices], coins)
        if pair is None:
            return None
        if everything:
            whole = list(pair)
            break
        whole = whole or [torch.zeros_like(planes[0]), torch.zeros_like(planes[0])]
        for every, own in zip(whole, pair, strict=True):
            every[matrices] = own
    sign, there = whole or planes.new_zeros(2, *planes.shape[1:])
    if rest := block.length % WORD:
        there[:, -1] &= (1 << rest) - 1  # what lies behind the last entry is 0
    return [sign, there]


def alike(active: Tensor) -> Sequence[tuple[list[int], list[int]]]:
    """The matrices that the same workers take part in, with those workers, from who is active (N, matrices)."""
    if active.numel() and bool(active.all()):  # as nearly always
        return [(list(range(active.shape[1])), list(range(len(active))))]
    found: dict[tuple[int, ...], list[int]] = {}
    for matrix, who in enumerate(active.T.tolist()):
        found.setdefault(tuple(worker for worker, there in enumerate(who) if there), []).append(matrix)
    return [(matrices, list(voters)) for voters, matrices in found.items()]


__all__ = ["aggregate", "alike", "everywhere", "pooled"]
