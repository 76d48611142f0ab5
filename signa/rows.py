"""Several workers' gradients in one process: one row each, told apart by ``with opt.worker(j):`` blocks."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter, itemgetter

import torch
from torch import Tensor, nn

from .errors import GradientError, UnsupportedParameter
from .routing import clean_name, parts_of

Buffers = list[tuple[nn.Module, str]]

_KIND = attrgetter("layout", "dtype")


def buffers_of(model: object) -> Buffers:
    """A model's buffers by name, so that they are alike wherever its modules stand; pairs have none."""
    found = [
        (clean_name(f"{prefix}.{name}"), module, name)
        for part in parts_of(model)
        for prefix, module in part.named_modules()
        for name in dict(module.named_buffers(recurse=False))
    ]
    return [(module, name) for _, module, name in sorted(found, key=itemgetter(0))]


def describe(module: nn.Module, name: str) -> str:
    """What a buffer is, in a line."""
    value = getattr(module, name)
    kept = "" if name not in module._non_persistent_buffers_set else " (not saved)"
    what = "" if value is None else f" {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return f"{type(module).__name__}.{name}{what}{kept}"


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

    @property
    def pending(self) -> bool:
        """Whether a block has left a gradient that no step has used."""
        return any(grad is not None for row in self._rows for grad in row)

    def drop(self) -> None:
        """Forget every row."""
        self._start: list[Tensor | None] | None = None
        self._rows: list[list[Tensor | None]] = [[None] * len(self.parameters) for _ in self.local]
        self._sums = [parameter.grad for parameter in self.parameters] if not self.single else []
        self._versions = [_version(total) for total in self._sums]
        self._last = [-1] * len(self.parameters)  # the highest place among the rows that the sum is made of

    def take(self) -> list[list[Tensor | None]]:
        """The rows of this step, local worker by parameter; they are consumed by :meth:`drop`.

        Raises:
            GradientError: with several local workers, a gradient that no block accounts for.
            UnsupportedParameter: a sparse or complex gradient.
        """
        if self._inside is not None:
            raise GradientError(f"step() inside 'with opt.worker({self._inside})': call it after the blocks")
        if not self.single:
            self._check_outside()
        rows = [[p.grad for p in self.parameters]] if self.single else [list(row) for row in self._rows]
        for row in rows:
            kinds = set(map(_KIND, (grad for grad in row if grad is not None)))
            odd = {(layout, dtype) for layout, dtype in kinds if layout != torch.strided or dtype.is_complex}
            for name, grad in zip(self.names, row, strict=True) if odd else ():
                if grad is not None and _KIND(grad) in odd:
                    kind = "complex" if grad.layout == torch.strided else "sparse"
                    what = f"the gradient of '{name}' is {kind}: SignA updates dense real matrices"
                    raise UnsupportedParameter(f"{what} (nn.Embedding(..., sparse=False))")
        return rows

    @contextmanager
    def block(self, worker: int) -> Iterator[None]:
        """Backward passes inside belong to ``worker``; repeated blocks accumulate.

        Raises:
            IndexError: the worker does not live here.
            GradientError: blocks nest, or a gradient came from outside a block.
        """
        worker = operator.index(worker)
        if worker not in self.local:
            where = f"local workers are {self.local.start} to {self.local.stop - 1}"
            raise IndexError(f"there is no worker {worker!r} in this process: {where}")
        if self._inside is not None:
            raise GradientError(f"worker({worker}) inside worker({self._inside}): blocks do not nest")
        if not self.single:
            self._check_outside()
        kept = self._swap_buffers(worker)
        self._enter(worker)
        try:
            yield
        finally:
            self._leave(worker)
            for module, name, buffer, value in kept:
                if buffer is not None and value is not None:
                    buffer.data = value
                # Put back, too: a forward may have written the buffer, resized it, or put another in its place.
                setattr(module, name, buffer)

    def _swap_buffers(self, worker: int) -> list[tuple[nn.Module, str, Tensor | None, Tensor | None]]:
        """Every worker begins with the buffers as they were before the step, as it would on a rank of its own, so a
        worker that is not worker 0 is given copies of those; what worker 0 has made of them is put back afterwards."""
        values = [getattr(module, name) for module, name in self._buffers]
        if self._start is None:
            self._start = [None if value is None else value.detach().clone() for value in values]
        if worker == 0:
            return []
        kept = []
        for (module, name), buffer, before in zip(self._buffers, values, self._start, strict=True):
            kept.append((module, name, buffer, None if buffer is None else buffer.detach().clone()))
            if buffer is not None and before is not None:
                buffer.data = before.clone()
        return kept

    def _enter(self, worker: int) -> None:
        self._inside = worker
        if not self.single:
            for parameter, row in zip(self.parameters, self._rows[worker - self.local.start], strict=True):
                parameter.grad = row

    @torch.no_grad()
    def _leave(self, worker: int) -> None:
        self._inside = None
        if self.single:
            return
        place = worker - self.local.start
        for index, parameter in enumerate(self.parameters):
            before, grad, total = self._rows[place][index], parameter.grad, self._sums[index]
            self._rows[place][index] = grad
            last = self._last[index]
            self._last[index] = last if grad is None else max(last, place)
            if before is None and 0 <= last < place and total is not None and grad is not None:
                total.add_(grad)  # in worker order, as _sum adds
            else:
                self._sums[index] = self._sum(index)
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
                self._sums[index], self._last[index] = None, -1
                continue
            if grad is total and _version(grad) == self._versions[index]:
                continue
            # Another version of the same values is no new gradient. Without rows, after a step or zero_grad, only a
            # gradient that is zero throughout can be what was left.
            expected = self._sum(index)
            same = not bool(grad.any()) if expected is None else _same_bits(grad, expected)
            if total is None or grad is not total or not same:
                raise GradientError(
                    f"the gradient of '{self.names[index]}' changed outside a 'with opt.worker(j):' block, so it "
                    f"belongs to none of the {len(self.local)} workers: run backward, clipping and scaling inside the "
                    "block (scaler.unscale_ is not possible with several workers in one process; scaler.step is)"
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
