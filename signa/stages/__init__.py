"""Registry of stages: momentum, step, project, decay, adam, clip, normalise (LMOs are stages, see :mod:`signa.lmo`).

``attack_*`` are workers that lie, for testing aggregators."""

from ..stage import Stage, stages
from .adam import Adam
from .attack import Attack, Constant, Flip, Nan, Random, Stale
from .collude import Alie, Collusion, InnerProduct, Mimic, Omniscient
from .integrate import Decay, Step
from .momentum import Momentum
from .project import Project
from .stabilise import Clip, Normalise

register, unregister, names, get = stages.register, stages.unregister, stages.names, stages.get

__all__ = [
    "Adam",
    "Alie",
    "Attack",
    "Clip",
    "Collusion",
    "Constant",
    "Decay",
    "Flip",
    "InnerProduct",
    "Mimic",
    "Momentum",
    "Nan",
    "Normalise",
    "Omniscient",
    "Project",
    "Random",
    "Stage",
    "Stale",
    "Step",
    "get",
    "names",
    "register",
    "stages",
    "unregister",
]
