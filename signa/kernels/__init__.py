"""Which code packs and unpacks: torch's and numpy's operators, or kernels that do the same in one pass.

On a GPU they are Triton's, on a CPU C's. All write the same bits (``tests/laws/test_kernels.py``), so this is a choice
of speed alone, and ranks need not agree. Triton's run on a CPU under its interpreter (``TRITON_INTERPRET=1``), for
tests.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, get_args

import torch

from ..errors import Advice, Fault
from .proof import prove

__all__ = ["VARIABLE", "Choice", "name_for", "native_for", "one_pass_for", "use"]

VARIABLE = "SIGNA_KERNELS"
"""The environment variable that chooses for a whole process; unset, it is ``auto``."""

Choice = Literal["auto", "eager", "triton", "native"]
"""``auto``: Triton on a GPU and C on a CPU where they have shown that they work. ``eager``: torch and numpy.
``triton``: Triton on a GPU, or an error that says why not. ``native``: C on a CPU, or an error that says why not."""

_CHOICES: tuple[str, ...] = get_args(Choice)
#: What is compiled for a device, by its type, and what that takes.
KINDS = {"cuda": "triton", "cpu": "native"}
_NEEDS = {
    "triton": "install the triton that your torch names (its CUDA wheels bring it)",
    "native": "install a C compiler (cc, or what CC names)",
}
_used: list[str] = []


@contextmanager
def use(choice: Choice) -> Iterator[None]:
    """Inside, this choice holds instead of the environment's, in every thread.

    Raises:
        Fault: there is no such choice.

    >>> with use("eager"):
    ...     print(one_pass_for(torch.device("cuda")))
    None
    """
    _used.append(_known(choice, "signa.kernels.use"))
    try:
        yield
    finally:
        _used.pop()


def one_pass_for(device: torch.device) -> Any:
    """The module of kernels for tensors on a device, or None where numpy or torch do the work.

    Raises:
        Fault: there is no such choice, or what was chosen cannot be imported or compiled.
    """
    choice = _chosen()
    if choice == "auto":
        kind = KINDS.get(device.type)
        return _load(kind) if kind and _works_on(device) else None
    interpreted = choice == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    if choice != KINDS.get(device.type) and not interpreted:
        return None
    try:
        return _load(choice)
    except (ImportError, RuntimeError, OSError) as error:
        raise Fault(
            f"{VARIABLE} or kernels.use chose '{choice}', which is not to be had",
            because=str(error),
            instead=f"{_NEEDS[choice]}, or choose 'auto'",
        ) from error


def name_for(device: torch.device) -> str:
    """``triton``, ``native`` or ``eager``: who packs on a device."""
    return getattr(one_pass_for(device), "KIND", "eager")


def native_for(device: torch.device) -> Any:
    """The module of C loops, where they are what :func:`one_pass_for` gives."""
    found = one_pass_for(device) if device.type == "cpu" else None
    return found if getattr(found, "KIND", "") == "native" else None


def _chosen() -> str:
    return _used[-1] if _used else _known(os.environ.get(VARIABLE, "auto"), VARIABLE)


def _known(choice: str, where: str) -> str:
    if choice not in _CHOICES:
        raise Fault(f"{where} has no '{choice}'", instead=f"write one of {', '.join(_CHOICES)}")
    return choice


@lru_cache(maxsize=2)
def _load(kind: str) -> Any:
    if kind == "triton":
        from . import one_pass

        return one_pass
    from . import native
    from .compiled import library

    library()
    return native


@lru_cache(maxsize=64)
def _works_on(device: torch.device) -> bool:
    """Whether the kernels compile there and keep their word. It takes one look at the result, once per device.

    They need a C compiler, and a GPU of some age; without triton or a compiler there is nothing to advise.
    """
    kind = KINDS[device.type]
    try:
        prove(_load(kind), device)
    except ImportError:
        return False
    except Exception as error:  # of a compiler, a linker, a driver: whatever it is, torch's operators do the same
        text = f"signs are packed by torch's operators on {device}: the {kind} kernels fail there ({error!r})"
        warnings.warn(f"{text}; {VARIABLE}=eager leaves them out", Advice, stacklevel=2)
        return False
    return True
