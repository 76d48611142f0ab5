"""Accelerate on several processes: a DistributedDataParallel that leaves the gradients to the optimizer's own wire."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from ..lab.refusal import refusal
from ..transport import silence

__all__ = ["own_wire"]


def own_wire(**options: Any) -> Any:
    """Accelerate's ``DistributedDataParallelKwargs(**options)`` of a wrapper that sends no gradients.

    ``accelerator.ddp_handler = own_wire()`` before ``prepare()``, and ``trainer.accelerator.ddp_handler = own_wire()``
    before ``train()``, where the optimizer has ``transport=signa.Group()``. Otherwise the wrapper would average the
    gradients in full precision first, and every worker would send the same signs, which SignA refuses.

    Raises:
        SpecError: Accelerate is not installed.
    """
    try:
        base: Any = import_module("accelerate").DistributedDataParallelKwargs
    except ImportError:
        raise refusal(
            "own_wire() needs Accelerate",
            because="it is not installed",
            instead="pip install accelerate; a wrapper of your own: signa.transport.silence(model)",
        ) from None

    class OwnWire(base):  # type: ignore[misc]
        """Registers no hook of Accelerate's, but one that sends nothing."""

        def register_comm_hook(self, model: DistributedDataParallel) -> None:
            """Called by Accelerate when it has wrapped a model."""
            silence(model)

    return OwnWire(**options)
