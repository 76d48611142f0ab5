"""Matrices, contexts and comparisons that the laws share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..coins import Coins
from ..errors import a_or_an
from ..lmo import LMO, Spectral
from ..rule import Rule
from ..signal import Signal
from ..stage import Context

SHAPES = ((1, 1), (1, 7), (7, 1), (9, 21), (16, 40), (65, 33))
"""Ragged, thin, and wider than one padded block."""

BANDS: dict[str, tuple[float, float]] = {
    "exact": (1.0, 1.0),
    "polar6": (0.98, 1.01),
    "polar5": (0.85, 1.15),
    "jordan5": (0.67, 1.21),
    "quintic5": (0.97, 1.15),
    "cubic5": (0.64, 1.31),
}
"""Where ``<g, d> / dual(g)`` and ``||d||`` of a schedule lie for Gaussian matrices of SHAPES (measured)."""

Law = Callable[[Any, Tensor], None]


def sample(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A Gaussian tensor from its own generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def context(rows: Sequence[int] = (0,), parameter: Tensor | None = None, **fields: Any) -> Context:
    """A context with its own coins for each row; lr 0.1, scale 0.5, weight decay 0.1 unless given."""
    coin = Coins(5, 3, [7919 * r + 1 for r in rows], [10 * r for r in rows], [r % 3 for r in rows])
    return Context(**{"lr": 0.1, "scale": 0.5, "weight_decay": 0.1, "parameter": parameter, "coin": coin} | fields)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside, torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _require(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _tolerance(x: Tensor) -> float:
    return 1e-10 if x.dtype == torch.float64 else 2e-5


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum((-2, -1))


def _band(rule: LMO) -> tuple[float, float]:
    if isinstance(rule, Spectral):
        return BANDS.get(rule.schedule, (0.5, 1.5)) if isinstance(rule.schedule, str) else (0.5, 1.5)
    low, high = getattr(rule, "band", (1.0, 1.0))
    return low, high


def _rounds(rule: Rule) -> bool:
    """Whether the last bits are LAPACK's: its U of a matrix from about 65 x 33 on depends on the threads."""
    return rule.schedule == "exact" if isinstance(rule, Spectral) else bool(getattr(rule, "rounds", False))


def _stack(x: Tensor) -> Tensor:
    """x with four companions, (5, m, n): another, one with zeros inside, a zero matrix, a tiny one."""
    others = sample(3, *x.shape, seed=1 + int(1e6 * abs(float(x.flatten()[0]))), dtype=x.dtype)
    others[1] = others[1] * (others[0] > 0)
    return torch.stack([x, others[0], others[1], torch.zeros_like(x), others[2] * 2.0**-40])


def _untouched(tensors: Sequence[Tensor], call: Callable[[], object]) -> None:
    """Neither what is lent nor torch's generator is touched by a call, whose result is no function of the generator."""
    before, versions = [t.clone() for t in tensors], [t._version for t in tensors]
    generator = torch.get_rng_state()
    call()
    _require(torch.equal(generator, torch.get_rng_state()), "it draws from torch's global generator")
    for tensor, was, version in zip(tensors, before, versions, strict=True):
        _require(torch.equal(tensor, was) and tensor._version == version, "it writes a tensor that is only lent to it")


def _same(a: Tensor, b: Tensor, what: str, *, within: float = 0.0) -> None:
    if not torch.equal(a, b) and not (within and torch.allclose(a, b, rtol=within, atol=within)):
        gap = f"by {float((a.double() - b.double()).abs().max()):.3g}" if a.shape == b.shape else "in shape"
        raise AssertionError(f"{what}: differs {gap}")


Run = Callable[[Tensor, list[int]], list[Tensor]]
"""A component over matrices (..., m, n) with row numbers: its tensors with those leading axes."""


def _alone_and_stacked(run: Run, x: Tensor) -> None:
    stack = _stack(x)
    numbers = list(range(len(stack)))
    with threads(1):
        together = run(stack, numbers)
        apart = [run(stack[i], [i]) for i in numbers]
        deeper = run(stack[:4].reshape(2, 2, *stack.shape[1:]), numbers[:4])
        turned = run(stack.mT.contiguous().mT, numbers)
    for index, whole in enumerate(together):
        for i in numbers:
            _same(whole[i], apart[i][index], f"matrix {i} of a stack is not what it is alone (output {index})")
        _same(whole[:4], deeper[index].flatten(0, 1), f"two leading axes are not one (output {index})")
        _same(whole, turned[index], f"another memory layout, other bits (output {index})")


def _threaded(run: Run, x: Tensor, *, within: float = 0.0) -> None:
    """One or two threads: only for matrices that, once tiled, are large enough to be shared out (32,768 entries)."""
    if x.numel() < 1000 or x.dtype != torch.float32:
        return
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(run(x.repeat(4, 4), [0]))
    for index, (one, two) in enumerate(zip(*found, strict=True)):
        _same(one, two, f"two threads, other bits (output {index})", within=within)


def _alphabet(y: Tensor, s: Signal) -> None:
    """Every value of y is one of those that s speaks of; a zero matrix may stay zero."""
    if s.alphabet in ("sign", "ternary"):
        _require(((y == 0) | (y.abs() == 1)).all(), f"{a_or_an(s.alphabet)} signal holds other values than -1, 0, 1")
    if s.alphabet == "sign":
        opinion = y.ne(0).flatten(-2).any(-1)
        _require(y[opinion].ne(0).all(), "a sign signal holds zeros inside a matrix")
