"""What is timed: the stages of a stack, packing, voting, checksums, and torch.optim's own steps, on real tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import count as counting
from itertools import pairwise
from statistics import median, median_low

import torch
from torch import Tensor, nn

from ..codec import Block
from ..finite import first_nonfinite
from ..linalg import product_dtype
from ..packing import WORD
from ..routing import Layout, Named, Route
from ..stack import Stack
from ..transport.base import VOICE, Clock
from ..transport.header import Header
from ..transport.pool import aggregate as aggregated
from ..transport.sums import Encoding

__all__ = [
    "VOTERS", "adamw", "aggregate", "codec", "copy", "finished", "gemm", "muon", "payload", "stack", "summed", "taken",
]  # fmt: skip

_BUDGET = 0.6  # seconds of one call, after one that is not counted
_CUBES = 1 << 29  # m n min(m, n) of the largest matrix that is timed
_ENTRIES = 1 << 23  # of it, and of what is packed: as many as a stack has, for smaller ones fault in fewer fresh pages
VOTERS = 4
_LR, _DECAY = 0.02, 0.1


# A stack and torch's Muon: matrices a second ------------------------------------------------------------------------


def stack(model: Stack) -> list[float]:
    """Of sending, serving and delivering, by a stack of the same method and shapes."""
    return _per_matrix(model.m, model.n, model.rows, lambda m, n, count: _Sample(model, m, n, count))


def muon(m: int, n: int, count: int) -> list[float]:
    """Of a step of torch.optim.Muon."""

    def made(m: int, n: int, count: int) -> Callable[[], list[float]]:
        parameters = [nn.Parameter(torch.randn(m, n)) for _ in range(count)]
        for p in parameters:
            p.grad = torch.randn(m, n)
        optimizer = torch.optim.Muon(parameters, lr=_LR, weight_decay=_DECAY)
        return lambda: [taken(optimizer.step)]

    return _per_matrix(m, n, count, made)


def _per_matrix(
    m: int, n: int, count: int, made: Callable[[int, int, int], Callable[[], Sequence[float]]]
) -> list[float]:
    """Matrices a second of the parts of a step, from ``made(m, n, count)()``, the seconds of each part.

    As many matrices are timed as the budget allows. Those too large for it are timed at two smaller sizes of the same
    form, and ``a m n + b m n min(m, n)`` is drawn through both: entrywise work, and an orthogonalisation.
    """
    size = min(1.0, (_CUBES / (m * n * min(m, n))) ** (1 / 3), (_ENTRIES / (m * n)) ** 0.5)
    if size == 1.0:
        return [1 / seconds for seconds in _timed(m, n, count, made)]
    found = []
    sizes = [_smaller(m, n, size), _smaller(m, n, size / 2)]
    for large, small in zip(*(_timed(*each, 1, made) for each in sizes), strict=True):
        (e, c), (f, d) = ((a * b, a * b * min(a, b)) for a, b in sizes)
        cubic = min(max((f * large - e * small) / (f * c - e * d), 0.0), large / c)
        found.append(1 / ((large - cubic * c) / e * m * n + cubic * m * n * min(m, n)))
    return found


def _smaller(m: int, n: int, size: float) -> tuple[int, int]:
    return max(1, round(m * size)), max(1, round(n * size))


def _timed(m: int, n: int, count: int, made: Callable[[int, int, int], Callable[[], Sequence[float]]]) -> list[float]:
    """Seconds of each part for one matrix."""
    one = made(m, n, 1)
    one()
    alone = sum(one())
    several = max(1, min(count, int(_BUDGET / alone), _ENTRIES // (m * n)))
    act = made(m, n, several) if several > 1 else one
    act()
    runs, begun = [act()], time.perf_counter()
    while len(runs) < 3 or time.perf_counter() - begun < _BUDGET / 3:
        runs.append(act())
        if time.perf_counter() - begun > 2 * _BUDGET:
            break
    # The lower of two: the loop ends early where one call took long, and a pause of the machine is no cost of a step.
    return [max(median_low(part), 1e-9) / several for part in zip(*runs, strict=True)]


class _Sample:
    """A stack of ``count`` matrices as a model's has them, with gradients, that takes steps."""

    def __init__(self, model: Stack, m: int, n: int, count: int) -> None:
        per = min(model.per, count)
        shape, dtype = (per, m, n), model.parameters[0].dtype
        parameters = [nn.Parameter(torch.randn(shape).to(dtype)) for _ in range(max(1, count // per))]
        layout = Layout.of(shape, "c m n -> c m n")
        routes = [Route(Named(f"p{i}", p), 0, layout) for i, p in enumerate(parameters)]
        self.stack = Stack(model.group, routes, range(1))
        self.stack.own(range(self.stack.rows))
        self.gradients = [torch.randn(shape).to(dtype) for _ in parameters]
        self.steps = counting()

    @torch.no_grad()
    def __call__(self) -> list[float]:
        """Seconds of the three parts of a step."""
        clock, every = Clock(0, next(self.steps)), range(self.stack.rows)
        times = [time.perf_counter()]
        first_nonfinite(self.gradients)
        message = self.stack.send([self.gradients], _LR, _DECAY, clock)
        times.append(time.perf_counter())
        shared = self.stack.serve(message.rows, every, _LR, _DECAY, clock)
        times.append(time.perf_counter())
        self.stack.deliver(shared, every, _LR, _DECAY, clock)
        times.append(time.perf_counter())
        return [b - a for a, b in pairwise(times)]

    def messages(self, part: str) -> Tensor:
        """What the lane's codec of that name packs, (R, m n)."""
        clock = Clock(0, next(self.steps))
        with torch.no_grad():
            message = self.stack.send([self.gradients], _LR, _DECAY, clock)
            if part == "down":
                return self.stack.serve(message.rows, range(self.stack.rows), _LR, _DECAY, clock).dense.flatten(-2)
        if part == "up":
            return message.rows.dense.flatten(-2)
        lane = self.stack.lane
        rows = message.dense.unsqueeze(2)  # (1, B, 1, m, n)
        x = lane.aggregate(rows.flatten(-2), lane.active(message.status), lane.context(clock, range(lane.matrices)))
        return x.flatten(-2)


# The wire's own work -------------------------------------------------------------------------------------------------


def codec(model: Stack, part: str) -> list[float]:
    """Entries a second that the lane's codec packs and unpacks."""
    sample = _part_of(model)
    x, form = sample.messages(part), getattr(sample.stack.lane, part)
    fields = form.pack(x)
    acts: list[Callable[[], object]] = [lambda: form.pack(x), lambda: form.unpack(fields, 0, x.shape[1])]
    return [x.numel() / _seconds(act) for act in acts]


def aggregate(model: Stack) -> list[float]:
    """Entries times workers a second that become one message."""
    sample = _part_of(model)
    lane, x = sample.stack.lane, sample.messages("up")
    fields = [field.expand(VOTERS, *field.shape).contiguous() for field in lane.up.pack(x)]
    status = torch.full((VOTERS, lane.matrices), VOICE, dtype=torch.uint8)
    block = Block(0, lane.matrices, 0, lane.entries)
    seconds = _seconds(lambda: aggregated(lane, block, fields, status, Clock(0, 0), lane.device))
    return [VOTERS * x.numel() / seconds]


def summed(model: Stack, encoding: Encoding) -> list[float]:
    """Entries a second that are written as numbers to be summed, and of whose sum the aggregate is made."""
    sample = _part_of(model)
    lane, x = sample.stack.lane, sample.messages("up")
    rows = x.view(1, lane.matrices, lane.up.m, lane.up.n)
    words = encoding.fold(encoding.counts(rows).flatten())
    voices = torch.full((lane.matrices,), VOTERS)
    ctx = lane.context(Clock(0, 0), range(lane.matrices))

    def unfold() -> object:
        counts = encoding.unfold(words, x.numel()).view(rows.shape[1:])
        return lane.aggregate.of_sum(encoding.total(counts, voices, lane.up.dtype), voices, ctx)

    acts: list[Callable[[], object]] = [lambda: encoding.fold(encoding.counts(rows).flatten()), unfold]
    return [x.numel() / _seconds(act) for act in acts]


def _part_of(model: Stack) -> _Sample:
    """A stack of as many of the matrices, or as large a part of one, as the budget allows."""
    size = min(1.0, (_CUBES / (model.m * model.n * min(model.m, model.n))) ** (1 / 3))
    size = min(size, (_ENTRIES / (model.m * model.n)) ** 0.5)
    m, n = (model.m, model.n) if size == 1.0 else _smaller(model.m, model.n, size)
    return _Sample(model, m, n, max(1, min(model.rows, (1 << 20) // (m * n))))


def payload() -> list[float]:
    """Bytes a second that are put into a payload, or out of it, and summed."""
    data = torch.zeros(_ENTRIES, dtype=torch.uint8)
    out = torch.empty_like(data)
    return [len(data) / _seconds(lambda: Header(0, 0).write(out.copy_(data)))]


def copy(entries: int = _ENTRIES * WORD // 16, device: str = "cpu") -> list[float]:
    """Bytes a second of a copy of so many float32; twice as many are moved, once read and once written."""
    data = torch.zeros(entries, dtype=torch.float32, device=device)
    out = torch.empty_like(data)
    return [data.nbytes / _seconds(lambda: out.copy_(data), device)]


def gemm(m: int, n: int, count: int, device: str = "cpu") -> list[float]:
    """FLOPs a second of products of a Newton-Schulz step in bfloat16, or in what the device multiplies in its place:
    (s, s) by (s, l), s and l the smaller and the longer of m and n, for as many of ``count`` at once as there is room
    for."""
    side, length = min(m, n), max(m, n)
    dtype = product_dtype(torch.bfloat16, torch.device(device))
    several = max(1, min(count, (1 << 20) // (m * n)))
    square, x = (torch.randn(several, side, wide, device=device).to(dtype).div_(side) for wide in (side, length))
    out = torch.empty_like(x)
    return [2 * several * side * side * length / _seconds(lambda: torch.bmm(square, x, out=out), device)]


def adamw() -> list[float]:
    """Entries a second of a step of torch.optim.AdamW."""
    parameter = nn.Parameter(torch.zeros(_ENTRIES))
    parameter.grad = torch.ones(_ENTRIES)
    return [_ENTRIES / _seconds(torch.optim.AdamW([parameter]).step)]


def _seconds(act: Callable[[], object], device: str = "cpu") -> float:
    """The median of some calls, after one that is not counted."""
    act()
    seen: list[float] = []
    while len(seen) < 3 or (sum(seen) < _BUDGET / 3 and len(seen) < 100):
        seen.append(taken(act, device))
    return median(seen)


def taken(act: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of one call, to the end of what it started on a GPU."""
    finished(device)
    begun = time.perf_counter()
    act()
    finished(device)
    return time.perf_counter() - begun


def finished(device: str) -> None:
    """Wait for a GPU; a CPU has done its work when a call returns."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
