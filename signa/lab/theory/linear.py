"""Theorems 1 to 3: constant gradients on which a sign-compressed method ascends in every step.

The objective is ``f(W) = <G, W>``, so a method that steps along -d ascends where ``<G, d> < 0``. All figures are for
exact polar factors, a fresh state and no weight decay. Source: github intsystems/SignMuon, Theorems 1, 2 and 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "M_BOUND",
    "SIGMA_BOUND",
    "muonsign_descent",
    "muonusign_descent",
    "pattern",
    "signmuon_descent",
    "small",
    "theorem1",
    "theorem2",
    "turn",
]

_TURN = ((101, 20, 2, -2), (-20, 97, 20, -20), (-2, 20, 2, 101), (-2, 20, -101, -2))
_U, _V = (10, -3, 10, 10), (10, 3, -10, 10)
_PATTERN = ((-1, -1, 1, 1, 1), (-1, -1, 1, -1, -1), (1, -1, 1, 1, -1), (1, 1, -1, -1, 1), (1, 1, 1, -1, 1))
_LARGE = (3, 1)  # the one entry of the pattern whose sign its polar factor turns round

#: SignMuon ascends on theorem1(sigma) for every sigma above.
SIGMA_BOUND = 532 / 43
#: MuonUSign ascends on theorem2(M), with eps = 1, for every M above.
M_BOUND = 18 + 6 * math.sqrt(17)


def turn() -> Tensor:
    """The orthogonal 4 x 4 matrix O of Theorem 1, entries in 103rds, float64.

    >>> torch.allclose(turn() @ turn().T, torch.eye(4, dtype=torch.float64), atol=1e-15)
    True
    """
    return torch.tensor(_TURN, dtype=torch.float64) / 103


def theorem1(sigma: float) -> Tensor:
    """``G = sigma u v^T + O`` with O v = u, float64: singular values (sigma + 1, 1, 1, 1), polar factor O.

    >>> theorem1(100.0).shape
    torch.Size([4, 4])
    """
    u, v = (torch.tensor(x, dtype=torch.float64) / math.sqrt(309) for x in (_U, _V))
    return sigma * torch.outer(u, v) + turn()


def small() -> Tensor:
    """A 3 x 4 matrix of integers, float64, on which SignMuon ascends: ``<G, sign(polar G)> = -21``.

    Found by :func:`~signa.lab.theory.witness.certify`. With s = (1, -1, -1), G G^T = I + 262 s s^T, so
    ``polar(G) = G - (1 - 1 / sqrt(787)) / 3 s (s^T G)``, whose entries have the signs
    ``- - + +, + - - +, - - - -``: every row of G contributes -7.

    >>> small() @ small().T
    tensor([[ 263., -262., -262.],
            [-262.,  263.,  262.],
            [-262.,  262.,  263.]], dtype=torch.float64)
    """
    return torch.tensor([[9, -10, 1, -9], [-9, 9, -1, 10], [-10, 9, -1, 9]], dtype=torch.float64)


def pattern() -> Tensor:
    """The 5 x 5 signs S of Theorems 2 and 3, float64; polar(S) has another sign at (3, 1), where it is -1/sqrt(17).

    >>> int(pattern().sum())
    3
    """
    return torch.tensor(_PATTERN, dtype=torch.float64)


def theorem2(M: float, eps: float = 1.0) -> Tensor:
    """``G = eps S + (M - eps) e_3 e_1^T``, float64: signs S for every M > 0, and one large entry. Also Theorem 3's.

    >>> theorem2(100.0)[3].tolist()
    [1.0, 100.0, -1.0, -1.0, 1.0]
    """
    G = eps * pattern()
    G[_LARGE] = M
    return G


def signmuon_descent(sigma: float) -> float:
    """``<G, sign(polar G)> = (532 - 43 sigma) / 103`` on theorem1(sigma).

    >>> signmuon_descent(100.0)
    -36.58252427184466
    """
    return (532 - 43 * sigma) / 103


def muonusign_descent(M: float, eps: float = 1.0) -> float:
    """``<G, polar(sign G)> = eps (6 + sqrt(17)) - (M - eps) / sqrt(17)`` on theorem2(M, eps).

    >>> round(muonusign_descent(100.0), 6)
    -13.887921
    """
    return eps * (6 + math.sqrt(17)) - (M - eps) / math.sqrt(17)


def muonsign_descent(M: float, eps: float = 1.0) -> float:
    """``<G, sign(polar(sign G))> = 24 eps - M`` on theorem2(M, eps).

    >>> muonsign_descent(100.0)
    -76.0
    """
    return 24 * eps - M
