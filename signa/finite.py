"""Gradients that are infinite or NaN: found before anything is computed with them."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import Advice, GradientError, NonFinite
from .kernels import native_for
from .kernels.image import FLOATS

_SMALL = 1 << 14  # entries
_KIND, _DTYPE = attrgetter("shape", "dtype", "device"), attrgetter("dtype")

Policy = Literal["abstain", "raise", "skip", "ignore"]


@torch.no_grad()
def first_nonfinite(gradients: Sequence[Tensor | None]) -> int | None:
    """The index of the first gradient that holds an infinity or a NaN.

    A sum is not finite where an entry is not, and costs a fraction of isfinite on every entry; a finite tensor whose
    sum overflows is told apart by a second look. A CPU's loops look at the exponents.
    """
    there = [grad for grad in gradients if grad is not None]
    if not there or _all_finite(there):
        return None
    odd = (index for index, grad in enumerate(gradients) if grad is not None and not bool(grad.isfinite().all()))
    return next(odd, None)


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    """Whether all of these are, at least one."""
    native, kinds = native_for(gradients[0].device), set(map(_DTYPE, gradients))
    for dtype in kinds:
        alike = gradients if len(kinds) == 1 else [grad for grad in gradients if grad.dtype == dtype]
        loop = native and dtype in FLOATS and native.reads(alike)
        if not (native.finite(alike) if loop else _finite_sum(alike)):
            return False
    return True


def _finite_sum(gradients: Sequence[Tensor]) -> bool:
    """Whether the sum of every one is finite; False also where finite ones overflow. The host waits once."""
    home = gradients[0].device
    sums = torch.stack([part.sum().to(home, torch.float32) for part in _joined(gradients)])
    return bool(sums.isfinite().all())


def _joined(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The same entries in fewer tensors: a sum of a small one costs a call, whatever is in it."""
    alike: defaultdict[tuple[Any, ...], list[Tensor]] = defaultdict(list)
    for key, grad in zip(map(_KIND, gradients), gradients):
        alike[key].append(grad)
    parts: list[Tensor] = []
    for (shape, *_), group in alike.items():
        parts += [torch.stack(group)] if shape.numel() < _SMALL else group
    return parts


def culprits(local: Sequence[int], rows: Sequence[Sequence[Tensor | None]], order: Sequence[int]) -> dict[int, int]:
    """Workers with a gradient that is not finite, and the place of the first such parameter in this order."""
    found = {worker: first_nonfinite([row[at] for at in order]) for worker, row in zip(local, rows, strict=True)}
    return {worker: index for worker, index in found.items() if index is not None}


class NonFiniteLog(Counter[tuple[int, str]]):
    """How often each (worker, parameter) had a gradient that is not finite. Every doubling of a count is told."""

    def note(self, worker: int, name: str, step: int, consequence: str) -> None:
        """Count it, and warn at the first, second, fourth, ... time."""
        self[worker, name] += 1
        count = self[worker, name]
        if count & (count - 1) == 0:
            what = f"the gradient of '{name}' of worker {worker} is not finite at step {step}"
            warnings.warn(Advice(f"{what} ({count} times so far): {consequence}"), stacklevel=6)


def scaler_says(opt: Any, *, alone: bool) -> tuple[float | None, bool]:
    """What a GradScaler wants an optimizer's gradients multiplied by (None: there is no scaler), and if it found an
    infinity. ``alone``: one worker lives in this process.

    Its attributes are taken away here: after an error it would leave them behind, for a later step to stumble over.

    Raises:
        GradientError: ``scaler.unscale_`` with several workers.
    """
    found, scale = opt.__dict__.get("found_inf"), opt.__dict__.get("grad_scale")
    if found is None:
        return None, False
    opt.found_inf = opt.grad_scale = None
    if scale is None and not alone:
        raise GradientError(
            "scaler.unscale_ is not possible with several workers in one process, because it unscales the sum of "
            "their gradients and not their own: leave it out (scaler.step unscales), and clip inside the blocks"
        )
    return (1.0 if scale is None else 1.0 / float(scale.item())), bool(found)


def refusal(worker: int, name: str, step: int) -> NonFinite:
    """What ``raise`` raises, on every process."""
    return NonFinite(
        f"the gradient of '{name}' of worker {worker} is not finite at step {step}; nothing was written: "
        "look into that worker's loss and data, or build with nonfinite='abstain' or 'skip'"
    )


__all__ = ["NonFiniteLog", "Policy", "culprits", "first_nonfinite", "refusal", "scaler_says"]
