"""Buffers that training writes (BatchNorm's statistics) follow worker 0's on every rank."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from ..errors import LayoutMismatch, a_or_an
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
        """Make them equal everywhere; collective.

        Raises:
            LayoutMismatch: a buffer has another shape or dtype on some rank.
        """
        saved = [(m, name) for m, name in buffers if name not in m._non_persistent_buffers_set]
        if not saved or self._ranks.size == 1:
            return
        found = [getattr(module, name) for module, name in saved]
        tensors = [tensor for tensor in found if tensor is not None]
        key = tuple((id(module), name) for module, name in saved)
        now = self._bytes(tensors)
        changed = iter(_changed(now, self._last.get(key), [tensor.nbytes for tensor in tensors]))
        # One number a buffer: twice a hash of what it is, and whether it changed.
        own = [
            0 if t is None else 2 * zlib.crc32(f"{tuple(t.shape)} {t.dtype}".encode()) + next(changed) for t in found
        ]
        wire = torch.tensor(own).to(self._ranks.control).view(torch.uint8)
        came = self._ranks.gather(wire, [len(wire)] * self._ranks.size, what)
        table = torch.stack([part.view(torch.int64) for part in came])
        self._refuse_shapes(saved, found, (table >> 1).tolist(), what)
        moving = [t for t, flag in zip(found, (table & 1).any(0).tolist(), strict=True) if flag and t is not None]
        digest.broadcast(moving, self._ranks, what)
        self._last[key] = self._bytes(tensors) if moving else now

    def _refuse_shapes(self, saved: Buffers, found: Sequence[Tensor | None], table: list[list[int]], what: str) -> None:
        for rank, row in enumerate(table):
            for (module, name), tensor, here, there in zip(saved, found, table[self._ranks.rank], row, strict=True):
                if here != there:
                    own = "nothing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
                    text = f"buffer '{name}' of {a_or_an(type(module).__name__)} is {own} on rank {self._ranks.rank}"
                    text += f" and something else on rank {rank} in {what}"
                    raise self._ranks.meet(LayoutMismatch, f"{text}: register it with persistent=False")

    @staticmethod
    def _bytes(tensors: Sequence[Tensor]) -> Tensor:
        device = tensors[0].device if tensors else torch.device("cpu")
        nothing = torch.zeros(0, dtype=torch.uint8, device=device)
        return torch.cat([nothing, *(raw(tensor.detach()).to(device) for tensor in tensors)])


def _changed(now: Tensor, before: Tensor | None, sizes: Sequence[int]) -> list[bool]:
    """Which of the parts of these bytes differ."""
    if before is None or len(before) != len(now):
        return [True] * len(sizes)
    ends = torch.tensor(list(accumulate(sizes)), device=now.device)
    parts = set(torch.bucketize((now != before).nonzero().flatten(), ends, right=True).tolist())
    return [at in parts for at in range(len(sizes))]


__all__ = ["Followers"]
