"""An LMO of your own in ten lines, and a small model trained by the majority vote over its signs.

    python examples/own_lmo.py                         # trains: loss before and after
    signa check --plugin examples/own_lmo.py           # puts the new part to the laws of every LMO

The ball is ``max |(X H)_ij| <= 1``, with the orthonormal Walsh-Hadamard transform H along each row. H is its own
inverse, so ``<g, d> = <g H, d H>`` is largest for ``d H = sign(g H)``. Unlike the row, column, Frobenius and
l-infinity oracles this one mixes entries, so its signs are not those of the gradient: in front of ``up: sign`` it makes
a method of its own.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

import signa
from signa.signal import SQRT_MN, Norm


def hadamard(x: Tensor) -> Tensor:
    """X H for blocks of 2^k columns, the largest power of two that divides n; sums alone, so a stack changes no bit."""
    n, half = x.shape[-1], 1
    while n % (2 * half) == 0:
        a, b = x.unflatten(-1, (-1, 2, half)).unbind(-2)
        x, half = torch.stack((a + b, a - b), -2).flatten(-3), 2 * half
    return x / half**0.5


@signa.lmos.register
class Hadamard(signa.LMO):
    """``sign(g H) H``, the oracle of ``max |(X H)_ij|``. Norm: sqrt(m n). Source: the docstring of this file."""

    kind: Literal["hadamard"] = "hadamard"
    frobenius: ClassVar[Norm] = SQRT_MN

    def direction(self, g: Tensor) -> Tensor:
        return hadamard(torch.sign(hadamard(g)))

    def norm(self, x: Tensor) -> Tensor:
        return hadamard(x).abs().amax((-2, -1))


def main(workers: int = 5, steps: int = 60) -> None:
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 16)) for _ in range(2))
    method = signa.method("signmuon", worker="momentum hadamard")  # the polar factor gives way to the new oracle
    opt = signa.build(method, student, lr=0.02, transport=signa.Loopback(workers))
    print(method, "\n")
    print(*method.trace(), sep="\n")

    def loss(count: int) -> Tensor:
        x = torch.randn(count, 32)
        with torch.no_grad():
            y = teacher(x)
        return nn.functional.mse_loss(student(x), y)

    before = loss(4096).item()
    schedule = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.02, total_iters=steps)
    for _ in range(steps):
        for j in range(workers):
            with opt.worker(j):
                loss(64).backward()
        opt.step()
        opt.zero_grad()
        schedule.step()
    print(f"\nloss {before:.4f} before, {loss(4096).item():.4f} after {steps} steps of {workers} voters")


if __name__ == "__main__":
    main()
