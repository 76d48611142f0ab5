"""Softmax regression with a regulariser that is not convex."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ...rule import Count, NonNegative
from ..datasets import read_mnist
from .base import NormName, Problem, ProblemConfig, gaussian, kappa, problems

__all__ = ["Softmax", "SoftmaxProblem"]

CURVATURE = 2.0
"""The largest |r''| of r(x) = x^2 / (1 + x^2), at 0; the smallest r'' is -1/2, at x = +-1."""


@problems.register
class Softmax(ProblemConfig):
    """``f(X) = mean_i CE(X a_i, y_i) + weight sum_ij x_ij^2 / (1 + x_ij^2)``: one row of X per class.

    ``generated``: features |N(0, 1)| / sqrt(columns) and labels of a random linear teacher. ``mnist``: the first
    ``samples`` training images, 28x28 averaged over 4x4 blocks to 49 numbers in [0, 1] (rows and columns are then 10
    and 49).

    Source: the regulariser is the usual one of non-convex benchmarks, e.g. arXiv 2106.05203, section 5 (EF21).

    >>> Softmax(samples=20).build().constant("frobenius") > 2 * 0.01
    True
    """

    kind: Literal["softmax"] = "softmax"
    data: Literal["generated", "mnist"] = "generated"
    samples: Count = 256
    rows: Count = 10
    columns: Count = 16
    weight: NonNegative = 0.01
    seed: int = 0

    def build(self) -> SoftmaxProblem:
        """Features and labels.

        Raises:
            SpecError: MNIST is nowhere and cannot be downloaded.
        """
        if self.data == "mnist":
            train = read_mnist().train
            pixels = train.pixels[: self.samples].to(torch.float64) / 255
            return SoftmaxProblem(
                functional.avg_pool2d(pixels, 4).flatten(1), train.labels[: self.samples], 10, self.weight
            )
        A = gaussian(self.samples, self.columns, seed=self.seed, of="features").abs() / self.columns**0.5
        teacher = gaussian(self.rows, self.columns, seed=self.seed, of="teacher")
        return SoftmaxProblem(A, ((A - A.mean(0)) @ teacher.mT).argmax(-1), self.rows, self.weight)


class SoftmaxProblem(Problem):
    """f >= 0. The cross-entropy's Hessian form is ``q(D, D) = mean_i Var_{p_i}(D a_i) >= 0``, p_i the softmax of X a_i.

    For one vector v and any p: ``Var_p(v) <= max_k v_k^2`` and ``Var_p(v) <= |v|_2^2 / 2`` (both by
    ``Var <= (max - min)^2 / 4``). With ``S = mean_i a_i a_i^T`` and its eigenvalues s_1 >= s_2 >= ...:

    - frobenius: ``mean |D a_i|^2 / 2 = <D, D S> / 2 <= s_1 / 2``.
    - spectral: D D^T has rank <= min(m, n) and D^T D <= a projection of that rank: ``sum_{k <= min(m, n)} s_k / 2``.
    - linf: ``|(D a_i)_k| <= |a_i|_1``: ``mean |a_i|_1^2``.
    - column: ``|D a_i|_2 <= |a_i|_1``: ``mean |a_i|_1^2 / 2``.
    - row: ``|(D a_i)_k| <= |a_i|_2``: ``mean |a_i|_2^2``; also ``|D a_i|^2 / 2`` summed over rows: ``m s_1 / 2``.

    The regulariser's form is a diagonal of entries at most 2 weight in size, so at most ``2 weight kappa^2``; a
    positive form's bilinear maximum is its quadratic one, so the sum of both bounds the gradient's change.
    """

    def __init__(self, A: Tensor, labels: Tensor, classes: int, weight: float) -> None:
        self.A, self.labels, self.weight = A, labels, weight
        self.m, self.n = classes, A.shape[1]
        self._target = functional.one_hot(labels, classes).to(A.dtype)

    def loss(self, X: Tensor) -> Tensor:
        """Cross-entropy and regulariser."""
        scores = self.A @ X.mT  # (..., samples, classes)
        chosen = (scores * self._target).sum(-1)
        square = X.square()
        return (scores.logsumexp(-1) - chosen).mean(-1) + self.weight * (square / (1 + square)).sum((-2, -1))

    def gradient(self, X: Tensor) -> Tensor:
        """mean_i (p_i - y_i) a_i^T + weight 2 x / (1 + x^2)^2."""
        wrong = (self.A @ X.mT).softmax(-1) - self._target
        return wrong.mT @ self.A / len(self.A) + self.weight * 2 * X / (1 + X.square()).square()

    def constant(self, norm: NormName) -> float:
        """See the class."""
        spectrum = torch.linalg.eigvalsh(self.A.mT @ self.A / len(self.A)).flip(0)
        l1, l2 = self.A.abs().sum(-1).square().mean(), self.A.square().sum(-1).mean()
        entropy = {
            "frobenius": spectrum[0] / 2,
            "spectral": spectrum[: min(self.m, self.n)].sum() / 2,
            "linf": l1,
            "column": l1 / 2,
            "row": torch.minimum(l2, self.m * spectrum[0] / 2),
        }[norm]
        return float(entropy) + CURVATURE * self.weight * kappa(norm, self.m, self.n) ** 2

    def corner(self, norm: NormName) -> tuple[Tensor, Tensor]:
        """Two classes at even odds, far from all others (features are not negative), and D that moves them apart."""
        X = torch.full((self.m, self.n), -50.0, dtype=self.A.dtype)
        X[:2] = 0
        top = torch.linalg.eigh(self.A.mT @ self.A).eigenvectors[:, -1]
        top = top * torch.sign(top.sum())
        D = torch.zeros_like(X)
        half = 0.5**0.5  # of a unit length that two rows share
        D[0] = {"linf": torch.ones_like(top), "column": torch.full_like(top, half), "row": top}.get(norm, half * top)
        D[1] = -D[0]
        return X, D
