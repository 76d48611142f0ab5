"""What an optimizer does inside a step: how its direction fits the gradient, and what its channels lose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..feedback import EF21
from ..optim import SignA
from ..probe import Sight
from ..signal import Signal
from ..spec import ParamGroup
from ..stack import Stack
from ..stages import Adam

__all__ = ["Diagnostics"]

#: Alphabets without a zero of their own, or with one that abstains: a compressor to them makes something of a zero.
SIGNS = ("sign", "ternary", "scaled_sign")

#: Shares of entries: their mean over the entries stands in the median's place.
SHARES = ("sign_flips", "up_zero_rate", "down_zero_rate", "tie_rate")


class Measured(NamedTuple):
    """A quantity of one stack: a value for each of these matrices."""

    stack: Stack
    matrices: Sequence[int]
    values: Tensor


class Diagnostics:
    """Measures an optimizer's steps from inside, and changes no bit of them.

    A line below is of one matrix (m, n), of which a parameter's pattern may make several. g is the workers' mean
    gradient, d the direction that ``step`` integrates, u the signal that a channel carries, r what its compressor C
    gets (u - h with ef21, decay e + u with ef14).

    - ``rho``: alignment, ``<g, d> / (|g| |d|)``.
    - ``gain``: ``lam |d| / sqrt(m)``; ``gain_spread`` is the largest over the smallest, among those that are not 0.
    - ``update_rms``: ``|X_new - X_old| / sqrt(m n)``, decay included; X is the server's where EF21-P keeps one.
    - ``sign_flips``: share of entries with another ``sign(d)`` (-1, 0 or 1) than in the step right before.
    - ``up_zero_rate``, ``down_zero_rate``: share of exact zeros in r, before a compressor to signs replaces them.
    - ``tie_rate``: share of entries where the workers' messages of +-1 add up to zero, before coins, in the matrices
      that anybody voted on.
    - ``up_contraction``, ``down_contraction``: ``|r|_1^2 / (m n |r|^2)`` where there is a feedback; the share of r that
      scaled_sign keeps, 2 / pi for normal entries.
    - ``up_kept``, ``down_kept``: ``1 - |C(r) - r|^2 / |r|^2``, what was kept.
    - ``up_lag``, ``down_lag``: ``|u - h| / |u|`` after the update of the estimate h, with ef21.
    - ``gap``: ``|X - W| / |W|``, how far EF21-P's replicas are behind the server.

    ``record()`` has the median of each over the matrices, and its ``_min`` and ``_max``; of shares the mean over all
    entries instead of the median. What is measured at a worker is first averaged over the workers that took part. A
    value without meaning (0 / 0: no gradient, nothing to compress) is left out, and so is what a method does not have.
    Groups with ``adam`` are left out unless there is no other: they hold what the method under study does not take.

    On ranks the values are of this process' workers and of the matrices whose server is here; ``rho`` and ``tie_rate``
    need every worker, and are left out where some live elsewhere. ``sign_flips`` is left out where the step before was
    not seen; ``state_dict()`` carries what a resumed run must have seen of it.

    Args:
        every: measure the steps whose number, counted from 1, is a multiple of it (and look at the one before for its
            signs); 0 measures none.

    Source: definitions, but for the contraction: arXiv 1901.09847, Lemma 8. h is that of arXiv 2106.05203, Algorithm 2;
    X and W are those of arXiv 2209.15218.

    >>> from signa import build
    >>> layer = torch.nn.Linear(2, 2, bias=False)
    >>> optimizer = build("signsgd", layer, lr=0.1)
    >>> layer.weight.grad = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    >>> with Diagnostics(optimizer) as diagnostics: optimizer.step()
    >>> found = diagnostics.record()
    >>> found["gain"], found["up_zero_rate"], found["tie_rate"]
    (1.0, 0.25, 0.0)
    """

    def __init__(self, optimizer: SignA, *, every: int = 1) -> None:
        self.optimizer, self.every = optimizer, every
        self._found: dict[str, list[Measured]] = defaultdict(list)
        self._gradients: dict[Stack, Measured] = {}
        self._models: dict[Stack, Tensor] = {}
        self._lost: dict[tuple[Stack, str], Tensor] = {}
        self._signs: dict[Stack, tuple[int, Measured]] = {}
        self._block = ExitStack()

    def __enter__(self) -> Diagnostics:
        """Look at the step inside, if it is to be measured or comes right before one that is."""
        self._found.clear()
        number = self.optimizer.steps + 1
        if self.every and number % self.every == 0:
            self._block.enter_context(self.optimizer.probe(self._measure))
        elif self.every and (number + 1) % self.every == 0:
            self._block.enter_context(self.optimizer.probe(self._remember))
        return self

    def __exit__(self, *_: object) -> None:
        """Look away."""
        self._block.close()
        for kept in (self._gradients, self._models, self._lost):
            kept.clear()

    def record(self, *, each: bool = False) -> dict[str, float]:
        """The step's numbers, or nothing where it was not measured; with ``each`` also ``rho/blocks.0.weight``, and
        ``rho/blocks.0.weight[1]`` where a parameter makes several matrices."""
        record: dict[str, float] = {}
        for quantity, parts in self._found.items():
            rows = [
                (part.stack, matrix, value)
                for part in parts
                for matrix, value in zip(part.matrices, part.values.tolist(), strict=True)
                if math.isfinite(value)
            ]
            if not rows:
                continue
            values = [value for _, _, value in rows]
            middle = fmean(values, [s.m * s.n for s, _, _ in rows]) if quantity in SHARES else median(values)
            record |= {quantity: middle, f"{quantity}_min": min(values), f"{quantity}_max": max(values)}
            if quantity == "gain" and any(values):
                record["gain_spread"] = max(values) / min(value for value in values if value)
            if each:
                record |= {f"{quantity}/{_name(stack, matrix)}": value for stack, matrix, value in rows}
        return record

    def state_dict(self) -> dict[str, Any]:
        """The signs of the last step, as plain data, where the next one is to be measured."""
        number = self.optimizer.steps
        if not self.every or (number + 1) % self.every:
            return {}
        kept = [(str(index), self._signs.get(stack, (-1, None))) for index, stack in self._stacks()]
        return {index: {"matrices": m.matrices, "signs": m.values} for index, (at, m) in kept if m and at == number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for index, stack in self._stacks():
            if found := state.get(str(index)):
                signs = Measured(stack, found["matrices"], found["signs"].to(stack.parameters[0].device))
                self._signs[stack] = (self.optimizer.steps, signs)

    def _stacks(self) -> list[tuple[int, Stack]]:
        return [(index, stack) for index, (_, stack) in enumerate(self.optimizer.stacks)]

    # At the hops -------------------------------------------------------------------------------------------------

    def _measure(self, sight: Sight) -> None:
        stack, address, matrices, came, left = sight
        if not self._measured(stack):
            return
        method, (part, _, place) = stack.method, address.partition(".")
        if address == "gradient" and self._all_here:
            self._gradients[stack] = _averaged(stack, matrices, came)
        elif address == "up.receiver" and stack.exact is not None:
            self._models[stack] = _rows(stack.exact, stack.owned, matrices).clone()
        elif address == "aggregate" and self._all_here:
            if method.up.message(method.before("up")).alphabet in ("sign", "ternary"):
                votes = came[:, list(matrices)]  # (N, served, m, n)
                ties = _share(votes.sum(0).eq(0))
                self._note("tie_rate", stack, matrices, ties.where(votes.ne(0).flatten(-2).any(-1).any(0), math.nan))
        elif place == "compressor":
            self._compressed(part, sight)
        elif address in ("up", "down") and (stack, part) in self._lost:
            self._note(f"{part}_lag", stack, matrices, self._lost[stack, part] / _norm(came))
        elif address == "down.receiver" and stack.exact is not None:
            here = [b for b in matrices if b in set(stack.owned)]
            replica = _rows(left, matrices, here)
            self._note("gap", stack, here, _norm(_rows(stack.exact, stack.owned, here) - replica) / _norm(replica))
        elif address == method.step_address:
            self._stepped(sight)

    def _compressed(self, part: str, sight: Sight) -> None:
        """What a compressor gets, r, and what it makes of it."""
        stack, _, matrices, r, c = sight
        channel = getattr(stack.method, part)
        if channel.compressor.signal(Signal()).alphabet in SIGNS:
            self._note(f"{part}_zero_rate", stack, matrices, _share(r.eq(0)))
        if channel.feedback.kind == "none":
            return
        size, lost = _norm(r), _norm(r - c)
        self._note(f"{part}_contraction", stack, matrices, (_norm(r, 1) / size) ** 2 / (stack.m * stack.n))
        self._note(f"{part}_kept", stack, matrices, 1 - (lost / size) ** 2)
        if isinstance(channel.feedback, EF21):
            self._lost[stack, part] = lost  # u - h = r - C(r), since h <- h + C(r)

    def _stepped(self, sight: Sight) -> None:
        """The direction d, and the model that it makes."""
        stack, _, matrices, d, model = sight
        size = _norm(d)
        self._note("gain", stack, matrices, stack.lam * size / math.sqrt(stack.m))
        before = self._models.get(stack)  # a replica's parameters are written after its stages
        before = _rows(stack.model(), range(stack.rows), matrices) if before is None else before
        self._note("update_rms", stack, matrices, _norm(model - before) / math.sqrt(stack.m * stack.n))
        if stack in self._gradients:
            _, of, g = self._gradients[stack]
            g = _rows(g, of, matrices)
            self._note("rho", stack, matrices, (g * d).sum((-2, -1)) / (_norm(g) * size))
        number, last = self._signs.get(stack, (-1, None))
        if last is not None and number == self.optimizer.steps:
            both = [b for b in matrices if b in set(last.matrices)]
            old, new = _rows(last.values, last.matrices, both), _rows(torch.sign(d), matrices, both)
            self._note("sign_flips", stack, both, _share(old.ne(new)))
        self._remember(sight)

    def _remember(self, sight: Sight) -> None:
        """The signs of the direction."""
        stack = sight.stack
        if sight.address == stack.method.step_address and self._measured(stack):
            signs = Measured(stack, list(sight.matrices), torch.sign(sight.came).to(torch.int8))
            self._signs[stack] = (self.optimizer.steps + 1, signs)

    # Which, and how many -----------------------------------------------------------------------------------------

    def _measured(self, stack: Stack) -> bool:
        groups = [self.optimizer.spec.groups[index] for index in {route.group for route in self.optimizer.routing}]
        return not _auxiliary(stack.group) or all(map(_auxiliary, groups))

    @property
    def _all_here(self) -> bool:
        transport = self.optimizer.transport
        return len(transport.local) == transport.workers

    def _note(self, quantity: str, stack: Stack, matrices: Sequence[int], values: Tensor) -> None:
        self._found[quantity].append(_averaged(stack, matrices, values))


def _auxiliary(group: ParamGroup) -> bool:
    return any(isinstance(stage, Adam) for part in ("server", "replica") for _, stage in group.method.stages(part))


def _norm(x: Tensor, order: int = 2) -> Tensor:
    """Of every matrix, as one vector."""
    return torch.linalg.vector_norm(x, order, dim=(-2, -1))


def _share(where: Tensor) -> Tensor:
    """How many entries of every matrix are true, of all."""
    return where.sum((-2, -1)) / (where.shape[-2] * where.shape[-1])


def _rows(x: Tensor, of: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """The rows of the wanted matrices, from rows of other ones."""
    if list(of) == list(wanted):
        return x
    places = {matrix: row for row, matrix in enumerate(of)}
    return x[[places[matrix] for matrix in wanted]]


def _averaged(stack: Stack, matrices: Sequence[int], values: Tensor) -> Measured:
    """One row a matrix: the mean of those that its workers have, without what is no number."""
    once = sorted(set(matrices))
    if once == list(matrices):
        return Measured(stack, once, values)
    places = {matrix: row for row, matrix in enumerate(once)}
    at = torch.tensor([places[matrix] for matrix in matrices], device=values.device)
    known, zero = ~values.isnan(), torch.zeros_like(values[: len(once)])
    total = zero.index_add(0, at, values.where(known, 0))
    return Measured(stack, once, total / zero.index_add(0, at, known.to(values.dtype)))


def _name(stack: Stack, matrix: int) -> str:
    """The parameter, and which of its matrices where it makes several."""
    name = stack.routes[matrix // stack.per].named.name
    return name if stack.per == 1 else f"{name}[{matrix % stack.per}]"
