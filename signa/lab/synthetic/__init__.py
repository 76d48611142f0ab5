"""The synthetic convex benchmark: F(X) = 1/2 <X - C, A (X - C) B>, ten methods, seven studies.

Source: github intsystems/SignMuon, its synthetic experiments.
"""

from .descent import Alignment, Horizon, Kappa
from .limits import Floor, Stability
from .methods import METHODS, Entry, Grid
from .problem import Instances, Problem, published
from .runs import Best, Runs, Trial
from .store import Store
from .studies import Final, GridSearch, Study

STUDIES: dict[str, type[Study]] = {
    study.name: study for study in (GridSearch, Final, Alignment, Floor, Horizon, Stability, Kappa)
}
"""By the names of the command line."""

__all__ = [
    "METHODS",
    "STUDIES",
    "Best",
    "Entry",
    "Grid",
    "Instances",
    "Problem",
    "Runs",
    "Store",
    "Study",
    "Trial",
    "published",
]
