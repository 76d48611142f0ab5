"""Memory that is used again: fresh pages fault in at a fifth of the speed of a copy, and the C library gives large
blocks back at every free."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

__all__ = ["Scratch", "keep_pages", "own"]

_KEPT = 1 << 26
"""Bytes that a thread keeps under one name at the most; what is longer computes long enough to be made anew."""


class Scratch:
    """Tensors by name and device, of whatever content; they are the taker's until the next one asks for that name.

    Args:
        kept: bytes that are kept under one name at the most; unless given, all.

    >>> scratch = Scratch()
    >>> first, second = (scratch.take("sum", (2, 3), torch.float32, torch.device("cpu")) for _ in range(2))
    >>> first.shape, first.data_ptr() == second.data_ptr()
    (torch.Size([2, 3]), True)
    """

    def __init__(self, kept: int | None = None) -> None:
        self._kept = kept
        self._held: dict[tuple[str, torch.device], Tensor] = {}
        self._lent: dict[tuple[str, torch.device], Tensor] = {}  # the last one: most ask for the same again

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """A contiguous tensor."""
        key = name, device
        lent = self._lent.get(key)
        if lent is not None and lent.shape == shape and lent.dtype == dtype:
            return lent
        size, held = prod(shape) * dtype.itemsize, self._held.get(key)
        with torch.inference_mode(False):  # else nothing could be written to it outside of that mode
            if held is None or len(held) < size:
                held = torch.empty(size, dtype=torch.uint8, device=device)
            lent = held[:size].view(dtype).view(*shape)
        if type(held) is Tensor and (self._kept is None or size <= self._kept):  # none of a tracer's
            self._held[key], self._lent[key] = held, lent
        return lent


class _Own(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch(_KEPT)


_own = _Own()


def own(name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """This thread's scratch on a CPU; elsewhere fresh memory, which the device's allocator keeps itself."""
    if device.type == "cpu":
        return _own.scratch.take(name, shape, dtype, device)
    return torch.empty(*shape, dtype=dtype, device=device)


_GLIBC_MOST = 32 << 20
"""Bytes from which on glibc maps every block by itself and gives it back when it is freed (mallopt(3))."""


def keep_pages() -> None:
    """Let the C library keep blocks of up to 32 MiB that are freed, for the next step's results.

    glibc maps a block as long as the longest that it has seen freed, or longer, by itself: a step then faults in fresh
    pages for its longest stacks (10,000 a step of GPT 6x384, a twentieth of its time). One block that is freed here,
    and never written to, is longer than they are.
    """
    torch.empty(_GLIBC_MOST - (1 << 13), dtype=torch.uint8)
