"""Gradients that are infinite or NaN: found before anything is computed with them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from .errors import Advice, NonFinite

Policy = Literal["abstain", "raise", "skip"]


def first_nonfinite(gradients: Sequence[Tensor | None]) -> int | None:
    """The index of the first gradient that holds an infinity or a NaN.

    A sum is not finite where an entry is not, and costs a fraction of isfinite on every entry; a finite tensor whose
    sum overflows is told apart by a second look.
    """
    there = [(index, grad.detach()) for index, grad in enumerate(gradients) if grad is not None]
    if not there:
        return None
    home = there[0][1].device
    sums = torch.stack([grad.sum().to(home, torch.float32) for _, grad in there])
    suspects = (~sums.isfinite()).nonzero().flatten().tolist()
    return next((there[at][0] for at in suspects if not bool(there[at][1].isfinite().all())), None)


class NonFiniteLog(Counter[tuple[int, str]]):
    """How often each (worker, parameter) had a gradient that is not finite. Every doubling of a count is told."""

    def note(self, worker: int, name: str, step: int, consequence: str) -> None:
        """Count it, and warn at the first, second, fourth, ... time."""
        self[worker, name] += 1
        count = self[worker, name]
        if count & (count - 1) == 0:
            what = f"the gradient of '{name}' of worker {worker} is not finite at step {step}"
            warnings.warn(Advice(f"{what} ({count} times so far): {consequence}"), stacklevel=6)


def refusal(worker: int, name: str, step: int) -> NonFinite:
    """What ``raise`` raises, on every process."""
    return NonFinite(
        f"the gradient of '{name}' of worker {worker} is not finite at step {step}; nothing was written: "
        "look into that worker's loss and data, or build with nonfinite='abstain' or 'skip'"
    )


__all__ = ["NonFiniteLog", "Policy", "first_nonfinite", "refusal"]
