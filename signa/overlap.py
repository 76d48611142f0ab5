"""Messages that leave during the backward pass, and what becomes of them when the step is taken."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import Advice
from .parcel import Parcel, Rows, Scalars, Shared
from .transport import Clock
from .transport.line import Line

#: So many steps in a row whose early messages were of no use, and none is sent early any more.
PATIENCE = 3

Facts = Callable[[], tuple[Rows, Sequence[Scalars], Clock]]
"""Tells what a step would be taken with if it were taken now."""


class Flight(NamedTuple):
    """A parcel under way, and all that it was made of."""

    arrival: Future[list[Shared]]
    scalars: Sequence[Scalars]
    clock: Clock
    seen: Sequence[tuple[Tensor | None, int, int]]


class Overlap:
    """Sends every parcel as soon as its gradients are there, in one fixed order, while the backward pass goes on.

    Whatever a parcel writes before it arrives (the workers' and the server's state) is written to copies. At the step
    all ranks agree whether everything that was sent is what the step would send: if so the copies are kept and the
    model moves; if not (gradients were clipped or accumulated, a learning rate was changed, somebody's gradient is not
    finite) everything is dropped and the step is taken plainly. So the step's bits are those of one without overlap.
    """

    def __init__(self, line: Line, begin: Callable[[], None]) -> None:
        self.line, self._begin = line, begin
        self.parcels: list[Parcel] = []
        self.held = 0  # how many blocks that hold everything back are open
        self.probed = False  # a probe sees the step as it is taken, so what was sent before is of no use
        self._flights: list[Flight] = []
        self._home: dict[int, int] = {}
        self._waiting: list[set[int]] = []
        self._weak: Callable[[], Facts | None] = _nobody
        self._stale = ""
        self._useless = 0

    def extend(self, parcels: Sequence[Parcel]) -> None:
        """Send these, too, behind the others."""
        for parcel in parcels:
            for parameter in parcel.parameters:
                self._home[id(parameter)] = len(self.parcels)
            self.parcels.append(parcel)
        if self._weak() is not None:
            self._hook(parcels)
        self._rest()

    def watch(self, facts: Callable[[], Facts | None]) -> None:
        """Look out for gradients from now on, if the line is free; ``facts`` is weak: nothing keeps its owner."""
        if not self.line.claim(self):
            return
        self._weak = facts
        self._hook(self.parcels)

    def _hook(self, parcels: Sequence[Parcel]) -> None:
        act = partial(_arrived, weakref.ref(self))
        hooks = [p.register_post_accumulate_grad_hook(act) for parcel in parcels for p in parcel.parameters]
        weakref.finalize(self, _remove, hooks)

    # In the backward pass ----------------------------------------------------------------------------------------

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Inside, nothing leaves."""
        self.held += 1
        try:
            yield
        finally:
            self.held -= 1

    def arrived(self, parameter: Tensor) -> None:
        """A gradient is complete, as far as the backward pass knows."""
        facts = self._weak()
        if self.held or self.probed or self.useless or facts is None or self._stale:
            return
        index = self._home[id(parameter)]
        if index < len(self._flights):
            self._stale = "a second backward pass came: put all but the last one inside 'with opt.no_sync():'"
            return
        self._waiting[index].discard(id(parameter))
        while len(self._flights) < len(self.parcels) and not self._waiting[len(self._flights)]:
            try:
                with torch.no_grad(), torch.autocast(parameter.device.type, enabled=False):
                    self._launch(*facts())
            except Exception as error:  # the step meets it again, where the other processes can be told
                self._stale = f"{type(error).__name__}: {error}"
                return

    def _launch(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> None:
        """Send the next parcel."""
        if not self._flights:
            self.line.settle()  # of another optimizer
            self.line.flush = self._flush
            self._begin()
        parcel = self.parcels[len(self._flights)]
        seen = _seen(parcel, rows)
        messages = parcel.send(rows, scalars, clock)
        arrival = self.line.put(partial(parcel.exchange, messages, scalars, clock), parcel.device)
        self._flights.append(Flight(arrival, list(scalars), clock, seen))

    @property
    def useless(self) -> bool:
        """Whether it is given up."""
        return self._useless >= PATIENCE

    def _flush(self) -> None:
        """Send the rest and wait: something else is about to be sent."""
        if (facts := self._weak()) is not None:
            self._complete(*facts())

    def _complete(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> None:
        if not self.parcels:  # nothing but parameters without entries
            return
        with torch.no_grad(), torch.autocast(self.parcels[0].device.type, enabled=False):
            while len(self._flights) < len(self.parcels):
                self._launch(rows, scalars, clock)
        self.line.flush = None  # everything is under way, as on every other rank
        for flight in self._flights:
            flight.arrival.result()

    # In the step -------------------------------------------------------------------------------------------------

    def finish(self, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> bool:
        """Send what has not left, wait for all of it, and say if any of it is not what the step would send."""
        if self.useless:
            return False
        stale = self._stale or ("a probe looks on" if self.probed else "")
        for parcel, flight in zip(self.parcels, self._flights, strict=False):
            stale = stale or _difference(parcel, flight, rows, scalars, clock)
        self._stale = stale
        stacks = [stack for parcel in self.parcels for _, stack in parcel.places]
        probes = [stack.probe for stack in stacks]
        for stack in stacks:
            stack.probe = None
        try:
            self._complete(rows, scalars, clock)
        finally:
            for stack, probe in zip(stacks, probes, strict=True):
                stack.probe = probe
        return bool(stale)

    @property
    def complete(self) -> bool:
        """Whether everything has travelled and none of it was dropped."""
        return len(self._flights) == len(self.parcels) and not self.useless

    def land(self) -> Iterator[tuple[Parcel, list[Shared]]]:
        """Keep what was written to copies; every parcel with what arrived for it."""
        arrived = [flight.arrival.result() for flight in self._flights]
        for parcel in self.parcels:
            parcel.settle(keep=True)
        self._rest()
        self._useless = 0
        yield from zip(self.parcels, arrived, strict=True)

    def drop(self, stale: bool = False) -> None:
        """As if nothing had been sent. ``stale``: because somebody's messages were not those of the step."""
        why = self._stale or "on another process"
        for parcel in self.parcels:
            parcel.settle(keep=False)
        self._rest()
        if stale:
            self._useless += 1
            if self.useless:
                what = f"{PATIENCE} steps in a row were sent twice, so from now on all is sent in the step, once"
                warnings.warn(Advice(f"overlap: {what} ({why})"), stacklevel=6)

    def forget(self) -> None:
        """A state was loaded: what is under way was made of another one."""
        if self._flights:
            self._stale = "a state was loaded between the backward pass and the step"

    def _rest(self) -> None:
        self._flights, self._stale = [], ""
        self._waiting = [{id(p) for p in parcel.parameters} for parcel in self.parcels]
        if self.line.flush == self._flush:
            self.line.flush = None


def _seen(parcel: Parcel, rows: Rows) -> list[tuple[Tensor | None, int, int]]:
    """The gradients, and how often they and their parameters have been written."""
    grads = [(p, row[id(p)]) for p in parcel.parameters for row in rows]
    return [(grad, -1 if grad is None else grad._version, p._version) for p, grad in grads]


def _difference(parcel: Parcel, flight: Flight, rows: Rows, scalars: Sequence[Scalars], clock: Clock) -> str:
    """What is not now as it was when a parcel left."""
    if flight.clock != clock:
        scaler = "a GradScaler's scale is known to the step alone: train in bfloat16, which needs none"
        return scaler if clock.unscale != flight.clock.unscale else "the step is another one"
    if list(scalars) != flight.scalars:
        return (
            "a learning rate or weight decay changed after the backward pass: call scheduler.step() behind opt.step()"
        )
    for before, now in zip(flight.seen, _seen(parcel, rows), strict=True):
        if before[0] is not now[0] or before[1:] != now[1:]:
            return (
                "a gradient or a parameter changed after the backward pass: clip by a stage of the method ('clip') "
                "instead of clip_grad_norm_, or build with overlap=False"
            )
    return ""


def _nobody() -> None:
    """No facts."""


def _arrived(overlap: weakref.ref[Overlap], parameter: Tensor) -> None:
    if (own := overlap()) is not None:
        own.arrived(parameter)


def _remove(hooks: Sequence[torch.utils.hooks.RemovableHandle]) -> None:
    for hook in hooks:
        hook.remove()


__all__ = ["Overlap"]
