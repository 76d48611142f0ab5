"""How far a run is: what a resume needs besides the model, the optimizer and the schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .ledger import Ledger
from .world import World

__all__ = ["Losses", "Progress"]


class Losses:
    """The mean training loss, added in float64 in the order of steps and workers, so ranks find one process' number.

    Reading a loss waits for the device, so they are kept until ``fold``.
    """

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self.total, self.count = total, count
        self._waiting: list[Tensor] = []

    def add(self, losses: Sequence[Tensor]) -> None:
        """Those of this process' workers in one step."""
        self._waiting.append(torch.stack([loss.detach() for loss in losses]))

    def fold(self, world: World) -> None:
        """Add everybody's; collective."""
        waiting, self._waiting = self._waiting, []
        rows = torch.stack(waiting).tolist() if waiting else []  # (steps, workers of this process)
        for row in world.beside(rows):
            for loss in row:  # not sum(), which compensates from Python 3.12 on
                self.total, self.count = self.total + loss, self.count + 1

    def take(self, world: World) -> float:
        """The mean since the last one; collective."""
        self.fold(world)
        mean = self.total / self.count
        self.total, self.count = 0.0, 0
        return mean


@dataclass
class Progress:
    """Steps done, tokens and seconds spent in them, and what is measured on the way."""

    ledger: Ledger
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    val_loss: float | None = None
    losses: Losses = field(default_factory=Losses)

    def export(self, world: World) -> dict[str, Any]:
        """As plain data; collective."""
        self.losses.fold(world)
        return {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "val_loss": self.val_loss,
            "losses": [self.losses.total, self.losses.count],
            "ledger": self.ledger.state_dict(),
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.step, self.tokens = data["step"], data["tokens"]
        self.seconds, self.val_loss = data["seconds"], data["val_loss"]
        self.losses = Losses(*data["losses"])
        self.ledger.load_state_dict(data["ledger"])
