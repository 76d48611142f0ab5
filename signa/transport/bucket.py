"""A bucket on the wire: what its lanes' messages look like in bytes, and the exchanges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from ..codec import Codec
from ..scratch import Scratch
from . import header
from .base import ABSENT, Aggregate, Clock, Lane, Message
from .cut import Piece, everything
from .matrices import Matrices
from .payload import Fields, Reader, columns, pad, payload_size, raw, shapes
from .pool import aggregate, pooled
from .ranks import Ranks


@dataclass
class Talk:
    """What the buckets of a group share: what the headers of a step say, from here and from elsewhere, and scratch."""

    layout: int = 0
    culprit: tuple[int, int] = (-1, -1)
    heard: dict[int, tuple[int, int]] = field(default_factory=dict)
    scratch: Scratch = field(default_factory=Scratch)

    def head(self, clock: Clock, bucket: int) -> header.Header:
        """The header of a bucket's payloads."""
        return header.Header(clock.step, self.layout ^ bucket, *self.culprit)

    def listen(self, heads: Sequence[header.Header], own: int) -> None:
        """Remember the culprits of other ranks."""
        self.heard.update(
            {r: (head.worker, head.parameter) for r, head in enumerate(heads) if head.worker >= 0 and r != own}
        )


class WireBucket:
    """Lanes that travel together between ranks.

    ``mine[r]`` are the pieces that rank r aggregates. In exchange ``alltoall`` every rank sends each owner its pieces,
    the owner aggregates them, and its results go to everybody: the aggregate (cut anywhere, ``sharded`` false), or what
    the server made of it (cut between parameters, ``sharded`` true). In ``allgather`` everybody gets everything and
    aggregates all of it.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        ranks: Ranks,
        held: Sequence[int],
        mine: Sequence[Sequence[Piece]] | None,
        *,
        sharded: bool,
        number: int,
        talk: Talk,
        scratch: Scratch,
    ) -> None:
        self.lanes, self.ranks, self.held, self.sharded = tuple(lanes), ranks, tuple(held), sharded
        self.number, self.talk, self._scratch = number, talk, scratch
        self.pool: Callable[..., Fields] = aggregate  # how a piece that is mine is aggregated
        self.gathers = mine is None
        self.mine = [everything(lanes)] * ranks.size if mine is None else [list(pieces) for pieces in mine]
        self.device = lanes[0].device
        self.home = ranks.home(self.device)
        self._starts = [0, *accumulate(lane.matrices for lane in lanes)]
        self._matrices = [[self._of(index, rank) for rank in range(ranks.size)] for index in range(len(lanes))]
        self._owned = [everybody[ranks.rank] for everybody in self._matrices]

    @property
    def exchange(self) -> str:
        """Its name."""
        return "allgather" if self.gathers else "alltoall"

    def _of(self, lane: int, rank: int) -> list[int]:
        """The matrices of a lane whose server a rank is."""
        if not self.sharded:
            return list(range(self.lanes[lane].matrices))
        blocks = [block for index, block in self.mine[rank] if index == lane]
        return sorted(b for block in blocks for b in range(block.first, block.last))

    def owned(self, lane: int) -> Sequence[int]:
        """The matrices whose server is here."""
        return self._owned[lane]

    # Workers to owners -------------------------------------------------------------------------------------------

    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]:
        """The aggregates of everybody's messages."""
        self.ranks.step = clock.step
        packed = [list(message.rows.fields) for message in messages]
        status = torch.cat([message.status for message in messages], 1)  # (k, all matrices)
        status, parts = self._exchange(packed, status, clock)
        results = [
            self.pool(self.lanes[index], block, part, self._lane(status, index), clock, self.device)
            for (index, block), part in parts
        ]
        taking = [self._lane(status, index).ne(ABSENT).any(0) for index in range(len(self.lanes))]
        middles = [lane.middle for lane in self.lanes]
        pieces = [piece for piece, _ in parts]
        if self.gathers or self.sharded:  # whole matrices, in order
            whole = [
                self._joined(middle, [fields for (at, _), fields in zip(pieces, results, strict=True) if at == index])
                for index, middle in enumerate(middles)
            ]
        else:
            payload, _ = self._payloads([list(zip(pieces, results, strict=True))], clock, [])
            sizes = [payload_size(middles, pieces, 1, 0) for pieces in self.mine]
            came = self._told(payload, sizes, clock, "the all-gather of results")
            whole = self._assemble(
                middles, [(p, self._fields(middles, p, part)) for p, part in zip(self.mine, came, strict=True)]
            )
        return [self._finish(index, whole[index], status, taking[index]) for index in range(len(self.lanes))]

    def _exchange(
        self, packed: Sequence[Fields], status: Tensor, clock: Clock
    ) -> tuple[Tensor, list[tuple[Piece, Fields]]]:
        """Everybody's status (N, all matrices) and fields (N, matrices, columns) of the pieces that are mine."""
        k, ups = len(status), [lane.up for lane in self.lanes]
        local = [[field.view(k, lane.matrices, -1) for field in fields] for lane, fields in zip(self.lanes, packed)]

        def cut(pieces: Sequence[Piece]) -> list[tuple[Piece, Fields]]:
            return [(piece, columns(ups[piece[0]], piece[1], local[piece[0]])) for piece in pieces]

        own = self.mine[self.ranks.rank]
        sizes = [payload_size(ups, own, count, count * status.shape[1]) for count in self.held]
        what = f"step {clock.step}, bucket {self.number}, {self.exchange}"
        if self.gathers:
            came = self._gather(self._payloads([cut(own)], clock, [status])[0], sizes, what)
        else:
            payload, send = self._payloads([cut(pieces) for pieces in self.mine], clock, [status])
            came = self.ranks.swap(
                payload, send, sizes, what, self._scratch.take("came", (sum(sizes),), torch.uint8, self.home)
            )
        self.talk.listen(header.read(came, self.ranks, self.talk.head(clock, self.number), what), self.ranks.rank)
        everybody, fields = [], []
        for count, payload in zip(self.held, came, strict=True):
            taken = Reader(payload)
            everybody.append(taken.read((count, status.shape[1]), torch.uint8))
            fields.append([[taken.read(s, d) for s, d in shapes(ups[i], block, count)] for i, block in own])
        joined = [
            (piece, [torch.cat(same).to(self.device) for same in zip(*(rank[at] for rank in fields), strict=True)])
            for at, piece in enumerate(own)
        ]
        return torch.cat(everybody).cpu(), joined

    def _finish(self, index: int, whole: Fields, status: Tensor, taking: Tensor) -> Aggregate:
        """The aggregate of a lane as matrices: those taking part whose server is here."""
        lane, owned = self.lanes[index], self._owned[index]
        rows = [row for row, b in enumerate(owned) if taking[b]]
        x = pooled(lane, whole, self._lane(status, index)[:, owned])
        return Aggregate(x.rows(rows), [owned[row] for row in rows], taking.nonzero().flatten().tolist())

    # Owners to replicas ------------------------------------------------------------------------------------------

    def share(self, messages: Sequence[Matrices], aggregates: Sequence[Aggregate]) -> list[Matrices]:
        """Everybody's server messages for the taking matrices."""
        if not self.sharded:
            return list(messages)
        downs, silent, own = [lane.down for lane in self.lanes], [], []
        places = [{b: row for row, b in enumerate(owned)} for owned in self._owned]
        for index, (x, (_, served, _)) in enumerate(zip(messages, aggregates, strict=True)):
            every = x.among([places[index][b] for b in served], len(places[index]))
            own.append(every.fields)
            silent.append(every.silent.to(torch.uint8).cpu())
        cut = []
        for index, block in self.mine[self.ranks.rank]:
            row = places[index][block.first]
            cut.append(((index, block), [field[row : row + block.matrices] for field in own[index]]))
        clock = Clock(0, self.ranks.step)
        payload, _ = self._payloads([cut], clock, [torch.cat(silent)])
        counts = [sum(map(len, everybody)) for everybody in zip(*self._matrices, strict=True)]
        sizes = [payload_size(downs, pieces, 1, counts[r]) for r, pieces in enumerate(self.mine)]
        came = self._told(payload, sizes, clock, "the all-gather of server messages")
        found, quiet = [], [torch.zeros(lane.matrices, dtype=torch.bool) for lane in self.lanes]
        for rank, part in enumerate(came):
            flags = Reader(part).read((counts[rank],), torch.uint8).cpu().bool()
            for index in range(len(self.lanes)):
                matrices = self._matrices[index][rank]
                quiet[index][matrices] = flags[: len(matrices)]
                flags = flags[len(matrices) :]
            found.append((self.mine[rank], self._fields(downs, self.mine[rank], part, counts[rank])))
        whole = self._assemble(downs, found)
        result = []
        for lane, fields, none, (_, _, taking) in zip(self.lanes, whole, quiet, aggregates, strict=True):
            result.append(Matrices(lane.down, fields=fields, silent=none).rows(taking))
        return result

    def whole(self, lane: int, x: Tensor) -> Tensor:
        """Rows for every matrix of a lane, from the owned ones here; collective where the server is split."""
        if not self.sharded:
            return x
        shape = x.shape[1:]
        sizes = [len(self._matrices[lane][rank]) * shape.numel() * x.element_size() for rank in range(self.ranks.size)]
        payload = raw(x).to(self.home)
        out = torch.empty(self.lanes[lane].matrices, *shape, dtype=x.dtype, device=x.device)
        what = f"the exact model of bucket {self.number}"
        self.ranks.largest(what)
        for rank, part in enumerate(self.ranks.gather(payload, sizes, what)):
            matrices = self._matrices[lane][rank]
            out[matrices] = part.view(x.dtype).view(len(matrices), *shape).to(x.device)
        return out

    # Bytes -------------------------------------------------------------------------------------------------------

    def _lane(self, status: Tensor, index: int) -> Tensor:
        return status[:, self._starts[index] : self._starts[index + 1]]

    def _payloads(
        self, cuts: Sequence[Sequence[tuple[Piece, Fields]]], clock: Clock, first: Sequence[Tensor]
    ) -> tuple[Tensor, list[int]]:
        """A payload for each of the cuts, one behind the other: header, what comes ``first``, and the fields; and how
        long each is."""
        parts = [[*first, *(part for _, fields in cut for part in fields)] for cut in cuts]
        sizes = [header.SIZE + sum(pad(t.numel() * t.element_size()) for t in tensors) for tensors in parts]
        out = self._scratch.take("sent", (sum(sizes),), torch.uint8, self.device)
        at = 0
        for tensors in parts:
            at += header.SIZE
            for tensor in tensors:
                size = tensor.numel() * tensor.element_size()
                out[at : at + size].view(tensor.dtype).view(tensor.shape).copy_(tensor)
                out[at + size : at + pad(size)] = 0
                at += pad(size)
        out = out.to(self.home)
        for payload in out.split(sizes):
            self.talk.head(clock, self.number).write(payload)
        return out, sizes

    def _gather(self, payload: Tensor, sizes: Sequence[int], what: str) -> list[Tensor]:
        return self.ranks.gather(
            payload, sizes, what, self._scratch.take("came", (sum(sizes),), torch.uint8, self.home)
        )

    def _told(self, payload: Tensor, sizes: Sequence[int], clock: Clock, what: str) -> list[Tensor]:
        what = f"step {clock.step}, bucket {self.number}, {what}"
        came = self._gather(payload, sizes, what)
        header.read(came, self.ranks, self.talk.head(clock, self.number), what)
        return came

    def _fields(
        self, codecs: Sequence[Codec], pieces: Sequence[Piece], payload: Tensor, status: int = 0
    ) -> list[Fields]:
        """The fields (matrices, columns) of pieces in a payload of one row."""
        taken = Reader(payload, pad(status))
        return [
            [taken.read(shape[1:], dtype).to(self.device) for shape, dtype in shapes(codecs[index], block, 1)]
            for index, block in pieces
        ]

    def _joined(self, codec: Codec, parts: Sequence[Fields]) -> Fields:
        """The fields of blocks of whole matrices, one behind the other."""
        if not parts:
            return [torch.zeros(0, f.columns, dtype=f.dtype, device=self.device) for f in codec.fields]
        return [torch.cat(same) if len(same) > 1 else same[0] for same in zip(*parts, strict=True)]

    def _assemble(
        self, codecs: Sequence[Codec], found: Sequence[tuple[Sequence[Piece], Sequence[Fields]]]
    ) -> list[Fields]:
        """Fields of whole stacks from everybody's pieces of them."""
        whole = [
            [torch.empty(lane.matrices, f.columns, dtype=f.dtype, device=self.device) for f in codec.fields]
            for lane, codec in zip(self.lanes, codecs, strict=True)
        ]
        for pieces, parts in found:
            for (index, block), fields in zip(pieces, parts, strict=True):
                for form, target, part in zip(codecs[index].fields, whole[index], fields, strict=True):
                    target[block.first : block.last, form.part(block.start, block.stop)] = part
        return whole


__all__ = ["Talk", "WireBucket"]
