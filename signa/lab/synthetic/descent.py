"""Three studies of the best gradient within a number of steps: alignment, horizon and conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...rule import Count, Positive
from .methods import Entry
from .problem import Instances, Problem
from .runs import Best, Runs, Schedule, Trial
from .store import Store
from .studies import Tuned
from .tuning import Values, fly, geomean, lowest, on_edge, slope, walk

__all__ = ["Alignment", "Horizon", "Kappa"]

Horizons = Annotated[tuple[Count, ...], Field(min_length=1)]


class Walked(Tuned):
    """Tuned on the best gradient norm within T steps, by walking outward from the best learning rates.

    Args:
        walk: so many points in a row that are more than ``worse`` times the best end the walk on that side, at every
            beta and schedule; 0 tries the whole grid, as the reference does.
        worse: see walk.
    """

    walk: Annotated[int, Field(ge=0)] = 2
    worse: Positive = 2.0

    def table(
        self,
        entry: Entry,
        store: Store,
        problem: Problem,
        horizons: Sequence[int],
        beta: float,
        schedule: Schedule,
        start: Sequence[int],
    ) -> dict[int, Values]:
        """(best gradient norm, best F) at every T, by the number of the learning rate; the studies share it."""
        lrs, method = self.rates(entry), entry.method(beta, self.dtype)
        key = self.model_dump(include={"problem", "dtype", "walk", "worse"}) | {
            "method": entry.name, "lrs": lrs, "beta": beta, "schedule": schedule, "horizons": horizons, "start": start,
        }  # fmt: skip

        def evaluate(at: list[int]) -> list[Values]:
            return lowest(method, problem, [Trial(lrs[i], beta, schedule) for i in at], horizons)

        found = store.kept(
            f"lowest-{entry.name}-{beta:g}-{schedule}",
            key,
            lambda: walk(len(lrs), evaluate, bad=self.walk, worse=self.worse, start=start),
        )
        return {int(i): [(g, f) for g, f in values] for i, values in found.items()}

    def tuned(
        self, entry: Entry, store: Store, schedules: Sequence[Schedule], horizons: Sequence[int], problem: Problem
    ) -> list[tuple[Trial, float, float]]:
        """The winner at every horizon by best gradient norm, then best F: (trial, gradient norm, F).

        The first beta's walk starts from points all over the grid, the others' from where it ended.
        """
        lrs = self.rates(entry)
        candidates: list[tuple[Values, Trial]] = []
        start: Sequence[int] = range(0, len(lrs), 6)
        for schedule in schedules:
            for beta in self.betas(entry):
                table = self.table(entry, store, problem, horizons, beta, schedule, start)
                if not candidates:
                    start = sorted({min(table, key=lambda i: table[i][T]) for T in range(len(horizons))})
                candidates += [(values, Trial(lrs[i], beta, schedule)) for i, values in table.items()]
        winners = []
        for T in range(len(horizons)):
            values, trial = min(candidates, key=lambda one: one[0][T])
            winners.append((trial, *values[T]))
        return winners


class Alignment(Walked):
    """How much of the gradient a step follows: ``rho_t = <grad F(X_t), d_t> / (||grad F(X_t)|| ||d_t||)``.

    Tuned on the best gradient norm within the last of ``horizons`` (the others are what `Horizon` shares), constant
    learning rate. The least and the 1 % quantile are the least over the instances, everything else their mean.
    """

    name: ClassVar[str] = "alignment"
    horizons: Horizons = (125, 250, 500, 1000, 2000)

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """The winner's distribution of rho, and the closed forms at X_0."""
        problem = self.instances()
        trial, gnorm, _ = self.tuned(entry, store, ("const",), self.horizons, problem)[-1]
        runs, rhos = Runs(entry.method(trial.beta, self.dtype), problem, [trial], self.horizons[-1]), []
        for _ in range(runs.steps):
            runs.look()
            runs.step()
            rhos.append(runs.alignment())
        rho = torch.stack(rhos).double().numpy()  # (T, I)
        low, p01, *quantiles = np.quantile(rho, [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 1], axis=0)
        return {
            "lr": trial.lr,
            "beta": trial.beta,
            "on_edge": on_edge(trial, self.rates(entry), self.betas(entry)),
            "best_gnorm": gnorm,
            "mean": rho.mean(),
            "min": low.min(),
            "p01": p01.min(),
            **{key: q.mean() for key, q in zip(("p05", "p25", "median", "p75", "p95", "max"), quantiles)},
            "negative": float((rho < 0).mean()),
            "at_start": rho[0].mean(),
            "closed_form": closed_forms(problem),
        }


def closed_forms(problem: Problem) -> dict[str, float]:
    """rho at X_0 without momentum: 1 (SGD), ``||G||_1 / (||G||_F sqrt(mn))``, ``||G||_* / (||G||_F sqrt(r))``."""
    G = problem.gradient(problem.x0).double()
    m, n = G.shape[-2:]
    size = torch.linalg.vector_norm(G, dim=(-2, -1))
    sign = G.abs().sum((-2, -1)) / (size * (m * n) ** 0.5)
    polar = torch.linalg.matrix_norm(G, "nuc") / (size * min(m, n) ** 0.5)
    return {"sgd": 1.0, "signsgd": float(sign.mean()), "muon": float(polar.mean())}


class Horizon(Walked):
    """How fast the best gradient falls with the number of steps, when everything is tuned for that number.

    At every T of ``horizons`` learning rate, momentum and schedule are tuned on the best gradient norm, and the winner
    runs again to measure the least dual norm. ``p`` is minus the slope of the log of what is named on log T (of the
    dual norm's square), ``q`` minus the slope of the log of the winning learning rate.
    """

    name: ClassVar[str] = "horizon"
    horizons: Horizons = (125, 250, 500, 1000, 2000)
    schedules: tuple[Literal["const", "sqrt"], ...] = ("const", "sqrt")

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """Winners and exponents."""
        problem, lrs, betas = self.instances(), self.rates(entry), self.betas(entry)
        winners = self.tuned(entry, store, self.schedules, self.horizons, problem)
        points = []
        for T, (trial, gnorm, f) in zip(self.horizons, winners):
            points.append(
                {
                    "T": T,
                    "lr": trial.lr,
                    "beta": trial.beta,
                    "schedule": trial.schedule,
                    "on_edge": on_edge(trial, lrs, betas),
                    "gnorm": gnorm,
                    "f": f,
                    "dual": self._dual(entry, trial, problem, T),
                }
            )
        found: dict[str, Any] = {"points": points}
        if len(points) > 1:
            fits = {key: slope(self.horizons, [p[key] for p in points]) for key in ("dual", "gnorm", "f", "lr")}  # type: ignore[misc]
            found |= {
                "p_dual": -2 * fits["dual"][0],
                "r2": fits["dual"][1],
                "p_gnorm": -fits["gnorm"][0],
                "p_f": -fits["f"][0],
                "q": -fits["lr"][0],
            }
        return found

    def _dual(self, entry: Entry, trial: Trial, problem: Problem, T: int) -> float:
        """The least dual norm of the gradient within T steps."""
        runs = Runs(entry.method(trial.beta, self.dtype), problem, [trial], T)
        least = torch.full((len(problem),), torch.inf)

        def each(t: int, f: Tensor, g: Tensor) -> None:
            nonlocal least
            if len(f) == len(problem):
                least = torch.fmin(least, entry.dual(runs.gradient))

        fly(runs, Best(len(problem), T), each)
        return float(geomean(least.numpy()))


class Kappa(Walked):
    """What conditioning costs: the best gradient norm within T steps against kappa = L / sigma, tuned at every kappa.

    The instances have logarithmically spaced spectra, L = 1; ``problem`` gives all but kappa.
    """

    name: ClassVar[str] = "kappa"
    problem: Instances = Instances(spectrum="logspace")
    kappas: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    steps: Count = 3000
    schedule: Literal["const", "sqrt", "linear"] = "const"

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """Winners, and the slope of log best ||gradient|| on log kappa."""
        points = []
        for kappa in self.kappas:
            here = self.model_copy(update={"problem": self.problem.model_copy(update={"kappa": kappa})})
            winners = here.tuned(entry, store, (self.schedule,), (self.steps,), here.instances())
            trial, gnorm, f = winners[0]
            edge = on_edge(trial, self.rates(entry), self.betas(entry))
            points.append({"kappa": kappa, "lr": trial.lr, "beta": trial.beta, "on_edge": edge, "gnorm": gnorm, "f": f})
        found: dict[str, Any] = {"points": points}
        if len(points) > 1 and all(point["gnorm"] > 0 for point in points):  # sgd solves the easiest problem exactly
            found["slope"], found["r2"] = slope(self.kappas, [float(point["gnorm"]) for point in points])
        return found
