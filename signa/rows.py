"""Several workers' gradients in one process: one row each, told apart by ``with opt.worker(j):`` blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import GradientError

Buffers = list[tuple[nn.Module, str]]


class Rows:
    """The gradient rows of the local workers since the last step.

    With one local worker a row is simply ``p.grad``. With more, ``p.grad`` is worker j's row inside its block and the
    sum of all rows outside, for reading only.
    """

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str], local: range, buffers: Buffers) -> None:
        self.parameters, self.names, self.local = list(parameters), list(names), local
        self._buffers = buffers
        self._inside: int | None = None
        self.drop()

    @property
    def single(self) -> bool:
        """Whether blocks are optional."""
        return len(self.local) == 1

    def drop(self) -> None:
        """Forget every row."""
        self._rows: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in self.local]
        self._sums = [parameter.grad for parameter in self.parameters] if not self.single else []
        self._versions = [_version(total) for total in self._sums]

    def take(self) -> list[list[Tensor | None]]:
        """The rows of this step, local worker by parameter; they are consumed by :meth:`drop`.

        Raises:
            GradientError: with several local workers, a gradient that no block accounts for.
        """
        if self._inside is not None:
            raise GradientError(f"step() inside 'with opt.worker({self._inside})': call it after the blocks")
        if self.single:
            return [[parameter.grad for parameter in self.parameters]]
        self._check_outside()
        return self._rows

    @contextmanager
    def block(self, worker: int) -> Iterator[None]:
        """Backward passes inside belong to ``worker``; repeated blocks accumulate.

        Raises:
            IndexError: the worker does not live here.
            GradientError: blocks nest, or a gradient came from outside a block.
        """
        if worker not in self.local:
            where = f"local workers are {self.local.start} to {self.local.stop - 1}"
            raise IndexError(f"there is no worker {worker!r} in this process: {where}")
        if self._inside is not None:
            raise GradientError(f"worker({worker}) inside worker({self._inside}): blocks do not nest")
        if not self.single:
            self._check_outside()
        kept = [getattr(module, name).clone() for module, name in self._buffers] if worker != 0 else []
        self._enter(worker)
        try:
            yield
        finally:
            self._leave(worker)
            for (module, name), value in zip(self._buffers, kept, strict=False):
                getattr(module, name).copy_(value)

    def _enter(self, worker: int) -> None:
        self._inside = worker
        if not self.single:
            self._again = any(row is not None for row in self._rows[worker - self.local.start])
            for parameter, row in zip(self.parameters, self._rows[worker - self.local.start], strict=True):
                parameter.grad = row

    @torch.no_grad()
    def _leave(self, worker: int) -> None:
        self._inside = None
        if self.single:
            return
        mine = self._rows[worker - self.local.start]
        for index, parameter in enumerate(self.parameters):
            mine[index] = parameter.grad
            first = all(row[index] is None for row in self._rows if row is not mine)
            if first or self._again or self._sums[index] is None:
                self._sums[index] = self._sum(index)
            elif mine[index] is not None:
                self._sums[index].add_(mine[index])  # type: ignore[union-attr, arg-type]
            parameter.grad = self._sums[index]
        self._versions = [_version(total) for total in self._sums]

    def _sum(self, index: int) -> Tensor | None:
        total: Tensor | None = None
        for row in self._rows:
            grad = row[index]
            if grad is not None:
                total = grad.detach().clone() if total is None else total.add_(grad)
        return total

    def _check_outside(self) -> None:
        """Every p.grad must be the sum that a block left; one that was set to None drops its rows."""
        for index, parameter in enumerate(self.parameters):
            grad, total = parameter.grad, self._sums[index]
            if grad is None:
                for row in self._rows:
                    row[index] = None
                self._sums[index] = None
                continue
            if grad is total and _version(grad) == self._versions[index]:
                continue
            # GradScaler's check multiplies in place by 1: another version of the same values is no new gradient.
            expected = self._sum(index)
            if total is None or grad is not total or (expected is not None and not _same_bits(grad, expected)):
                raise GradientError(
                    f"the gradient of '{self.names[index]}' changed outside a 'with opt.worker(j):' block, so it "
                    f"belongs to none of the {len(self.local)} workers: run backward, clipping and scaling inside the block "
                    "(scaler.unscale_ is not possible with several workers in one process; scaler.step is)"
                )
            self._versions[index] = _version(grad)


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor._version


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
        and torch.equal(a.isnan(), b.isnan())
    )
