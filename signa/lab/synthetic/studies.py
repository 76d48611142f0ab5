"""What is asked of a method: a study is a rule of numbers whose ``run`` answers for one method."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...rule import Count, Frozen, Positive
from .methods import Dtype, Entry, Grid
from .problem import Instances, Problem, published
from .runs import Best, Runs, Schedule, Trial
from .store import Store
from .tuning import fewest, fly, geomean, on_edge

__all__ = ["Final", "GridSearch", "Study", "Tuned"]

Horizons = Annotated[tuple[Count, ...], Field(min_length=1)]


class Study(Frozen):
    """What all of them share.

    Args:
        problem: ``published``, or instances to draw.
        dtype: of Newton-Schulz; everything else is float32.
        lrs: the grid of learning rates as ``LOW:HIGH:xPER_DECADE``; ``own`` is the method's family's.
    """

    name: ClassVar[str]
    problem: Literal["published"] | Instances = "published"
    dtype: Dtype = "bfloat16"
    lrs: str = "own"

    def instances(self) -> Problem:
        """The problems."""
        return published() if isinstance(self.problem, str) else self.problem.build()

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """The learning rates that are tried."""
        return (entry.grid if self.lrs == "own" else Grid.parse(self.lrs)).values

    @abstractmethod
    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """What it finds about one method."""


class Tuned(Study):
    """A study that tunes learning rate and momentum first.

    Args:
        momenta: the values of beta; ``own`` are the method's.
    """

    momenta: tuple[float, ...] | Literal["own"] = "own"

    def betas(self, entry: Entry) -> tuple[float, ...]:
        """The values of beta that are tried."""
        return entry.momenta if isinstance(self.momenta, str) or entry.family == "adam" else self.momenta


class GridSearch(Tuned):
    """The learning rate and momentum that reach F <= target in the fewest steps; the winner runs again, alone.

    The winner also runs with Newton-Schulz in float32, where the method has one.
    """

    name: ClassVar[str] = "grid"
    steps: Count = 5000
    target: Positive = 1e-3
    schedule: Schedule = "const"

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """Winner, iterations (mean), best F and gradient norm (geometric means)."""
        key = {"study": self.name, "method": entry.name, **self.model_dump()}
        found: dict[str, Any] = store.kept(f"grid-{entry.name}", key, lambda: self._search(entry))
        return found

    def _search(self, entry: Entry) -> dict[str, Any]:
        problem, lrs, betas = self.instances(), self.rates(entry), self.betas(entry)
        middle = sorted(betas, key=lambda beta: abs(beta - 0.5))  # a good S early drops more; no result depends on it
        groups = [[Trial(lr, beta, self.schedule) for lr in lrs] for beta in middle]
        trial, iterations = fewest(
            lambda beta: entry.method(beta, self.dtype), problem, groups, self.steps, self.target
        )
        found = {
            "lr": trial.lr,
            "beta": trial.beta,
            "on_edge": on_edge(trial, lrs, betas),
            "searched": iterations,
            **self.again(entry, trial, self.dtype, problem)[0],
        }
        if entry.orthogonalises and self.dtype != "float32":
            found["float32"] = self.again(entry, trial, "float32", problem)[0]
        return found

    def again(
        self, entry: Entry, trial: Trial, dtype: Dtype, problem: Problem
    ) -> tuple[dict[str, Any], list[Tensor], list[Tensor]]:
        """One trial alone, to the end, with the histories of F and ||gradient|| on every instance."""
        runs = Runs(entry.method(trial.beta, dtype), problem, [trial], self.steps)
        best, fs, gs = Best(len(problem), self.steps, self.target), [], []

        def each(t: int, f: Tensor, g: Tensor) -> None:
            if len(f) == len(problem):  # the common prefix
                fs.append(f)
                gs.append(g)

        fly(runs, best, each)
        reached = best.iterations < self.steps
        summary = {
            "iterations": float(best.iterations.double().mean()),
            "per_instance": best.iterations.tolist(),
            "reached": bool(reached.all()),
            "best_f": float(geomean(best.f.numpy())),
            "best_gnorm": float(geomean(best.gnorm.numpy())),
        }
        return summary, fs, gs


class Final(GridSearch):
    """The grid's winner once more, with its histories: geometric means over the instances at some hundred steps."""

    name: ClassVar[str] = "final"

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """The grid's numbers and the curves."""
        search = GridSearch(**dict(self))
        winner = search.run(entry, store)
        trial = Trial(winner["lr"], winner["beta"], self.schedule)
        summary, fs, gs = self.again(entry, trial, self.dtype, self.instances())
        at = sorted({int(t) for t in np.geomspace(1, len(fs), 250)} | set(range(min(50, len(fs)))))
        at = [t for t in at if t < len(fs)]
        curves = {
            "t": at,
            "f": [float(f"{value:.5g}") for value in geomean(torch.stack([fs[t] for t in at]).numpy())],
            "gnorm": [float(f"{value:.5g}") for value in geomean(torch.stack([gs[t] for t in at]).numpy())],
        }
        return {"lr": trial.lr, "beta": trial.beta, **summary, "curves": curves}
