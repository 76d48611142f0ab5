"""Whether a module of kernels keeps its word on a device: an example of each."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["prove"]


def prove(kernels: Any, device: torch.device) -> None:
    """Call each of them once.

    Raises:
        ArithmeticError: one does not write what it should.
    """
    x = torch.tensor([[1.0, -0.0, 0.0, -torch.inf, torch.nan, 1e-45], [0.0, -0.0, 0.0, 0.0, 0.0, 0.0]], device=device)
    clear, there, sign, some = (torch.full((2, 1), 0b10010, device=device) for _ in range(4))
    kernels.pack(x, clear, present=False)
    kernels.pack(x, there, present=True)
    spread = torch.zeros(2 * 64, device=device)  # not what an earlier call has left in that memory
    kernels.unpack(there.view(-1), spread)
    kernels.signed(x, sign, some)
    found = [clear[:, 0], there[:, 0], spread.view(2, 64)[0, :6], sign[:, 0], some[:, 0]]
    wanted: list[Any] = [[0b110101, 0b111101], [0b111001, 0], [1, -1, -1, 1, 1, 1], [0b110101, 0b111101], [0b101001, 0]]
    if hasattr(kernels, "fair"):
        found.append(kernels.fair(x, torch.full((2, 1), 0b10010, device=device)))
        wanted.append([[1, 1, -1, -1, 1, 1], [0] * 6])
    if hasattr(kernels, "gather"):
        one, other = x.unbind()
        joined, models = torch.zeros(2, 6), [torch.zeros(6), torch.ones(6)]
        kernels.gather([other, one], joined)
        kernels.add(sign, models, 0.5)
        finite = torch.tensor([kernels.finite([other, other]), kernels.finite([other, one])])
        found += [joined.view(torch.int32), *models, finite]
        wanted += [x.flip(0).view(torch.int32).tolist(), [0.5, -0.5, 0.5, -0.5, 0.5, 0.5]]
        wanted += [[1.5, 0.5, 1.5, 1.5, 1.5, 1.5], [True, False]]
        term = torch.tensor([1.0, -1.0, 2.0**-8, torch.inf])
        found.append(kernels.bfloat16(torch.tensor([1.0, 2.0, 1.0, 1.0]), 1 + 2.0**-7, term, 2.0**-8))
        wanted.append([1 + 2.0**-6, 2 + 2.0**-6, 1 + 2.0**-7, torch.inf])
    if [each.tolist() for each in found] != wanted:
        raise ArithmeticError("a kernel does not write the bits that torch writes")
