"""SignA: distributed optimizers as sentences made of LMOs, compressors and aggregators."""

__version__ = "0.1.0"

from . import aggregators, compressors, presets, stages
from .aggregators import Aggregator
from .channel import Channel
from .compressors import Compressor
from .errors import Advice, SignaError, SpecError
from .feedback import Feedback, feedbacks
from .lmo import LMO, lmos
from .optim import SignA, build
from .presets import method
from .rule import Rule
from .scaling import Scaling, scalings
from .sentence import Method
from .signal import Norm, Signal
from .spec import Group, Spec, schema
from .stage import Context, Stage
from .transport import Loopback

__all__ = [
    "LMO",
    "Advice",
    "Aggregator",
    "Channel",
    "Compressor",
    "Context",
    "Feedback",
    "Group",
    "Loopback",
    "Method",
    "Norm",
    "Rule",
    "Scaling",
    "SignA",
    "SignaError",
    "Signal",
    "Spec",
    "SpecError",
    "Stage",
    "__version__",
    "aggregators",
    "build",
    "compressors",
    "feedbacks",
    "lmos",
    "method",
    "presets",
    "scalings",
    "schema",
    "stages",
]
