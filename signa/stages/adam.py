"""Adam's direction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..rule import Fraction, Positive
from ..signal import Signal
from ..stage import Context, Stage, State, stages


@stages.register
class Adam(Stage):
    """``m_hat / (sqrt(v_hat) + eps)`` with ``m <- b1 m + (1 - b1) g``, ``v <- b2 v + (1 - b2) g^2``.

    Followed by ``step`` with its decoupled decay it is AdamW. The bias corrections count the steps in which the matrix
    had a gradient.

    Shapes: (..., m, n). State: m, v, start at 0; t (..., 1, 1) counts.
    Source: arXiv 1412.6980, Algorithm 1; arXiv 1711.05101, Algorithm 2.

    >>> stage, g = Adam(), torch.full((1, 2), -3.0)
    >>> stage(g, stage.init(g), Context())
    tensor([[-1.0000, -1.0000]])
    """

    kind: Literal["adam"] = "adam"
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8

    def init(self, x0: Tensor) -> State:
        """No moments, no steps."""
        m, v = (torch.zeros_like(x0, memory_format=torch.contiguous_format) for _ in range(2))
        t = torch.zeros(*x0.shape[:-2], 1, 1, dtype=torch.float64, device=x0.device)
        return {"m": m, "v": v, "t": t}

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The next direction; corrections in float64 (0.999 in float32 is off by 3e-5 of 1 - 0.999)."""
        m = state["m"].lerp_(x, 1 - self.b1)
        v = state["v"].mul_(self.b2).addcmul_(x, x, value=1 - self.b2)
        t = state["t"].add_(1)
        first, second = ((1 - b**t).to(x.dtype) for b in (self.b1, self.b2))
        return (m / first).div_((v / second).sqrt_().add_(self.eps))

    def signal(self, s: Signal) -> Signal:
        """A direction whose size no formula gives."""
        return Signal("direction")
