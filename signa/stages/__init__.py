"""Registry of stages: momentum, step, project, decay, adam, clip, normalise (LMOs are stages, see :mod:`signa.lmo`)."""

from ..stage import Stage, stages
from .adam import Adam
from .integrate import Decay, Step
from .momentum import Momentum
from .project import Project
from .stabilise import Clip, Normalise

register, unregister, names, get = stages.register, stages.unregister, stages.names, stages.get

__all__ = [
    "Adam",
    "Clip",
    "Decay",
    "Momentum",
    "Normalise",
    "Project",
    "Stage",
    "Step",
    "get",
    "names",
    "register",
    "stages",
    "unregister",
]
