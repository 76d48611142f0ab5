"""What may stand in a checkpoint: tensors and plain data; and the random generators' states as such."""

from __future__ import annotations

import random
import sys
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, a_or_an

# What torch.load(weights_only=True) reads without being told to trust anything.
_ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_MAPPINGS = (dict, OrderedDict, Counter)

Copies = dict[tuple[Any, ...], Tensor]
"""Tensors that were copied already, by where they lie: a tied weight is written once."""


def plain(value: Any, where: str, copies: Copies | None = None) -> Any:
    """A copy of plain data, its tensors in host memory, each without the storage that it is a view of.

    Raises:
        CheckpointError: something in it could not be read back without running code.
    """
    copies = {} if copies is None else copies
    if isinstance(value, Tensor) and type(value.detach()) is Tensor and not value.is_meta:
        return _copy(value.detach(), copies)
    if type(value) in _MAPPINGS:
        for key in value:
            if type(key) is not tuple and type(key) not in _ATOMS:
                raise _refusal(key, f"{where}, key {key!r:.40}")
        return type(value)({key: plain(item, f"{where}[{key!r:.40}]", copies) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(plain(item, f"{where}[{index}]", copies) for index, item in enumerate(value))
    if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 and type(value.item()) in _ATOMS:
        return value.item()
    if type(value) not in _ATOMS:
        raise _refusal(value, where)
    return value


def _copy(value: Tensor, copies: Copies) -> Tensor:
    if value.layout != torch.strided or not value.numel():
        return value.to("cpu", copy=True)
    flags = (value.is_conj(), value.is_neg())
    key = (value.data_ptr(), value.device, value.dtype, value.shape, value.stride(), flags)
    if key not in copies:
        copies[key] = value.to("cpu", copy=True)
    return copies[key]


def _refusal(value: Any, where: str) -> CheckpointError:
    kind = type(value)
    what = a_or_an(f"{kind.__module__}.{kind.__qualname__}")
    return CheckpointError(
        f"{where} is {what}, which could not be read back without running code: "
        "give it a state_dict(), or save numbers, strings, lists, dicts or tensors"
    )


def random_states(devices: Sequence[torch.device]) -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators, as plain data.

    ``devices`` are the CUDA devices in use.
    """
    version, numbers, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "cuda": [torch.cuda.get_rng_state(device) for device in devices],
    }
    if "numpy" in sys.modules:
        state = dict(sys.modules["numpy"].random.get_state(legacy=False))
        inner = {key: item.tolist() if hasattr(item, "tolist") else item for key, item in state["state"].items()}
        states["numpy"] = state | {"state": inner}
    return states


def restore_random(states: Mapping[str, Any], devices: Sequence[torch.device]) -> None:
    """Set the generators; a device's state goes to the device that is here in its place."""
    import numpy

    torch.set_rng_state(states["torch"].clone())
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    for device, state in zip(devices, states["cuda"], strict=False):
        torch.cuda.set_rng_state(state.clone(), device)
    if "numpy" in states:
        numpy.random.set_state(states["numpy"])


def cuda_devices(tensors: Sequence[Tensor]) -> list[torch.device]:
    """The CUDA devices in use: the current one, then the others that hold these tensors."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    current = torch.cuda.current_device()
    others = {tensor.device.index for tensor in tensors if tensor.device.type == "cuda"} - {current}
    return [torch.device("cuda", index) for index in (current, *sorted(others))]


__all__ = ["Copies", "cuda_devices", "plain", "random_states", "restore_random"]
