"""Methods that nobody wrote, drawn from the registries: every registered part in every place it may have."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa
from signa import Method, aggregators, compressors, feedbacks, stages
from signa.errors import SignaError, SpecError
from signa.rule import Registry
from tests.paths.test_optimizer import Parameters, build, parameters, states, train, values

WORKERS = 3
EXTRA = 4
SHAPES = {"a": (6, 8), "b": (6, 8), "conv": (4, 3, 2, 2)}
_REGISTRIES: dict[str, Registry[Any]] = {
    **dict.fromkeys(("worker", "server", "replica"), stages),
    **dict.fromkeys(("up.feedback", "down.feedback"), feedbacks),
    **dict.fromkeys(("up.compressor", "down.compressor"), compressors),
    "aggregate": aggregators,
}


def places() -> list[tuple[str, str]]:
    """(place, kind) of all that may stand somewhere."""
    return [
        (place, kind)
        for place, registry in _REGISTRIES.items()
        for kind in registry.names()
        if place in getattr(registry.get(kind), "places", (place,))
    ]


def used(method: Method) -> set[tuple[str, str]]:
    """(place, kind) of all that a method consists of."""
    channels = {"up": method.up, "down": method.down}
    return {
        *((part, stage.kind) for part in ("worker", "server", "replica") for _, stage in method.stages(part)),
        *((f"{name}.compressor", channel.compressor.kind) for name, channel in channels.items()),
        *((f"{name}.feedback", channel.feedback.kind) for name, channel in channels.items()),
        ("aggregate", method.aggregate.kind),
    }


def _draw(dice: random.Random) -> dict[str, Any]:
    """Six parts, each as anybody might write it; most such sentences mean nothing, and are refused."""
    kinds: dict[str, list[str]] = {place: [] for place in _REGISTRIES}
    for place, kind in places():
        kinds[place] += [kind] * (kind != "step")

    def some(place: str, most: int) -> list[str]:
        return [dice.choice(kinds[place]) for _ in range(dice.randint(0, most))]

    def channel(place: str) -> dict[str, str]:
        return {part: dice.choice(kinds[f"{place}.{part}"]) for part in ("feedback", "compressor")}

    served = dice.random() < 0.3  # the step stands on the server
    return {
        "worker": some("worker", 3),
        "up": channel("up"),
        "aggregate": dice.choice(kinds["aggregate"]),
        "server": [*some("server", 2), *["step"] * served],
        "down": channel("down"),
        "replica": [] if served else [*some("replica", 1), "step", *some("replica", 1)],
    }


def _drawn(dice: random.Random, wanted: tuple[str, str] | None) -> Method:
    """The next sentence that means something, with this part in it."""
    for _ in range(20_000):
        source = _draw(dice)
        try:
            method = Method(**source)
            build(method, [("w", nn.Parameter(torch.ones(2, 3)))], workers=WORKERS)
        except SignaError:
            continue
        if (wanted is None or wanted in used(method)) and _moves(method):
            return method
    raise AssertionError(f"no sentence holds {wanted}: let _draw write one")


def _moves(method: Method) -> bool:
    """Whether a parameter moves: the median of what three workers send at random is nearly always 0."""
    ps = parameters(SHAPES, torch.bfloat16)
    before = values(ps)
    train(build(method, ps, workers=WORKERS), ps, range(2))
    return any(not torch.equal(p, before[name]) for name, p in ps.items())


@cache
def compositions() -> dict[str, Method]:
    """The sentences by what they say."""
    found: dict[str, Method] = {}
    covered: set[tuple[str, str]] = set()
    wanted = [*places(), *[None] * EXTRA]
    for number, place in enumerate(wanted):
        if place is None or place not in covered:
            method = _drawn(random.Random(number), place)
            found[str(method)] = method
            covered |= used(method)
    return found


# What the contract does with them ------------------------------------------------------------------------------------

METHODS = compositions()
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def fresh() -> Parameters:
    return parameters(SHAPES)


def start(method: Method, ps: Parameters | None = None, **group: Any) -> tuple[Parameters, signa.SignA]:
    ps, workers = fresh() if ps is None else ps, group.pop("workers", WORKERS)
    try:
        return ps, build(method, ps, workers=workers, **{"weight_decay": 0.1, **group})
    except SpecError as refused:
        if workers >= WORKERS:  # with as many it was drawn
            raise
        pytest.skip(f"of more workers: {refused}")


def everything(ps: Mapping[str, Tensor], opt: signa.SignA) -> dict[str, Tensor]:
    return {**values(ps), **states(opt)}
