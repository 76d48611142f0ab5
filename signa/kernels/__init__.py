"""Which code packs and unpacks on a GPU: torch's operators, or Triton kernels that do the same in one pass.

Both write the same bits (``tests/laws/test_kernels.py``), so this is a choice of speed alone, and ranks need not agree.
A CPU has numpy and torch; there the kernels run under Triton's interpreter alone (``TRITON_INTERPRET=1``), for tests.
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

__all__ = ["VARIABLE", "Choice", "one_pass_for", "use"]

VARIABLE = "SIGNA_KERNELS"
"""The environment variable that chooses for a whole process; unset, it is ``auto``."""

Choice = Literal["auto", "eager", "triton"]
"""``auto``: Triton on a GPU where it has shown that it works, else torch. ``eager``: torch. ``triton``: Triton on a
GPU, or an error that says why not."""

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
        Fault: there is no such choice, or ``triton`` was chosen and cannot be imported.
    """
    choice = _used[-1] if _used else _known(os.environ.get(VARIABLE, "auto"), VARIABLE)
    interpreted = device.type == "cpu" and choice == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if choice == "eager" or not (device.type == "cuda" or interpreted):
        return None
    if choice == "auto" and not _works_on(device):
        return None
    try:
        return _load()
    except ImportError as error:
        raise Fault(
            f"{VARIABLE} or kernels.use chose 'triton', which cannot be imported",
            because=str(error),
            instead="install the triton that your torch names (its CUDA wheels bring it), or choose 'auto'",
        ) from error


def _known(choice: str, where: str) -> str:
    if choice not in get_args(Choice):
        raise Fault(f"{where} has no '{choice}'", instead=f"write one of {', '.join(get_args(Choice))}")
    return choice


def _load() -> Any:
    from . import one_pass

    return one_pass


@lru_cache(maxsize=64)
def _works_on(device: torch.device) -> bool:
    """Whether the kernels compile there and keep their word. It takes one look at the result, once per device.

    Triton needs a C compiler and a GPU of some age; without triton there is nothing to advise.
    """
    try:
        _load().prove(device)
    except ImportError:
        return False
    except Exception as error:  # of a compiler, a linker, a driver: whatever it is, torch's operators do the same
        text = f"signs are packed by torch's operators on {device}: the Triton kernels fail there ({error!r})"
        warnings.warn(f"{text}; {VARIABLE}=eager leaves them out", Advice, stacklevel=2)
        return False
    return True
