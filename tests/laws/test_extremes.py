"""Every registered component at the edges: no entries, one entry, every dtype and layout, huge, tiny, NaN, infinite.

What is asked of all of them: the shape and the dtype stay, nothing lent is written, a layout changes no bit, finite
matrices of any size stay finite, and what is wrong in one matrix of a stack stays in that matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import signa
from signa.aggregators import Aggregator
from signa.compressors import Compressor, ScaledSign
from signa.feedback import Feedback
from signa.lmo import LMO
from signa.rule import Rule
from signa.stage import Stage
from signa.testing import context, sample
from signa.testing.inside import group_with, workers_of
from tests.laws.test_laws import COMPONENTS

RULES = [rule for rule in COMPONENTS if isinstance(rule, Stage | Compressor | Aggregator | Feedback)]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
few = settings(max_examples=3, derandomize=True, deadline=None, database=None)

#: The same numbers (2, m, n) in other memory.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "strided": lambda x: torch.stack([x, -x], -1)[..., 0],
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "reversed axes": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
}


def through(rule: Rule, x: Tensor) -> list[Tensor]:
    """What a component makes of matrices (2, m, n), twice where it has a memory; of messages, all alike or not."""
    rows, model = range(len(x)), torch.ones_like(x)
    if isinstance(rule, Stage):
        state = rule.init(model)
        return [rule(x, state, context(rows, model)).clone() for _ in range(2)]
    if isinstance(rule, Compressor):
        return [rule(x, context(rows))]
    if isinstance(rule, Feedback):
        state, receiver = rule.sender(torch.zeros_like(x)), rule.receiver(torch.zeros_like(x))
        return [rule.decode(rule.encode(x, ScaledSign(), state, context(rows)), receiver).clone() for _ in range(2)]
    assert isinstance(rule, Aggregator)
    messages = torch.stack([x, x, -x])
    return [rule(messages, torch.ones(messages.shape[:2], dtype=torch.bool), context(rows))]


def votes(rule: Rule, x: Tensor) -> Tensor:
    """A vote reads +-1, everybody else anything."""
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype) if getattr(rule, "kind", "") == "majority_vote" else x


@pytest.mark.parametrize("rule", RULES, ids=str)
@few
@given(
    shape=st.sampled_from([(1, 1), (1, 6), (6, 1), (5, 7)]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    seed=st.integers(0, 2**16),
)
def test_any_shape_dtype_and_layout(
    rule: Rule, shape: tuple[int, int], dtype: torch.dtype, layout: str, seed: int
) -> None:
    x = votes(rule, sample(2, *shape, seed=seed, dtype=dtype))
    other = LAYOUTS[layout](x)
    kept = other.clone()
    for y, z in zip(through(rule, x), through(rule, other), strict=True):
        assert y.shape == x.shape and y.dtype == dtype and bool(torch.isfinite(y).all())
        # Of the half types torch's own loops over strided memory round some entries otherwise: by one unit, at most.
        near = 2 * torch.finfo(dtype).eps if dtype in DTYPES[2:] else 0.0
        assert torch.allclose(y, z, rtol=near, atol=near * float(x.abs().max())) if near else torch.equal(y, z)
    assert torch.equal(other, kept)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_entries(rule: Rule) -> None:
    """Inside an optimizer, beside a matrix that has some: empty ones stay empty, and take nothing from the other."""
    group = group_with(rule)
    matrix = nn.Parameter(sample(6, 4))
    net = nn.ParameterDict({"rows": nn.Parameter(torch.zeros(0, 4)), "all": matrix})
    net["columns"] = nn.Parameter(torch.zeros(6, 0))
    workers = workers_of(group)
    opt = signa.build({"groups": [group.model_copy(update={"match": "*"})]}, net, transport=signa.Loopback(workers))
    for _ in range(2):
        for worker in range(workers):
            with opt.worker(worker):
                for p in net.values():
                    p.grad = sample(*p.shape, seed=worker)
        opt.step()
    assert net["rows"].shape == (0, 4) and net["columns"].shape == (6, 0)
    assert bool(matrix.isfinite().all()) and not torch.equal(matrix, sample(6, 4))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_huge_and_tiny(rule: Rule, dtype: torch.dtype) -> None:
    """1e30, where squares overflow float32; the least normal number; and subnormal ones, which may become 0."""
    least = torch.finfo(dtype).smallest_normal
    for size in (1e30, 1e-30, least, least / 2**10):
        x = votes(rule, (sample(2, 5, 7, seed=1, dtype=torch.float64) * size).to(dtype))
        for y in through(rule, x):
            assert bool(torch.isfinite(y).all()), (size, y)
            if isinstance(rule, LMO) and size >= least:
                assert bool(y.ne(0).any()), f"nothing is left of a gradient of size {size}"


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
def test_what_is_not_finite_stays_in_its_matrix(rule: Rule, bad: float) -> None:
    """The other matrix of the stack has the bits that it has beside a sound one."""
    x = votes(rule, sample(2, 5, 7, seed=2))
    sound = through(rule, x)
    x[1, 2, 3] = bad
    try:
        found = through(rule, x)
    except torch.linalg.LinAlgError:  # LAPACK refuses; the optimizer's policy never lets it come to that
        return
    for y, z in zip(found, sound, strict=True):
        assert torch.equal(y[0], z[0])


def test_expanded_messages_are_read_as_they_are() -> None:
    """One number in memory that stands for all: what a worker without a gradient has."""
    for rule in RULES:
        x = torch.ones((), dtype=torch.float32).expand(2, 5, 7)
        for y, z in zip(through(rule, x), through(rule, x.contiguous()), strict=True):
            assert torch.equal(y, z), rule
