"""torch's own optimizer contract, row by row and in both directions, over methods drawn from the registries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import signa
from signa import Method
from signa.errors import UnsupportedParameter
from tests.paths.compositions import METHODS, SHAPES, WORKERS, every_method, everything, fresh, places, start, used
from tests.paths.test_optimizer import (
    Parameters,
    build,
    gradient,
    parameters,
    same,
    states,
    through_a_file,
    train,
    values,
    with_zeros,
)

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")


def test_every_part_is_in_some_method_in_every_place() -> None:
    assert {place for method in METHODS.values() for place in used(method)} == set(places())
    assert 20 <= len(METHODS) <= 80


# Layout and dtype ----------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every second": lambda x: x.repeat_interleave(2, -1)[..., ::2],
}


def laid(ps: Mapping[str, Tensor], layout: str) -> Parameters:
    return {name: nn.Parameter(LAYOUTS[layout](p.detach())) for name, p in ps.items()}


@every_method
def test_memory_layouts_of_parameters_and_gradients_change_no_bit(method: Method) -> None:
    found = []
    for own, given in (("contiguous",) * 2, ("transposed", "contiguous"), ("contiguous", "every second")):
        ps, opt = start(method, laid(fresh(), own))
        strides = {name: p.stride() for name, p in ps.items()}

        def make(n: str, p: Tensor, t: int, j: int, given: str = given) -> Tensor:
            return LAYOUTS[given](gradient(n, p, t, j))

        train(opt, ps, range(3), make)
        assert {name: p.stride() for name, p in ps.items()} == strides
        found.append(everything(ps, opt))
    same(found[0], found[1])
    same(found[0], found[2])
    assert found[0].keys() > SHAPES.keys() or not states(opt)


@every_method
def test_half_precision_parameters_have_state_in_single_precision(method: Method) -> None:
    ps = parameters(SHAPES, torch.bfloat16)
    before = values(ps)
    ps, opt = start(method, ps)
    train(opt, ps, range(2))
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in ps.values())
    assert any(not torch.equal(p, before[name]) for name, p in ps.items())
    assert all(view.dtype in (torch.float32, torch.float64) for view in states(opt).values())


# Learning rates and groups -------------------------------------------------------------------------------------------


@every_method
def test_a_tensor_as_learning_rate_is_its_number(method: Method) -> None:
    found = []
    for lr in (0.25, torch.tensor(0.25)):
        ps, opt = start(method)
        opt.param_groups[0]["lr"] = lr
        train(opt, ps, range(2))
        if isinstance(lr, Tensor):
            opt.param_groups[0]["lr"].mul_(0.5)
        else:
            opt.param_groups[0]["lr"] = 0.125
        train(opt, ps, range(2, 4))
        found.append(everything(ps, opt))
        state = through_a_file(opt.state_dict())
        assert state["param_groups"][0]["lr"] == 0.125
        qs, other = start(method, {n: nn.Parameter(p.detach().clone()) for n, p in ps.items()})
        other.param_groups[0]["lr"] = 0.9 if isinstance(lr, Tensor) else torch.tensor(0.9)
        other.load_state_dict(state)
        train(other, qs, [4])
        found.append(everything(qs, other))
    same(found[0], found[2])
    same(found[1], found[3])


@every_method
def test_groups_have_rates_of_their_own(method: Method) -> None:
    """Two groups of one optimizer are two optimizers, whichever way their rates change."""
    ps, qs = fresh(), fresh()
    first, rest = ["a"], ["b", "conv"]
    groups = [{"match": first, "method": method, "lr": 0.1}, {"match": "*", "method": method, "lr": 0.03}]
    opt = signa.build({"groups": groups}, ps.items(), transport=signa.Loopback(WORKERS))
    apart = [
        build(method, {n: qs[n] for n in names}, workers=WORKERS, lr=lr) for names, lr in ((first, 0.1), (rest, 0.03))
    ]
    for t, rates in enumerate([(0.1, 0.03), (0.2, 0.03), (0.2, 0.0)]):
        for group, rate in zip(opt.param_groups, rates):
            group["lr"] = rate
        train(opt, ps, [t])
        for own, names, rate in zip(apart, (first, rest), rates):
            own.param_groups[0]["lr"] = rate
            train(own, {n: qs[n] for n in names}, [t])
    same(everything(ps, opt), {**values(qs), **states(apart[0]), **states(apart[1])})


@every_method
def test_a_group_that_joins_is_one_that_was_there(method: Method) -> None:
    ps, opt = start(method, {"a": fresh()["a"]})
    late = {n: p for n, p in fresh().items() if n != "a"}
    opt.add_param_group({"params": list(late.items()), "method": method, "lr": 0.05, "weight_decay": 0.1})
    qs, other = start(method)
    train(opt, {**ps, **late}, range(2))
    train(other, qs, range(2))
    same(everything({**ps, **late}, opt), everything(qs, other))


@every_method
def test_a_scheduler_is_a_rate_set_by_hand(method: Method) -> None:
    (ps, opt), (qs, other) = start(method), start(method)
    plan = ExponentialLR(opt, 0.5)
    for t in range(3):
        train(opt, ps, [t])
        plan.step()
        train(other, qs, [t])
        other.param_groups[0]["lr"] *= 0.5
    same(everything(ps, opt), everything(qs, other))
    rate = opt.param_groups[0]["lr"]
    again = ExponentialLR(opt, 0.5)
    again.load_state_dict(plan.state_dict())
    assert again.last_epoch == 3 and opt.param_groups[0]["lr"] == rate == pytest.approx(0.05 / 8)


# Gradients -----------------------------------------------------------------------------------------------------------


@every_method
def test_no_gradient_moves_nothing_and_counts_nothing(method: Method) -> None:
    ps, opt = start(method)
    train(opt, ps, range(2))
    before = everything(ps, opt)
    train(opt, ps, [2], lambda n, p, t, j: None if n in ("a", "conv") else gradient(n, p, t, j))
    after = everything(ps, opt)
    kept = {key for key in before if key.split(".")[0] in ("a", "conv")}
    same({key: before[key] for key in kept}, {key: after[key] for key in kept})
    assert any(not torch.equal(before[key], after[key]) for key in before.keys() - kept)
    opt.zero_grad()
    opt.step()
    same(everything(ps, opt), after)


@every_method
@pytest.mark.parametrize("none", [True, False])
def test_zero_grad_is_no_gradient_or_a_zero_one(method: Method, none: bool) -> None:
    """Zeros from a fresh state and without decay move nothing, either."""
    ps = fresh()
    _, opt = start(method, ps, workers=1, weight_decay=0.0)
    for n, p in ps.items():
        p.grad = gradient(n, p, 0, 0)
    opt.zero_grad(set_to_none=none)
    before = everything(ps, opt)
    assert all(p.grad is None if none else not p.grad.any() for p in ps.values())
    opt.step()
    if none or ("replica", "project") not in used(method):  # a projection is no step along a direction
        same(values(ps), {n: before[n] for n in ps})
    if none:
        same(everything(ps, opt), before)


@every_method
def test_two_passes_are_one_of_their_sum(method: Method) -> None:
    found = []
    for passes in (1, 2):
        ps, opt = start(method)
        for t in range(2):
            opt.zero_grad()
            for j in range(WORKERS):
                with opt.worker(j):
                    terms = [sum((p * gradient(n, p, t, 10 * j + i)).sum() for n, p in ps.items()) for i in range(2)]
                    if passes == 1:
                        for p, *g in zip(
                            ps.values(), *(torch.autograd.grad(term, list(ps.values())) for term in terms)
                        ):
                            p.grad = g[0] + g[1]
                    else:
                        for term in terms:
                            term.backward()
            opt.step()
        found.append(everything(ps, opt))
    same(*found)


@every_method
def test_a_step_writes_parameters_and_its_own_state_alone(method: Method) -> None:
    ps, opt = start(method)
    generator = torch.get_rng_state()
    for t in range(2):
        opt.zero_grad()
        lent = []
        for j in range(WORKERS):
            with opt.worker(j):
                for n, p in ps.items():
                    p.grad = with_zeros(n, p, t, j)
                    lent.append((p.grad, p.grad.clone(), p.grad._version))
        opt.step()
        own = {x.untyped_storage().data_ptr() for x in [*ps.values(), *states_as_they_are(opt)]}
        for grad, value, version in lent:
            assert torch.equal(grad, value) and grad._version == version
            assert grad.untyped_storage().data_ptr() not in own
        views = {view.untyped_storage().data_ptr() for view in states_as_they_are(opt)}
        assert not views & {p.untyped_storage().data_ptr() for p in ps.values()}
    assert torch.equal(generator, torch.get_rng_state())


def states_as_they_are(opt: signa.SignA) -> list[Tensor]:
    return [view for route in opt.routing for view in opt.state[route.named.parameter].values()]


@every_method
def test_a_refused_gradient_writes_nothing(method: Method) -> None:
    ps, opt = start(method, workers=1)
    train(opt, ps, range(2))
    before = everything(ps, opt)
    for n, p in ps.items():
        p.grad = gradient(n, p, 2, 0)
    ps["a"].grad = torch.eye(6, 8).to_sparse()
    with pytest.raises(UnsupportedParameter, match="the gradient of 'a' is sparse"):
        opt.step()
    same(everything(ps, opt), before)
    train(opt, ps, [2])
    assert opt.steps == 3


# Stacks, seeds, closures, scalers, hooks ------------------------------------------------------------------------------


@every_method
def test_stacked_is_one_by_one(method: Method) -> None:
    """What ``foreach=True`` against ``foreach=False`` is elsewhere."""
    ps, opt = start(method)
    qs = fresh()
    alone = [start(method, {n: q})[1] for n, q in qs.items()]
    train(opt, ps, range(3), with_zeros)
    for own, (n, q) in zip(alone, qs.items()):
        train(own, {n: q}, range(3), with_zeros)
    same(everything(ps, opt), {**values(qs), **{key: view for own in alone for key, view in states(own).items()}})


@every_method
def test_a_closure_is_a_pass_in_front_of_the_step(method: Method) -> None:
    (ps, opt), (qs, other) = start(method, workers=1), start(method, workers=1)

    def loss(own: Parameters) -> Tensor:
        return sum((p.square() * gradient(n, p, 0, 0)).sum() for n, p in own.items())

    def closure() -> Tensor:
        opt.zero_grad()
        found = loss(ps)
        found.backward()
        return found

    for _ in range(2):
        other.zero_grad()
        expected = loss(qs)
        expected.backward()
        assert other.step() is None
        with torch.no_grad():  # the step turns them on again for the closure
            assert torch.equal(opt.step(closure), expected)
    same(everything(ps, opt), everything(qs, other))


@every_method
def test_a_grad_scaler_changes_no_bit_and_skips_infinities(method: Method) -> None:
    (ps, opt), (qs, other) = start(method), start(method)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for t in range(3):
        before, counted = everything(ps, opt), opt.steps
        opt.zero_grad()
        for j in range(WORKERS):
            with opt.worker(j):
                scaler.scale(sum((p * gradient(n, p, t, j)).sum() for n, p in ps.items())).backward()
                if (t, j) == (1, 1):
                    ps["conv"].grad[0, 0] = torch.inf
        scaler.step(opt)
        scaler.update()
        if t == 1:
            same(everything(ps, opt), before)
            assert opt.steps == counted and scaler.get_scale() == 2.0**9
    train(other, qs, [0])
    train(other, qs, [2])
    same(everything(ps, opt), everything(qs, other))


@every_method
def test_hooks_see_a_step_from_both_sides(method: Method) -> None:
    ps, opt = start(method)
    seen: list[Any] = []

    def note(when: str) -> Callable[..., None]:
        return lambda found, args, kwargs: seen.append((when, found is opt, found.steps, args[1:], kwargs))

    handles = [
        opt.register_step_pre_hook(note("pre")),
        opt.register_step_post_hook(note("post")),
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
    ]
    train(opt, ps, [0])
    assert [(when, mine, steps) for when, mine, steps, *_ in seen] == [
        ("global pre", True, 0), ("pre", True, 0), ("post", True, 1), ("global post", True, 1),
    ]  # fmt: skip
    for handle in handles:
        handle.remove()
    train(opt, ps, [1])
    assert len(seen) == 4
    plain = opt.state_dict()
    opt.register_state_dict_post_hook(lambda o, s: {**s, "mine": 1})
    opt.register_load_state_dict_pre_hook(lambda o, s: {**s, "signa": {**s["signa"], "seed": 9}})
    assert opt.state_dict().keys() - plain.keys() == {"mine"}
    opt.load_state_dict(plain)
    assert opt.seed == 9 and plain["signa"]["seed"] == 0


# Compiled ------------------------------------------------------------------------------------------------------------


def test_a_compiled_step_is_the_step() -> None:
    """The tracing alone (``backend="eager"``): a step stands outside every graph."""
    found = []
    for compiled in (False, True):
        ps, opt = start(next(iter(METHODS.values())), workers=1)
        step = torch.compile(opt.step, backend="eager") if compiled else opt.step
        for t in range(3):
            for n, p in ps.items():
                p.grad = gradient(n, p, t, 0)
            step()
        found.append(everything(ps, opt))
    torch._dynamo.reset()
    same(*found)
