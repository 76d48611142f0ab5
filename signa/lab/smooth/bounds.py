"""The right-hand sides of docs/theory.md, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, sqrt

import torch
from torch import Tensor

__all__ = ["Setting", "aligned", "horizon_lr", "right_votes", "tracking", "vote_margin"]


@dataclass(frozen=True)
class Setting:
    """What a bound is a function of. See docs/theory.md for the letters.

    Args:
        gap: Delta = f(X_0) - f*.
        L, kappa: of the norm.
        first: ||grad f(X_0)||_*, dual; ``first_frobenius`` the Frobenius norm of it.
        lr, steps: eta and T; ``beta``, ``nu``: of the momentum.
        sigma: E ||noise||_F^2 <= sigma^2 (of the whole matrix, one worker).
        workers: N, over whom the noise is averaged; ``alone`` if each worker's own noise counts (a vote, worker LMOs).
        up, down: delta of EF21's and EF21-P's compressor, 1 where nothing is compressed.
        factor: of the tracking error: 2, or 2 N / ceil(N / 2) for a vote.
    """

    gap: float
    L: float
    kappa: float
    first: float
    first_frobenius: float
    lr: float
    steps: int
    beta: float = 0.0
    nu: float = 1.0
    sigma: float = 0.0
    workers: int = 1
    alone: bool = False
    up: float = 1.0
    down: float = 1.0
    factor: float = 2.0


def horizon_lr(gap: float, L: float, steps: int) -> float:
    """``sqrt(2 Delta / (L T))``, the step size that minimises ``Delta / (eta T) + L eta / 2``.

    >>> horizon_lr(2.0, 1.0, 100)
    0.2
    """
    return sqrt(2 * gap / (L * steps))


def tracking(s: Setting) -> float:
    """The bound of Theorem A with the tracking errors of Lemmas 2 to 4 (docs/theory.md), for any LMO.

    EF21's part is Lemma 4(a) for the momentum's own nu: what of a worker's noise goes out undamped, |1 - nu| (or all
    of it, if beta is 0), is a floor that more workers do not lower. Deterministic, without memory, the bound is
    ``Delta / (eta T) + L eta / 2``:

    >>> tracking(Setting(gap=2, L=1, kappa=1, first=1, first_frobenius=1, lr=0.2, steps=100))
    0.2
    """
    a, b, noise = 1 - s.beta, s.beta, s.sigma / sqrt(1 if s.alone else s.workers)
    lag = 0.0  # mean_t ||X_t - W_t||_F
    drift = s.lr  # ||W_{t+1} - W_t|| in the ball's norm
    if s.down < 1:
        shrink = sqrt(1 - s.down)
        lag = s.lr * s.kappa * shrink / (1 - shrink)
        drift = (1 + shrink) * (lag + s.lr * s.kappa)
    momentum = b * s.first / (a * s.steps) + b * s.L * drift / a + s.kappa * noise * sqrt(a / (1 + b))
    error = abs(s.nu) * momentum + abs(1 - s.nu) * s.kappa * noise
    if s.up < 1:
        shrink = sqrt(1 - s.up)
        own = b * s.first_frobenius / (a * s.steps) + b * s.L * drift / a + s.sigma * sqrt(a / (1 + b))
        ahead = s.L * drift + s.first_frobenius / s.steps
        moves = abs(s.nu) * a * (ahead + own + s.sigma) + abs(1 - s.nu) * (ahead + 2 * s.sigma)
        error += s.kappa * shrink / (1 - shrink) * moves
    return s.gap / (s.lr * s.steps) + s.L * s.lr / 2 + s.factor * (error + s.L * lag)


def right_votes(ratio: Tensor) -> Tensor:
    """``2 p - 1`` at least, p the chance that one worker's sign is right, for unimodal symmetric noise.

    ``ratio`` is |g| / sigma: ``S / sqrt(3)`` up to ``S = 2 / sqrt(3)``, then ``1 - 4 / (9 S^2)`` (Gauss's inequality).
    Source: arXiv 1802.04434, Lemma D.1.

    >>> right_votes(torch.tensor([0.0, 2 / sqrt(3), 100.0]))
    tensor([0.0000, 0.6667, 1.0000])
    """
    far = 1 - 4 / (9 * ratio.clamp(min=1).square())
    return torch.where(ratio <= 2 / sqrt(3), ratio / sqrt(3), far)


def vote_margin(margin: Tensor, workers: int) -> Tensor:
    """``E[vote]`` of N independent votes that are right with 2 p - 1 = margin: right minus wrong, a tie is 0.

    >>> vote_margin(torch.tensor([0.0, 0.5, 1.0]), 3)
    tensor([0.0000, 0.6875, 1.0000])
    """
    p = (1 + margin) / 2
    total = torch.zeros_like(p)
    for right in range(workers + 1):
        sign = (2 * right > workers) - (2 * right < workers)
        total += sign * comb(workers, right) * p**right * (1 - p) ** (workers - right)
    return total


def aligned(g: Tensor, sigma: float, workers: int) -> Tensor:
    """``Phi_N(g) = sum_ij |g_ij| h_N(q(|g_ij| / sigma))``: what E<g, vote> is at least, (..., m, n) -> (...).

    Without noise it is ||g||_1; Theorem C bounds its mean over a run by Delta / (eta T) + L eta / 2.

    >>> g = torch.tensor([[3.0, -0.01]])
    >>> bool(aligned(g, 0.0, 3) == g.abs().sum()), bool(aligned(g, 0.1, 3) < g.abs().sum())
    (True, True)
    """
    size = g.abs()
    if sigma == 0:
        return size.sum((-2, -1))
    return (size * vote_margin(right_votes(size / sigma), workers)).sum((-2, -1))
