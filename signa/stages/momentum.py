"""One momentum for all: EMA, Nesterov, Lion and heavy ball."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..rule import Flag, Fraction, NonNegative
from ..signal import Signal
from ..stage import Context, Stage, State, stages


@stages.register
class Momentum(Stage):
    """``m <- beta m + (1 - beta) g;  out = (1 - nu) g + nu m``.

    nu = 1 is the exponential moving average, ``nu: beta`` is Nesterov's, nu = b1 / b2 with beta = b2 is Lion's. For
    every sign, LMO and EF21 method an EMA and a heavy ball give the same trajectory (they are positively homogeneous).

    Shapes: (..., m, n). State: m, starts at 0.

    Args:
        beta: how much of m stays.
        nu: how much of m goes out, at most 1 (beyond, a constant gradient would come out reversed at first); ``beta``
            follows beta.
        heavy_ball: divide what goes out by (1 - beta), torch.optim.SGD's momentum (dampening 0). For SGD only.

    Source: arXiv 2302.06675, Algorithm 2 (Lion); https://kellerjordan.github.io/posts/muon (Nesterov).

    >>> stage, g = Momentum(beta=0.5), torch.ones(1, 1)
    >>> stage(g, stage.init(g), Context())
    tensor([[0.5000]])
    """

    kind: Literal["momentum"] = "momentum"
    beta: Fraction = 0.95
    nu: Annotated[NonNegative, Field(le=1)] | Literal["beta"] = 1.0
    heavy_ball: Flag = False

    def init(self, x0: Tensor) -> State:
        """M = 0."""
        return {"m": torch.zeros_like(x0, memory_format=torch.contiguous_format)}

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The next direction."""
        nu = self.beta if self.nu == "beta" else self.nu
        m = state["m"].lerp_(x, 1 - self.beta)
        out = m if nu == 1 else (x * (1 - nu)).add_(m, alpha=nu)  # m itself: what follows borrows it
        return out / (1 - self.beta) if self.heavy_ball else out

    def signal(self, s: Signal) -> Signal:
        """Dense, of the same nominal size."""
        return s.but(alphabet="dense")
