"""What is to be run next: a pure function of the plan and of what the finished runs found.

So a kill at any moment loses nothing that was finished, and a later call goes on by asking the same question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..tasks import Goal
from .optuna_sampler import Optuna
from .plan import Arm, Plan
from .vary import Choice

__all__ = ["Need", "Outcome", "Run", "Search", "nearest", "needs", "rate", "search"]


@dataclass(frozen=True)
class Run:
    """One run of an arm: with a learning rate from the lattice (None: the arm's own) and a seed."""

    arm: str
    rate: float | None
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its goal's metric at the end, NaN where it diverged."""

    value: float
    goal: Goal


Look = Callable[[Run], Outcome | None]


@dataclass(frozen=True)
class Search:
    """How far the search of an arm's rate is: the lattice indices tried, those to run, and the best when it is over.

    ``edge`` says that the best stands on an edge still: the search was cut off.
    """

    tried: tuple[int, ...]
    missing: tuple[int, ...]
    best: int | None = None
    edge: bool = False


@dataclass(frozen=True)
class Need:
    """The runs that are known to be needed, how many others are over, and the searches by arm."""

    runs: tuple[Run, ...]
    over: int
    searches: Mapping[str, Search]


def rate(index: int) -> float:
    """The lattice 1, 2, 5 x 10^k.

    >>> [rate(i) for i in (-6, -5, -4, -3, 0)]
    [0.01, 0.02, 0.05, 0.1, 1.0]
    """
    decade, place = divmod(index, 3)
    return float(f"{(1, 2, 5)[place]}e{decade}")


def nearest(value: float) -> int:
    """The index of the lattice next to a rate, by ratio.

    >>> [nearest(value) for value in (0.02, 0.03, 0.04, 1e-7)]
    [-5, -5, -4, -21]
    """
    middle = 3 * math.floor(math.log10(value))
    return min(range(middle - 1, middle + 5), key=lambda i: abs(math.log(rate(i) / value)))


def search(center: int, points: int, widen: int, look: Callable[[int], Outcome | None]) -> Search:
    """The best of ``points`` rates around the middle, with up to ``widen`` more beyond an edge where the best stands.

    Ties go to the smaller rate; where every run diverged the search goes down.

    >>> search(0, 3, 4, lambda i: Outcome((i + 3) ** 2, Goal("loss")))
    Search(tried=(-4, -3, -2, -1, 0, 1), missing=(), best=-3, edge=False)
    """
    half = points // 2
    tried = list(range(center - half, center + half + 1))
    while True:
        found = {i: outcome for i in tried if (outcome := look(i)) is not None}
        missing = tuple(i for i in tried if i not in found)
        if missing:
            return Search(tuple(tried), missing)
        best = tried[0]
        for i, outcome in found.items():
            if outcome.goal.better(outcome.value, found[best].value):
                best = i
        edge = best in (tried[0], tried[-1])
        if not edge or widen == 0:
            return Search(tuple(tried), (), best if math.isfinite(found[best].value) else None, edge)
        widen -= 1
        tried = [best - 1, *tried] if best == tried[0] else [*tried, best + 1]


def needs(plan: Plan, found_by: Look) -> Need:
    """Every run that is known to be needed and not done: first the searches, then seed by seed over the arms."""
    searches: dict[str, Search] = {}
    over: set[Run] = set()

    def look(run: Run) -> Outcome | None:
        outcome = found_by(run)
        if outcome is not None:
            over.add(run)
        return outcome

    def tune(arm: Arm) -> list[Run]:
        """What the arm's search lacks. Without a search the arm's own rate is its one point."""
        if arm.name not in searches:
            points, center = plan.tune.points, nearest(arm.rates[0]) if arm.rates else 0
            widen = plan.tune.widen if points else 0
            searches[arm.name] = search(center, points, widen, lambda i: look(_trial(plan, arm, i)))
        return [_trial(plan, arm, index) for index in searches[arm.name].missing]

    sampler = plan.sampler_rule
    runs: list[Run] = []
    compared = list(plan.arms)
    if isinstance(sampler, Optuna):  # the others of the grid are run only as far as it asks for them
        compared = [arm for arm in plan.arms if not arm.choice or arm.name == plan.against]
        runs += [run for arm in compared for run in tune(arm)]
        if not runs:
            trial_runs, best = _trials(plan, sampler, tune, searches, look)
            runs += trial_runs
            compared += [arm for arm in best if arm not in compared]
    elif plan.tune.points:
        runs += [run for arm in compared for run in tune(arm)]
    for seed in plan.seeds:
        for arm in compared:
            found = searches.get(arm.name)
            if found is None or found.best is not None:
                run = Run(arm.name, rate(found.best) if found and found.best is not None and arm.rates else None, seed)
                runs += [run] if look(run) is None else []
    return Need(tuple(dict.fromkeys(runs)), len(over), searches)


def _trial(plan: Plan, arm: Arm, index: int) -> Run:
    return Run(arm.name, rate(index) if arm.rates else None, plan.search_seed)


def _trials(
    plan: Plan, sampler: Optuna, tune: Callable[[Arm], list[Run]], searches: Mapping[str, Search], look: Look
) -> tuple[list[Run], list[Arm]]:
    """The runs of the trial under way, and the best arm once the trials are over."""
    arms = {arm.choice: arm for arm in plan.arms if arm.choice}
    first = look(_trial(plan, plan.base, searches[plan.against].tried[0]))
    assert first is not None  # the base arm was tuned before
    under_way: list[Run] = []

    def value(choice: Choice) -> float | None:
        arm = arms[choice]
        under_way[:] = tune(arm)
        best = searches[arm.name].best
        found = look(_trial(plan, arm, best)) if best is not None else None
        return None if under_way else found.value if found else math.nan

    tried, over = sampler.ask(plan.sizes, first.goal, value)
    if not over:
        return under_way, []
    best: list[Arm] = []
    top = math.nan
    for choice in tried:
        found = value(choice)
        assert found is not None
        if first.goal.better(found, top):
            best, top = [arms[choice]], found
    return [], best
