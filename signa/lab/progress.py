"""How far a run is: what a resume needs besides the model, the optimizer and the schedule."""

from __future__ import annotations

import math
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

    Reading a loss waits for the device, so they are kept until ``fold``. ``each`` are the means of the single steps.
    """

    def __init__(self, total: float = 0.0, count: int = 0, each: Sequence[float] = ()) -> None:
        self.total, self.count, self.each = total, count, list(each)
        self._waiting: list[list[Tensor]] = []

    def add(self, losses: Sequence[Tensor]) -> None:
        """Those of this process' workers that took part in one step."""
        self._waiting.append([loss.detach() for loss in losses])

    def fold(self, world: World) -> None:
        """Add everybody's; collective."""
        waiting, self._waiting = self._waiting, []
        flat = [loss for row in waiting for loss in row]
        numbers = iter(torch.stack(flat).tolist() if flat else [])  # read at once: each reading waits for the device
        rows = [[next(numbers) for _ in row] for row in waiting]
        for row in world.beside(rows):
            own = 0.0
            for loss in row:  # not sum(), which compensates from Python 3.12 on
                self.total, self.count, own = self.total + loss, self.count + 1, own + loss
            self.each.append(own / len(row) if row else math.nan)

    def take(self, world: World) -> tuple[float, list[float]]:
        """The mean since the last one, and those of the steps in it; collective."""
        self.fold(world)
        mean, each = self.total / self.count, self.each
        self.total, self.count, self.each = 0.0, 0, []
        return mean, each


@dataclass
class Progress:
    """Steps done, examples seen and seconds spent in them, and what is measured on the way."""

    ledger: Ledger
    step: int = 0
    examples: int = 0
    seconds: float = 0.0
    metrics: dict[str, float] | None = None
    losses: Losses = field(default_factory=Losses)

    def export(self, world: World) -> dict[str, Any]:
        """As plain data; collective."""
        self.losses.fold(world)
        return {
            "step": self.step,
            "examples": self.examples,
            "seconds": self.seconds,
            "metrics": self.metrics,
            "losses": [self.losses.total, self.losses.count, self.losses.each],
            "ledger": self.ledger.state_dict(),
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.step, self.examples = data["step"], data["examples"]
        self.seconds, self.metrics = data["seconds"], data["metrics"]
        self.losses = Losses(*data["losses"])
        self.ledger.load_state_dict(data["ledger"])
