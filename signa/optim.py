"""The one optimizer: a spec, a model, a transport, and three loops that are the same for every method."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, get_args, overload

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable would import the compiler now

from .engine import Engine, Scalars, Shared
from .errors import Advice, GradientError, NonFinite, SignaError
from .finite import NonFiniteLog, Policy, culprits, refusal, scaler_says
from .pace import OnDevice, OnHost, Pace
from .probe import Probe
from .routing import Bits, Model, Route, Routing, torch_group
from .rows import Buffers, Rows, buffers_of
from .saving import export_facts, export_state, import_state
from .sentence import Hop
from .spec import ParamGroup, Spec
from .stack import Stack
from .transport import Clock, Transport, Verdict, default_transport


class SignA(torch.optim.Optimizer):
    """Runs a spec. Use :func:`signa.build`.

    ``step()`` writes the parameters and its own state, never ``p.grad``. State is created here, in full, whether or not
    a gradient ever comes: ``state[p]`` holds views keyed by address (``worker.momentum.m``, ``server.step.x``).

    Of a sharded model (``Group(..., shard=...)``), ``state[p]`` is there on one rank of the node, p's home.
    With ``capturable`` a CUDA graph may hold a step (docs/gpu.md), and every group's ``lr`` is a tensor.

    Raises:
        RoutingError, UnsupportedParameter: see :class:`signa.routing.Routing`.
        Fault: see :class:`signa.pace.OnDevice`.
    """

    def __init__(
        self,
        model: Model,
        spec: Spec,
        *,
        transport: Transport | None = None,
        seed: int = 0,
        nonfinite: Policy = "abstain",
        capturable: bool = False,
    ) -> None:
        if nonfinite not in get_args(Policy):
            raise ValueError(f"nonfinite must be one of {', '.join(get_args(Policy))}, got {nonfinite!r}")
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise TypeError(f"the seed must be an integer, got {seed!r}")
        transport = default_transport() if transport is None else transport
        if isinstance(transport, type) or not callable(getattr(transport, "plan", None)):
            got = transport.__name__ if isinstance(transport, type) else repr(transport)
            raise TypeError(f"transport must be signa.Loopback(5) or signa.Group(), with parentheses, got {got}")
        try:
            routing = Routing.of(spec, model)
            spec.admit(transport.workers, transport.local)
            transport.homes().admit({route.named.name: route.named.parameter for route in routing})
        except SignaError as error:  # the others must not wait; where all have the same error, it is just that
            transport.agree({"error": str(error)}, None)
            raise
        try:
            self._setup(routing, transport, seed, nonfinite, capturable, buffers_of(model), model)
        except BaseException as error:  # the other processes must not wait for this one
            transport.fail(error, 0)
            raise
        for index, group in enumerate(spec.groups if 0 in transport.local else ()):
            for advice in group.method.advice(transport.workers):
                warnings.warn(Advice(f"groups.{group.name or index}: {advice}"), stacklevel=3)

    def _setup(
        self,
        routing: Routing,
        transport: Transport,
        seed: int,
        nonfinite: Policy,
        capturable: bool,
        buffers: Buffers,
        model: Any = None,
        phases: Sequence[Sequence[int]] = (),
    ) -> None:
        self.spec, self.routing, self.transport, self.seed = routing.spec, routing, transport, seed
        self.nonfinite: Policy = nonfinite
        self.nonfinite_counts = NonFiniteLog()
        self._pace: Pace = OnDevice(routing, transport, nonfinite) if capturable else OnHost(routing)
        self._step_supports_amp_scaling = not capturable  # else a scaler unscales, and looks, in front of the step
        self._fresh = True
        self._buffers = buffers
        self._engine = Engine(transport)
        transport.agree(export_facts(self, self._buffers), model if isinstance(model, nn.Module) else None)
        filled = routing.filled()
        super().__init__([torch_group(*pair, self._pace.rate) for pair in filled], {"lr": 0.0, "weight_decay": 0.0})
        for phase in phases or [list(range(len(filled)))]:
            self._grow({index: filled[index] for index in phase})
        transport.compare(self.replicas(), self.steps)

    def _grow(self, groups: Mapping[int, tuple[ParamGroup, list[Route]]]) -> None:
        names = [route.named.name for route in self.routing]
        self._engine.add(groups, names)
        for parameter, views in self._engine.views():
            self.state[parameter] = views
        self._by_name = sorted(range(len(names)), key=names.__getitem__)  # as every process numbers parameters
        parameters = [route.named.parameter for route in self.routing]
        self._rows = Rows(parameters, names, self.transport.local, self._buffers)

    def replicas(self) -> dict[str, Tensor]:
        """Everything that must be equal on all processes, by name: the parameters, and the replicas' state.

        Of a sharded model it is what is here: the shards, and the state of the parameters whose home is here.
        """
        part = self._engine.homes.part
        found = {route.named.name: part(route.named.parameter.detach()) for route in self.routing}
        for route in self.routing:
            for address, view in self.state[route.named.parameter].items():
                if address.startswith("replica."):
                    found[f"{route.named.name} ({address})"] = view
        return found

    # Gradients ---------------------------------------------------------------------------------------------------

    def worker(self, worker: int) -> AbstractContextManager[None]:
        """Backward passes inside ``with opt.worker(j):`` belong to worker j of this process.

        On entry p.grad is j's row so far, so repeated passes and blocks accumulate; on exit it is the sum of the rows,
        for reading only. Clip inside. A worker that no block was opened for since the last step takes no part in the
        next. BatchNorm and other buffers keep what worker 0 made of them.

        Raises:
            IndexError: no such worker here.
            GradientError: blocks nest, or a gradient came from outside a block.
        """
        return self._rows.block(worker)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient and every worker's row."""
        super().zero_grad(set_to_none)
        self._rows.drop()

    # The step ----------------------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step of every method: messages, the wire, and back to the model.

        Raises:
            GradientError: with several local workers, a gradient from outside the blocks, or ``scaler.unscale_``.
            UnsupportedParameter: a sparse or complex gradient. Nothing is written then.
        """
        self.transport.refuse()
        loss = None
        try:
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            self._step()
        except NonFinite:  # on every process, and nothing was written
            raise
        except BaseException as error:
            told = self.transport.fail(error, self._pace.known)
            if told is error:
                raise
            raise told from error
        self._rows.drop()
        return loss

    def no_sync(self) -> AbstractContextManager[None]:
        """Backward passes inside send nothing, whatever the overlap: for all but the last one of an accumulation.

        Without overlap nothing is sent before ``step()`` anyway.
        """
        return self._engine.hold()

    @property
    def steps(self) -> int:
        """How many were taken. With ``capturable`` replays count, too, and the host waits for the device to tell."""
        return self._pace.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._pace.go_to(value)

    @_disable_dynamo  # as torch.optim's: of a compiled step() the tracer would fail on our lists, for nothing
    def _step(self) -> None:
        self._pace.start(fresh=self._fresh)
        self._engine.exact.refuse_inside("step()")
        unscale, infinite = scaler_says(self, alone=self._rows.single)
        homes = self._engine.homes
        rows = [homes.parts(row) for row in self._rows.take()]
        if fresh := self._fresh:
            self._fresh = False
            columns = [[row[at] for row in rows] for at in range(len(self.routing))]
            there = zip(self.routing, columns, strict=True)
            named = {route.named.name: (route.named.parameter, grads) for route, grads in there}
            self.transport.first({n: (p, [g for g in grads if g is not None]) for n, (p, grads) in named.items()})
        looks = not infinite and self.nonfinite != "ignore"
        infinite, bad = homes.agreed(infinite, culprits(self.transport.local, rows, self._by_name) if looks else {})
        clock = self._pace.clock(self.seed, 1.0 if unscale is None else unscale)
        by_id, scalars = self._now(rows)
        stale = self._engine.prepare(by_id, scalars, clock)
        ask = unscale is not None or self.nonfinite in ("raise", "skip")
        verdict = self.transport.before(Verdict(infinite, next(iter(bad.items()), None), stale), ask=ask)
        if verdict != Verdict():
            self._engine.drop(stale=verdict.stale)
        if verdict.infinite:
            self.transport.after(clock.step, self.replicas, self._buffers)
            return
        if verdict.culprit is not None and self.nonfinite != "abstain":
            worker, name = verdict.culprit[0], self._name(verdict.culprit[1])
            if self.nonfinite == "raise":
                self._rows.drop()
                raise refusal(worker, name, clock.step)
            self.nonfinite_counts.note(worker, name, clock.step, "no parameter moves in this step")
            self.transport.after(clock.step, self.replicas, self._buffers)
            return
        for worker, index in bad.items():
            by_id[worker - self.transport.local.start] = dict.fromkeys(by_id[0])
            self.nonfinite_counts.note(worker, self._name(index), clock.step, "this worker takes no part in it")
        with torch.autocast(self._pace.device.type, enabled=False):
            self._engine.run(by_id, scalars, clock)
        self._pace.advance()
        for worker, index in self.transport.after(clock.step + 1, self.replicas, self._buffers):
            self.nonfinite_counts.note(worker, self._name(index), clock.step, "that worker took no part in it")
        if fresh and self._rows.single:
            self._engine.watch(weakref.WeakMethod(self._soon))

    def _soon(self) -> tuple[list[dict[int, Tensor | None]], list[Scalars], Clock]:
        """What a step would be taken with if it were taken now."""
        rows = [[route.named.parameter.grad for route in self.routing]]
        return *self._now(rows), self._pace.clock(self.seed)

    def _now(self, rows: Sequence[Sequence[Tensor | None]]) -> tuple[list[dict[int, Tensor | None]], list[Scalars]]:
        """These gradients by their parameter's id, and every group's learning rate and weight decay."""
        by_id = [dict(zip(map(id, self._rows.parameters), row, strict=True)) for row in rows]
        return by_id, self._pace.scalars(self.param_groups)

    @torch.no_grad()
    def receive(self, step: int, scalars: Sequence[Scalars], shared: Sequence[Sequence[Shared]]) -> None:
        """The replica's part of a step whose server is elsewhere: what that one sent for every bucket's stacks.

        ``scalars`` are every group's learning rate and weight decay in that step (see :mod:`signa.transport.post`).
        """
        self._engine.exact.refuse_inside("receive()")
        with torch.autocast(self._pace.device.type, enabled=False):
            self._engine.deliver(shared, scalars, Clock(self.seed, step))
        self.steps = step + 1

    def _name(self, index: int) -> str:
        return self.routing[self._by_name[index]].named.name

    def exact(self) -> AbstractContextManager[None]:
        """Inside, the parameters hold the server's exact model X where a method keeps one (EF21-P), for evaluation.

        The replicas' own model W comes back on exit. Without an X, nothing happens. Parameters that are loaded inside
        stay as loaded, and X starts anew from them.

        Raises:
            StateError: from ``step()`` and ``load_state_dict()`` inside, which would work on the wrong model.
        """
        return self._engine.exact.shown()

    @property
    def stacks(self) -> list[tuple[int, Stack]]:
        """The stacks of same-shape matrices, each with the number of its param_group."""
        return self._engine.stacks

    @property
    def keeps_exact(self) -> bool:
        """Whether some method keeps an exact model X apart from the parameters (EF21-P)."""
        return self._engine.exact.kept

    def probe(self, look: Probe) -> AbstractContextManager[None]:
        """Inside, ``look`` sees what comes to and leaves every hop of a step: for measuring.

        It changes nothing, so it must write nothing; what it is shown it may keep only as a copy, for the tensors are
        written again. On ranks it sees this process' workers and this process' share of the server.

        >>> from signa import build
        >>> opt = build("signmuon", torch.nn.Linear(4, 2), lr=0.02)
        >>> opt.routing[0].named.parameter.grad = torch.ones(2, 4)
        >>> with opt.probe(lambda sight: print(sight.address)): opt.step()
        gradient
        worker.momentum
        worker.spectral
        up.compressor
        up
        aggregate
        up.receiver
        down.compressor
        down
        down.receiver
        replica.step
        """
        return self._engine.probe(look)

    # What is known without running -------------------------------------------------------------------------------

    def trace(self) -> list[Hop]:
        """(address, Signal) for every hop of every group that has parameters, ``signmuon.worker.spectral``."""
        used = sorted({route.group for route in self.routing})
        groups = [(self.spec.groups[index].name or str(index), self.spec.groups[index]) for index in used]
        return [Hop(f"{label}.{hop.address}", hop.signal) for label, group in groups for hop in group.method.trace()]

    def bits(self) -> Bits:
        """Logical bits per parameter and worker, model-wide, scales included (arithmetic on the spec, not a count)."""
        return self.routing.bits()

    # Groups and state --------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own ``method``, ``lr`` and other fields of a spec's group; the spec grows by it.

        ``params`` are tensors or (name, tensor) pairs; unnamed ones are called ``added.GROUP.INDEX``.

        Raises:
            SpecError, RoutingError, UnsupportedParameter: nothing is added then.
        """
        if not hasattr(self, "_rows"):  # torch's constructor hands over the groups of the spec
            super().add_param_group(param_group)
            return
        routing, group, routes = self.routing.grown(param_group)
        if self._rows.pending:
            raise GradientError("add_param_group between a worker's block and step(): call it before the blocks")
        routing.spec.admit(self.transport.workers, self.transport.local)
        self._engine.homes.admit({route.named.name: route.named.parameter for route in routes})
        self.spec, self.routing = routing.spec, routing
        super().add_param_group(torch_group(group, routes, self._pace.rate))
        self.transport.agree(export_facts(self, self._buffers), None)
        self._grow({len(self.param_groups) - 1: (group, routes)})
        self.transport.compare(self.replicas(), self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resume needs, by parameter name: state, groups, step, seed, workers, and the spec itself.

        Tensors are copies; the whole is plain data that ``torch.load(weights_only=True)`` reads. Of several processes
        each has its own workers' state and its own share of the server's, and of a sharded model the state of the
        parameters whose home is here: load it where it comes from.
        """
        for pre in self._optimizer_state_dict_pre_hooks.values():
            pre(self)
        state: dict[str, Any] = export_state(self)
        for post in self._optimizer_state_dict_post_hooks.values():
            state = post(self, state) or state
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume. Parameters are found by name, so their order does not matter; state keeps its own dtype.

        Raises:
            StateError: the state is of another optimizer, with all that differs; nothing is written then.
        """
        self._engine.exact.refuse_inside("load_state_dict()")
        state = dict(state_dict)
        for pre in self._optimizer_load_state_dict_pre_hooks.values():
            state = pre(self, state) or state
        import_state(self, state)
        self._engine.forget()
        for post in self._optimizer_load_state_dict_post_hooks.values():
            post(self)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: the parameters, and plain data to build the rest anew."""
        self._engine.exact.refuse_inside("a copy")
        return {
            "routing": list(self.routing),
            "spec": self.spec,
            "frozen": self.routing.frozen,
            "transport": self.transport,
            "nonfinite": self.nonfinite,
            "capturable": isinstance(self._pace, OnDevice),
            "buffers": self._buffers,
            "phases": self._engine.phases,
            "state": export_state(self),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build anew around the same (or copied) parameters."""
        routing = Routing(state["routing"])
        routing.spec, routing.frozen = state["spec"], state["frozen"]
        seed = state["state"]["signa"]["seed"]
        made = (state["nonfinite"], state["capturable"], state["buffers"], None, state["phases"])
        self._setup(routing, state["transport"], seed, *made)
        self.load_state_dict(state["state"])
