"""Laws of feedbacks and scalings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..compressors import Compressor, Identity, ScaledSign
from ..feedback import EF14, Feedback
from ..scaling import Scaling
from ..signal import ONE, SQRT_M, SQRT_MIN, SQRT_MN, SQRT_N, Signal
from ..stage import State
from .tools import _alone_and_stacked, _require, _stack, _tolerance, _untouched, context


def _feedback_run(rule: Feedback, x: Tensor, rows: Sequence[int], compressor: Compressor) -> list[Tensor]:
    sender, receiver = rule.sender(torch.zeros_like(x)), rule.receiver(torch.zeros_like(x))
    found = []
    for factor in (1.0, -0.4, 2.0):
        c = rule.encode(x * factor, compressor, sender, context(rows))
        found += [c.clone(), rule.decode(c, receiver).clone()]
    return [*found, *sender.values(), *receiver.values()]


def _feedback_borrows(rule: Feedback, x: Tensor) -> None:
    stack = _stack(x)
    sender, receiver = rule.sender(stack), rule.receiver(stack)
    for compressor in (Identity(), ScaledSign()):
        _untouched([stack], lambda c=compressor: rule.encode(stack, c, sender, context(range(5))))  # type: ignore[misc]
    _untouched([stack], lambda: rule.decode(stack, receiver))


def _feedback_state(rule: Feedback, x: Tensor) -> None:
    stack = _stack(x)
    for make in (rule.sender, rule.receiver):
        state: State = make(torch.zeros((), dtype=x.dtype).expand(stack.shape))
        kept = {name: (id(value), value.data_ptr()) for name, value in state.items()}
        for name, value in state.items():
            _require(value.shape[:1] == (5,) and value.is_contiguous(), f"state '{name}' lacks the leading axes")
        if make == rule.sender:
            y = rule.encode(stack, Identity(), state, context(range(5)))
        else:
            y = rule.decode(stack, state)
        now = {name: (id(value), value.data_ptr()) for name, value in state.items()}
        _require(now == kept, "the state is replaced, not updated in place")
        shared = any(y.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() for value in state.values())
        _require(not shared, "what goes out shares memory with the state")


def _feedback_batch(rule: Feedback, x: Tensor) -> None:
    _alone_and_stacked(lambda x, rows: _feedback_run(rule, x, rows, ScaledSign()), x)


def _feedback_zero(rule: Feedback, x: Tensor) -> None:
    zero = torch.zeros_like(_stack(x))
    for y in _feedback_run(rule, zero, range(5), ScaledSign()):
        _require(not y.any(), "zeros from a fresh state become something else")


def _feedback_identity(rule: Feedback, x: Tensor) -> None:
    if isinstance(rule, EF14) and rule.drain != 1:
        return  # it holds something back on purpose
    stack = _stack(x)
    delivered = _feedback_run(rule, stack, range(5), Identity())[1:6:2]
    for y, factor in zip(delivered, (1.0, -0.4, 2.0), strict=True):
        gap = float((y - stack * factor).abs().max())
        _require(gap <= _tolerance(x) * 10, f"around the identity it is no identity: {gap:.3g} off")


def _scaling_positive(rule: Scaling, x: Tensor) -> None:
    m, n = x.shape
    for norm in (ONE, SQRT_M, SQRT_N, SQRT_MN, SQRT_MIN):
        value = rule(Signal("direction", "dense", norm), m, n)
        _require(math.isfinite(value) and value > 0, f"the multiplier of a signal of norm {norm} is {value}")


def _scaling_free(rule: Scaling, x: Tensor) -> None:
    _require(rule(Signal(), *x.shape) == 1.0, "a signal without a nominal norm has another multiplier than 1")
    _require(rule(Signal("direction", "sign", SQRT_MN), 0, 5) == 1.0, "an empty matrix has another multiplier than 1")
