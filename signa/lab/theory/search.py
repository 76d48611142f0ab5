"""Looking for a constant gradient on which a composed method ascends, with nothing known of the method but its steps.

What Theorems 1 to 3 have in common: a method that sees G only through its polar factor, or only through its signs, is
blind to a part of G, and a large part is put where the blind direction points the wrong way. So every candidate B is
tried as it is, and with spikes of several sizes:

    entry     B + M s e_i e_j^T   with s the sign of B_ij, where s d(B)_ij is least       (sign(B) stays)
    singular  B + M u v^T         with u = P v, P = polar(B), where u^T d(B) v is least   (polar(B) stays)

Candidates are Gaussian, orthogonal, sign and ternary matrices; the best are mutated: an entry flipped, zeroed or
shaken, a step against the gradient of the margin with d held fixed, a step back onto the orthogonal matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...lmo.newton_schulz import exact_polar
from ...sentence import Method
from ..tasks.base import seed_of
from .walk import Margins, margins

__all__ = ["Found", "search"]

_SPIKES = (3.0, 10.0, 30.0, 100.0, 1000.0)  # over the candidate's largest magnitude
_ELITE, _ASKED = 32, 8  # candidates kept; the lowest of a round that are put to the proof
_COPIES, _SHAKE = 8, 1e-5  # of a candidate with a negative margin; relative to its largest magnitude
_FRESH = 96  # candidates of a round that are new; each elite has two mutants beside them


@dataclass
class Found:
    """The best gradient that was seen: its margin (see :func:`margins`), and how many matrices were tried.

    ``accepted``: it is a witness that was put to the proof. Else none was, and a negative margin is one that failed.
    """

    matrix: Tensor  # (m, n)
    cosine: float = float("inf")
    accepted: bool = False
    tried: int = 0
    seconds: float = 0.0


@dataclass
class _Elite:
    """The candidates whose spiked forms came out lowest, with their directions."""

    bases: Tensor  # (E, m, n)
    directions: Tensor
    scores: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    def keep(self, bases: Tensor, directions: Tensor, scores: Tensor) -> None:
        """The best of both; one of each score, or the elite becomes copies of one candidate."""
        every = torch.cat([self.scores, scores])
        order, seen = [], set()
        for index in every.argsort().tolist():
            if (mark := f"{float(every[index]):.9f}") not in seen:
                seen.add(mark)
                order.append(index)
            if len(order) == _ELITE:
                break
        self.bases = torch.cat([self.bases, bases])[order]
        self.directions = torch.cat([self.directions, directions])[order]
        self.scores = every[order]


def search(
    method: Method,
    shape: tuple[int, int],
    *,
    accept: Callable[[Tensor], bool],
    steps: int = 1,
    seconds: float = 60.0,
    tries: int = 0,
    seed: int = 0,
) -> Found:
    """The gradient of the least margin that ``accept`` takes; without any, the one of the least margin, proven or not.

    Where the first is accepted after t tries, the search goes on to 4 t for a better one. Every draw is a function of
    the seed, so what is found depends on the time only in how far the search gets.

    Args:
        accept: a verdict on one matrix (m, n), asked where the margin is negative.
        steps: of the method on each candidate.
        seconds, tries: where to stop, in time and (unless 0) in matrices tried; a round is done whole.

    >>> from signa import presets
    >>> search(presets.get("muonusign").method, (4, 5), accept=lambda G: True, tries=1).cosine < 0
    True
    """
    m, n = shape
    draw = torch.Generator().manual_seed(seed_of(seed, "certify", m, n))
    begun, judge = time.monotonic(), partial(margins, method, steps=steps, seed=seed)
    nothing = torch.zeros(0, m, n, dtype=torch.float64)
    elite, best, enough = _Elite(nothing, nothing), Found(torch.zeros(m, n, dtype=torch.float64)), tries
    while True:
        bases = torch.cat([_fresh(draw, m, n), _mutants(draw, elite)])
        plain = judge(bases)
        spiked = torch.cat([_entry_spikes(bases, plain.direction), _singular_spikes(bases, plain.direction)], 1)
        candidates = torch.cat([bases.unsqueeze(1), spiked], 1)  # (B, 1 + spikes, m, n)
        cosines = torch.cat([plain.cosine, judge(spiked.flatten(0, 1)).cosine])
        cosines = torch.cat([cosines[: len(bases), None], cosines[len(bases) :].view(len(bases), -1)], 1)
        idle = (cosines == 0) | cosines.isnan()  # nothing moves, or nothing is left: no witness, and no bound either
        cosines = torch.where(idle, 1.0, cosines)
        low = cosines < 0
        if bool(low.any()):
            cosines[low] = _shaken(judge, draw, candidates[low], cosines[low])
        elite.keep(bases, plain.direction, cosines.amin(1))
        best.tried += cosines.numel()
        flat, matrices = cosines.flatten(), candidates.flatten(0, 1)
        for index in flat.argsort()[:_ASKED].tolist():
            cosine = float(flat[index])
            to_beat = best.cosine if best.accepted else 0.0
            accepted = cosine < to_beat and accept(matrices[index])
            if accepted and not best.accepted:
                enough = min(enough or 4 * best.tried, 4 * best.tried)
            if accepted or (not best.accepted and cosine < best.cosine):
                best.matrix, best.cosine, best.accepted = matrices[index], cosine, accepted
        best.seconds = time.monotonic() - begun
        if best.seconds >= seconds or (enough and best.tried >= enough):
            return best


def _shaken(judge: Callable[[Tensor], Margins], draw: torch.Generator, G: Tensor, cosines: Tensor) -> Tensor:
    """The largest margin of each G and of copies beside it, (B,): a tie or a rounding error ascends by accident."""
    copies = G.repeat(_COPIES, 1, 1)
    noise = torch.randn(copies.shape, generator=draw, dtype=torch.float64)
    around = judge(copies + _SHAKE * copies.abs().amax((-2, -1), keepdim=True) * noise).cosine
    return torch.maximum(cosines, around.view(_COPIES, -1).amax(0))


def _fresh(draw: torch.Generator, m: int, n: int) -> Tensor:
    """New candidates of four kinds, (B, m, n)."""
    gaussian = torch.randn(_FRESH, m, n, generator=draw, dtype=torch.float64)
    kinds = gaussian.chunk(4)
    threshold = 0.6 * torch.rand(len(kinds[3]), 1, 1, generator=draw, dtype=torch.float64)
    ternary = torch.where(kinds[3].abs() < threshold, 0, kinds[3].sign())
    return torch.cat([kinds[0], exact_polar(kinds[1]), kinds[2].sign(), ternary])


def _mutants(draw: torch.Generator, elite: _Elite) -> Tensor:
    """Two of each elite candidate, of five kinds by turns, (2 E, m, n)."""
    if not len(elite.bases):
        return elite.bases
    bases, directions = elite.bases.repeat(2, 1, 1), elite.directions.repeat(2, 1, 1)
    B, m, n = bases.shape
    size = torch.linalg.matrix_norm(bases, keepdim=True)
    shake = torch.exp(-5 * torch.rand(B, 1, 1, generator=draw, dtype=torch.float64))
    noise = torch.randn(B, m, n, generator=draw, dtype=torch.float64) * shake * size / (m * n) ** 0.5
    one = torch.zeros(B, m * n, dtype=torch.bool)
    one[torch.arange(B), torch.randint(0, m * n, (B,), generator=draw)] = True
    one = one.view(B, m, n)
    length = torch.linalg.matrix_norm(directions, keepdim=True).clamp_min(1e-300)
    kinds = torch.stack(
        [
            torch.where(one, -bases, bases),
            torch.where(one, 0, bases),
            bases + noise,
            exact_polar(bases + noise),
            bases - shake * size / length * directions,  # down the margin's gradient, were d constant
        ]
    )
    return kinds[torch.randint(0, len(kinds), (B,), generator=draw), torch.arange(B)]


def _entry_spikes(bases: Tensor, directions: Tensor) -> Tensor:
    """B + M s e_i e_j^T for every M, (B, spikes, m, n)."""
    B, m, n = bases.shape
    signs = torch.where(bases == 0, -directions.sign(), bases.sign())
    worst = (signs * directions).flatten(1).argmin(1)
    spike = torch.zeros(B, m * n, dtype=torch.float64)
    spike[torch.arange(B), worst] = signs.flatten(1)[torch.arange(B), worst]
    return _added(bases, spike.view(B, m, n))


def _singular_spikes(bases: Tensor, directions: Tensor) -> Tensor:
    """B + M u v^T for every M, (B, spikes, m, n): v the lowest eigenvector of the symmetric part of P^T d."""
    if bases.shape[-2] < bases.shape[-1]:
        return _singular_spikes(bases.mT, directions.mT).mT
    P = exact_polar(bases)
    product = P.mT @ directions
    v = torch.linalg.eigh(product + product.mT).eigenvectors[..., :1]
    return _added(bases, P @ v @ v.mT)


def _added(bases: Tensor, spike: Tensor) -> Tensor:
    largest = bases.abs().amax((-2, -1), keepdim=True)
    return torch.stack([bases + M * largest * spike for M in _SPIKES], 1)
