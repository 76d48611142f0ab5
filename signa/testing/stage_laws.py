"""Laws of stages and LMOs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import Fault
from ..lmo import LMO, Spectral
from ..lmo.newton_schulz import exact_polar
from ..packing import words
from ..signal import Signal
from ..stage import Stage
from ..stages import Step
from .tools import (
    Run,
    _alone_and_stacked,
    _alphabet,
    _band,
    _inner,
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


def _signals(rule: Stage) -> Iterator[Signal]:
    for role in rule.takes:
        try:
            yield rule.signal(Signal(role))
        except Fault:
            continue


def _stage_borrows(rule: Stage, x: Tensor) -> None:
    x, model = _stack(x), _stack(x * 3 + 1)
    state, ctx = rule.init(x), context(range(5), model)
    _untouched([x, model], lambda: [rule(x, state, ctx) for _ in range(2)])
    if "x" not in state:
        torch.manual_seed(1)
        first = rule(x, rule.init(x), ctx)
        torch.manual_seed(2)
        _same(first, rule(x, rule.init(x), ctx), "the same input and state give two results")


def _stage_state(rule: Stage, x: Tensor) -> None:
    x = _stack(x)
    _untouched([x], lambda: rule.init(x))
    for start in (x, torch.zeros((), dtype=x.dtype).expand(x.shape)):
        state = rule.init(start)
        kept = {name: (value, value.data_ptr(), value.shape, value.dtype) for name, value in state.items()}
        for name, value in state.items():
            _require(value.shape[:1] == (5,) and value.ndim >= 3, f"state '{name}' lacks the leading axes")
            _require(value.is_contiguous(), f"state '{name}' is not contiguous")
            _require(value.data_ptr() != start.data_ptr(), f"state '{name}' is the signal it starts from")
        rule(x, state, context(range(5)))
        now = {name: (value, value.data_ptr(), value.shape, value.dtype) for name, value in state.items()}
        _require(list(now) == list(kept), f"the state's names change from {list(kept)} to {list(now)}")
        for name in kept:
            _require(now[name][0] is kept[name][0] and now[name][1:] == kept[name][1:], f"state '{name}' is replaced")


def _stage_run(rule: Stage) -> Run:
    def run(x: Tensor, rows: list[int]) -> list[Tensor]:
        state, ctx = rule.init(x * 0.5), context(rows, x * 2 + 1)
        puts = [rule(x * factor, state, ctx).clone() for factor in (1.0, -0.3, 0.7)]
        return [*puts, *state.values()]

    return run


def _stage_batch(rule: Stage, x: Tensor) -> None:
    _alone_and_stacked(_stage_run(rule), x)


def _stage_threads(rule: Stage, x: Tensor) -> None:
    _threaded(_stage_run(rule), x, within=1e-6 if _rounds(rule) else 0.0)


def _stage_lean(rule: Stage, x: Tensor) -> None:
    x, ctx = _stack(x), context(range(5), _stack(x))
    whole, lean = rule(x, rule.init(x), ctx), rule.lean(x, rule.init(x), ctx)
    _same(whole, lean.to(whole.dtype), "lean() has other values than a call")


def _stage_signed(rule: Stage, x: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.float64) or "x" not in rule.init(x):
        return
    direction, model = torch.where(_stack(x) < 0, -1.0, 1.0).to(x.dtype), _stack(x * 3 + 1)
    for decay in (0.0, 0.1):
        ctx, found = context(range(5), weight_decay=decay), model.clone()
        wanted = rule(direction, {"x": model.clone()}, ctx)
        if rule.signed(words(direction.flatten(-2)), list(found), ctx):
            _same(found, wanted, "signed() has another model than a call")
        else:
            _same(found, model, "signed() does nothing, as it says, but has written to the model")


def _stage_zero(rule: Stage, x: Tensor) -> None:
    zero = torch.zeros_like(_stack(x))
    if isinstance(rule, Step):
        start = _stack(x)
        _same(rule(zero, rule.init(start), context(weight_decay=0.0)), start, "a zero direction moves the model")
        return
    y = rule(zero, rule.init(zero), context(range(5), weight_decay=0.0))
    _require(torch.equal(y, zero), "a zero input and a fresh state put out something else than zero")


def _stage_signal(rule: Stage, x: Tensor) -> None:
    state = rule.init(x)
    y = rule(x, state, context())
    _require(y.shape == x.shape and y.dtype == x.dtype, f"{tuple(x.shape)} {x.dtype} became {tuple(y.shape)} {y.dtype}")
    low, high = _band(rule) if isinstance(rule, LMO) else (1.0, 1.0)
    for s in _signals(rule):
        _require(s.role in ("gradient", "direction", "model"), f"there is no role '{s.role}'")
        radius = rule.radius if isinstance(rule, LMO) else 1.0
        _alphabet(y / radius, s)
        if s.norm is not None and s.role != "model":
            norm, size = s.norm(*x.shape), float(torch.linalg.vector_norm(y.double())) / radius
            near = norm * low - _tolerance(x) <= size <= norm * high + 1e-4 * norm
            _require(near, f"its nominal Frobenius norm is {norm:.6g}, but a Gaussian input comes out with {size:.6g}")


def _lmo_alias(rule: LMO, x: Tensor) -> None:
    for g in (x, torch.zeros_like(x), x.mT.contiguous().mT, _stack(x), torch.sign(x)):
        for d in (rule.direction(g), rule(g, {}, context())):
            shared = d.untyped_storage().data_ptr() == g.untyped_storage().data_ptr()
            _require(not shared, "a direction shares memory with its gradient")


def _lmo_dual(rule: LMO, x: Tensor) -> None:
    low, high = _band(rule)
    stack, tolerance = _stack(x), _tolerance(x)
    inner, dual = _inner(stack, rule.direction(stack)), rule.dual(stack).double()
    _require(dual.shape == (5,), f"dual of five matrices has shape {tuple(dual.shape)}")
    gap = tolerance * dual.abs() + 1e-300
    if not (low == high == 1.0):  # a band is for full-rank matrices: zeros inside may make a rank
        inner, dual, gap = (t[[0, 1, 3, 4]] for t in (inner, dual, gap))
    holds = (inner >= low * dual - gap) & (inner <= high * dual + gap)
    _require(holds.all(), f"<g, d> is {inner.tolist()}, dual(g) is {dual.tolist()}")


def _lmo_feasible(rule: LMO, x: Tensor) -> None:
    stack = _stack(x)
    norm = rule.norm(rule.direction(stack).double())
    _require(norm.shape == (5,), f"norm of five matrices has shape {tuple(norm.shape)}")
    _require((norm <= _band(rule)[1] + _tolerance(x)).all(), f"||d|| is {norm.tolist()}")


def _lmo_optimal(rule: LMO, x: Tensor) -> None:
    """No feasible point does better: random ones, corners, and the maximisers of all the usual balls."""
    g = x.double()
    m, n = g.shape
    corners = torch.eye(m * n, dtype=g.dtype)[: min(m * n, 64)].view(-1, m, n)
    rows, columns = torch.linalg.vector_norm(g, dim=-1, keepdim=True), torch.linalg.vector_norm(g, dim=-2, keepdim=True)
    usual = torch.stack([g, g.sign(), g / rows, g / columns, exact_polar(g), g**3])
    points = torch.cat([sample(16, m, n, seed=m * n, dtype=g.dtype), corners, -corners, usual])
    points = points / rule.norm(points)[:, None, None]
    best, dual = float(_inner(g, points).max()), float(rule.dual(x).double())
    _require(best <= dual * (1 + _tolerance(x)), f"a feasible point reaches <g, x> = {best:.8g}, dual(g) is {dual:.8g}")


def _lmo_scale(rule: LMO, x: Tensor) -> None:
    stack = _stack(x)
    d = rule.direction(stack)
    for power in (-30, -1, 7, 40):
        _same(d, rule.direction(stack * 2.0**power), f"d(2^{power} g) is not d(g)")


def _lmo_odd(rule: LMO, x: Tensor) -> None:
    stack = _stack(x)
    within = _tolerance(x) if _rounds(rule) else 0.0
    _same(rule.direction(-stack), -rule.direction(stack), "d(-g) is not -d(g)", within=within)


def _invariant(rule: LMO, x: Tensor) -> None:
    """d(U g V) = U d(g) V for orthogonal U, V, to the precision of the iteration."""
    m, n = x.shape
    U = torch.linalg.qr(sample(m, m, seed=3, dtype=torch.float64)).Q.to(x.dtype)
    V = torch.linalg.qr(sample(n, n, seed=4, dtype=torch.float64)).Q.to(x.dtype)
    turned, straight = rule.direction(U @ x @ V), U @ rule.direction(x) @ V
    half = isinstance(rule, Spectral) and rule.schedule != "exact" and rule.dtype == "bfloat16"
    gap = float(torch.linalg.vector_norm(turned - straight) / torch.linalg.vector_norm(straight))
    least = float(torch.linalg.svdvals(x.double())[-1] / torch.linalg.svdvals(x.double())[0])
    allowed = 8e-2 if half else 1e-3 if x.dtype == torch.float32 or _narrow(rule) else 1e-9
    _require(gap <= allowed, f"d(U g V) and U d(g) V are {gap:.3g} apart (sigma_min / sigma_max = {least:.2g})")


def _narrow(rule: LMO) -> bool:
    return isinstance(rule, Spectral) and rule.schedule != "exact" and rule.dtype == "float32"


def _transposed(rule: LMO, x: Tensor) -> None:
    """d(g^T) = d(g)^T: under Newton-Schulz bit for bit unless the matrix is square."""
    d, turned = rule.direction(x), rule.direction(x.mT).mT
    if isinstance(rule, Spectral) and x.shape[0] != x.shape[1] and not _rounds(rule):
        _same(d, turned, "d(g^T) is not d(g)^T")
    _require(torch.allclose(d, turned, atol=_tolerance(x) * 10, rtol=0), "d(g^T) is not near d(g)^T")
