"""What a sentence means, taken literally: one matrix, one hop after the other, and none of the machinery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..coins import SERVER, Coins, name_key
from ..sentence import Method
from ..spec import ParamGroup
from ..stage import Context, Stage, State
from ..stages import Step
from .tools import sample

__all__ = ["SIZES", "STEPS", "by_hand", "gradient", "start"]

#: The matrices that are trained: ragged, high and low.
SIZES: Mapping[str, tuple[int, int]] = {"wide": (9, 21), "tall": (24, 16), "row": (1, 7)}
STEPS = 3


def start(name: str) -> Tensor:
    """A matrix as it is before the first step, (m, n)."""
    return sample(*SIZES[name], seed=name_key(name) % 1000)


def gradient(name: str, step: int, worker: int) -> Tensor:
    """A worker's gradient, (m, n): Gaussian, with exact zeros in it, as there are behind a ReLU."""
    g = sample(*SIZES[name], seed=1000 + 100 * step + 10 * worker + name_key(name) % 7)
    return torch.where(sample(*SIZES[name], seed=step).abs() < 0.1, 0.0, g)


def by_hand(group: ParamGroup, name: str, workers: int, seed: int = 0) -> list[Tensor]:
    """The matrix (m, n) after every step: gradient -> worker -> up -> aggregate -> server -> down -> replica.

    Nothing is stacked, packed or sent, and every component is called on (1, m, n).
    """
    one = _One(group, name, workers, seed)
    return [one.step(t).clone()[0] for t in range(STEPS)]


class _One:
    """A matrix X of (1, m, n), and everybody's memory."""

    def __init__(self, group: ParamGroup, name: str, workers: int, seed: int) -> None:
        self.group, self.name, self.seed, self.workers = group, name, seed, range(workers)
        self.x = start(name)[None]
        self.method: Method = group.method
        self.lam = self.method.multiplier(group.scaling, *self.x.shape[-2:])
        zero, up, down = torch.zeros_like(self.x), self.method.up.feedback, self.method.down.feedback
        self.exact = self.method.step_address.startswith("server.")
        origin = self.x if self.exact else zero  # what travels down begins as
        self.state: dict[str, State] = {}
        for j in self.workers:
            self.state |= {f"{j} {address}": stage.init(zero) for address, stage in self.method.stages("worker")}
            self.state[f"{j} up"] = up.sender(zero)
        for part in ("server", "replica"):
            for address, stage in self.method.stages(part):
                own = {"x": self.x} if isinstance(stage, Step) else stage.init(zero)
                self.state[address] = stage.init(self.x) if part == "server" and isinstance(stage, Step) else own
        self.state["aggregate"] = self.method.aggregate.init(workers, zero)
        self.state |= {"up": up.receiver(zero), "down sender": down.sender(origin), "down": down.receiver(origin)}

    def step(self, t: int) -> Tensor:
        method = self.method
        messages = torch.stack([self._message(t, j) for j in self.workers])  # (N, 1, m, n)
        ctx = self._context(t, SERVER)
        speaks = messages.flatten(-2).any(-1) | method.aggregate.counts_silent | method.up.feedback.counts_absent
        voting = replace(ctx.at("aggregate"), memory=self.state["aggregate"])
        x = method.up.decode(method.aggregate(messages, speaks, voting), self.state["up"])
        x = self._through(method.stages("server"), x, ctx)
        x = method.down.encode(x, self.state["down sender"], ctx.at("down"))
        x = self._through(method.stages("replica"), method.down.decode(x, self.state["down"]), ctx)
        self.x.copy_(x)
        return self.x

    def _message(self, t: int, worker: int) -> Tensor:
        decay = self.group.weight_decay if self.method.coupled else 0.0
        ctx, x = self._context(t, worker, decay, self.x if decay else None), gradient(self.name, t, worker)[None]
        x = self._through(self.method.stages("worker"), x, ctx, f"{worker} ")
        return self.method.up.encode(x, self.state[f"{worker} up"], ctx.at("up"))

    def _through(self, stages: Sequence[tuple[str, Stage]], x: Tensor, ctx: Context, whose: str = "") -> Tensor:
        for address, stage in stages:
            x = stage(x, self.state[whose + address], ctx.at(address))
        return x

    def _context(self, t: int, actor: int, decay: float | None = None, parameter: Tensor | None = None) -> Context:
        own = 0.0 if self.method.coupled else self.group.weight_decay
        fields: dict[str, Any] = {"lr": self.group.lr, "scale": self.lam, "parameter": parameter}
        coin = Coins(self.seed, t, [name_key(self.name)], [0], [actor])
        return Context(**fields, weight_decay=own if decay is None else decay, coin=coin)
