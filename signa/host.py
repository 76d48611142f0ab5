"""What the host tells a device and may know of it without waiting: a step on a GPU runs ahead of Python, and a CUDA
graph of it has no Python at all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["captured", "certain", "constant"]

_captured: set[Tensor] = set()  # what a graph reads must live as long as the graph, and nobody says when that ends


def constant(numbers: Sequence[float], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers as a tensor, to be read only. Elsewhere than on a CPU it is copied once and kept: a copy of pageable
    memory makes the host wait, and cannot be captured.

    >>> constant([2, 0], torch.device("cpu"))
    tensor([2, 0])
    """
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=dtype)
    found = _copied(tuple(numbers), device, dtype)
    if captured(device):
        _captured.add(found)
    return found


@lru_cache(maxsize=1 << 12)
def _copied(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # else it could not be used outside of that mode
        return torch.tensor(numbers, dtype=dtype, device=device)


def certain(x: Tensor) -> bool:
    """Whether x is true throughout, as far as the host knows without waiting: never, elsewhere than on a CPU.

    >>> certain(torch.tensor([True, True])), certain(torch.tensor([True, False]))
    (True, False)
    """
    return x.device.type == "cpu" and bool(x.all())


def captured(device: torch.device) -> bool:
    """Whether what is launched now goes into a CUDA graph."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
