"""Where directions become a model: the step, and coupled weight decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..kernels import native_for
from ..signal import Signal
from ..stage import Context, Stage, State, stages


@stages.register
class Step(Stage):
    """The integrator ``X <- (1 - lr wd) X - lr lam d``; puts X out.

    In ``replica`` (behind DOWN) X is the parameter itself and DOWN carries a direction. In ``server`` (before DOWN) X
    is the server's exact model and DOWN carries a model; with ``down: ef21(...)`` that is EF21-P. Weight decay is
    never multiplied by lam.

    Shapes: (..., m, n). State: x, bound to the parameter (replica) or owned (server).

    Args:
        decay: ``decoupled``, or ``cautious``: only entries with d x >= 0 decay.

    Source: arXiv 1711.05101 (decoupled decay); arXiv 2510.12402, Algorithm 1 (cautious decay).
    """

    kind: Literal["step"] = "step"
    places: ClassVar[tuple[str, ...]] = ("server", "replica")
    decay: Literal["decoupled", "cautious"] = "decoupled"

    def init(self, x0: Tensor) -> State:
        """X = X_0."""
        return {"x": x0.clone()}

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The next model."""
        model, size = state["x"], -ctx.lr * ctx.scale
        if ctx.weight_decay:
            shrink = ctx.lr * ctx.weight_decay
            decays = (torch.sign(x) * torch.sign(model) >= 0).to(model.dtype) if self.decay == "cautious" else 1
            model.mul_(1 - shrink * decays)
        # Both round once, alike: alpha takes no tensor.
        return model.addcmul_(x, size.to(model.dtype)) if isinstance(size, Tensor) else model.add_(x, alpha=size)

    def signed(self, words: Tensor, models: Sequence[Tensor], ctx: Context) -> bool:
        """One pass over the model, where a CPU has a loop for it and the step is a number."""
        size, native = -ctx.lr * ctx.scale, native_for(models[0].device)
        caution = self.decay == "cautious" and ctx.weight_decay
        if native is None or isinstance(size, Tensor) or caution or not native.reads(models):
            return False
        if ctx.weight_decay:
            torch._foreach_mul_(list(models), 1 - ctx.lr * ctx.weight_decay)
        native.add(words, models, size)
        return True

    def signal(self, s: Signal) -> Signal:
        """The model."""
        return Signal("model")


@stages.register
class Decay(Stage):
    """Coupled weight decay, ``g + wd X``, with the group's weight decay (which the step then leaves alone).

    Shapes: (..., m, n). Source: the L2 penalty's gradient; arXiv 1711.05101 says why it differs from decoupled decay.

    >>> import torch
    >>> Decay()(torch.ones(1, 1), {}, Context(weight_decay=0.5, parameter=torch.full((1, 1), 4.0)))
    tensor([[3.]])
    """

    kind: Literal["decay"] = "decay"
    places: ClassVar[tuple[str, ...]] = ("worker",)
    takes = ("gradient",)

    def __call__(self, x: Tensor, state: State, ctx: Context) -> Tensor:
        """The gradient of the penalised loss."""
        return x if ctx.parameter is None else x + ctx.weight_decay * ctx.parameter

    def signal(self, s: Signal) -> Signal:
        """A gradient still."""
        return Signal()
