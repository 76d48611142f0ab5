"""A small model with awkward gradients, and a few steps of it: eagerly, or captured once and then replayed."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

import signa

SHAPES = {"a.weight": (6, 8), "b.weight": (6, 8), "c.weight": (70, 5), "c.bias": (70,)}
DECAY, GAMMA = 0.1, 0.9
FORMS: tuple[tuple[str, Any], ...] = (
    ("signmuon", "int8"), ("lion", "bfloat16"), ("adamw", "int8"), ("ef_signsgd", "bfloat16"),
    ("ef21muonsign", {"momentum": "int8"}),
)  # fmt: skip


def in_fewer_bits(case: tuple[str, Any]) -> dict[str, Any]:
    """A spec whose state is held in a form."""
    return {"groups": [{"match": "*", "method": case[0], "lr": 0.02, "state": case[1]}]}


def parameters(device: Any) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return {name: nn.Parameter(torch.randn(s, generator=generator).to(device)) for name, s in SHAPES.items()}


def gradient(name: str, step: int, worker: int) -> Tensor:
    """A row of zeros everywhere; worker 1 has no opinion in step 2."""
    seed = 1000 * step + 10 * worker + list(SHAPES).index(name)
    g = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))
    g[0] = 0
    return g.zero_() if (step, worker) == (2, 1) else g


class Run:
    """Steps with a falling learning rate and weight decay, with gradients that always lie in the same memory."""

    def __init__(
        self,
        name: str | dict[str, Any],
        device: Any,
        workers: int = 1,
        absent: Collection[tuple[int, str]] = (),
        **options: Any,
    ) -> None:
        self.parameters = parameters(device)
        transport = signa.Loopback(workers)
        options |= {"lr": 0.02} if isinstance(name, str) else {}
        self.opt = signa.build(name, self.parameters.items(), transport=transport, **options)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.opt, GAMMA)
        for group in self.opt.param_groups:
            group["weight_decay"] = DECAY
        self.grads = {(j, n): p.detach().clone() for j in range(workers) for n, p in self.parameters.items()}
        self.absent, self.at = absent, 0

    def prepare(self) -> None:
        """The next step's gradients and learning rate."""
        for (j, name), grad in self.grads.items():
            grad.copy_(gradient(name, self.at, j))
        if self.at:
            self.schedule.step()
        self.at += 1

    def backward(self) -> None:
        """The gradients reach the parameters."""
        self.opt.zero_grad()
        for j in self.opt.transport.local:
            with self.opt.worker(j):
                for name, p in self.parameters.items():
                    p.grad = None if (j, name) in self.absent else self.grads[j, name]

    def step(self) -> dict[str, Tensor]:
        """One eager step, and the model."""
        self.prepare()
        self.backward()
        self.opt.step()
        return self.model()

    def model(self) -> dict[str, Tensor]:
        """On the host."""
        return {name: p.detach().clone().cpu() for name, p in self.parameters.items()}

    def state(self) -> dict[str, Tensor]:
        """On the host, as it is held."""
        held = ((name, self.opt.state[p]) for name, p in self.parameters.items())
        return {f"{name} {address}": x.clone().cpu() for name, state in held for address, x in state.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
