"""Laws of compressors and aggregators."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..aggregators import Aggregator
from ..compressors import Compressor
from ..errors import Fault
from ..signal import SQRT_MN, Signal
from .tools import (
    _alone_and_stacked,
    _alphabet,
    _require,
    _rounds,
    _same,
    _stack,
    _threaded,
    _tolerance,
    _untouched,
    context,
    sample,
)


def _compressor_borrows(rule: Compressor, x: Tensor) -> None:
    stack = _stack(x)
    _untouched([stack], lambda: rule(stack, context(range(5))))
    torch.manual_seed(1)
    first = rule(stack, context(range(5)))
    torch.manual_seed(2)
    _same(first, rule(stack, context(range(5))), "the same input and coins give two results")


def _compressor_batch(rule: Compressor, x: Tensor) -> None:
    _alone_and_stacked(lambda x, rows: [rule(x, context(rows)).clone()], x)


def _compressor_threads(rule: Compressor, x: Tensor) -> None:
    _threaded(lambda x, rows: [rule(x, context(rows)).clone()], x, within=1e-6 if _rounds(rule) else 0.0)


def _compressor_zero(rule: Compressor, x: Tensor) -> None:
    zero = torch.zeros_like(_stack(x))
    _require(torch.equal(rule(zero, context(range(5))), zero), "a zero matrix becomes something else")


def _compressor_contracts(rule: Compressor, x: Tensor) -> None:
    m, n = x.shape
    delta = rule.contraction(m, n)
    if delta is None:
        return
    _require(0 < delta <= 1, f"delta is {delta}, not in (0, 1]")
    spike = torch.zeros_like(x)
    spike.flatten()[-1] = -3.0
    cases = torch.stack([x, torch.ones_like(x), spike, x**5, x * (x > 0), torch.zeros_like(x)]).double()
    lost = (rule(cases, context(range(6))) - cases).square().sum((-2, -1))
    allowed = (1 - delta) * cases.square().sum((-2, -1))
    _require((lost <= allowed * (1 + 1e-9) + 1e-18).all(), f"||C(x) - x||^2 is {lost.tolist()} > {allowed.tolist()}")


def _compressor_bits(rule: Compressor, x: Tensor) -> None:
    m, n = x.shape
    for s in (Signal(), Signal("direction", "sign", SQRT_MN)):
        bits = rule.bits(s, m, n)
        _require(math.isfinite(bits) and bits > 0, f"it declares {bits} bits per entry")
        _require(rule.contraction(m, n) is not None or bits < 32, f"it loses the size of x and still costs {bits} bits")


def _compressor_signal(rule: Compressor, x: Tensor) -> None:
    stack = _stack(x)
    y, s = rule(stack, context(range(5))), rule.signal(Signal())
    _require(y.shape == stack.shape and y.dtype == x.dtype, "the shape or the dtype changes")
    _alphabet(y, s)
    if s.norm is not None:
        norm, size = s.norm(*x.shape), float(torch.linalg.vector_norm(y[0].double()))
        _require(abs(size - norm) <= 1e-5 * norm, f"its nominal norm is {norm:.6g}, a Gaussian's is {size:.6g}")


def _reads_dense(rule: Aggregator) -> bool:
    try:
        rule.signal(Signal("direction"))
    except Fault:
        return False
    return True


def _messages(rule: Aggregator, x: Tensor, workers: int) -> Iterator[Tensor]:
    """Messages (N, 2, m, n) that the rule reads: dense ones if it does, and +-1."""
    dense = sample(workers, 2, *x.shape, seed=int(1e6 * abs(float(x.flatten()[0]))), dtype=x.dtype)
    if _reads_dense(rule):
        yield dense
    yield dense.sign()


def _everyone(messages: Tensor) -> Tensor:
    return torch.ones(messages.shape[:2], dtype=torch.bool)


def _aggregator_borrows(rule: Aggregator, x: Tensor) -> None:
    for messages in _messages(rule, x, 4):
        active, ctx = _everyone(messages), context(range(2))
        _untouched([messages, active], lambda m=messages, a=active, c=ctx: rule(m, a, c))  # type: ignore[misc]
        y = rule(messages, active, ctx)
        _require(y.shape == messages.shape[1:] and y.dtype == x.dtype, f"messages became {tuple(y.shape)}")
        _same(y, rule(messages, active, ctx), "the same messages and coins give two results")


def _aggregator_batch(rule: Aggregator, x: Tensor) -> None:
    def run(x: Tensor, rows: list[int]) -> list[Tensor]:
        dense = torch.stack([x, -x * 0.5, x + 1, x.abs() - 0.5])
        active = torch.ones(dense.shape[:-2], dtype=torch.bool)
        return [rule(votes, active, context(rows)) for votes in ((dense, dense.sign()) if reads else (dense.sign(),))]

    reads = _reads_dense(rule)
    _alone_and_stacked(run, x)


def _aggregator_anonymous(rule: Aggregator, x: Tensor) -> None:
    for messages in _messages(rule, x, 5):
        messages[2] = 0
        active = _everyone(messages)
        active[2] = False
        order, ctx = torch.tensor([3, 0, 4, 2, 1]), context(range(2))
        one, two = rule(messages, active, ctx), rule(messages[order], active[order], ctx)
        _require(torch.allclose(one, two, atol=_tolerance(x), rtol=0), "another order of workers, another result")


def _aggregator_alone(rule: Aggregator, x: Tensor) -> None:
    for messages in _messages(rule, x, 1):
        _same(rule(messages, _everyone(messages), context(range(2))), messages[0], "the only message is not the result")


def _aggregator_unanimous(rule: Aggregator, x: Tensor) -> None:
    for workers in (2, 3, 8):
        for message in _messages(rule, x, 1):
            messages = message.expand(workers, -1, -1, -1)
            y = rule(messages, _everyone(messages), context(range(2)))
            _require(torch.allclose(y, message[0], atol=_tolerance(x)), f"{workers} equal messages give something else")


def _aggregator_monotone(rule: Aggregator, x: Tensor) -> None:
    """Entry by entry. One that judges a whole message may think less of it where it rises: it is then further away."""
    if not rule.coordinatewise:
        return
    for messages in _messages(rule, x, 5):
        signs, ctx = bool((messages.abs() == 1).all()), context(range(2))
        before = rule(messages, _everyone(messages), ctx)
        for worker in range(5):
            more = messages.clone()
            more[worker] = torch.ones_like(more[worker]) if signs else more[worker] + 0.75
            after = rule(more, _everyone(more), ctx)
            _require((after >= before - _tolerance(x)).all(), f"the result falls where worker {worker}'s message rises")


def _aggregator_odd(rule: Aggregator, x: Tensor) -> None:
    for messages in _messages(rule, x, 5):
        active, ctx = _everyone(messages), context(range(2))
        _same(rule(-messages, active, ctx), -rule(messages, active, ctx), "opposite messages give no opposite result")


def _aggregator_absent(rule: Aggregator, x: Tensor) -> None:
    for messages in _messages(rule, x, 4):
        active, ctx = _everyone(messages), context(range(2))
        messages[1], active[1] = 0, False
        messages[3, 1], active[3, 1] = 0, False
        y = rule(messages, active, ctx)
        for row, present in enumerate(([0, 2, 3], [0, 2])):
            there = messages[present][:, row : row + 1]
            alone = rule(there, _everyone(there), context([row]))
            _require(torch.allclose(y[row : row + 1], alone, atol=_tolerance(x)), "an inactive row counts")


def _aggregator_abstain(rule: Aggregator, x: Tensor) -> None:
    for messages in _messages(rule, x, 3):
        silent = torch.zeros_like(messages)
        for active in (_everyone(messages), ~_everyone(messages))[0 if rule.counts_silent else 1 :]:
            y = rule(silent, active, context(range(2)))
            _require(torch.equal(y, silent[0]), "nobody has a message, and the result is not 0")


def _aggregator_memory(rule: Aggregator, x: Tensor) -> None:
    """What it remembers is written in place, a matrix's by itself, and stays where nobody has a message."""

    def run(x: Tensor, rows: list[int]) -> list[Tensor]:
        state, found = rule.init(4, torch.zeros_like(x)), []
        for step in range(3):
            votes = torch.stack([x + step, step - x, x, x.abs() - 0.5]).sign()
            active = torch.ones(votes.shape[:-2], dtype=torch.bool)
            found.append(rule(votes, active, context(rows, memory=state)).clone())
        return [*found, *state.values()]

    _alone_and_stacked(run, x)
    stack = _stack(x)
    state = rule.init(4, torch.zeros_like(stack))
    _require(bool(state) == rule.remembers, "it has a state if and only if 'remembers' says so")
    kept = {name: (id(value), value.data_ptr(), value.clone()) for name, value in state.items()}
    for name, value in state.items():
        _require(len(value) == len(stack), f"state '{name}' of five matrices is {tuple(value.shape)}")
    nobody = torch.zeros(4, len(stack), dtype=torch.bool)
    rule(torch.zeros(4, *stack.shape, dtype=x.dtype), nobody, context(range(5), memory=state))
    _require(list(state) == list(kept), f"the state's names change from {list(kept)} to {list(state)}")
    for name, (identity, where, before) in kept.items():
        _require((id(state[name]), state[name].data_ptr()) == (identity, where), f"state '{name}' is replaced")
        _require(torch.equal(state[name], before), f"state '{name}' changes where nobody has a message")


def _aggregator_signal(rule: Aggregator, x: Tensor) -> None:
    sent = Signal("direction", "sign", SQRT_MN)
    s = rule.signal(sent)
    for workers in (3, 4):
        votes = list(_messages(rule, x, workers))[-1]
        _alphabet(rule(votes, _everyone(votes), context(range(2))), s)
