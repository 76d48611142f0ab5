"""Arms chosen one after the other by Optuna's tree of Parzen estimators, where there are too many to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Literal

from pydantic import Field

from ...rule import Count
from ..refusal import refusal
from ..tasks import Goal
from .vary import Choice, Grid, Sampler, samplers

__all__ = ["Optuna"]


@samplers.register
class Optuna(Sampler):
    """So many trials, each an arm of the grid with its tuned learning rate; the best one is run with every seed.

    The objective is the goal on the validation split with the tuning seed. Source: arXiv 1907.10902 (Optuna).
    """

    kind: Literal["optuna"] = "optuna"
    trials: Count = 20
    seed: int = Field(default=0, strict=True, ge=0, lt=2**32)

    def choices(self, sizes: Sequence[int]) -> Iterator[Choice]:
        """The grid, of which ``ask`` picks."""
        return Grid().choices(sizes)

    def ask(
        self, sizes: Sequence[int], goal: Goal, value: Callable[[Choice], float | None]
    ) -> tuple[list[Choice], bool]:
        """The trials until the first whose value is not known (None), and whether they are over.

        The trials are told anew each time, so they are a function of the seed and of what the runs found.

        Raises:
            SpecError: Optuna is not installed.
        """
        try:
            optuna = import_module("optuna")
        except ImportError:
            raise refusal(
                "the sampler optuna needs Optuna, which is not installed",
                address="ablate.sampler",
                instead="pip install 'signa-optim[optuna]', or take the sampler random",
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            direction="minimize" if goal.best == "min" else "maximize",
            sampler=optuna.samplers.TPESampler(seed=self.seed),
        )
        space = {str(i): optuna.distributions.CategoricalDistribution(range(size)) for i, size in enumerate(sizes)}
        tried: list[Choice] = []
        for _ in range(self.trials):
            trial = study.ask(space)
            choice = tuple(int(trial.params[str(i)]) for i in range(len(sizes)))
            tried.append(choice)
            found = value(choice)
            if found is None:
                return tried, False
            if found == found:
                study.tell(trial, found)
            else:  # it diverged
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return tried, True
