"""SignA: distributed optimizers as sentences made of LMOs, compressors and aggregators.

Names are imported when they are first used, so that ``signa --help`` does not wait for torch.
"""

import importlib as _importlib
import typing as _typing

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:
    from . import aggregators, compressors, presets, stages
    from .aggregators import Aggregator
    from .building import build, param_groups
    from .channel import Channel
    from .checkpoints import load_checkpoint, save_checkpoint
    from .compressors import Compressor
    from .errors import Advice, Fault, SignaError, SpecError
    from .feedback import Feedback, feedbacks
    from .lmo import LMO, lmos
    from .optim import SignA
    from .presets import method
    from .rule import Rule
    from .scaling import Scaling, scalings
    from .sentence import Method
    from .signal import Norm, Signal
    from .spec import ParamGroup, Spec, schema
    from .stage import Context, Stage
    from .transport import Group, Loopback, replicate

_HOMES = {
    "aggregators": ("Aggregator",),
    "building": ("build", "param_groups"),
    "channel": ("Channel",),
    "checkpoints": ("load_checkpoint", "save_checkpoint"),
    "compressors": ("Compressor",),
    "errors": ("Advice", "Fault", "SignaError", "SpecError"),
    "feedback": ("Feedback", "feedbacks"),
    "lmo": ("LMO", "lmos"),
    "optim": ("SignA",),
    "presets": ("method",),
    "rule": ("Rule",),
    "scaling": ("Scaling", "scalings"),
    "sentence": ("Method",),
    "signal": ("Norm", "Signal"),
    "spec": ("ParamGroup", "Spec", "schema"),
    "stage": ("Context", "Stage"),
    "transport": ("Group", "Loopback", "replicate"),
}
_MODULES = ("aggregators", "compressors", "presets", "stages")
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> _typing.Any:
    if name in _MODULES:
        return _importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'signa' has no attribute '{name}'")
    value = globals()[name] = getattr(_importlib.import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "LMO",
    "Advice",
    "Aggregator",
    "Channel",
    "Compressor",
    "Context",
    "Fault",
    "Feedback",
    "Group",
    "Loopback",
    "Method",
    "Norm",
    "ParamGroup",
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
    "load_checkpoint",
    "method",
    "param_groups",
    "presets",
    "replicate",
    "save_checkpoint",
    "scalings",
    "schema",
    "stages",
]
