"""Many runs of a method over configurations and instances, in step, and what they came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ...sentence import Method
from ..batched import Batched
from .problem import Problem

__all__ = ["DIVERGED", "FACTORS", "Best", "Runs", "Schedule", "Trial"]

DIVERGED = 1e12
"""A value of F above this ends a run."""

Schedule = Literal["const", "sqrt", "linear"]
FACTORS: dict[Schedule, Callable[[int, int], float]] = {
    "const": lambda t, T: 1.0,
    "sqrt": lambda t, T: 1 / math.sqrt(1 + t),
    "linear": lambda t, T: max(0.0, 1 - t / T),
}
"""What multiplies the learning rate at step t of T. Only ``linear`` depends on T: a run of T steps with another is the
beginning of every longer one."""


@dataclass(frozen=True)
class Trial:
    """One configuration of a method."""

    lr: float
    beta: float = 0.0
    schedule: Schedule = "const"


class Runs:
    """Every trial on every instance: row ``c I + i`` is trial c on instance i. All trials share beta.

    ``look`` before every ``step``. ``rows`` are the numbers of the rows that are still there.

    >>> from signa.lab.synthetic import METHODS, Instances
    >>> problem = Instances(rows=4, columns=3, seeds=(1, 2)).build()
    >>> runs = Runs(METHODS["sgd"].method(0.0), problem, [Trial(0.5), Trial(1.0)], 10)
    >>> before, _ = runs.look(); runs.step(); after, _ = runs.look()
    >>> bool((after < before).all()), runs.rows.tolist()
    (True, [0, 1, 2, 3])
    """

    def __init__(self, method: Method, problem: Problem, trials: Sequence[Trial], steps: int) -> None:
        count = len(trials) * len(problem)
        self.rows = torch.arange(count)
        self.steps, self.t = steps, 0
        self._problem = problem.rows(self.rows % len(problem))
        self._lr = torch.tensor([trial.lr for trial in trials], dtype=torch.float64).repeat_interleave(len(problem))
        self._schedules = tuple(FACTORS)
        which = torch.tensor([self._schedules.index(trial.schedule) for trial in trials])
        self._which = which.repeat_interleave(len(problem))
        self.optimizer = Batched(method, self._problem.x0)
        self.gradient = torch.empty(0)

    def look(self) -> tuple[Tensor, Tensor]:
        """(F, ||gradient||_F) of every row at the model that counts (X of EF21-P); ``gradient`` holds the gradient."""
        value, self.gradient = self._problem.look(self.optimizer.exact)
        return value, torch.linalg.vector_norm(self.gradient, dim=(-2, -1))

    def step(self) -> None:
        """One step of every row; gradients are taken at what the replicas hold (W of EF21-P)."""
        held, exact = self.optimizer.x, self.optimizer.exact
        gradient = self.gradient if held is exact else self._problem.gradient(held)
        factors = torch.tensor([FACTORS[name](self.t, self.steps) for name in self._schedules], dtype=torch.float64)
        self.optimizer.step(gradient[None], self._lr * factors[self._which])
        self.t += 1

    def alignment(self) -> Tensor:
        """``rho = <gradient, d> / (||gradient|| ||d||)`` of the last step, (R,)."""
        d, g = self.optimizer.direction.flatten(1), self.gradient.flatten(1)
        return torch.nn.functional.cosine_similarity(g, d, dim=1, eps=1e-30)

    def keep(self, mask: Tensor) -> None:
        """Drop the other rows."""
        if not bool(mask.all()):
            self.rows, self._lr, self._which = self.rows[mask], self._lr[mask], self._which[mask]
            self._problem = self._problem.rows(mask)
            self.gradient = self.gradient[mask]
            self.optimizer.keep(mask)


@dataclass
class Best:
    """What every row has reached, dropped ones too.

    ``iterations``: t + 1 of the first F at or below the target, else ``steps``; ``f``, ``gnorm``: the least so far;
    ``diverged``: F was not finite or above 1e12 (such a row has ended: it reaches nothing more).
    """

    count: int
    steps: int
    target: float = 0.0
    iterations: Tensor = field(init=False)
    f: Tensor = field(init=False)
    gnorm: Tensor = field(init=False)
    diverged: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.iterations = torch.full((self.count,), self.steps)
        self.f, self.gnorm = (torch.full((self.count,), torch.inf) for _ in range(2))
        self.diverged = torch.zeros(self.count, dtype=torch.bool)

    def note(self, rows: Tensor, t: int, f: Tensor, gnorm: Tensor) -> None:
        """What these rows have at step t."""
        ended = self.diverged[rows]
        first = ~ended & (f <= self.target) & (self.iterations[rows] == self.steps)
        self.iterations[rows] = torch.where(first, t + 1, self.iterations[rows])
        self.f[rows] = torch.fmin(self.f[rows], f.masked_fill(ended, torch.inf))
        self.gnorm[rows] = torch.fmin(self.gnorm[rows], gnorm.masked_fill(ended, torch.inf))
        self.diverged[rows] = ended | ~f.isfinite() | (f > DIVERGED)
