"""Two studies of a constant learning rate without momentum: where it stalls, and where it breaks."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch

from ...rule import Count, Positive
from .methods import Entry, Grid
from .runs import Best, Runs, Trial
from .store import Store
from .studies import Study
from .tuning import geomean, slope

__all__ = ["Floor", "Stability"]


class Floor(Study):
    """The plateau that a constant learning rate ends on, without momentum, for several learning rates.

    A run at lr takes ``min(most, round(steps lr_max / lr))`` steps; its plateau is the mean over the last quarter, and
    it has settled if the third quarter's mean is within ``settled`` of it, for ||gradient|| on every instance.
    Exponents are slopes of log plateau on log lr over the settled points.
    """

    name: ClassVar[str] = "floor"
    steps: Count = 3000
    most: Count = 60_000
    settled: Positive = 0.15

    def rates(self, entry: Entry) -> tuple[float, ...]:
        """The study's own grid."""
        return (entry.floor_grid if self.lrs == "own" else Grid.parse(self.lrs)).values

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """Plateaus and exponents."""
        key = {"study": self.name, "method": entry.name, **self.model_dump()}
        found: dict[str, Any] = store.kept(f"floor-{entry.name}", key, lambda: self._plateaus(entry))
        return found

    def _plateaus(self, entry: Entry) -> dict[str, Any]:
        problem, lrs = self.instances(), self.rates(entry)
        count = len(problem)
        budgets = [min(self.most, round(self.steps * lrs[-1] / lr)) for lr in lrs]
        end = torch.tensor(budgets).repeat_interleave(count)
        quarter = end // 4
        runs = Runs(entry.method(0.0, self.dtype), problem, [Trial(lr) for lr in lrs], max(budgets))
        best = Best(len(runs.rows), runs.steps)
        sums = torch.zeros(4, len(end), dtype=torch.float64)  # F and ||gradient|| over the third and the last quarter
        for t in range(runs.steps):
            f, g = runs.look()
            best.note(runs.rows, t, f, g)
            last = t >= end[runs.rows] - quarter[runs.rows]
            third = ~last & (t >= end[runs.rows] - 2 * quarter[runs.rows])
            for at, (values, inside) in enumerate(((f, third), (f, last), (g, third), (g, last))):
                sums[at, runs.rows] += torch.where(inside, values.double(), 0.0)
            runs.keep((t + 1 < end[runs.rows]) & ~best.diverged[runs.rows])
            if not len(runs.rows):
                break
            runs.step()
        means = sums / quarter
        stands = ((means[3] - means[2]).abs() / means[3] < self.settled) & ~best.diverged
        settled = stands.view(-1, count).all(1).tolist()
        f_plateau, g_plateau = (geomean(means[at].view(-1, count).numpy()).tolist() for at in (1, 3))
        points = [
            {"lr": lr, "steps": budget, "f": f, "gnorm": g, "settled": ok}
            for lr, budget, f, g, ok in zip(lrs, budgets, f_plateau, g_plateau, settled)
        ]
        good = [point for point in points if point["settled"]]
        found: dict[str, Any] = {"points": points}
        for name in ("f", "gnorm"):
            if len(good) > 1:
                found[f"slope_{name}"], found[f"r2_{name}"] = slope(
                    [p["lr"] for p in good],
                    [p[name] for p in good],
                )
        return found


class Stability(Study):
    """The largest constant learning rate that still makes progress, without momentum, by bisection on its logarithm.

    Stable: on every instance the run does not diverge within ``steps``, and some F is below F(X_0). For SGD it is
    known: 2 / L, a little above in so few steps. An edge at ``high`` (``on_edge``) was not found.
    """

    name: ClassVar[str] = "stability"
    steps: Count = 300
    low: Positive = 1e-6
    high: Positive = 1e2
    halvings: Count = 20

    def run(self, entry: Entry, store: Store) -> dict[str, Any]:
        """The edge: the largest rate found stable."""
        problem = self.instances()
        start, _ = problem.look(problem.x0)

        def stable(lr: float) -> bool:
            runs = Runs(entry.method(0.0, self.dtype), problem, [Trial(lr)], self.steps)
            best = Best(len(problem), self.steps)
            for t in range(self.steps):
                best.note(runs.rows, t, *runs.look())
                if bool(best.diverged.any()):
                    return False
                runs.step()
            return bool((best.f < start).all())

        low, high = self.low, self.high
        for _ in range(self.halvings):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if stable(middle) else (low, middle)
        return {"edge": low, "on_edge": high == self.high, "two_over_L": 2 / float(problem.L.max())}
