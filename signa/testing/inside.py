"""What a component does inside an optimizer: a golden step against the sentence taken literally, and two processes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..aggregators import Aggregator
from ..building import build
from ..compressors import Compressor
from ..errors import Advice, Fault, SpecError, a_or_an
from ..feedback import Feedback
from ..reading import validated
from ..rule import Rule
from ..scaling import Scaling
from ..spec import ParamGroup
from ..stage import Stage
from ..transport import Loopback, Transport
from .by_hand import SIZES, STEPS, by_hand, gradient, start

__all__ = ["TRIALS", "digests", "group_with", "trained", "workers_of"]


def group_with(rule: Rule) -> ParamGroup:
    """The first sentence that a component can stand in, as a group of a spec.

    >>> from signa.aggregators import MajorityVote
    >>> print(group_with(MajorityVote()).method)
    momentum | sign | majority_vote |  | identity | step

    Raises:
        AssertionError: no sentence takes it; the message says what the last one objected to.
    """
    objection: Exception | None = None
    for parts in _places(rule):
        try:
            return validated(ParamGroup, {"lr": 0.02, "weight_decay": 0.1, **parts})
        except (SpecError, ValueError) as error:
            objection = error
    raise AssertionError(f"there is no sentence that it can stand in: {objection}")


def _places(rule: Rule) -> Iterator[Mapping[str, Any]]:
    if isinstance(rule, Stage):
        yield {"worker": ["momentum", rule], "up": "sign", "aggregate": "majority_vote"}
        yield {"worker": [rule], "up": "sign", "aggregate": "majority_vote"}
        yield {"worker": ["momentum"], "server": [rule]}
        yield from ({"worker": ["momentum"], "replica": stages} for stages in ([rule, "step"], ["step", rule], [rule]))
    elif isinstance(rule, Compressor):
        for aggregate in ("mean", "majority_vote"):
            yield {"worker": ["momentum"], "up": rule, "aggregate": aggregate, "down": rule}
            yield {"worker": ["momentum"], "up": rule, "aggregate": aggregate}
    elif isinstance(rule, Aggregator):
        for up in ("sign", "identity", "scaled_sign"):
            yield {"worker": ["momentum"], "up": up, "aggregate": rule}
    elif isinstance(rule, Feedback):
        for compressor in ("scaled_sign", "sign", "identity"):
            yield {"worker": ["momentum"], "up": {"feedback": rule, "compressor": compressor}}
    elif isinstance(rule, Scaling):
        yield {"worker": ["momentum", "spectral"], "up": "sign", "aggregate": "majority_vote", "scaling": rule}
    else:
        raise TypeError(f"no part of a sentence is {a_or_an(type(rule).__name__)}")


def workers_of(group: ParamGroup) -> int:
    """Three workers, or the first number that the aggregator works with."""
    for workers in (3, 2, *range(4, 10)):
        try:
            group.method.aggregate.admit(workers)
        except Fault:
            continue
        return workers
    raise AssertionError(f"'{group.method.aggregate}' works with no number of workers from 2 to 9")


def trained(group: ParamGroup, transport: Transport) -> list[dict[str, Tensor]]:
    """Every matrix after every step of the optimizer itself."""
    parameters = {name: nn.Parameter(start(name)) for name in SIZES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Advice)  # the sentence is chosen to take the component, not to be a good one
        optimizer = build({"groups": [group]}, list(parameters.items()), transport=transport)
    found = []
    for t in range(STEPS):
        optimizer.zero_grad()
        for worker in transport.local:
            with optimizer.worker(worker):
                for name, parameter in parameters.items():
                    parameter.grad = gradient(name, t, worker)
        optimizer.step()
        found.append({name: parameter.detach().clone() for name, parameter in parameters.items()})
    return found


def digests(found: list[dict[str, Tensor]]) -> list[dict[str, str]]:
    """Sixteen hex digits for the bits of every matrix after every step."""
    return [
        {name: hashlib.blake2b(x.contiguous().numpy().tobytes(), digest_size=8).hexdigest() for name, x in step.items()}
        for step in found
    ]


def _golden(rule: Rule) -> None:
    """The optimizer, with its stacks and packed messages, does what the sentence says when it is taken literally."""
    group = group_with(rule)
    workers = workers_of(group)
    found = trained(group, Loopback(workers))
    for name in SIZES:
        for t, (step, x) in enumerate(zip(found, by_hand(group, name, workers), strict=True)):
            if not torch.isfinite(step[name]).all():
                raise AssertionError(f"{_at(name, t, group)} holds infinities or NaN")
            if not torch.equal(step[name], x):
                apart = float((step[name] - x).abs().max())
                raise AssertionError(
                    f"{_at(name, t, group)} is {apart:.3g} away from what the sentence gives, taken literally"
                )
        still = torch.equal(found[-1][name], start(name))
        if still:
            raise AssertionError(f"{_at(name, STEPS - 1, group)} has not moved")


def _two_ranks(rule: Rule) -> None:
    """Two processes, which talk over gloo, hold the simulation's bits after every step."""
    from .two_ranks import run

    group = group_with(rule)
    expected = digests(trained(group, Loopback(workers_of(group))))
    for rank, found in enumerate(run(rule)):
        for t, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
            for name in SIZES:
                if ours[name] != theirs[name]:
                    raise AssertionError(f"on rank {rank} {_at(name, t, group)} is not what one process computes")


def _at(name: str, t: int, group: ParamGroup) -> str:
    m, n = SIZES[name]
    return f"the {m}x{n} matrix '{name}' behind step {t + 1} of '{group.method}'"


Trial = Callable[[Any], None]
#: What is tried once for a component and not matrix by matrix, by name. A trial raises AssertionError.
TRIALS: dict[str, Trial] = {"golden step": _golden, "two ranks": _two_ranks}
