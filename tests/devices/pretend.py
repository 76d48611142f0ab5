"""A pretend accelerator: real numbers in a CPU's memory, behind tensors that say they are on another device.

It computes what a CPU computes, and does what a GPU would make the host wait for only where a test allows it. It can
write down the operators of a stretch of code and run them again on the same memory, as a CUDA graph does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = ["DEVICE", "HostWaits", "Pretend", "Recording", "pretend", "real"]

aten = torch.ops.aten
#: What reads a device's memory to know a number, a truth or a shape.
READS = {
    aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default,
    aten._unique2.default, aten.repeat_interleave.Tensor, aten.bincount.default, aten._linalg_svd.default,
    aten.linalg_svd.default, aten.allclose.default,
}  # fmt: skip
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._unsafe_index.Tensor}


class HostWaits(AssertionError):
    """The host would wait for the device here."""


class _Module:
    """What torch asks a device's module."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:  # other tests must not take it for an accelerator
        return False

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """No randomness."""

    def get_rng_state(self, device: Any = 0) -> Tensor:
        """What fork_rng saves of every device, in whichever test of this process."""
        return torch.zeros(0, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        """And puts back."""

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class _Absent(backend_registration._DummyPrivateUse1Hook):
    def is_available(self) -> bool:  # other tests must not take it for an accelerator
        return False


backend_registration._setup_privateuseone_for_python_backend("pretend", _Module(), hook=_Absent())
DEVICE = torch.device("pretend:0")


class Pretend(Tensor):
    """A tensor of the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretend:
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        _wait("tolist")
        return self.inner.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretend({self.inner})"


class Recording:
    """Operators in order, with the memory that they read and write."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        """Run them again: every result into the memory that it had."""
        for func, args, kwargs, results in self.calls:
            for old, new in zip(tree_leaves(results), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class _Device:
    watch = False
    waits: ClassVar[list[str]] = []
    recording: Recording | None = None


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    _check(func, args, kwargs)
    ours = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Pretend)]
    target = kwargs.get("device")
    there = target is not None and torch.device(target).type == DEVICE.type
    leaves = target is not None and not there
    inner_args, inner_kwargs = tree_map_only(Pretend, lambda x: x.inner, (args, kwargs))
    if there:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    if (
        (there or leaves)
        and func is aten._to_copy.default
        and inner_args[0].dtype == inner_kwargs.get("dtype", inner_args[0].dtype)
    ):
        result = inner_args[0].clone()
    else:
        result = func(*inner_args, **inner_kwargs)
    on_device = there or (bool(ours) and not leaves)
    if _Device.recording is not None and on_device:
        _Device.recording.calls.append((func, inner_args, inner_kwargs, result))
    if not on_device:
        return result
    outer = {id(x.inner): x for x in ours}
    return tree_map_only(Tensor, lambda x: outer.get(id(x)) if id(x) in outer else Pretend(x), result)


def _check(func: Any, args: Any, kwargs: Any) -> None:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [x for x in tensors if isinstance(x, Pretend)]
    target = kwargs.get("device")
    moves = target is not None and bool(tensors) and torch.device(target).type != tensors[0].device.type
    mixed = bool(ours) and any(not isinstance(x, Pretend) and x.ndim for x in tensors)
    copies = func is aten.copy_.default and isinstance(args[0], Pretend) != isinstance(args[1], Pretend)
    masks = func in INDEXED and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    touches = bool(ours) or (target is not None and torch.device(target).type == DEVICE.type)
    if touches and (moves or mixed or copies or masks or func in READS):
        _wait(str(func))


def _wait(what: str) -> None:
    _Device.waits.append(what)
    if _Device.watch:
        raise HostWaits(f"{what} makes the host wait for the device")


class _Factories(TorchDispatchMode):
    """Catches what makes tensors of the device from nothing, or from a CPU's."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        target = kwargs.get("device")
        if target is not None and torch.device(target).type == DEVICE.type:
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def pretend(*, waits: bool = True, record: Recording | None = None) -> Iterator[list[str]]:
    """Inside, tensors can be made on the device; what makes the host wait is listed, or an error without ``waits``."""
    before = _Device.watch, _Device.waits, _Device.recording
    _Device.watch, _Device.waits, _Device.recording = not waits, [], record
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) is then a copy that a mode can see
    try:
        with _Factories():
            yield _Device.waits
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        _Device.watch, _Device.waits, _Device.recording = before


def real(x: Tensor) -> Tensor:
    """What a tensor of the device holds."""
    return x.inner if isinstance(x, Pretend) else x.detach().inner  # type: ignore[attr-defined]
