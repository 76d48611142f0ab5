"""What a host does in the benchmarks of whole steps: a stack of linear layers, and a step taken apart by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def stack(layers: int, width: int) -> nn.Sequential:
    """Square layers without biases, so that every entry is Muon's; the same on every host.

    He's initialisation, so that gradients neither die out nor grow on their way through many of them.
    """
    generator = torch.Generator().manual_seed(0)
    modules: list[nn.Module] = []
    for _ in range(layers):
        linear = nn.Linear(width, width, bias=False)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu", generator=generator)
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


class Trainee:
    """A model, its optimizer and this host's own data."""

    def __init__(
        self, model: Callable[[Tensor], Tensor], opt: torch.optim.Optimizer, width: int, batch: int, rank: int
    ) -> None:
        generator = torch.Generator().manual_seed(1 + rank)
        self.model, self.opt = model, opt
        self._x, self._y = (torch.randn(batch, width, generator=generator) for _ in range(2))

    def step(self) -> dict[str, Any]:
        """Forward, backward, exchange and update; seconds of the whole, of the optimizer's step, and of the CPU."""
        begun, cpu = time.perf_counter(), time.process_time()
        self.opt.zero_grad()
        nn.functional.mse_loss(self.model(self._x), self._y).backward()
        middle = time.perf_counter()
        self.opt.step()
        ended = time.perf_counter()
        return {
            "seconds": ended - begun,
            "update_seconds": ended - middle,
            "cpu_seconds": time.process_time() - cpu,
        }
