"""Many runs of a method on one problem at once: every row has its own step size, length and seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...sentence import Method
from ..batched import Batched
from .base import NormName, Problem, oracle
from .noise import Noise

__all__ = ["Outcome", "Row", "run"]

QUIET = Noise()


@dataclass(frozen=True)
class Row:
    """One run: so many steps of this size from this seed's start, with this seed's noise."""

    lr: float
    steps: int
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        mean, least: of the measure (``||grad f(X_t)||_*``) over t < steps, at the exact model X.
        last: f after the last step.
        reach: the largest spectral norm that X or a replica's W had, to be held against the problem's radius.
    """

    mean: float
    least: float
    last: float
    reach: float


@torch.no_grad()
def run(
    method: Method,
    problem: Problem,
    rows: Sequence[Row],
    *,
    norm: NormName,
    workers: int = 1,
    noise: Noise = QUIET,
    measure: Callable[[Tensor], Tensor] | None = None,
) -> list[Outcome]:
    """Every row's outcome. All workers see the same f, each with noise of its own.

    No multiplier scales the step: ``X <- X - lr d``. A row does not depend on the others but by rounding. Coins are
    functions of the seed, like the start and the noise: two seeds of an even vote break their ties apart.

    Args:
        norm: whose dual measures stationarity, unless ``measure`` does: gradients (B, m, n) -> (B,).

    >>> from signa import presets
    >>> from signa.lab.smooth import Quadratic
    >>> nsgd = presets.get("nsgd").method.replace({"worker": ()})
    >>> one, two = run(nsgd, Quadratic().build(), [Row(0.1, 5), Row(0.1, 50)], norm="frobenius")
    >>> two.least < one.least
    True
    """
    seeds = sorted({row.seed for row in rows})
    of_seed = torch.tensor([seeds.index(row.seed) for row in rows])
    x0 = torch.stack([problem.start(seed) for seed in seeds])[of_seed]
    source = noise.source(seeds=seeds, workers=workers, m=problem.m, n=problem.n)
    batch = Batched(method, x0, workers=workers, name=[f"seed {row.seed}" for row in rows])
    measured = measure or oracle(norm).dual
    lr = torch.tensor([row.lr for row in rows], dtype=torch.float64)
    ends = torch.tensor([row.steps for row in rows])
    there = torch.arange(len(rows))  # the row's number of every matrix in the batch
    total, reach = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
    least = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    last = torch.zeros(len(rows), dtype=torch.float64)
    for t in range(int(ends.max()) + 1):
        done = ends[there] == t
        if bool(done.any()):
            last[there[done]] = problem.loss(batch.exact[done])
            there = there[~done]
            if not len(there):
                break
            batch.keep(~done)
        X, W = batch.exact, batch.x
        at_X = problem.gradient(X)
        size = measured(at_X)
        total[there] += size
        least[there] = torch.minimum(least[there], size)
        if problem.radius < torch.inf:
            reach[there] = torch.maximum(reach[there], _reach(X, W))
        at_W = at_X if W is X else problem.gradient(W)
        noisy = at_W.expand(workers, *at_W.shape)
        if noise.sigma:
            noisy = noisy + source.draw(t)[:, of_seed[there]]
        batch.step(noisy, lr[there])
    mean = total / ends
    return [Outcome(*map(float, values)) for values in zip(mean, least, last, reach, strict=True)]


def _reach(X: Tensor, W: Tensor) -> Tensor:
    reach: Tensor = torch.linalg.matrix_norm(X, ord=2)
    return reach if W is X else torch.maximum(reach, torch.linalg.matrix_norm(W, ord=2))
