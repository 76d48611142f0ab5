"""A gradient on which a method ascends, put to the proof and then made readable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...sentence import Method
from ..tasks.base import seed_of
from .search import search
from .walk import margins, remembers, walk

__all__ = ["Certificate", "certify", "proven", "simplify", "verified"]

_COPIES, _SHAKE = 16, 1e-6  # perturbed copies, each with coins of its own; relative to the largest magnitude
_LEAST = 1e-6  # a margin nearer to 0 proves nothing about the method
_SHOWN = 6  # values of f in a certificate
_INTEGERS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50, 75, 100, 200, 500, 1000, 10_000)
_GLANCE, _LIKELY = 4, 3  # copies of a simpler matrix before it is put to the proof; how many of a round are


@dataclass(frozen=True)
class Certificate:
    """What a search came to. ``ascends``: f(W) = <G, W> grows; else ``margin`` is the least that was seen.

    A negative margin that does not ascend is one that failed the proof.

    Args:
        matrix: G, the witness or the matrix of the least margin.
        over: how many steps from a fresh state f grows in, in the last half as in all; of a method that ``remembers``
            (by more than momentum) nothing is said beyond them, of another it goes on like that.
        margin: ``sum_t <G, d_t> / (||G||_F sum_t ||d_t||_F)``, the worst over the perturbed copies of a witness.
        descent: the average of <G, d_t>: what f loses in a step of length 1.
        values: f(X_0), f(X_1), ... with lr 1 and X_0 = 0.
        steps: of the method on a constant gradient, from a fresh state.
        tried: matrices whose margin was worked out.
    """

    method: str
    matrix: tuple[tuple[float, ...], ...]
    ascends: bool
    margin: float
    descent: float
    values: tuple[float, ...]
    steps: int
    over: int
    remembers: bool
    tried: int
    seconds: float


def certify(
    method: Method,
    shape: tuple[int, int],
    *,
    steps: int = 1,
    seconds: float = 60.0,
    tries: int = 0,
    seed: int = 0,
) -> Certificate:
    """Search for a constant gradient on which the method ascends; the first that is verified is simplified.

    Args:
        steps: of the method on every candidate; 1 says it all for a method without memory but momentum.
        seconds, tries: where the search gives up (see :func:`~signa.lab.theory.search.search`).

    >>> from signa import presets
    >>> found = certify(presets.get("muonsign").method, (4, 5), tries=1)
    >>> found.ascends, found.margin < 0 < found.values[-1]
    (True, True)
    """
    accept = partial(verified, method, steps=steps, seed=seed)
    found = search(method, shape, accept=accept, steps=steps, seconds=seconds, tries=tries, seed=seed)
    G = simplify(method, found.matrix, steps=steps, seed=seed) if found.accepted else found.matrix
    margin = proven(method, G, steps=steps, seed=seed) if found.accepted else found.cosine
    path = walk(method, lambda _: G.clone(), tuple(G.shape), _over(steps), seed=seed)
    return Certificate(
        method=str(method),
        matrix=tuple(tuple(map(_whole, row)) for row in G.tolist()),
        ascends=found.accepted,
        margin=margin,
        descent=float((G * (path[0] - path[steps])).sum()) / steps,
        values=tuple(float((G * X).sum()) for X in path[:_SHOWN]),
        steps=steps,
        over=_over(steps),
        remembers=remembers(method),
        tried=found.tried,
        seconds=found.seconds,
    )


def proven(method: Method, G: Tensor, *, steps: int = 1, seed: int = 0) -> float:
    """The largest margin of G (m, n) and of its perturbed copies, each under its own coins, over five steps or more.

    Negative, it is no accident of rounding, of a tie, of an entry that happens to be zero or of the first steps alone:
    the margin over the last half of the steps counts as well.
    """
    return float(_worst(method, G[None], _COPIES, _over(steps), seed))


def _over(steps: int) -> int:
    """How many steps a proof takes."""
    return max(steps, _SHOWN - 1)


def _worst(method: Method, G: Tensor, copies: int, steps: int, seed: int) -> Tensor:
    """The largest margin of each G (B, m, n) and of its copies, half of them shaken, over all steps and the last half,
    (B,)."""
    draw = torch.Generator().manual_seed(seed_of(seed, "witness"))
    every = G.to(torch.float64).repeat(2 * copies, 1, 1)  # equal copies differ in their coins
    noise = torch.randn(every.shape, generator=draw, dtype=torch.float64)
    noise[: copies * len(G)] = 0
    shaken = every + _SHAKE * every.abs().amax((-2, -1), keepdim=True) * noise
    found = margins(method, shaken, steps, seed=seed)
    return torch.maximum(found.cosine, found.late).view(2 * copies, -1).amax(0)


def verified(method: Method, G: Tensor, *, steps: int = 1, seed: int = 0) -> bool:
    """Whether the method ascends on G and on all its perturbed copies, by more than rounding.

    >>> from signa import presets
    >>> from .linear import theorem2
    >>> verified(presets.get("muonsign").method, theorem2(100.0)), verified(presets.get("muon").method, theorem2(100.0))
    (True, False)
    """
    return proven(method, G, steps=steps, seed=seed) < -_LEAST


def simplify(method: Method, G: Tensor, *, steps: int = 1, seed: int = 0) -> Tensor:
    """A verified matrix of small integers near G, of at least half its margin where there is one; else G itself.

    Rounded to the coarsest grid that will do, then each entry is drawn towards 0 as far as the margin allows.
    """
    goal = min(proven(method, G, steps=steps, seed=seed) / 2, -_LEAST)
    unit = G / G.abs().max()
    # Away from 0 keeps the signs of what is small, to the nearest keeps the rest.
    rounded = (way(grid * unit) for grid in _INTEGERS for way in (lambda x: x.sign() * x.abs().ceil(), torch.round))
    simple = next((R + 0.0 for R in rounded if proven(method, R, steps=steps, seed=seed) <= goal), None)  # no -0
    if simple is None:
        return G
    while True:
        candidates = torch.stack([*_simpler(simple), simple])
        worst = _worst(method, candidates, _GLANCE, steps, seed)
        order = candidates.abs().log1p().sum((-2, -1)).argsort(stable=True).tolist()
        likely = [candidates[i] for i in order[:-1] if float(worst[i]) <= goal][:_LIKELY]
        better = (c for c in likely if proven(method, c, steps=steps, seed=seed) <= goal)
        if (found := next(better, None)) is None:
            return simple
        simple = found


def _simpler(G: Tensor) -> Iterator[Tensor]:
    """G with one entry nearer to 0: at it, at 1, a half, rounded to one digit, or (small ones) one less."""
    for index, value in enumerate(G.flatten().tolist()):
        size, sign = abs(value), 1.0 if value > 0 else -1.0
        digit = 10 ** (len(str(int(size))) - 1)
        for smaller in sorted({0.0, 1.0, size // 2, size // digit * digit, size - 1 if size < 20 else 1.0}):
            if 0 <= smaller < size:
                other = G.clone()
                other.view(-1)[index] = sign * smaller if smaller else 0.0
                yield other


def _whole(value: float) -> Any:
    """3.0 as 3."""
    return int(value) if value == int(value) else value
