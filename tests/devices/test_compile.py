"""The elementwise parts compile whole: one graph without a break, and none anew for a shape or a learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from signa.stage import Context, State
from signa.stages import Adam, Momentum, Step

SHAPES = ((2, 6, 8), (3, 70, 5), (5, 33, 65), (4, 16, 128))


MOMENTUM, ADAM, STEP, CAUTIOUS = Momentum(nu="beta"), Adam(), Step(), Step(decay="cautious")


def applied(g: Tensor, m: Tensor, x: Tensor, ctx: Context) -> None:
    """Momentum, sign and step, as ``signsgd`` chains them."""
    STEP(torch.sign(MOMENTUM(g, {"m": m}, ctx)), {"x": x}, ctx)


def adam(g: Tensor, m: Tensor, x: Tensor, ctx: Context) -> None:
    """Adam and a cautious step, as ``adamw`` chains them."""
    state: State = {"m": m, "v": m.square(), "t": torch.ones(len(g), 1, 1, dtype=torch.float64)}
    CAUTIOUS(ADAM(g, state, ctx), {"x": x}, ctx)


def context(lr: float | Tensor) -> Context:
    return Context(lr=lr, scale=0.2, weight_decay=0.1)


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("parts", [applied, adam])
def test_shapes_and_rates_share_one_graph(parts: Callable[..., None]) -> None:
    counter = CompileCounter()
    compiled = torch.compile(parts, backend=counter, fullgraph=True, dynamic=True)
    for seed, shape in enumerate(SHAPES):
        for lr in (0.1, 0.02, 3e-4):
            made = torch.Generator().manual_seed(seed)
            g, m, x = (torch.randn(shape, generator=made) for _ in range(3))
            ctx = context(torch.tensor(lr, dtype=torch.float64))
            eager, own = (m.clone(), x.clone()), (m, x)
            parts(g, *eager, ctx)
            compiled(g, *own, ctx)
            torch.testing.assert_close(own, eager)  # close, for compiled code may round otherwise
    assert counter.frame_count == 1


def test_a_rate_that_is_a_number_compiles_anew() -> None:
    """Why a rate is a tensor there: the test above would see it."""
    counter = CompileCounter()
    compiled = torch.compile(applied, backend=counter, fullgraph=True, dynamic=False)
    for lr in (0.1, 0.02, 3e-4):
        compiled(*(torch.ones(2, 6, 8) for _ in range(3)), context(lr))
    assert counter.frame_count > 1
