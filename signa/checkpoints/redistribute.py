"""Who gets which worker's state, and what receivers make of it where the number of workers changed."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from ..optim import SignA
from ..part import opened, stored
from ..routing import Route
from ..spec import ParamGroup
from ..stack import Stack
from ..stage import Context

Policy = Literal["mean", "reset", "remap"]


class Saved(Protocol):
    """What was saved: every worker's rows by its number, and the server's state from whoever owned it."""

    @property
    def workers(self) -> int:
        """N, when it was saved."""
        ...

    def row(self, worker: int, parameter: str, address: str) -> Tensor:
        """A worker's state."""
        ...

    def server(self, parameter: str) -> dict[str, Tensor]:
        """The server's state for a parameter, by address."""
        ...


def worker_state(saved: Saved, opt: SignA, route: Route, policy: Policy) -> dict[str, Tensor]:
    """The rows (k, ...) of this process' workers for a parameter; with another N also what receivers made of them.

    ``policy`` counts only where N differs: the mean of all, worker j mod N's, or the initial state (``reset``).
    """
    views, local, there = opt.state[route.named.parameter], opt.transport.local, saved.workers
    addresses = [address for address in views if address.startswith("worker.")]
    if there == opt.transport.workers or not views:
        return {a: torch.stack([saved.row(j, route.named.name, a) for j in local]) for a in addresses}
    method = opt.spec.groups[route.group].method
    receives = any(address.startswith("server.up.") for address in views)
    records = [address for address in views if address.startswith("server.aggregate.")]  # of workers: they start anew
    workers = range(opt.transport.workers) if receives else local
    # A stack of this one parameter knows every state's initial value, and its form as rows of matrices. The route is
    # the optimizer's stack's: of a sharded model that one has the whole tensor.
    whole = next(own for _, stack in opt.stacks for own in stack.routes if own.named.name == route.named.name)
    stack = Stack(opt.spec.groups[route.group], [whole], workers)
    stack.own(range(stack.per) if receives or records else (), opt.transport.workers)
    fresh = stack.views(0)
    if policy == "mean":
        mean = _mean(saved, opt.spec.groups[route.group], whole)
        for address in addresses:
            stack.state[address].view(len(workers), stack.per, *stack.state[address].shape[1:]).copy_(mean[address])
    for address in addresses if policy == "remap" else ():
        for place, worker in enumerate(workers):
            fresh[address][place].copy_(saved.row(worker % there, route.named.name, address))
    own = slice(local.start - workers.start, local.stop - workers.start)
    found = {address: fresh[address][own] for address in addresses} | {a: fresh[a] for a in records}
    if receives:
        senders = {
            address.removeprefix("worker.up."): stack.state[address].unflatten(0, (len(workers), stack.per))
            for address in addresses
            if address.startswith("worker.up.")
        }

        def aggregate(messages: Tensor) -> Tensor:
            return method.aggregate(messages, torch.ones(messages.shape[:-2], dtype=torch.bool), Context())

        for name, value in method.up.feedback.rejoin(senders, aggregate).items():
            stack.state[f"server.up.{name}"].copy_(value)
            found[f"server.up.{name}"] = fresh[f"server.up.{name}"]
    return found


def _mean(saved: Saved, group: ParamGroup, route: Route) -> dict[str, Tensor]:
    """The mean of all workers' state, added in worker order as it is computed with, in the form in which it is held."""
    one = Stack(group, [route], range(1))
    one.own(())
    views = {address: view for address, view in one.views(0).items() if address.startswith("worker.")}
    state = {address: one.state[address] for address in views}
    forms = {address: form for address, form in one.forms.items() if address in views}
    total: dict[str, Tensor] = {}
    for worker in range(saved.workers):
        for address, view in views.items():
            view[0].copy_(saved.row(worker, route.named.name, address))
        for address, value in opened(state, forms, one.dtype).items():
            total[address] = total[address].add_(value) if worker else value.clone()
    return stored({address: value / saved.workers for address, value in total.items()}, forms)


__all__ = ["Policy", "worker_state"]
