"""Non-convex problems whose smoothness constants are known, and the rates that methods keep on them."""

from .base import NORMS, NormName, Problem, ProblemConfig, kappa, problems
from .factorise import Factorisation
from .fits import Slope, slope
from .links import LogCosh
from .noise import Noise
from .quadratic import Quadratic
from .runs import Outcome, Row, run
from .softmax import Softmax

__all__ = [
    "NORMS",
    "Factorisation",
    "LogCosh",
    "Noise",
    "NormName",
    "Outcome",
    "Problem",
    "ProblemConfig",
    "Quadratic",
    "Row",
    "Slope",
    "Softmax",
    "kappa",
    "problems",
    "run",
    "slope",
]
