"""The counterexamples: matrices on which a method is tried out, and Theorem 4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..aggregators import MajorityVote, Median
from ..compressors import Identity, ScaledSign, Sign
from ..feedback import EF21
from ..lmo import LMO
from ..lmo.newton_schulz import exact_polar
from ..sentence import Method
from ..stage import Context
from ..stages import Decay, Momentum, Normalise, Step
from .claim import PAGE, Claim
from .shape import Shape

__all__ = ["WITNESSES", "Witness", "speaking_against"]


@dataclass(frozen=True)
class Witness:
    """A matrix G and where it is from: with exact polar factors a method ascends on G if <G, d> < 0."""

    name: str
    source: str
    rows: tuple[tuple[float, ...], ...]

    @property
    def matrix(self) -> Tensor:
        """G, float64."""
        return torch.tensor(self.rows, dtype=torch.float64)


def _theorem1() -> tuple[tuple[float, ...], ...]:
    turn = ((101, 20, 2, -2), (-20, 97, 20, -20), (-2, 20, 2, 101), (-2, 20, -101, -2))
    u, v = (10, -3, 10, 10), (10, 3, -10, 10)
    return tuple(tuple(100 * a * b + 3 * x for b, x in zip(v, row)) for a, row in zip(u, turn))  # 309 G, sigma_1 = 100


_PAPER = "github intsystems/SignMuon"
#: Theorem 1 (309 G), Theorems 2 and 3 (eps = 1, M = 100), and one found here: det(polar G) and det(sign(polar G)) have
#: opposite signs, so -1 is an eigenvalue of polar(G)^T polar(sign(polar G)), and G is large along its vector.
WITNESSES = (
    Witness("Theorem 1", _PAPER, _theorem1()),
    Witness(
        "Theorems 2 and 3", _PAPER,
        ((-1, -1, 1, 1, 1), (-1, -1, 1, -1, -1), (1, -1, 1, 1, -1), (1, 100, -1, -1, 1), (1, 1, 1, -1, 1)),
    ),
    Witness(
        "Counterexample G", PAGE,
        ((7, -4, 4, -2, -4, -5), (-5, 5, -6, 0, 8, 9), (-5, 5, -9, 0, 5, 5),
         (-4, 8, -4, 2, 4, 5), (2, -2, 0, 1, -3, 1), (4, -4, 7, -4, -8, -5)),
    ),
)  # fmt: skip


_FIXED = (Identity, Sign, ScaledSign)  # without dice, and C(c x) is C(x) or c C(x)


def _direction(method: Method, G: Tensor) -> Tensor | None:
    """What the first step on a constant gradient integrates, with exact polar factors; None where memory matters."""
    if any(c.feedback.kind != "none" or not isinstance(c.compressor, _FIXED) for c in (method.up, method.down)):
        return None
    if not (isinstance(method.aggregate, MajorityVote | Median) or method.aggregate.linear):
        return None
    ctx, x = Context(), G[None]
    for part in ("worker", "up", "aggregate", "server", "down", "replica"):
        if part in ("up", "down"):
            x = getattr(method, part).encode(x, {}, ctx)
        elif part == "aggregate":
            alike = max(1, len(getattr(method.aggregate, "weights", ())))  # as many workers as there are weights
            x = method.aggregate(x.expand(alike, *x.shape), torch.ones(alike, 1, dtype=torch.bool), ctx)
        for stage in getattr(method, part) if part in ("worker", "server", "replica") else ():
            if isinstance(stage, Step | Decay | Momentum):
                continue  # a momentum of c_t G, c_t > 0, is a positive multiple of G
            if not isinstance(stage, LMO) and not (isinstance(stage, Normalise) and stage.per == "rms"):
                return None
            x = exact_polar(x) if stage.kind == "spectral" else stage(x, {}, ctx)
    return x[0]


def _ascents(shape: Shape) -> Iterator[Claim]:
    if len(shape.before) + len(shape.after) < 2 and not shape.odd:
        return  # one oracle or one sign: <g, d> is a norm of g
    for witness in WITNESSES:
        G = witness.matrix
        wave = torch.cos(torch.arange(G.numel(), dtype=torch.float64)).view_as(G)
        slopes = []
        for moved in (G, G + 1e-6 * G.abs().max() * wave):  # a witness whose signs are rounding noise is none
            d = _direction(shape.method, moved)
            if d is None:
                return
            slopes.append(float((moved * d).sum() / (moved.norm() * d.norm())))
        if max(slopes) < -1e-3:
            yield Claim("ascends", witness.name, "on f(X) = log(1 + exp<G, X>), smooth, convex and > 0, f grows at "
                        f"every step, for every step size, momentum and N: <G, d> = {slopes[0]:.3f} ||G|| ||d||",
                        assumptions=("exact polar factors", "no noise"),
                        source=f"{witness.source}; {PAGE}" if witness.source != PAGE else PAGE)  # fmt: skip


def _theorem4(shape: Shape) -> Iterator[Claim]:
    oracle = shape.before == ("spectral",) and not shape.after and not shape.odd
    compressor = shape.up.compressor
    scaled = isinstance(compressor, ScaledSign) and compressor.per == "matrix"
    known = len(shape.momenta) <= 1 and all(m.nu in (1, "beta") for m in shape.momenta)
    if oracle and scaled and known and isinstance(shape.up.feedback, EF21) and shape.plain_down and shape.linear:
        yield Claim("ascends", "Theorem 4", "EF21 follows an LMO's output, which jumps; on a smooth 2 x 2 function f "
                    "grows by 49/480 a step, for every momentum (the function depends on it)",
                    assumptions=("exact polar factors", "one scale per matrix", "no noise"), source=_PAPER)  # fmt: skip


def speaking_against(shape: Shape) -> list[Claim]:
    """Every counterexample that this sentence is known to meet."""
    return [*_ascents(shape), *_theorem4(shape)]
