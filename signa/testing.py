"""The laws that every component obeys, as functions: for the tests here, and for the author of a component.

``check_component(MyLMO())`` in a test of your own is all it takes; the names of the laws are ``laws(MyLMO())``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .aggregators import Aggregator
from .coins import Coins
from .compressors import Compressor, Identity, ScaledSign
from .errors import Fault
from .feedback import EF14, Feedback
from .lmo import LMO, Frobenius, Spectral
from .lmo.newton_schulz import exact_polar
from .rule import Rule
from .scaling import Scaling
from .signal import ONE, SQRT_M, SQRT_MIN, SQRT_MN, SQRT_N, Signal
from .stage import Context, Stage, State
from .stages import Step

__all__ = ["BANDS", "SHAPES", "check_component", "context", "laws", "sample", "threads"]

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


def check_component(
    rule: Rule,
    *,
    shapes: Iterable[Sequence[int]] = SHAPES,
    seeds: Iterable[int] = (0,),
    dtypes: Iterable[torch.dtype] = (torch.float32, torch.float64),
    only: Iterable[str] = (),
) -> None:
    """Put a component to every law of its sort (or those named in ``only``), on Gaussian matrices of some shapes.

    An LMO may declare two class variables: ``band = (low, high)``, between which ``<g, d> / dual(g)`` and ``||d||`` lie
    (else both are 1), and ``rounds = True`` where LAPACK decides its last bits, which then need not be odd, nor the
    same under any number of threads.

    Raises:
        AssertionError: with the component, the law, the shape, the dtype and the seed, and what went wrong.

    >>> from signa.compressors import Sign
    >>> check_component(Sign()), list(laws(Sign()))[:3]
    (None, ['borrows', 'same alone and stacked', 'same on two threads'])
    """
    chosen = {name: law for name, law in laws(rule).items() if not only or name in only}
    if missing := set(only) - set(chosen):
        raise ValueError(f"{rule.kind} has no law {sorted(missing)}; its laws are {list(laws(rule))}")
    seeds, dtypes = list(seeds), list(dtypes)
    for m, n in shapes:
        for dtype in dtypes:
            for seed in seeds:
                for name, law in chosen.items():
                    try:
                        law(rule, sample(m, n, seed=seed, dtype=dtype))
                    except Exception as error:
                        where = f"a {m}x{n} matrix of {str(dtype).removeprefix('torch.')}, seed {seed}"
                        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                        raise AssertionError(f"{rule} breaks the law '{name}' on {where}: {what}") from error


def laws(rule: Rule) -> dict[str, Law]:
    """Every law of a component's sort, by name. A law raises AssertionError for ``law(rule, x)``, x (m, n)."""
    for sort, found in _LAWS.items():
        if isinstance(rule, sort):
            return found | (_INVARIANT if isinstance(rule, Spectral | Frobenius) else {})
    raise TypeError(f"there are no laws for a {type(rule).__name__}")


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


# Helpers -------------------------------------------------------------------------------------------------------------


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
        _require(((y == 0) | (y.abs() == 1)).all(), f"a {s.alphabet} signal holds other values than -1, 0, 1")
    if s.alphabet == "sign":
        opinion = y.ne(0).flatten(-2).any(-1)
        _require(y[opinion].ne(0).all(), "a sign signal holds zeros inside a matrix")


# Stages and LMOs -----------------------------------------------------------------------------------------------------


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


# Compressors ---------------------------------------------------------------------------------------------------------


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


# Aggregators ---------------------------------------------------------------------------------------------------------


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
        for active in (_everyone(messages), ~_everyone(messages)):
            y = rule(silent, active, context(range(2)))
            _require(torch.equal(y, silent[0]), "nobody has a message, and the result is not 0")


def _aggregator_signal(rule: Aggregator, x: Tensor) -> None:
    sent = Signal("direction", "sign", SQRT_MN)
    s = rule.signal(sent)
    for workers in (3, 4):
        votes = list(_messages(rule, x, workers))[-1]
        _alphabet(rule(votes, _everyone(votes), context(range(2))), s)


# Feedbacks and scalings ----------------------------------------------------------------------------------------------


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


_STAGE: dict[str, Law] = {
    "borrows": _stage_borrows,
    "state in place": _stage_state,
    "same alone and stacked": _stage_batch,
    "same on two threads": _stage_threads,
    "zero stays zero": _stage_zero,
    "is what its signal says": _stage_signal,
}
_INVARIANT: dict[str, Law] = {"rotation": _invariant, "transposition": _transposed}
_LAWS: dict[type[Rule], dict[str, Law]] = {
    LMO: _STAGE
    | {
        "no alias": _lmo_alias,
        "dual": _lmo_dual,
        "feasible": _lmo_feasible,
        "optimal": _lmo_optimal,
        "powers of two": _lmo_scale,
        "odd": _lmo_odd,
    },
    Stage: _STAGE,
    Compressor: {
        "borrows": _compressor_borrows,
        "same alone and stacked": _compressor_batch,
        "same on two threads": _compressor_threads,
        "zero stays zero": _compressor_zero,
        "contraction": _compressor_contracts,
        "bits": _compressor_bits,
        "is what its signal says": _compressor_signal,
    },
    Aggregator: {
        "borrows": _aggregator_borrows,
        "same alone and stacked": _aggregator_batch,
        "anonymous": _aggregator_anonymous,
        "one worker": _aggregator_alone,
        "unanimous": _aggregator_unanimous,
        "monotone": _aggregator_monotone,
        "odd": _aggregator_odd,
        "absent workers": _aggregator_absent,
        "all abstain": _aggregator_abstain,
        "is what its signal says": _aggregator_signal,
    },
    Feedback: {
        "borrows": _feedback_borrows,
        "state in place": _feedback_state,
        "same alone and stacked": _feedback_batch,
        "zero stays zero": _feedback_zero,
        "identity": _feedback_identity,
    },
    Scaling: {"positive": _scaling_positive, "free norm": _scaling_free},
}
