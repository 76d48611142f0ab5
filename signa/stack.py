"""A stack: the same-shape matrices of one group, their state, and the two halves of a step over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from .channel import Channel
from .codec import codec_for
from .coins import SERVER, name_key
from .host import constant
from .kernels import native_for
from .packing import words_for
from .part import Part, side_by_side, stored
from .probe import Probe, Sight
from .routing import Route
from .scratch import own
from .sentence import Method
from .spec import ParamGroup
from .stage import Context, Rate, Stage, State
from .stages import Step
from .storage import Form
from .transport import ABSENT, SILENT, VOICE, WORKING, Clock, Lane, Message
from .transport.matrices import Matrices

COMPUTE = {torch.float64: torch.float64}
"""Dtypes that are computed in as they are; every other one is computed, and its state kept, in float32."""

_DTYPE = attrgetter("dtype")
_SMALL = 1 << 14  # entries of a parameter
_PIECE = 1 << 18  # entries of a direction that are unpacked at a time: they are still in the cache when they are added

Gradient = tuple[int, int, Tensor]
"""Local worker k's, for parameter i."""

P = ParamSpec("P")


class Stack:
    """Matrices (B, m, n) of several parameters, for k local workers (k B, m, n) on the worker's side.

    State lives in ``self.state[address]``, whose leading axis is the row: worker rows are worker-major, row j B + b.
    ``views(i)`` gives parameter i's share of every tensor in its own shape, without copying.
    """

    def __init__(self, group: ParamGroup, routes: Sequence[Route], local: range) -> None:
        self.group, self.routes, self.local = group, list(routes), local
        self.parameters = [route.named.parameter for route in routes]
        layout = routes[0].layout
        self.m, self.n, self.per = layout.m, layout.n, layout.count
        self.rows = self.per * len(routes)
        self.lam = self.method.multiplier(group.scaling, self.m, self.n)
        self.dtype = COMPUTE.get(self.parameters[0].dtype, torch.float32)
        self._keys = [name_key(route.named.name) for route in routes for _ in range(self.per)]
        self._offsets = [b * words_for(self.m * self.n) for _ in routes for b in range(self.per)]
        self._owned: dict[int, int] = {}
        self.state: dict[str, Tensor] = {}
        self.forms: dict[str, Form] = {}  # of the states that are held in fewer bits
        self.probe: Probe | None = None
        self.holds = False  # whether a step writes to copies of the state, until settle()
        self._held: list[Part] = []

    @property
    def method(self) -> Method:
        """The group's method."""
        return self.group.method

    @property
    def entries(self) -> int:
        """Of all matrices; without any there is nothing to send."""
        return self.rows * self.m * self.n

    @cached_property
    def _path(self) -> dict[str, list[tuple[str, Stage]]]:
        return {part: self.method.stages(part) for part in ("worker", "server", "replica")}

    @cached_property
    def _relays(self) -> bool:
        """Whether the server's message is the aggregate itself."""
        return self.method.up.feedback.relays and not self.lane.serves

    @cached_property
    def lane(self) -> Lane:
        """What the wire must know of it."""
        method, m, n = self.method, self.m, self.n
        sent, came = method.before("up"), method.before("down")
        middle = codec_for(method.aggregate.signal(method.up.message(sent)).alphabet, m, n, self.dtype)
        return Lane(
            label=self.routes[0].named.name + (f" and {len(self.routes) - 1} more" if len(self.routes) > 1 else ""),
            aggregate=method.aggregate,
            up=method.up.codec(sent, m, n, self.dtype),
            middle=middle,
            down=method.down.codec(came, m, n, self.dtype),
            counts_absent=method.up.feedback.counts_absent,
            serves=bool(method.server) or not method.down.lossless,
            per=self.per,
            keys=tuple(self._keys),
            offsets=tuple(self._offsets),
            device=self.parameters[0].device,
            memory=self._memory if method.aggregate.remembers else None,
        )

    def _memory(self, matrices: Sequence[int]) -> State:
        """What the aggregator remembers of these matrices."""
        part = Part(self.state, [self._owned[b] for b in matrices], self.holds)
        self._held.append(part)
        return part["server.aggregate"]

    @torch.no_grad()
    def own(self, matrices: Sequence[int], workers: int = 1) -> None:
        """Make every state of the path, at its initial value, whether or not a gradient ever comes.

        ``matrices`` are those whose server is here: ``server.*`` has rows for them alone. ``workers`` are those in all.
        """
        self._owned = {b: row for row, b in enumerate(matrices)}
        model = self.model()
        nothing = torch.zeros((), dtype=self.dtype, device=model.device)
        rows = nothing.expand(len(self.local) * self.rows, self.m, self.n)
        zero = nothing.expand(self.rows, self.m, self.n)
        down = model if self.method.step_address.startswith("server.") else zero
        here = torch.tensor(list(matrices), dtype=torch.int64, device=model.device)
        parts: dict[str, State] = {address: stage.init(rows) for address, stage in self._path["worker"]}
        parts["worker.up"] = self.method.up.feedback.sender(rows)
        parts["server.aggregate"] = self.method.aggregate.init(workers, zero[: len(here)])
        parts["server.up"] = self.method.up.feedback.receiver(zero[: len(here)])
        for address, stage in self._path["server"]:
            parts[address] = stage.init(model[here] if isinstance(stage, Step) else zero[: len(here)])
        parts["server.down"] = self.method.down.feedback.sender(down[here])
        parts["replica.down"] = self.method.down.feedback.receiver(down)
        for address, stage in self._path["replica"]:
            parts[address] = {} if isinstance(stage, Step) else stage.init(zero)
        state = {f"{address}.{name}": value for address, state in parts.items() for name, value in state.items()}
        self.forms = {
            full: form
            for full, value in state.items()
            # Counts and what a row or a matrix has one of are few, and some must be exact.
            if (form := self.group.form(full.rpartition(".")[0])) != "full"
            and not full.startswith("server.aggregate.")
            and value.dtype == self.dtype
            and value.shape[-2:] == (self.m, self.n) != (1, 1)
        }
        self.state = stored(state, self.forms)

    # The model ---------------------------------------------------------------------------------------------------

    def model(self) -> Tensor:
        """The parameters as matrices (B, m, n), a copy in the dtype of computation."""
        return self._read(range(len(self.routes)))

    def _read(self, only: Sequence[int]) -> Tensor:
        return self._joined([(i, self.parameters[i]) for i in only])

    def write(self, x: Tensor, only: Sequence[int] | None = None) -> None:
        """Matrices back into the parameters (those numbered in ``only``, which x then holds alone)."""
        chosen = range(len(self.routes)) if only is None else only
        if self._shape is not None:
            blocks = list(x.view(len(chosen), *self._shape).unbind())
        else:
            parts = zip(chosen, x.split(self.per), strict=True)
            blocks = [self.routes[index].layout.parameter(part) for index, part in parts]
        torch._foreach_copy_([self.parameters[index] for index in chosen], blocks)

    def views(self, index: int) -> dict[str, Tensor]:
        """Parameter ``index``'s state: views of the stacked tensors, worker state as (k, ...)."""
        found = {}
        for address, value in self.state.items():
            owners = (len(self.local),) if address.startswith("worker.") else ()
            first, rows_in_all = index * self.per, self.rows
            if address.startswith("server."):
                if first not in self._owned:
                    continue
                first, rows_in_all = self._owned[first], len(self._owned)
            rows = value.view(*owners, rows_in_all, *value.shape[1:])
            share = slice(first, first + self.per)
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

    def send(self, gradients: Sequence[Sequence[Tensor | None]], lr: Rate, decay: float, clock: Clock) -> Message:
        """The local workers' messages. ``gradients[k][i]`` is local worker k's for parameter i, None where it has none.

        Rows without a gradient take no part: they compute nothing and their state stays as it is.
        """
        self._held.clear()  # of a step that failed
        found = [(k, i, g) for k, row in enumerate(gradients) for i, g in enumerate(row) if g is not None]
        shape, count, device = (len(self.local), self.rows), len(self.local) * self.rows, self.lane.device
        status = torch.full((count,), ABSENT, dtype=torch.uint8, device=device)
        if not found or not self.entries:
            nothing = torch.zeros((), dtype=self.dtype, device=device).expand(count, self.m, self.n)
            return Message(Matrices(self.lane.up, dense=nothing), status.view(shape), [])
        whole = self.probe is not None or any(stage.together for _, stage in self._path["worker"])
        deep = len(found) if whole else max(1, WORKING // (self.per * self.m * self.n))
        chunks = [found[first : first + deep] for first in range(0, len(found), deep)]
        rows = [[k * self.rows + i * self.per + b for k, i, _ in chunk for b in range(self.per)] for chunk in chunks]
        parts = (self._message(*each, lr, decay, clock) for each in zip(chunks, rows, strict=True))
        message = Matrices.joined(self.lane.up, zip(rows, parts, strict=True), count)
        there = list(chain(*rows))
        voice = torch.where(message.silent, SILENT, VOICE).to(torch.uint8)
        if len(there) == count:
            status = voice
        else:
            at = constant(there, device)
            status.index_copy_(0, at, voice.index_select(0, at))
        return Message(message, status.view(shape), sorted({row % self.rows for row in there}))

    def _message(
        self, gradients: Sequence[Gradient], rows: Sequence[int], lr: Rate, decay: float, clock: Clock
    ) -> Matrices:
        """The messages for these gradients, whose matrices are these rows."""
        packs, path = self.method.up.packs and self.probe is None, self._path["worker"]
        part = Part(self.state, rows, self.holds, self.forms, self.dtype)
        matrices, ctx = [row % self.rows for row in rows], self._sender(rows, gradients, lr, decay, clock)
        if self.probe is None and path and not path[0][1].together and self.per * self.m * self.n >= _SMALL:
            # What a stage does to a stack it does to each matrix: the first one reads the gradients where they are.
            (address, stage), *path = path
            state, left = part[address], list[Tensor]()
            for at, gradient in enumerate(gradients):
                share = slice(at * self.per, (at + 1) * self.per)
                own = {name: value[share] for name, value in state.items()}
                x = clock.unscaled(self.routes[gradient[1]].layout.matrices(gradient[2].detach()).to(self.dtype))
                left.append(stage(x, own, self._sender(rows[share], [gradient], lr, decay, clock).at(address)))
            x = side_by_side(left, state)
        else:
            x = clock.unscaled(self._joined([(i, g) for _, i, g in gradients], again=packs))
            self.show("gradient", matrices, x, x)
        for address, stage in path:
            act = stage.lean if packs and stage is path[-1][1] else stage
            x = self._seen(address, matrices, act)(x, part[address], ctx.at(address))
        if packs:
            fields, silent = self.method.up.packed(x, ctx.at("up"))
            message = Matrices(self.lane.up, fields=fields, silent=silent)
        else:
            x = self._encode("up", self.method.up, matrices, x, part["worker.up"], ctx)
            message = Matrices(self.lane.up, dense=x)
        part.close(ctx)
        self._held.append(part)
        return message

    def _sender(
        self, rows: Sequence[int], gradients: Sequence[Gradient], lr: Rate, decay: float, clock: Clock
    ) -> Context:
        """What the worker's stages may know, of these rows."""
        decay = decay if self.method.coupled else 0.0
        parameter = self._read([i for _, i, _ in gradients]) if decay else None
        matrices, actors = [row % self.rows for row in rows], [self.local[row // self.rows] for row in rows]
        return self._context(matrices, actors, clock, lr, decay, parameter)

    @torch.no_grad()
    def _joined(self, tensors: Sequence[tuple[int, Tensor]], *, again: bool = False) -> Tensor:
        """Matrices of what belongs to parameters, by their numbers, one behind the other, in the dtype of computation.

        ``again``: in memory that the next ones will have, since nothing that stays shares it.
        """
        shape, out = self._shape, None
        every = [x if shape is not None else self.routes[i].layout.matrices(x) for i, x in tensors]
        if set(map(_DTYPE, every)) == {self.dtype}:
            device, size = every[0].device, (len(every), *every[0].shape)
            out = own("stack.joined", size, self.dtype, device) if again else every[0].new_empty(size)
            if (native := native_for(device)) and native.reads(every):
                native.gather(every, out)
                return out.view(len(every) * self.per, self.m, self.n)
        return torch.stack(every, out=out).to(self.dtype).reshape(len(every) * self.per, self.m, self.n)

    @cached_property
    def _shape(self) -> tuple[int, ...] | None:
        """The parameters' one shape, if they have one and their matrices' entries lie in the same order."""
        layout = self.routes[0].layout
        alike = all(route.layout.shape == layout.shape and route.layout.in_order for route in self.routes)
        return layout.shape if alike else None

    def serve(self, came: Matrices, matrices: Sequence[int], lr: Rate, decay: float, clock: Clock) -> Matrices:
        """The server's message for these matrices, from their aggregate: up's receiver, server, down's sender."""
        if self._relays and self.probe is None:
            return came
        ctx = self._context(matrices, [SERVER] * len(matrices), clock, lr, self._decay(decay), None)
        here = [self._owned[b] for b in matrices]
        part = Part(self.state, here, self.holds, self.forms, self.dtype)
        x = self._seen("up.receiver", matrices, self.method.up.decode)(came.dense, part["server.up"])
        for address, stage in self._path["server"]:
            x = self._seen(address, matrices, stage)(x, part[address], ctx.at(address))
        x = self._encode("down", self.method.down, matrices, x, part["server.down"], ctx)
        part.close(ctx)
        self._held.append(part)
        return Matrices(self.lane.down, dense=x)

    def deliver(self, came: Matrices, matrices: Sequence[int], lr: Rate, decay: float, clock: Clock) -> None:
        """From the server's message to the model: down's receiver, replica. Other matrices stay."""
        only = sorted({b // self.per for b in matrices})
        ctx = self._context(matrices, [SERVER] * len(matrices), clock, lr, self._decay(decay), None)
        part = Part(self.state, matrices, forms=self.forms, dtype=self.dtype)
        if not (self.method.down.feedback.relays and self.probe is None):
            receive = self._seen("down.receiver", matrices, self.method.down.decode)
            came = Matrices.of(receive(came.dense, part["replica.down"]))
        for address, stage in self._path["replica"]:
            # A replica's step has no state: the x that it integrates is the parameter itself.
            if (
                isinstance(stage, Step)
                and address == self._path["replica"][-1][0]
                and self._moved(stage, came, only, ctx)
            ):
                break
            state = {"x": self._read(only)} if isinstance(stage, Step) else part[address]
            came = Matrices.of(self._seen(address, matrices, stage)(came.dense, state, ctx.at(address)))
        else:
            self.write(came.dense, only)
        part.close(ctx)
        part.keep()

    def _moved(self, step: Step, came: Matrices, only: Sequence[int], ctx: Context) -> bool:
        """Take the step on the parameters themselves, without copying them here and back, if they are the matrices."""
        if self.probe is not None or (models := self._models(only)) is None:
            return False
        words = came.words
        if words is not None and step.signed(words, models, ctx):
            return True
        if self.per * self.m * self.n < _SMALL:  # many small ones are copied faster than they are stepped one by one
            return False
        for place, first, x in came.pieces(self.per, _PIECE):
            step(x, {"x": models[place].detach().view(-1)[first : first + len(x)]}, ctx)
        return True

    def _models(self, only: Sequence[int]) -> list[Tensor] | None:
        """The parameters, where they are computed in and their entries lie as their matrices' do."""
        parameters = [self.parameters[i] for i in only]
        if parameters[0].dtype != self.dtype or not all(map(Tensor.is_contiguous, parameters)):
            return None
        alike = self._shape is not None or all(self.routes[i].layout.in_order for i in only)
        return parameters if alike else None

    def settle(self, *, keep: bool) -> None:
        """What send and serve have written to copies of the state is kept, or dropped."""
        for part in self._held if keep else ():
            part.keep()
        self._held.clear()

    def _encode(
        self, address: str, channel: Channel, matrices: Sequence[int], u: Tensor, state: State, ctx: Context
    ) -> Tensor:
        compress = self._seen(f"{address}.compressor", matrices, channel.compressor)
        return self._seen(address, matrices, channel.feedback.encode)(u, compress, state, ctx.at(address))

    def show(self, address: str, matrices: Sequence[int], came: Tensor, left: Tensor) -> None:
        """Let a probe see a hop, if there is one."""
        if self.probe is not None and len(matrices):
            self.probe(Sight(self, address, matrices, came, left))

    def _seen(
        self, address: str, matrices: Sequence[int], act: Callable[Concatenate[Tensor, P], Tensor]
    ) -> Callable[Concatenate[Tensor, P], Tensor]:
        """``act`` itself; where there is a probe, it sees what came and what left."""
        if self.probe is None:
            return act

        def seen(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
            left = act(x, *args, **kwargs)
            self.show(address, matrices, x, left)
            return left

        return seen

    def _decay(self, decay: float) -> float:
        return 0.0 if self.method.coupled else decay

    def _context(
        self, matrices: Sequence[int], actors: list[int], clock: Clock, lr: Rate, decay: float, x: Tensor | None
    ) -> Context:
        keys, offsets = [self._keys[b] for b in matrices], [self._offsets[b] for b in matrices]
        coin = clock.coins(keys, offsets, actors)
        return Context(lr=lr, scale=self.lam, weight_decay=decay, parameter=x, coin=coin)

    # The exact model of EF21-P -----------------------------------------------------------------------------------

    @property
    def owned(self) -> Sequence[int]:
        """The matrices whose server is here, in the order of the rows of ``server.*``."""
        return list(self._owned)

    @property
    def exact(self) -> Tensor | None:
        """The owned rows of the server's exact model X, where the model itself travels; else None."""
        return self.state.get(f"{self.method.step_address}.x")  # a replica's step has none
