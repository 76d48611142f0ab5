"""A stack: the same-shape matrices of one group, their state, and the two halves of a step over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .coins import SERVER, Coins, name_key
from .routing import Route
from .sentence import Method
from .spec import Group
from .stage import Context, Stage, State
from .stages import Step
from .transport import Transport

COMPUTE = {torch.float64: torch.float64}
"""Dtypes that are computed in as they are; every other one is computed, and its state kept, in float32."""


@dataclass(frozen=True)
class Clock:
    """What a step knows of the whole run: the seed, the step's number, and what the gradients are multiplied by."""

    seed: int
    step: int
    unscale: float = 1.0


class Stack:
    """Matrices (B, m, n) of several parameters, for k local workers (k B, m, n) on the worker's side.

    State lives in ``self.state[address]``, whose leading axis is the row: worker rows are worker-major, row j B + b.
    ``views(i)`` gives parameter i's share of every tensor in its own shape, without copying.
    """

    def __init__(self, group: Group, routes: Sequence[Route], transport: Transport) -> None:
        self.group, self.routes, self.transport = group, list(routes), transport
        self.parameters = [route.named.parameter for route in routes]
        layout = routes[0].layout
        self.m, self.n, self.per = layout.m, layout.n, layout.count
        self.rows = self.per * len(routes)
        self.lam = self.method.multiplier(group.scaling, self.m, self.n)
        self.dtype = COMPUTE.get(self.parameters[0].dtype, torch.float32)
        self._keys = [name_key(route.named.name) for route in routes for _ in range(self.per)]
        self._offsets = [b * self.m * self.n for _ in routes for b in range(self.per)]
        self.state = self._init()

    @property
    def method(self) -> Method:
        """The group's method."""
        return self.group.method

    @cached_property
    def _path(self) -> dict[str, list[tuple[str, Stage]]]:
        return {part: self.method.stages(part) for part in ("worker", "server", "replica")}

    @torch.no_grad()
    def _init(self) -> dict[str, Tensor]:
        """Every state of the path, at its initial value, whether or not a gradient ever comes."""
        model = self.model()
        nothing = torch.zeros((), dtype=self.dtype, device=model.device)
        rows = nothing.expand(len(self.transport.local) * self.rows, self.m, self.n)
        zero = nothing.expand(self.rows, self.m, self.n)
        down = model if self.method.step_address.startswith("server.") else zero
        parts: dict[str, State] = {address: stage.init(rows) for address, stage in self._path["worker"]}
        parts["worker.up"] = self.method.up.feedback.sender(rows)
        parts["server.up"] = self.method.up.feedback.receiver(zero)
        for address, stage in self._path["server"]:
            parts[address] = stage.init(model if isinstance(stage, Step) else zero)
        parts["server.down"] = self.method.down.feedback.sender(down)
        parts["replica.down"] = self.method.down.feedback.receiver(down)
        for address, stage in self._path["replica"]:
            parts[address] = {} if isinstance(stage, Step) else stage.init(zero)
        return {f"{address}.{name}": value for address, state in parts.items() for name, value in state.items()}

    # The model ---------------------------------------------------------------------------------------------------

    def model(self) -> Tensor:
        """The parameters as matrices (B, m, n), a copy in the dtype of computation."""
        return self._read(range(len(self.routes)))

    def _read(self, only: Sequence[int]) -> Tensor:
        return torch.cat([self.routes[i].layout.matrices(self.parameters[i].detach()).to(self.dtype) for i in only])

    def write(self, x: Tensor, only: Sequence[int] | None = None) -> None:
        """Matrices back into the parameters (those numbered in ``only``, which x then holds alone)."""
        chosen = range(len(self.routes)) if only is None else only
        for place, index in enumerate(chosen):
            block = x[place * self.per : (place + 1) * self.per]
            self.parameters[index].copy_(self.routes[index].layout.parameter(block))

    def views(self, index: int) -> dict[str, Tensor]:
        """Parameter ``index``'s state: views of the stacked tensors, worker state as (k, ...)."""
        found = {}
        for address, value in self.state.items():
            owners = (len(self.transport.local),) if address.startswith("worker.") else ()
            rows = value.view(*owners, self.rows, *value.shape[1:])
            share = slice(index * self.per, (index + 1) * self.per)
            block = rows[:, share] if owners else rows[share]
            own = (
                self.routes[index].layout.parameter(block, len(owners))
                if block.shape[len(owners) + 1 :] == (self.m, self.n)
                else block
            )
            # A pattern that cannot be undone without copying keeps its state in matrix form.
            found[address] = own if own.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() else block
        return found

    # One step ----------------------------------------------------------------------------------------------------

    def send(
        self, gradients: Sequence[Sequence[Tensor | None]], lr: float, decay: float, clock: Clock
    ) -> Message | None:
        """The local workers' messages. ``gradients[k][i]`` is local worker k's for parameter i, None where it has none.

        Rows without a gradient take no part: they compute nothing and their state stays as it is.
        """
        there = [(k, i) for k, row in enumerate(gradients) for i, g in enumerate(row) if g is not None]
        if not there or self.m * self.n == 0:
            return None
        grads = [self.routes[i].layout.matrices(gradients[k][i].detach()) for k, i in there]  # type: ignore[union-attr]
        x = torch.cat(grads).to(self.dtype)
        x = x if clock.unscale == 1.0 else x * clock.unscale
        rows = [k * self.rows + i * self.per + b for k, i in there for b in range(self.per)]
        matrices = [row % self.rows for row in rows]
        actors = [self.transport.local[row // self.rows] for row in rows]
        parameter = self.model()[matrices] if self.method.coupled and decay else None
        ctx = self._context(matrices, actors, clock, lr, decay if self.method.coupled else 0.0, parameter)
        part = Part(self.state, rows, len(self.transport.local) * self.rows)
        for address, stage in self._path["worker"]:
            x = stage(x, part[address], ctx)
        x = self.method.up.encode(x, part["worker.up"], ctx)
        part.keep()
        return Message(*self._full(x, rows), sorted({i for _, i in there}))

    def _full(self, x: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Messages with a row for everybody (zero where there is none), and who has one."""
        shape = (len(self.transport.local), self.rows)
        if len(rows) == shape[0] * shape[1]:
            return x.view(*shape, self.m, self.n), torch.ones(shape, dtype=torch.bool, device=x.device)
        at = torch.tensor(rows, device=x.device)
        full = torch.zeros(shape[0] * shape[1], self.m, self.n, dtype=x.dtype, device=x.device).index_copy_(0, at, x)
        active = torch.zeros(shape[0] * shape[1], dtype=torch.bool, device=x.device).index_fill_(0, at, True)
        return full.view(*shape, self.m, self.n), active.view(shape)

    def receive(self, message: Message, lr: float, decay: float, clock: Clock) -> None:
        """From the messages to the model: aggregate, server, down, replica. Parameters without a gradient stay."""
        only = message.parameters
        matrices = [i * self.per + b for i in only for b in range(self.per)]
        everybody = len(only) == len(self.routes)
        messages, active = message.rows, message.active
        if not everybody:
            at = torch.tensor(matrices, device=messages.device)
            messages, active = messages.index_select(1, at), active.index_select(1, at)
        if self.method.up.feedback.counts_absent:
            active = torch.ones_like(active)
        decay = 0.0 if self.method.coupled else decay
        ctx = self._context(matrices, [SERVER] * len(matrices), clock, lr, decay, None)
        part = Part(self.state, matrices, self.rows)
        x = self.transport.collect(self.method.aggregate, messages, active, ctx)
        x = self.method.up.decode(x, part["server.up"])
        for address, stage in self._path["server"]:
            x = stage(x, part[address], ctx)
        x = self.transport.share(self.method.down.encode(x, part["server.down"], ctx))
        x = self.method.down.decode(x, part["replica.down"])
        for address, stage in self._path["replica"]:
            # A replica's step has no state: the x that it integrates is the parameter itself.
            state = {"x": self._read(only)} if isinstance(stage, Step) else part[address]
            x = stage(x, state, ctx)
        part.keep()
        self.write(x, only)

    def _context(
        self, matrices: list[int], actors: list[int], clock: Clock, lr: float, decay: float, parameter: Tensor | None
    ) -> Context:
        keys, offsets = [self._keys[b] for b in matrices], [self._offsets[b] for b in matrices]
        coin = Coins(clock.seed, clock.step, keys, offsets, actors)
        return Context(lr=lr, scale=self.lam, weight_decay=decay, parameter=parameter, coin=coin)

    # The exact model of EF21-P -----------------------------------------------------------------------------------

    @property
    def exact(self) -> Tensor | None:
        """The server's exact model X, where the model itself travels; else None."""
        return self.state.get(f"{self.method.step_address}.x")  # a replica's step has none

    def reset_exact(self) -> bool:
        """Start X and what follows it anew from the parameters, if those are not what was delivered. True if so."""
        addresses = (
            "replica.down.H",
            f"{self.method.step_address}.x",
            "server.down.h",
        )  # what replicas have comes first
        held = [self.state[address] for address in addresses if address in self.state]
        model = self.model()
        if not held or torch.equal(model, held[0].to(self.parameters[0].dtype).to(self.dtype)):
            return False
        for value in held:
            value.copy_(model)
        return True


@dataclass(frozen=True)
class Message:
    """What the local workers send for one stack: (k, B, m, n), who sends (k, B), and which parameters take part."""

    rows: Tensor
    active: Tensor
    parameters: list[int]


class Part:
    """The rows of a stack's state that take part in a step: the tensors, or copies that ``keep`` puts back."""

    def __init__(self, state: dict[str, Tensor], rows: list[int], of: int) -> None:
        self._all, self._rows = state, None if len(rows) == of else rows
        self._taken: dict[str, Tensor] = {}

    def __getitem__(self, address: str) -> State:
        """The state at an address, by its own names."""
        found = {}
        for full, value in self._all.items():
            owner, _, name = full.rpartition(".")
            if owner == address:
                if self._rows is not None:
                    value = self._taken[full] = value[self._rows]
                found[name] = value
        return found

    def keep(self) -> None:
        """Write the copies back."""
        for full, value in self._taken.items():
            self._all[full][self._rows] = value
