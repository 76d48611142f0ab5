"""What the ranks train: ragged parameters, awkward gradients, and every method on every kind of world."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import signa
from tests.ranks.worlds import every, world

SHAPES: dict[str, tuple[int, ...]] = {
    "a": (9, 21),
    "b": (9, 21),
    "big": (65, 33),
    "row": (1, 7),
    "column": (7, 1),
    "conv": (4, 3, 2, 2),
    "qkv": (12, 10),
    "coupled": (6, 5),
    "cautious": (6, 5),
    "none": (0, 4),
    "emb": (13, 5),
    "bias": (5,),
    "scalar": (),
}
PATIENT: dict[str, float] = {"timeout": 120.0, "deadline": 600.0}  # what is slow is not what is judged here
SMALL = {"a": (9, 21), "b": (24, 16), "bias": (5,)}
SOURCE = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "ef21muonsign", "lr": 0.02}]}
Grad = Callable[[str, Tensor, int, int], "Tensor | None"]
Method = Any


def normal(name: str, shape: Sequence[int], *numbers: int, dtype: torch.dtype) -> Tensor:
    """A function of its arguments alone: threads share the global generator."""
    seed = zlib.crc32(f"{name} {numbers}".encode())
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64).to(dtype)


def parameters(dtype: torch.dtype = torch.float32, shapes: Mapping[str, Any] = SHAPES) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(normal(name, shape, dtype=dtype)) for name, shape in shapes.items()}


def plain(name: str, p: Tensor, t: int, j: int) -> Tensor:
    """Everybody has a gradient."""
    return normal(name, p.shape, t, j, dtype=p.dtype)


def awkward(name: str, p: Tensor, t: int, j: int) -> Tensor | None:
    """Exact zeros, whole zeros, none from a worker, none from anybody, a worker that is away for a step."""
    g = normal(name, p.shape, t, j, dtype=p.dtype)
    g[normal(name, p.shape, t, j, 1, dtype=p.dtype).abs() < 0.15] = 0
    alone = (j + t) % 4 == 1
    away = (j + t) % 7 == 6 or (name == "a" and alone) or (name == "b" and t == 3) or (name == "scalar" and t == 4)
    if away:
        return None
    return g * 0 if (name == "big" and (t == 2 or alone)) or (name == "emb" and t == 5) else g


def spec(method: Method, *, decays: bool = True) -> dict[str, Any]:
    """One method on matrices, heads and convolutions, and AdamW on the rest; ``decays``: with each kind of decay."""
    method = {"method": method} if isinstance(method, str) else method
    coupled = {"worker": ["decay", "momentum"], "up": "sign", "aggregate": "majority_vote"}
    cautious = {"worker": ["momentum"], "aggregate": "mean", "replica": ["linf", {"kind": "step", "decay": "cautious"}]}
    groups = [
        {"match": ["emb", "bias", "scalar"], "method": "adamw", "lr": 0.01, "weight_decay": 0.1},
        *([{"match": "coupled", "lr": 0.02, "weight_decay": 0.2, **coupled}] if decays else []),
        *([{"match": "cautious", "lr": 0.02, "weight_decay": 0.2, **cautious}] if decays else []),
        {"match": "qkv", "lr": 0.02, "matrix": "(h d) i -> h d i", "sizes": {"h": 3}, **method},
        {"match": "conv", "lr": 0.02, "weight_decay": 0.1, "matrix": "o i h w -> (h w) o i", **method},
        {"match": "*", "lr": 0.02, "weight_decay": 0.1, **method},
    ]
    return {"groups": groups}


def admits(source: Any, workers: int) -> bool:
    """Whether its aggregators work with so many."""
    try:
        signa.Spec.load(source).admit(workers)
    except signa.SpecError:
        return False
    return True


class Run(NamedTuple):
    """What is left of a run: the parameters' digest after every step, their values, and the state by address."""

    digests: list[str]
    values: dict[str, Tensor]
    states: dict[str, Tensor]
    local: range
    opt: Any


def build(source: Any, ps: Any, transport: Any, **options: Any) -> signa.SignA:
    pairs = list(ps.items()) if isinstance(ps, dict) else ps
    return signa.build(source, pairs, transport=transport, **options)


def step(opt: signa.SignA, ps: Mapping[str, Tensor], t: int, grad: Grad) -> None:
    """One step of all local workers."""
    opt.zero_grad()
    for j in opt.transport.local:
        with opt.worker(j):
            for name, p in ps.items():
                p.grad = grad(name, p, t, j)
    opt.step()


def fingerprint(ps: Mapping[str, Tensor]) -> str:
    data = b"".join(ps[name].detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for name in sorted(ps))
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def outcome(opt: signa.SignA, ps: Mapping[str, Tensor], digests: list[str]) -> Run:
    states = {
        f"{route.named.name} {address}": view.clone()
        for route in opt.routing
        for address, view in opt.state[route.named.parameter].items()
    }
    return Run(digests, {n: p.detach().clone() for n, p in ps.items()}, states, opt.transport.local, opt)


def train(
    source: Any,
    transport: Any,
    *,
    steps: int = 8,
    dtype: torch.dtype = torch.float32,
    grad: Grad = awkward,
    shapes: Mapping[str, Any] = SHAPES,
    **options: Any,
) -> Run:
    ps = parameters(dtype, shapes)
    opt = build(source, ps, transport, **options)
    digests = []
    for t in range(steps):
        step(opt, ps, t, grad)
        digests.append(fingerprint(ps))
    return outcome(opt, ps, digests)


def ranks(source: Any, held: Sequence[int], group: Mapping[str, Any] | None = None, **options: Any) -> list[Run]:
    """The same on ranks with ``held`` workers each; replicas are compared at times."""
    more = {"check_replicas_every": 3, **(group or {})}

    def rank(r: int, arguments: dict[str, Any]) -> Run:
        return train(source, signa.Group(**arguments, workers_per_rank=held[r], **more), **options)

    return every(world(len(held), rank, **PATIENT))


def loopback(source: Any, workers: int, **options: Any) -> Run:
    return train(source, signa.Loopback(workers), **options)


def same(reference: Run, found: Sequence[Run]) -> None:
    """Parameters after every step and the whole state are the simulation's, bit for bit; nothing is missing."""
    seen = set()
    for rank, run in enumerate(found):
        assert run.digests == reference.digests, (rank, first_apart(reference, run))
        for name, value in reference.values.items():
            assert torch.equal(run.values[name], value), (rank, name)
        for key, view in run.states.items():
            whole = reference.states[key]
            own = whole[run.local.start : run.local.stop] if " worker." in key else whole
            assert view.dtype == own.dtype and torch.equal(view, own), (rank, key)
        missing = reference.states.keys() - run.states.keys()
        assert all(" server." in key for key in missing), (rank, missing)
        seen |= run.states.keys()
    assert seen == reference.states.keys()


def first_apart(a: Run, b: Run) -> str:
    t = next(t for t, (x, y) in enumerate(zip(a.digests, b.digests, strict=True)) if x != y)
    names = [name for name in a.values if not torch.equal(a.values[name], b.values[name])]
    return f"apart from step {t} on: {names}"


Script = Callable[[Any], Run]
"""A run on a transport."""


def everywhere(script: Script, size: int = 3, **group: Any) -> list[Run]:
    """The script on ranks, equal to what it does on Loopback."""
    reference = script(signa.Loopback(size))
    found = every(world(size, lambda r, arguments: script(signa.Group(**arguments, **group)), **PATIENT))
    same(reference, found)
    return [reference, *found]


class Net(nn.Module):
    """BatchNorm, a buffer that is put anew every time, and one that is nobody's business."""

    def __init__(self, flipped: bool = False) -> None:
        super().__init__()
        made = {"norm": lambda: nn.BatchNorm1d(6), "inner": lambda: nn.BatchNorm1d(4), "last": lambda: nn.Linear(4, 2)}
        for name in reversed(made) if flipped else made:
            setattr(self, name, made[name]())
        self.first = nn.Linear(6, 4)
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(plain(name, p, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        self.level = 0.9 * self.level + x.abs().mean().detach()
        self.scratch += x.sum().detach()
        return self.last(self.inner(self.first(self.norm(x))))
