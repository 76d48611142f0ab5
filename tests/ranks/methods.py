"""Methods that no preset covers, and two plug-ins that the wire knows nothing of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from signa.aggregators import Aggregator, aggregators
from signa.compressors import Compressor, compressors
from signa.signal import Signal
from signa.stage import Context


class Eighths(Compressor):
    """Multiples of 1/8: an alphabet that no codec knows, so it travels as floats."""

    kind: Literal["test_eighths"] = "test_eighths"

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        return torch.round(x * 8) / 8

    def contraction(self, m: int, n: int) -> None:
        return None

    def bits(self, s: Signal, m: int, n: int) -> float:
        return 8.0

    def signal(self, s: Signal) -> Signal:
        return s.but(alphabet="test_eighths")


class Smallest(Aggregator):
    """The whole message of smallest norm, per matrix: not coordinate-wise, so no matrix may be cut."""

    kind: Literal["test_smallest"] = "test_smallest"

    def __call__(self, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        norms = messages.abs().amax((-2, -1)).masked_fill(~active, torch.inf)
        best = norms.argmin(0)
        chosen = messages.gather(0, best[None, ..., None, None].expand(1, *messages.shape[1:]))[0]
        return torch.where(active.any(0)[..., None, None], chosen, 0)

    def signal(self, s: Signal) -> Signal:
        return s.but(alphabet="dense")


@contextmanager
def plugged() -> Iterator[None]:
    """Both plug-ins registered, for a while."""
    compressors.register(Eighths)
    aggregators.register(Smallest)
    try:
        yield
    finally:
        compressors.unregister("test_eighths")
        aggregators.unregister("test_smallest")


def _m(up: Any, aggregate: Any, worker: Any = ("momentum",), **parts: Any) -> dict[str, Any]:
    return {"worker": list(worker), "up": up, "aggregate": aggregate, **parts}


def _scaled(**fields: Any) -> dict[str, Any]:
    return {"kind": "scaled_sign", **fields}


def _fed(feedback: str, compressor: Any) -> dict[str, Any]:
    return {"feedback": feedback, "compressor": compressor}


TOP = {"kind": "top_k", "fraction": 0.2}
KEEP = {"kind": "sign", "zeros": "keep"}
ZERO = {"kind": "majority_vote", "ties": "zero"}
METHODS: dict[str, dict[str, Any]] = {
    "median": _m("identity", "median"),
    "median of signs": _m("sign", "median", server=["spectral"]),
    "ties zero": _m("sign", ZERO),
    "ties zero, served": _m("sign", ZERO, server=["spectral"], down="sign"),
    "zeros kept": _m(KEEP, "majority_vote"),
    "zeros kept, ties zero": _m(KEEP, ZERO, ("momentum", "spectral")),
    "zeros kept, mean, kept": _m(KEEP, "mean", server=["spectral"], down=KEEP),
    "zeros positive": _m({"kind": "sign", "zeros": "positive"}, "majority_vote"),
    "rows": _m(_scaled(per="row"), "mean"),
    "columns": _m(_fed("ef21", _scaled(per="column")), "mean", server=["spectral"]),
    "blocks of 64": _m(_fed("ef14", _scaled(per="block", block=64)), "mean", down=_scaled(per="block", block=5)),
    "blocks of 7": _m(_scaled(per="block", block=7), "median"),
    "top-k, ef14": _m(_fed("ef14", TOP), "mean"),
    "top-k, ef21": _m(_fed("ef21", TOP), "mean", server=["spectral", "step"], down=_fed("ef21", TOP), replica=[]),
    "top-k, vote of linf": _m(_fed("ef14", TOP), "mean", replica=["linf", "step"]),
    "linf up": _m("identity", "majority_vote", ("momentum", "linf")),
    "linf up, mean": _m("identity", "mean", ("momentum", "linf"), server=["linf"]),
    "eighths": _m({"kind": "test_eighths"}, "mean"),
    "eighths down": _m("sign", "majority_vote", server=["spectral"], down={"kind": "test_eighths"}),
    "rank": _m(_fed("ef14", {"kind": "rank", "rank": 2}), "mean", server=["spectral"]),
    "rank, ef21": _m(_fed("ef21", "rank"), "mean"),
    "random-k": _m({"kind": "random_k", "fraction": 0.2, "unbiased": True}, "mean", down=TOP),
    "ternary": _m("ternary", "mean", down="ternary"),
    "stochastic sign": _m({"kind": "stochastic_sign", "norm": "l2"}, "majority_vote"),
    "stochastic sign, mean": _m("stochastic_sign", "mean", server=["spectral"], down="stochastic_sign"),
    "weighted vote": _m("sign", "weighted_mean", down="sign"),
    "weighted, ef21": _m(_fed("ef21", "scaled_sign"), "weighted_mean", server=["nuclear"]),
    "l1": _m("identity", "majority_vote", ("momentum", "l1")),
    "projected": _m("sign", "majority_vote", replica=["step", {"kind": "project", "norm": "row", "radius": 2.0}]),
    "trimmed": _m("identity", {"kind": "trimmed_mean", "trim": 1}),
    "trimmed signs": _m("scaled_sign", {"kind": "trimmed_mean", "trim": 1}, server=["spectral"], down="sign"),
    "clipped": _m("identity", "centered_clip", server=["spectral"]),
    "clipped, scaled": _m(_scaled(per="row"), {"kind": "centered_clip", "radius": 0.5, "unit": "frobenius"}),
    "flipped": _m("sign", "majority_vote", ["momentum", {"kind": "attack_flip", "workers": [0]}]),
    "noisy": _m("identity", "median", ["momentum", {"kind": "attack_random", "workers": [0]}], server=["spectral"]),
    "stale": _m("scaled_sign", "mean", ["momentum", {"kind": "attack_stale", "workers": [0], "delay": 2}]),
    "remembering": _m("sign", "weighted_vote"),
    "remembering, served": _m("sign", {"kind": "weighted_vote", "ties": "zero"}, server=["spectral"], down="sign"),
    "remembering zeros": _m(KEEP, {"kind": "weighted_vote", "history": 0.5}),
    "smallest": _m("identity", {"kind": "test_smallest"}),
    "smallest, scaled": _m("scaled_sign", {"kind": "test_smallest"}, server=["spectral"], down="sign"),
}
