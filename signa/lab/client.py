"""What one worker does in a step, and which workers take part in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from .settings import Settings
from .tasks import Task, seed_of

__all__ = ["Client", "taking_part"]


def taking_part(settings: Settings, step: int) -> list[int]:
    """The workers of a step, in order: all, or the share `sample` of them (at least one), drawn without replacement.

    >>> from signa.lab.settings import read_settings
    >>> taking_part(read_settings({"workers": 10, "sample": 0.3}), 0)
    [0, 2, 7]
    """
    count = max(1, round(settings.sample * settings.workers))
    if count == settings.workers:
        return list(range(count))
    generator = torch.Generator().manual_seed(seed_of(settings.seed, "sample of workers", step))
    return sorted(torch.randperm(settings.workers, generator=generator)[:count].tolist())


class Client:
    """A worker's gradient of one step, left in the parameters' ``grad``: the mean over its draws, or the mean of the
    gradients along its own local steps, ``(W_0 - W_K) / (K local_lr)``; the parameters come back as they were."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        settings: Settings,
        autocast: Callable[[], torch.autocast],
        hold: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``hold``: inside it a backward pass is not the last one of its gradient (``SignA.no_sync``)."""
        self.task, self.model, self.autocast, self.hold = task, model, autocast, hold
        self.draws, self.steps, self.lr = settings.accumulate, settings.local_steps, settings.local_lr
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def __call__(self, worker: int, step: int) -> Tensor:
        """The mean loss on the way."""
        first = step * self.steps * self.draws
        if self.steps == 1:
            return self._gradient(worker, first)
        start = [p.detach().clone() for p in self.parameters]
        total = torch.zeros((), device=start[0].device)
        sums: list[Tensor | None] = [None] * len(start)
        for k in range(self.steps):
            total += self._gradient(worker, first + k * self.draws)
            with torch.no_grad():
                for i, p in enumerate(self.parameters):
                    if p.grad is not None:
                        p.sub_(p.grad, alpha=self.lr)
                        sums[i] = p.grad if (so_far := sums[i]) is None else so_far.add_(p.grad)
                        p.grad = None
        with torch.no_grad():
            for p, w, along in zip(self.parameters, start, sums):
                # W_0 - W_K is the same sum, but for small gradients nothing of it is left behind W's digits.
                p.grad = None if along is None else along.div_(self.steps)
                p.copy_(w)
        return total / self.steps

    def _gradient(self, worker: int, first: int) -> Tensor:
        total: Tensor | None = None
        last = first + self.draws - 1 if self.steps == 1 else None
        for draw in range(first, first + self.draws):
            with self.autocast():
                loss = self.task.loss(self.model, worker, draw)
            loss = loss if self.draws == 1 else loss / self.draws
            with nullcontext() if draw == last else self.hold():
                loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total
