"""Buffers that training writes (BatchNorm's statistics) follow worker 0's on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from . import digest
from .payload import raw
from .ranks import Ranks

Buffers = Sequence[tuple[nn.Module, str]]


class Followers:
    """Sends rank 0's saved buffers where any rank's changed since the last time, and no others (a table of angles).

    Their bytes are compared: batch norms write their statistics behind the version counter's back.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._last: dict[tuple[tuple[int, str], ...], Tensor] = {}

    def follow(self, buffers: Buffers, what: str) -> None:
        """Make them equal everywhere; collective."""
        saved = [(m, name) for m, name in buffers if name not in m._non_persistent_buffers_set]
        found = [getattr(module, name) for module, name in saved]
        tensors = [tensor for tensor in found if tensor is not None]
        if not tensors or self._ranks.size == 1:
            return
        key = tuple((id(module), name) for module, name in saved)
        now, home = self._bytes(tensors), self._ranks.home(tensors[0].device)
        flags = _changed(now, self._last.get(key), [tensor.nbytes for tensor in tensors]).to(home)
        anywhere = torch.stack(self._ranks.gather(flags, [len(flags)] * self._ranks.size, what)).any(0).tolist()
        moving = [tensor for tensor, flag in zip(tensors, anywhere, strict=True) if flag]
        digest.broadcast(moving, self._ranks, what)
        self._last[key] = self._bytes(tensors) if moving else now

    @staticmethod
    def _bytes(tensors: Sequence[Tensor]) -> Tensor:
        device = tensors[0].device
        return torch.cat([raw(tensor.detach()).to(device) for tensor in tensors])


def _changed(now: Tensor, before: Tensor | None, sizes: Sequence[int]) -> Tensor:
    """Which of the parts of these bytes differ, one byte each."""
    flags = torch.zeros(len(sizes), dtype=torch.uint8, device=now.device)
    if before is None or len(before) != len(now):
        return flags + 1
    ends = torch.tensor(list(accumulate(sizes)), device=now.device)
    flags[torch.bucketize((now != before).nonzero().flatten(), ends, right=True)] = 1
    return flags


__all__ = ["Followers"]
