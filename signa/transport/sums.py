"""Exchanges where only a SUM exists: who takes part by a small all-gather, numbers added up by an all-reduce."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..aggregators import in_order
from ..codec import Codec, Dense, Signs, Ternary
from ..stage import Context
from . import header
from .base import ABSENT, VOICE, Aggregate, Clock, Lane, Message
from .bucket import Talk
from .matrices import Matrices
from .ranks import Ranks


@dataclass(frozen=True)
class Encoding(ABC):
    """How the messages of ``workers`` become numbers whose sum over ranks tells the aggregate.

    A rank adds up what its own workers have to say (``counts``), writes it down (``fold``), and reads everybody's sum
    (``unfold``), which is then what the messages themselves add up to (``total``).
    """

    workers: int

    exchange: ClassVar[str]
    codecs: ClassVar[tuple[type[Codec], ...]]
    adds: ClassVar[str]

    @property
    def uncountable(self) -> str:
        """Why it cannot count so many workers, and the remedy; nothing if it can."""
        return ""

    def refuses(self, lane: Lane) -> str:
        """Why such a lane cannot travel so; nothing if it can."""
        if self.uncountable:
            return self.uncountable
        if type(lane.up) not in self.codecs:
            return f"it adds up {self.adds} alone"
        nothing = torch.zeros(1, 1, 1)
        if lane.aggregate.of_sum(nothing, torch.zeros(1), Context()) is None:
            return f"a sum does not tell the {lane.aggregate}"
        return ""

    @abstractmethod
    def nbytes(self, lanes: Sequence[Lane]) -> int:
        """Bytes of what is summed."""

    def counts(self, rows: Tensor) -> Tensor:
        """What this rank's messages (k, B, m, n) add up to."""
        return in_order(rows)

    def fold(self, counts: Tensor) -> Tensor:
        """The counts of a bucket (E,) as they are summed."""
        return counts

    def unfold(self, words: Tensor, entries: int) -> Tensor:
        """The counts (E,) in a sum of what :meth:`fold` gives."""
        return words

    def total(self, counts: Tensor, voices: Tensor, dtype: torch.dtype) -> Tensor:
        """The sum of the messages (B, m, n), of which ``voices`` (B,) are not zero throughout."""
        return counts.to(dtype)


class Floats(Encoding):
    """Floats as they are. The backend adds in an order of its own: neither equal to ``Loopback`` nor across worlds."""

    exchange = "ring"
    codecs = (Dense,)
    adds = "floats"

    def nbytes(self, lanes: Sequence[Lane]) -> int:
        """A float an entry."""
        return _entries(lanes) * lanes[0].up.dtype.itemsize


class Int8(Encoding):
    """A byte an entry: +-1 and 0, exact up to 127 workers. Source: arXiv 2605.16311, the published SignMuon's wire.

    >>> Int8(3).counts(torch.tensor([[[[1.0, -1.0]]], [[[1.0, 0.0]]], [[[1.0, -1.0]]]]))
    tensor([[[ 3, -2]]], dtype=torch.int8)
    """

    exchange = "int8"
    codecs = (Signs, Ternary)
    adds = "signs"

    MOST: ClassVar[int] = torch.iinfo(torch.int8).max

    @property
    def uncountable(self) -> str:
        """At most 127."""
        if self.workers <= self.MOST:
            return ""
        return (
            f"exchange='int8' counts {self.MOST} workers at the most, and here are {self.workers}: a sum of int8 wraps "
            f"silently at {self.MOST + 1}, where a unanimous vote turns round; write exchange='lanes' or 'alltoall', "
            "which count any number"
        )

    def nbytes(self, lanes: Sequence[Lane]) -> int:
        """A byte an entry."""
        return _entries(lanes)

    def counts(self, rows: Tensor) -> Tensor:
        """Sums of +-1."""
        return in_order(rows).to(torch.int8)


class Lanes(Encoding):
    """k bits an entry, floor(32 / k) entries to an int32, k = ceil(log2(N + 1)): the number of +1 among 0 to N votes.

    No lane overflows into the next, for each counts N at the most. The top one may reach the sign bit: addition of
    int32 is exact modulo 2^32, so its bits are right whatever sign they spell. Word w of W holds the entries w, w + W,
    w + 2 W, ...

    >>> three = Lanes(3)  # 16 lanes of two bits
    >>> word = three.fold(torch.full((16,), 3, dtype=torch.int32))
    >>> word, three.unfold(word, 16).tolist() == [3] * 16
    (tensor([-1], dtype=torch.int32), True)
    """

    exchange = "lanes"
    codecs = (Signs,)
    adds = "signs without zeros"

    @property
    def bits(self) -> int:
        """k, of one lane."""
        return self.workers.bit_length()

    @property
    def width(self) -> int:
        """Lanes in a word."""
        return 32 // self.bits

    def nbytes(self, lanes: Sequence[Lane]) -> int:
        """Four bytes a word."""
        return 4 * -(-_entries(lanes) // self.width)

    def counts(self, rows: Tensor) -> Tensor:
        """How many +1."""
        counts = rows[0].gt(0).int()
        for row in rows[1:]:
            counts += row.gt(0)
        return counts

    def fold(self, counts: Tensor) -> Tensor:
        """Words of lanes."""
        words = torch.zeros(-(-len(counts) // self.width), dtype=torch.int32, device=counts.device)
        for place, part in enumerate(counts.split(len(words))):
            words[: len(part)] |= part << (self.bits * place)
        return words

    def unfold(self, words: Tensor, entries: int) -> Tensor:
        """Each lane's bits; the shift copies the sign bit, and the mask drops the copies."""
        mask = (1 << self.bits) - 1
        return torch.cat([(words >> (self.bits * place)) & mask for place in range(self.width)])[:entries]

    def total(self, counts: Tensor, voices: Tensor, dtype: torch.dtype) -> Tensor:
        """P votes of +1 among V add up to 2 P - V."""
        return (2 * counts - voices.to(counts.dtype)[:, None, None]).to(dtype)


def encodings(workers: int) -> dict[str, Encoding]:
    """By the name of the exchange."""
    return {kind.exchange: kind(workers) for kind in (Floats, Int8, Lanes)}


def _entries(lanes: Sequence[Lane]) -> int:
    return sum(lane.matrices * lane.entries for lane in lanes)


class SumBucket:
    """Lanes whose aggregate follows from the messages' sum: everybody gets the sum, and everybody serves.

    A sum cannot carry a header, so the gather of the statuses in front of it does.
    """

    sharded = False

    def __init__(
        self, lanes: Sequence[Lane], ranks: Ranks, held: Sequence[int], encoding: Encoding, number: int, talk: Talk
    ) -> None:
        self.lanes, self.ranks, self.held = tuple(lanes), ranks, tuple(held)
        self.encoding, self.number, self.talk = encoding, number, talk
        self.device = lanes[0].device
        self.home = ranks.home(self.device)

    @property
    def exchange(self) -> str:
        """Its name."""
        return self.encoding.exchange

    def owned(self, lane: int) -> Sequence[int]:
        """Every server is here, too."""
        return range(self.lanes[lane].matrices)

    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]:
        """The aggregates of everybody's messages, from their sums."""
        self.ranks.step = clock.step
        what = f"step {clock.step}, bucket {self.number}, {self.exchange}"
        status = self._everybody(torch.cat([message.status for message in messages], 1), clock, what)
        counts = torch.cat([self.encoding.counts(message.dense).flatten() for message in messages])
        words = self.encoding.fold(counts).to(self.home)
        self.ranks.total(words, what)
        counts = self.encoding.unfold(words.to(self.device), len(counts))
        sizes = [lane.matrices for lane in self.lanes]
        parts = zip(counts.split([_entries([lane]) for lane in self.lanes]), status.split(sizes, 1), strict=True)
        return [self._aggregate(lane, *part, clock) for lane, part in zip(self.lanes, parts, strict=True)]

    def _everybody(self, local: Tensor, clock: Clock, what: str) -> Tensor:
        """Everybody's status (N, all matrices), from that of the local workers, behind a header."""
        total = local.shape[1]
        payload = torch.zeros(header.SIZE + local.numel(), dtype=torch.uint8)
        payload[header.SIZE :] = local.flatten()
        payload = payload.to(self.home)
        self.talk.head(clock, self.number).write(payload)
        came = self.ranks.gather(payload, [header.SIZE + count * total for count in self.held], what)
        self.talk.listen(header.read(came, self.ranks, self.talk.head(clock, self.number), what), self.ranks.rank)
        return torch.cat([part[header.SIZE :].view(-1, total).cpu() for part in came])

    def _aggregate(self, lane: Lane, counts: Tensor, status: Tensor, clock: Clock) -> Aggregate:
        voices, present = (who.sum(0).to(self.device) for who in (status == VOICE, lane.active(status)))
        total = self.encoding.total(counts.view(lane.matrices, lane.up.m, lane.up.n), voices, lane.up.dtype)
        x = lane.aggregate.of_sum(total, present, lane.context(clock, range(lane.matrices)))
        assert x is not None  # the plan asks before it chooses this exchange
        taking = (status != ABSENT).any(0).nonzero().flatten().tolist()
        return Aggregate(Matrices(lane.middle, dense=x).rows(taking), taking, taking)

    def share(self, messages: Sequence[Matrices], aggregates: Sequence[Aggregate]) -> list[Matrices]:
        """Nothing to share: everybody served."""
        return list(messages)

    def whole(self, lane: int, x: Tensor) -> Tensor:
        """X itself."""
        return x


__all__ = ["Encoding", "Floats", "Int8", "Lanes", "SumBucket", "encodings"]
