"""Many runs of one method at once: a stack of independent matrices, every one with its own learning rate.

A grid search on a small problem is thousands of short runs of the same sentence. Every stage, channel and aggregator
treats leading axes as batch, so those runs are one tensor; what is left to do here is what the optimizer does around
them: hand the coins out, tell who abstains, integrate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..coins import SERVER, Coins, name_key
from ..scaling import NoScaling, Scaling
from ..sentence import Method
from ..stage import Context, Stage, State
from ..stages import Step

__all__ = ["Batched"]


class Batched:
    """B runs of a method, each on its own m x n matrix: ``x`` (B, m, n) is what the replicas hold.

    Every run is what :func:`signa.build` makes of one parameter of that name and seed, coins included. They are apart
    by rounding alone: a learning rate of one's own is multiplied before it is subtracted, which a step with one number
    does at once (1 ulp of the update a step), and a product of matrices may add in another order in a stack.

    Shapes: x0 (B, m, n); gradients (N, B, m, n) for N workers; lr (B,) or one number.

    Args:
        scaling: the layers' multiplier of the learning rate.
        name, seed: of the coins, so a run does not depend on its neighbours: one name for all runs, which then share
            their coins (what a grid of learning rates wants), or one for each (what a set of seeds wants).

    >>> import signa
    >>> runs = Batched(signa.method("signsgd"), torch.zeros(2, 1, 2))
    >>> runs.step(torch.tensor([[3.0, -1.0]]).expand(1, 2, 1, 2), torch.tensor([0.1, 0.5]))
    >>> runs.x
    tensor([[[-0.1000,  0.1000]],
    <BLANKLINE>
            [[-0.5000,  0.5000]]])
    """

    def __init__(
        self,
        method: Method,
        x0: Tensor,
        *,
        workers: int = 1,
        scaling: Scaling | None = None,
        weight_decay: float = 0.0,
        name: str | Sequence[str] = "weight",
        seed: int = 0,
    ) -> None:
        self.method, self.workers, self.seed, self.steps = method, workers, seed, 0
        self.x = x0.clone()
        self.direction = torch.zeros_like(x0)  # what the last step integrated
        self._scale = method.multiplier(NoScaling() if scaling is None else scaling, *x0.shape[-2:])
        self._decay = weight_decay
        self._keys = [name_key(each) for each in ([name] * len(x0) if isinstance(name, str) else name)]
        zero = torch.zeros_like(x0)
        rows = zero.expand(workers, *x0.shape)
        down = x0 if method.step_address.startswith("server.") else zero
        self.state: dict[str, State] = {address: stage.init(rows) for address, stage in method.stages("worker")}
        self.state["worker.up"] = method.up.feedback.sender(rows)
        self.state["server.aggregate"] = method.aggregate.init(workers, zero)
        self.state["server.up"] = method.up.feedback.receiver(zero)
        for address, stage in method.stages("server"):
            self.state[address] = stage.init(x0 if isinstance(stage, Step) else zero)
        self.state["server.down"] = method.down.feedback.sender(down)
        self.state["replica.down"] = method.down.feedback.receiver(down)
        for address, stage in method.stages("replica"):
            self.state[address] = {"x": self.x} if isinstance(stage, Step) else stage.init(zero)

    @property
    def exact(self) -> Tensor:
        """The server's model X where the method keeps one (EF21-P), else ``x``."""
        return self.state[self.method.step_address]["x"]

    @torch.no_grad()
    def step(self, gradients: Tensor, lr: Tensor | float) -> None:
        """One step of every run, from its workers' gradients (borrowed)."""
        method, x = self.method, gradients
        decay, coupled = self._decay, method.coupled
        parameter = self.x.expand_as(gradients) if coupled and decay else None
        ctx = Context(weight_decay=decay if coupled else 0.0, parameter=parameter, coin=self._coins(self.workers))
        for address, stage in method.stages("worker"):
            x = stage(x, self.state[address], ctx.at(address))
        x = method.up.encode(x, self.state["worker.up"], ctx.at("up"))
        active = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if not method.aggregate.counts_silent:  # a matrix that is zero throughout is no opinion
            active = x.abs().amax((-2, -1)).ne(0)
        ctx = Context(coin=self._coins(0))
        x = method.aggregate(x, active, replace(ctx.at("aggregate"), memory=self.state["server.aggregate"]))
        x = method.up.decode(x, self.state["server.up"])
        for address, stage in method.stages("server"):
            x = self._stage(address, stage, x, ctx, lr)
        x = method.down.encode(x, self.state["server.down"], ctx.at("down"))
        x = method.down.decode(x, self.state["replica.down"])
        for address, stage in method.stages("replica"):
            x = self._stage(address, stage, x, ctx, lr)
        if x is not self.x:
            self.x.copy_(x)
        self.steps += 1

    def _stage(self, address: str, stage: Stage, x: Tensor, ctx: Context, lr: Tensor | float) -> Tensor:
        """One stage; the step is done here, since its own learning rate is one number."""
        if not isinstance(stage, Step):
            return stage(x, self.state[address], ctx.at(address))
        self.direction, model = x, self.state[address]["x"]
        rate = torch.as_tensor(lr, dtype=torch.float64, device=x.device).view(-1, 1, 1)
        if self._decay and not self.method.coupled:
            shrink = (rate * self._decay).to(x.dtype)
            model.mul_(1 - (shrink * (x * model >= 0) if stage.decay == "cautious" else shrink))
        return model.sub_(x * (rate * self._scale).to(x.dtype))

    def _coins(self, workers: int) -> Coins:
        """Those of so many workers; of the server for none."""
        own = range(workers) if workers else [SERVER]
        actors = [actor for actor in own for _ in self._keys]
        return Coins(self.seed, self.steps, self._keys * len(own), [0] * len(actors), actors)

    def keep(self, rows: Tensor) -> None:
        """Go on with these runs alone: a mask (B,), or their numbers."""
        for address, state in self.state.items():
            worker = address.startswith("worker.")
            for name, value in state.items():
                state[name] = value[:, rows] if worker else value[rows]
        self._keys = [self._keys[row] for row in torch.arange(len(self._keys))[rows].tolist()]
        self.direction = self.direction[rows]
        self.x = self.exact if self.method.step_address.startswith("replica.") else self.x[rows]
