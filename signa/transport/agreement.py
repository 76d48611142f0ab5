"""What ranks must have in common, and gradients that somebody has averaged before the optimizer sees them."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import Advice, AveragedGradients, LayoutMismatch
from .digest import digest
from .ranks import Ranks

_REMEDY = (
    "take it off (signa.replicate(model, group) makes the replicas equal), or run backward under model.no_sync(), or "
    "call signa.transport.silence(model), which registers "
    "torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks.noop_hook"
)


def require_same(ranks: Ranks, mine: Mapping[str, str], what: str) -> None:
    """Refuse where ranks differ in any of these texts; collective.

    Raises:
        LayoutMismatch: naming what differs, and where. On every rank.
    """
    told = [json.loads(text) for text in ranks.texts(json.dumps(mine), what)]
    keys = dict.fromkeys(key for other in told for key in other)
    differing = [key for key in keys if any(other.get(key) != told[0].get(key) for other in told)]
    if differing:
        lines = [_difference(key, [str(other.get(key)) for other in told]) for key in differing]
        remedy = "start every rank with the same code, spec, seed and model"
        raise ranks.meet(LayoutMismatch, f"ranks differ in {'; '.join(lines)}: {remedy}")


def _difference(key: str, values: list[str]) -> str:
    """One fact that differs: its first line that does, or its first entry, where it is JSON (a spec)."""
    lines = [_lines(value) for value in values]
    at = next((i for i in range(max(map(len, lines))) if len({tuple(own[i : i + 1]) for own in lines}) > 1), 0)
    shown: dict[str, list[int]] = {}
    for rank, own in enumerate(lines):
        shown.setdefault(own[at][:200] if at < len(own) else "nothing", []).append(rank)
    return f"{key}: {' | '.join(f'{text} on rank {_listed(where)}' for text, where in shown.items())}"


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def _lines(value: str) -> list[str]:
    try:
        data = json.loads(value)
    except ValueError:
        data = None
    return list(_leaves(data, "")) if isinstance(data, dict) else value.splitlines() or [""]


def _leaves(data: Any, address: str) -> Iterator[str]:
    """``groups.0.lr = 0.02`` for every value in nested JSON."""
    if isinstance(data, dict | list) and data:
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _leaves(value, f"{address}.{key}" if address else str(key))
    else:
        yield f"{address} = {json.dumps(data)}"


class Averaging:
    """Refuses gradients that DistributedDataParallel has averaged: every worker would send the same message."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._seen = False

    def watch(self, model: nn.Module | None) -> None:
        """Notice backward passes of a wrapper that reduce."""
        if isinstance(model, DistributedDataParallel) and self._ranks.size > 1:
            model.register_forward_pre_hook(self._notice)

    def _notice(self, module: DistributedDataParallel, inputs: Any) -> None:
        """DDP averages in the backward pass of a forward pass outside no_sync(), unless its hook does nothing."""
        self._seen |= module.require_backward_grad_sync and torch.is_grad_enabled() and not _silent(module)

    def refuse(self) -> None:
        """Refuse what was noticed.

        Raises:
            AveragedGradients: with the remedies.
        """
        if self._seen:
            raise AveragedGradients(f"DistributedDataParallel has averaged the gradients: {_REMEDY}")

    def first(self, gradients: Mapping[str, tuple[Tensor, Sequence[Tensor]]]) -> None:
        """Compare the gradients of an optimizer's first step, by name with their parameter; collective.

        They are equal everywhere where a wrapper around this model, which the optimizer was not given, has averaged
        them, or where all ranks train on the same data.

        Raises:
            AveragedGradients: some wrapper around these parameters exists. Else it is advised against.
        """
        self.refuse()
        if self._ranks.size == 1:
            return
        own = {
            name: str(sum(int(digest(grad)) for grad in grads))
            for name, (_, grads) in gradients.items()
            if any(bool(grad.any()) for grad in grads)
        }
        told = [json.loads(text) for text in self._ranks.texts(json.dumps(own), "the first step")]
        same = [name for name in own if len({other.get(name) for other in told}) == 1]
        if not same:
            return
        wrapped = _wrapped()
        if any(id(gradients[name][0]) in wrapped for name in same):
            text = f"'{same[0]}' has the same gradient on every rank, and a DistributedDataParallel around it"
            raise self._ranks.meet(AveragedGradients, f"{text}, which has averaged it: {_REMEDY}", call=False)
        if len(same) == len(own) and self._ranks.rank == 0:
            warnings.warn(
                Advice("all ranks have the same gradients in the first step: give every rank its own data"),
                stacklevel=7,
            )


def silence(model: DistributedDataParallel) -> None:
    """Let a wrapper keep every gradient where it is: a SignA over ``Group()`` has a wire of its own.

    For training loops that wrap the model themselves. The wrapper makes the replicas equal at the start as ever.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook

    model.register_comm_hook(None, noop_hook)


def _silent(module: DistributedDataParallel) -> bool:
    return any(getattr(hook, "__name__", "") == "noop_hook" for hook, _ in getattr(module, "_comm_hooks", ()))


def _wrapped() -> set[int]:
    """The parameters of every wrapper in this process that may average."""
    wrappers = [thing for thing in gc.get_objects() if issubclass(type(thing), DistributedDataParallel)]
    return {id(p) for wrapper in wrappers if not _silent(wrapper) for p in wrapper.parameters()}


__all__ = ["Averaging", "require_same", "silence"]
