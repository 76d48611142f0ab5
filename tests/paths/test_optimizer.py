"""The optimizer as torch's users know optimizers: promises 13 to 17 in one process, over every preset."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import signa
from signa import presets
from signa.coins import SERVER, Coins, name_key
from signa.errors import GradientError, RoutingError, StateError, UnsupportedParameter

PRESETS = presets.names()
SHAPES = {"a.weight": (6, 8), "b.weight": (6, 8), "c.weight": (9, 5), "conv.weight": (4, 3, 2, 2), "bias": (5,)}
Parameters = dict[str, nn.Parameter]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(shapes: Mapping[str, tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32) -> Parameters:
    return {name: nn.Parameter(normal(*shape, seed=i, dtype=dtype)) for i, (name, shape) in enumerate(shapes.items())}


def build(method: Any, ps: Any, *, workers: int = 1, lr: float = 0.05, seed: int = 0, **group: Any) -> signa.SignA:
    """Everything to one method."""
    pairs = list(ps.items()) if isinstance(ps, dict) else ps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", signa.Advice)
        spec = {"groups": [{"method": method, "lr": lr, **group}]}
        return signa.build(spec, pairs, transport=signa.Loopback(workers), seed=seed)


def gradient(name: str, p: Tensor, t: int, j: int) -> Tensor:
    """Dense, a function of name, step and worker."""
    return normal(*p.shape, seed=sum(map(ord, name)) * 1000 + 17 * t + j, dtype=p.dtype)


Make = Callable[[str, Tensor, int, int], Tensor | None]


def train(opt: signa.SignA, ps: Parameters, steps: Iterable[int], make: Make = gradient) -> None:
    for t in steps:
        opt.zero_grad()
        for j in opt.transport.local:
            with opt.worker(j):
                for name, p in ps.items():
                    p.grad = make(name, p, t, j)
        opt.step()


def values(ps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in ps.items()}


def states(opt: signa.SignA) -> dict[str, Tensor]:
    return {
        f"{route.named.name}.{address}": view.clone()
        for route in opt.routing
        for address, view in opt.state[route.named.parameter].items()
    }


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


every_preset = pytest.mark.parametrize("name", PRESETS)
one_or_three = pytest.mark.parametrize("workers", [1, 3])


# 13: parameters ------------------------------------------------------------------------------------------------------

REFUSED = {
    "sparse": (lambda: nn.Parameter(torch.eye(3).to_sparse()), "parameter 'w' is sparse: use a dense parameter"),
    "complex": (lambda: nn.Parameter(torch.eye(3, dtype=torch.complex64)), "'w' is complex: torch.view_as_real"),
    "meta": (lambda: nn.Parameter(torch.empty(3, 3, device="meta")), r"'w' has no storage \(meta device\): model.to"),
    "not a leaf": (lambda: nn.Parameter(torch.eye(3)) * 2, "'w' is not a leaf of the graph: pass the parameter itself"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_parameters(kind: str) -> None:
    make, text = REFUSED[kind]
    with pytest.raises(UnsupportedParameter, match=text):
        build("signmuon", [("w", make())])
    ps = parameters()
    opt = build("signmuon", ps)
    before = len(opt.param_groups), len(opt.spec.groups), opt.routing
    with pytest.raises(UnsupportedParameter, match=text):
        opt.add_param_group({"params": [("w", make())], "method": "muon", "lr": 0.1})
    assert (len(opt.param_groups), len(opt.spec.groups), opt.routing) == before
    train(opt, ps, [0])


def test_refused_integers() -> None:
    whole = torch.ones(3, 3, dtype=torch.int64)
    opt = build("signmuon", parameters())
    with pytest.raises(UnsupportedParameter, match="'w' holds no floating-point numbers"):
        opt.add_param_group({"params": [("w", whole)], "method": "muon", "lr": 0.1})
    opt = build("signmuon", [*parameters().items(), ("w", nn.Parameter(whole, requires_grad=False))])
    assert opt.routing.frozen == ("w",)


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_refused_gradients_write_nothing(kind: str) -> None:
    embedding = nn.Embedding(5, 4, sparse=True)
    w = embedding.weight if kind == "sparse" else nn.Parameter(torch.ones(5, 4))
    ps = {**parameters(), "w": w}
    opt = build("signmuon", ps)
    if kind == "sparse":
        embedding(torch.tensor([1, 2])).sum().backward()
        assert w.grad is not None and w.grad.is_sparse
    else:
        if not hasattr(w, "grad_dtype"):
            pytest.skip("this torch never lets a real parameter have a complex gradient")
        try:
            w.grad_dtype = None
            w.grad = torch.ones(5, 4, dtype=torch.complex64)
        except RuntimeError:
            pytest.skip("this torch never lets a real parameter have a complex gradient")
    for name, p in ps.items():
        p.grad = w.grad if p is w else gradient(name, p, 0, 0)
    before, state = values(ps), states(opt)
    with pytest.raises(UnsupportedParameter, match=f"the gradient of 'w' is {kind}"):
        opt.step()
    same(values(ps), before)
    same(states(opt), state)


ODD = {
    "empty": lambda: torch.zeros(0, 5),
    "empty rows": lambda: torch.zeros(5, 0),
    "0-d": lambda: normal(seed=1),
    "1-d": lambda: normal(7, seed=1),
    "conv": lambda: normal(4, 3, 2, 2, seed=1),
    "(1, n)": lambda: normal(1, 9, seed=1),
    "(n, 1)": lambda: normal(9, 1, seed=1),
    "transposed": lambda: normal(5, 9, seed=1).T,
    "channels_last": lambda: normal(4, 3, 2, 2, seed=1).to(memory_format=torch.channels_last),
    "bfloat16": lambda: normal(5, 9, seed=1, dtype=torch.bfloat16),
    "float16": lambda: normal(5, 9, seed=1, dtype=torch.float16),
    "float64": lambda: normal(5, 9, seed=1, dtype=torch.float64),
}


@pytest.mark.parametrize("kind", ODD)
@every_preset
def test_odd_parameters(name: str, kind: str) -> None:
    """Updated as the contiguous parameter is, with shape, dtype and strides kept; state in float32 or wider."""
    p, q = nn.Parameter(ODD[kind]()), nn.Parameter(ODD[kind]().contiguous())
    layout, before = (p.shape, p.dtype, p.stride()), p.detach().clone()
    opt, plain = build(name, {"w": p}), build(name, {"w": q})
    train(opt, {"w": p}, range(3))
    train(plain, {"w": q}, range(3))
    assert (p.shape, p.dtype, p.stride()) == layout
    assert torch.equal(p, q) and p.isfinite().all()
    assert p.numel() == 0 or not torch.equal(p, before)
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32
    assert all(view.dtype == wide or address.endswith(".t") for address, view in opt.state[p].items())
    assert opt.state[p]


def test_a_conv_is_its_flattened_matrix() -> None:
    p, q = nn.Parameter(normal(4, 3, 2, 2, seed=1)), nn.Parameter(normal(4, 3, 2, 2, seed=1).view(4, 12))
    a, b = build("signmuon", {"w": p}), build("signmuon", {"w": q})
    for t in range(3):
        p.grad = gradient("w", p, t, 0)
        q.grad = p.grad.view(4, 12).clone()
        a.step()
        b.step()
    assert torch.equal(p.view(4, 12), q)


def test_tied_parameters_move_once_and_frozen_ones_are_listed() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid, self.out = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
            self.out.weight = self.embed.weight
            self.mid.bias.requires_grad_(False)

    model = Tied()
    opt = signa.build("signmuon", model, lr=0.5)
    assert [route.named.name for route in opt.routing] == ["embed.weight", "mid.weight"]
    assert opt.routing.frozen == ("mid.bias",) and "frozen: not optimized" in str(opt.routing)
    before = values(dict(model.named_parameters()))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    opt.step()
    assert torch.equal(model.mid.bias, before["mid.bias"])
    assert torch.allclose(model.embed.weight, before["embed.weight"] - 3e-4, atol=1e-6)  # AdamW's first step, once
    assert not torch.equal(model.mid.weight, before["mid.weight"])


# 14: missing and zero gradients --------------------------------------------------------------------------------------


@one_or_three
@every_preset
def test_a_parameter_without_a_gradient_is_untouched(name: str, workers: int) -> None:
    ps = parameters()
    opt = build(name, ps, workers=workers, weight_decay=0.1)
    train(opt, ps, range(2))
    before, state = values(ps), states(opt)
    train(opt, ps, [2], lambda n, p, t, j: None if n == "a.weight" else gradient(n, p, t, j))
    after, now = values(ps), states(opt)
    for key in before:
        assert torch.equal(before[key], after[key]) == (key == "a.weight"), key
    for key in state:
        if key.startswith("a.weight"):
            assert torch.equal(state[key], now[key]), key
    assert any(not torch.equal(state[key], now[key]) for key in state)
    opt.zero_grad()
    opt.step()
    same(values(ps), after)
    same(states(opt), now)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", [2.0, 4.0, 4.0]),  # worker 0 is present alone, then the mean over those present
        ("signsgd", [1.0, 1.0, 1.0]),
    ],
)
def test_absent_workers_do_not_count(name: str, expected: list[float]) -> None:
    for present, wanted in zip(([0], [0, 2], [0, 1, 2]), expected):
        p = nn.Parameter(torch.zeros(2, 3))
        method = signa.method(name).replace({"worker.momentum.beta": 0.0})
        opt = build(method, {"w": p}, workers=3, lr=1.0, scaling="none")
        for j in present:
            with opt.worker(j):
                p.grad = torch.full((2, 3), [2.0, 4.0, 6.0][j])
        opt.step()
        assert torch.equal(p, torch.full((2, 3), -wanted)), present


def test_the_others_vote_and_the_absent_ones_state_stays() -> None:
    p = nn.Parameter(torch.zeros(2, 3))
    opt = build("signsgd", {"w": p}, workers=3, lr=1.0, scaling="none")
    for j, value in ((0, 5.0), (1, -1.0), (2, -1.0)):
        with opt.worker(j):
            p.grad = torch.full((2, 3), value)
    opt.step()
    assert torch.equal(p, torch.ones(2, 3))
    momentum = opt.state[p]["worker.momentum.m"]
    kept = momentum[1].clone()
    opt.zero_grad()
    for j in (0, 2):
        with opt.worker(j):
            p.grad = torch.full((2, 3), -1.0 - j)
    opt.step()
    assert torch.equal(momentum[1], kept) and momentum[0, 0, 0] < 5 * 0.05
    assert momentum.shape == (3, 2, 3)


def test_ef21_divides_by_all_workers() -> None:
    """A worker without a message sent 0: H stays the mean of all h, and the absent h stays."""
    p = nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    method = {"up": "ef21(scaled_sign)", "aggregate": "mean"}
    opt = build(method, {"w": p}, workers=4, lr=0.1)
    for t in range(4):
        opt.zero_grad()
        for j in range(t + 1):
            with opt.worker(j):
                p.grad = gradient("w", p, t, j)
        opt.step()
        h, H = opt.state[p]["worker.up.h"], opt.state[p]["server.up.H"]
        assert torch.allclose(H, h.sum(0) / 4, atol=1e-14)
        assert all(bool(h[j].any()) == (j <= t) for j in range(4))


@one_or_three
@every_preset
def test_zero_gradients_do_not_move(name: str, workers: int) -> None:
    ps = parameters()
    before = values(ps)
    opt = build(name, ps, workers=workers)
    train(opt, ps, range(3), lambda n, p, t, j: torch.zeros_like(p))
    same(values(ps), before)


# 15: accumulation, blocks, scaling -----------------------------------------------------------------------------------


def loss_of(model: nn.Module, seed: int, rows: int = 4) -> Tensor:
    x = normal(rows, 6, seed=seed)
    return model(x).square().sum()


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize("name", ["signmuon", "sgd", "ef21muonsign", "adamw"])
@one_or_three
def test_accumulation_is_one_backward(name: str, workers: int) -> None:
    """Two backward passes in a block, in two blocks, and one backward of the sum."""
    found = []
    for how in ("once", "twice", "blocks"):
        model = mlp()
        opt = build(name, model, workers=workers)
        for t in range(3):
            for j in range(workers):
                a, b = 100 * t + 10 * j, 100 * t + 10 * j + 1
                with opt.worker(j):
                    if how == "once":
                        loss_of(model, a).backward()
                        first = [p.grad.clone() for p in model.parameters()]
                        for p in model.parameters():
                            p.grad = None
                        loss_of(model, b).backward()
                        for p, g in zip(model.parameters(), first):
                            p.grad = g + p.grad
                    else:
                        loss_of(model, a).backward()
                        if how == "twice":
                            loss_of(model, b).backward()
            if how == "blocks":
                for j in reversed(range(workers)):
                    with opt.worker(j):
                        loss_of(model, 100 * t + 10 * j + 1).backward()
            opt.step()
            opt.zero_grad()
        found.append(values(dict(model.named_parameters())))
    same(found[0], found[1])
    same(found[0], found[2])


def test_outside_a_block_the_gradient_is_the_sum_for_reading() -> None:
    ps = parameters()
    opt = build("signmuon", ps, workers=3)
    rows = {name: [gradient(name, p, 0, j) for j in range(3)] for name, p in ps.items()}
    for j in range(3):
        with opt.worker(j):
            assert all(p.grad is None for p in ps.values())
            for name, p in ps.items():
                p.grad = rows[name][j].clone()
        for name, p in ps.items():
            assert torch.allclose(p.grad, sum(rows[name][: j + 1]), atol=1e-6)
    with opt.worker(1):
        same({n: p.grad for n, p in ps.items()}, {n: rows[n][1] for n in ps})
        nn.utils.clip_grad_norm_(ps.values(), 1e-3)
    opt.step()
    size = math.sqrt(sum(float(opt.state[p]["worker.momentum.m"][1].square().sum()) for p in ps.values()))
    assert size == pytest.approx(0.05 * 1e-3, rel=1e-3)


def test_gradients_from_outside_are_refused() -> None:
    ps = parameters()
    opt = build("signmuon", ps, workers=3)
    text = r"the gradient of 'a.weight' changed outside a 'with opt.worker\(j\):' block, so it belongs to none of the 3"
    before, state = values(ps), states(opt)
    ps["a.weight"].grad = torch.ones(6, 8)
    with pytest.raises(GradientError, match=text):
        opt.step()
    with pytest.raises(GradientError, match=text):
        with opt.worker(0):
            pass
    opt.zero_grad()
    with opt.worker(0):
        ps["a.weight"].grad = torch.ones(6, 8)
    ps["a.weight"].grad += 1
    with pytest.raises(GradientError, match=text):
        opt.step()
    same(values(ps), before)
    same(states(opt), state)
    opt.zero_grad()
    for j in range(3):
        with opt.worker(j):
            for name, p in ps.items():
                p.grad = gradient(name, p, 0, j)
    nn.utils.clip_grad_norm_(ps.values(), 1e-3)
    with pytest.raises(GradientError, match=text):
        opt.step()
    same(values(ps), before)
    opt.zero_grad()
    train(opt, ps, [0])
    assert not torch.equal(ps["a.weight"], before["a.weight"])


def test_blocks_do_not_nest_and_steps_stand_outside() -> None:
    ps = parameters()
    for workers in (1, 3):
        opt = build("signmuon", ps, workers=workers)
        with pytest.raises(GradientError, match=r"worker\(0\) inside worker\(0\): blocks do not nest"):
            with opt.worker(0), opt.worker(0):
                pass
        with pytest.raises(GradientError, match=r"step\(\) inside 'with opt.worker\(0\)': call it after the blocks"):
            with opt.worker(0):
                opt.step()
        with pytest.raises(IndexError, match=f"there is no worker {workers} in this process"):
            with opt.worker(workers):
                pass
        train(opt, ps, [0])


def test_a_block_that_raises_leaves_the_optimizer_usable() -> None:
    ps = parameters()
    opt = build("signmuon", ps, workers=3)
    with pytest.raises(ZeroDivisionError):
        with opt.worker(1):
            raise ZeroDivisionError
    train(opt, ps, range(2))
    other = parameters()
    train(build("signmuon", other, workers=3), other, range(2))
    same(values(ps), values(other))


@pytest.mark.parametrize("none", [True, False])
def test_zero_grad_drops_the_rows(none: bool) -> None:
    ps, fresh = parameters(), parameters()
    opt = build("sgd", ps, workers=3)
    with opt.worker(2):
        for p in ps.values():
            p.grad = torch.full_like(p, 9.0)
    opt.zero_grad(set_to_none=none)
    assert all(p.grad is None if none else not p.grad.any() for p in ps.values())
    train(opt, ps, range(2))
    train(build("sgd", fresh, workers=3), fresh, range(2))
    same(values(ps), values(fresh))


@pytest.mark.parametrize("name", ["signmuon", "sgd", "ef21muonsign"])
@one_or_three
def test_grad_scaler(name: str, workers: int) -> None:
    """A scale that is a power of two changes no bit; an infinity of any worker skips the step and lowers the scale."""
    found = []
    for scaled in (False, True):
        model = mlp()
        opt = build(name, model, workers=workers)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2, enabled=scaled)
        scales = [scaler.get_scale()]
        for t in range(4):
            for j in range(workers):
                with opt.worker(j):
                    scaler.scale(loss_of(model, 10 * t + j)).backward()
                    if scaled and t == 2 and j == workers - 1:
                        model[2].weight.grad[1, 1] = math.inf
            if not scaled and t == 2:
                opt.zero_grad()
                continue
            before, state = values(dict(model.named_parameters())), states(opt)
            scaler.step(opt)
            scaler.update()
            scales.append(scaler.get_scale())
            if scaled and t == 2:
                same(values(dict(model.named_parameters())), before)
                same(states(opt), state)
            opt.zero_grad()
        if scaled:
            assert scales == [2.0**12, 2.0**12, 2.0**13, 2.0**12, 2.0**12]
        assert opt.steps == 3
        found.append(values(dict(model.named_parameters())))
    same(*found)


def test_unscaling_outside_is_for_one_worker() -> None:
    found = []
    for scaled in (False, True):
        model = mlp()
        opt = build("sgd", model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
        scaler.scale(loss_of(model, 0)).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(opt)
        scaler.update()
        found.append(values(dict(model.named_parameters())))
    same(*found)
    model = mlp()
    opt = build("sgd", model, workers=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for j in range(2):
        with opt.worker(j):
            scaler.scale(loss_of(model, j)).backward()
    scaler.unscale_(opt)
    before, state = values(dict(model.named_parameters())), states(opt)
    with pytest.raises(GradientError, match=r"scaler\.unscale_ is not possible with several workers"):
        scaler.step(opt)
    same(values(dict(model.named_parameters())), before)
    same(states(opt), state)
    train(opt, dict(model.named_parameters()), [0])
    assert opt.steps == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_closures(workers: int) -> None:
    models, losses = [mlp(), mlp()], []

    def closing(model: nn.Module, opt: signa.SignA) -> Callable[[], float]:
        def closure() -> float:
            opt.zero_grad()
            total = 0.0
            for j in range(workers):
                with opt.worker(j):
                    loss = loss_of(model, j)
                    loss.backward()
                    total += float(loss.detach())
            return total

        return closure

    for model, closed in zip(models, (True, False)):
        opt = build("signmuon", model, workers=workers)
        closure = closing(model, opt)
        for _ in range(2):
            if closed:
                losses.append(opt.step(closure))
            else:
                assert closure() == losses.pop(0)
                assert opt.step() is None
    same(*(values(dict(model.named_parameters())) for model in models))


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers(kind: str) -> None:
    """Every group follows the scheduler as torch's own optimizer does, and the step follows the group."""
    ps, qs = parameters(), parameters()
    groups = [{"match": ["a.weight", "b.weight"], "method": "signsgd", "lr": 0.1, "scaling": "none"},
              {"match": "*", "method": "adamw", "lr": 0.01}]  # fmt: skip
    opt = signa.build({"groups": groups}, ps.items())
    own = torch.optim.SGD([{"params": [qs["a.weight"]], "lr": 0.1}, {"params": [qs["c.weight"]], "lr": 0.01}])
    ours, theirs = SCHEDULERS[kind](opt), SCHEDULERS[kind](own)
    seen = set()
    for t in range(7):
        before = ps["a.weight"].detach().clone()
        train(opt, ps, [t])
        own.step()
        step = (before - ps["a.weight"].detach()).abs().max()
        assert float(step) == pytest.approx(opt.param_groups[0]["lr"], rel=1e-4, abs=1e-6)
        for scheduler in (ours, theirs):
            scheduler.step(1.0) if kind == "ReduceLROnPlateau" else scheduler.step()
        assert [g["lr"] for g in opt.param_groups] == [g["lr"] for g in own.param_groups]
        seen.add(opt.param_groups[0]["lr"])
    assert len(seen) > 1


def test_a_tensor_as_learning_rate() -> None:
    found = []
    for lr in (0.25, torch.tensor(0.25)):
        ps = parameters()
        opt = build("signmuon", ps)
        opt.param_groups[0]["lr"] = lr
        train(opt, ps, range(2))
        state = opt.state_dict()
        assert state["param_groups"][0]["lr"] == 0.25 and not isinstance(state["param_groups"][0]["lr"], Tensor)
        found.append(values(ps))
    same(*found)
    ps = parameters()
    opt = build("signmuon", ps)
    opt.param_groups[0]["lr"] = torch.tensor(0.25)
    opt.param_groups[0]["lr"].mul_(0.0)
    train(opt, ps, [0])
    same(values(ps), values(parameters()))


# deepcopy, pickle, state_dict ----------------------------------------------------------------------------------------


@every_preset
def test_deepcopy_and_pickle_continue_alike(name: str) -> None:
    model = mlp()
    opt = build(name, model, workers=3)
    ps = dict(model.named_parameters())
    train(opt, ps, range(3))
    twins = [copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))]
    for twin, own in twins:
        assert {id(p) for p in twin.parameters()} == {id(p) for g in own.param_groups for p in g["params"]}
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
        same(states(own), states(opt))
    train(opt, ps, range(3, 6))
    for twin, own in twins:
        train(own, dict(twin.named_parameters()), range(3, 6))
        same(values(dict(twin.named_parameters())), values(ps))
        same(states(own), states(opt))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def with_zeros(name: str, p: Tensor, t: int, j: int) -> Tensor:
    """Gradients with exact zeros inside, so that coins are tossed."""
    g = gradient(name, p, t, j)
    return g * (gradient(name, p, t + 50, j) > 0)


@one_or_three
@every_preset
def test_resume_is_bit_exact(name: str, workers: int) -> None:
    """20 steps against 10, a file, a fresh optimizer with another seed, parameters in another order, and 10 more."""
    whole, half = parameters(), parameters()
    train(build(name, whole, workers=workers, seed=4, weight_decay=0.01), whole, range(20), with_zeros)
    opt = build(name, half, workers=workers, seed=4, weight_decay=0.01)
    train(opt, half, range(10), with_zeros)
    state = through_a_file(opt.state_dict())
    turned = {n: nn.Parameter(half[n].detach().clone()) for n in reversed(half)}
    fresh = build(name, turned, workers=workers, seed=5, lr=0.9, weight_decay=0.0)
    fresh.load_state_dict(state)
    assert fresh.steps == 10 and fresh.seed == 4
    same(states(fresh), states(opt))
    train(fresh, turned, range(10, 20), with_zeros)
    same(values(turned), values(whole))


def test_a_state_is_plain_and_complete() -> None:
    ps = parameters()
    opt = build("ef21muonsign", ps, workers=3)
    train(opt, ps, range(2))
    state = opt.state_dict()
    assert state["signa"]["step"] == 2 and state["signa"]["workers"] == 3 and state["signa"]["spec_id"] == opt.spec.id
    assert state["signa"]["orthogonalisers"]["0"]["schedule"] == "polar6"
    assert list(state["state"]) == list(ps) and state["param_groups"][0]["params"] == list(ps)
    kept = through_a_file(state)["state"]["a.weight"]["server.step.x"].clone()
    train(opt, ps, [2])
    assert torch.equal(state["state"]["a.weight"]["server.step.x"], kept)  # a copy, not a view
    size = sum(t.untyped_storage().nbytes() for s in state["state"].values() for t in s.values())
    assert size == sum(t.nbytes for s in state["state"].values() for t in s.values())


def test_states_that_do_not_fit_are_refused_and_nothing_is_written() -> None:
    ps = parameters()
    opt = build("ef21muonusign", ps, workers=3)
    train(opt, ps, range(2))
    state = opt.state_dict()

    def changed(**edits: Any) -> dict[str, Any]:
        return copy.deepcopy(state) | edits

    def without_shape() -> dict[str, Any]:
        found = changed()
        found["state"]["a.weight"]["worker.up.h"] = torch.zeros(3, 6, 7)
        return found

    def renamed() -> dict[str, Any]:
        found = changed()
        found["state"]["a.weigth"] = found["state"].pop("a.weight")
        return found

    other = build("ef21signmuon", parameters(), workers=3)
    single = build("ef21muonusign", parameters())
    cases = [
        (opt, without_shape(), r"'a.weight' worker.up.h: \(3, 6, 7\) there, \(3, 6, 8\) here"),
        (opt, renamed(), "'a.weigth' is there and not here: did you mean 'a.weight'?"),
        (opt, changed(signa={**state["signa"], "format": 9}), "its format is 9, this version reads 1"),
        (opt, torch.optim.SGD(parameters().values()).state_dict(), "it was not written by SignA"),
        (other, state, "groups.0.method"),
        (single, state, "workers: 3 there, 1 here"),
    ]
    for target, given, text in cases:
        before, steps = states(target), target.steps
        with pytest.raises(StateError, match=text):
            target.load_state_dict(given)
        same(states(target), before)
        assert target.steps == steps


@pytest.mark.parametrize("broken", ["state", "param_groups", "spec", "workers"])
def test_a_truncated_state_is_refused(broken: str) -> None:
    ps = parameters()
    opt = build("signmuon", ps)
    state = opt.state_dict()
    del (state if broken in state else state["signa"])[broken]
    with pytest.raises(StateError):
        opt.load_state_dict(state)


def test_state_keeps_float32_for_bfloat16_parameters() -> None:
    ps, qs = parameters(dtype=torch.bfloat16), parameters(dtype=torch.bfloat16)
    opt, fresh = build("signmuon", ps), build("signmuon", qs)
    train(opt, ps, range(2))
    fresh.load_state_dict(through_a_file(opt.state_dict()))
    same(states(fresh), states(opt))
    assert all(view.dtype == torch.float32 for view in states(fresh).values())


def test_hooks() -> None:
    ps, seen = parameters(), []
    opt = build("signmuon", ps)
    opt.register_step_pre_hook(lambda *a: seen.append("pre"))
    opt.register_step_post_hook(lambda *a: seen.append("post"))
    opt.register_state_dict_pre_hook(lambda o: seen.append("save"))
    opt.register_state_dict_post_hook(lambda o, s: {**s, "extra": 1})
    opt.register_load_state_dict_pre_hook(lambda o, s: {k: v for k, v in s.items() if k != "extra"})
    opt.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    train(opt, ps, [0])
    state = opt.state_dict()
    assert state["extra"] == 1
    opt.load_state_dict(state)
    assert seen == ["pre", "post", "save", "loaded"]


@one_or_three
def test_add_param_group(workers: int) -> None:
    ps = parameters()
    opt = build("signmuon", ps, workers=workers)
    train(opt, ps, range(2))
    new = {"x": nn.Parameter(normal(6, 8, seed=7)), "y": nn.Parameter(normal(3, seed=8))}
    opt.add_param_group({"params": list(new.items()), "method": "ef21muonusign", "lr": 0.1, "name": "late"})
    assert len(opt.param_groups) == len(opt.spec.groups) == 2 and opt.param_groups[1]["name"] == "late"
    everything = {**ps, **new}
    before = values(everything)
    train(opt, everything, range(2, 4))
    assert all(not torch.equal(before[n], everything[n]) for n in everything)
    fresh = {n: nn.Parameter(p.detach().clone()) for n, p in everything.items()}
    again = build("signmuon", {n: fresh[n] for n in ps}, workers=workers)
    late = {"params": [(n, fresh[n]) for n in new], "method": "ef21muonusign", "lr": 0.1, "name": "late"}
    again.add_param_group(late)
    again.load_state_dict(through_a_file(opt.state_dict()))
    train(opt, everything, range(4, 6))
    train(again, fresh, range(4, 6))
    same(values(everything), values(fresh))
    with pytest.raises(RoutingError, match="parameter 'x' is optimized already"):
        opt.add_param_group({"params": [("x", new["x"])], "method": "muon", "lr": 0.1})
    with pytest.raises(signa.SpecError, match="unknown preset 'mion'"):
        opt.add_param_group({"params": [("z", nn.Parameter(torch.ones(2, 2)))], "method": "mion", "lr": 0.1})
    opt.add_param_group({"params": nn.Parameter(torch.ones(2, 2)), "method": "muon", "lr": 0.1})
    assert [r.named.name for r in opt.routing][-1] == "added.2.0" and len(opt.param_groups) == 3


# 16: what a step writes ----------------------------------------------------------------------------------------------


@one_or_three
@every_preset
def test_a_step_never_writes_a_gradient(name: str, workers: int) -> None:
    ps = parameters()
    opt = build(name, ps, workers=workers, weight_decay=0.1)
    generator = torch.get_rng_state()
    for t in range(3):
        opt.zero_grad()
        rows, sums = [], []
        for j in range(workers):
            with opt.worker(j):
                for n, p in ps.items():
                    p.grad = with_zeros(n, p, t, j)
                    rows.append((p.grad, p.grad.clone(), p.grad._version))
        for p in ps.values():
            sums.append((p.grad, p.grad.clone(), p.grad._version))
        opt.step()
        for grad, value, version in rows + sums:
            assert torch.equal(grad, value) and grad._version == version
        gradients = {g.untyped_storage().data_ptr() for g, _, _ in rows + sums}
        for p in ps.values():
            assert p.data_ptr() not in gradients
            assert all(view.untyped_storage().data_ptr() not in gradients for view in opt.state[p].values())
    assert torch.equal(generator, torch.get_rng_state())


@every_preset
def test_state_is_views_of_stacks(name: str) -> None:
    """Same-shape parameters share storage, and what is written into a view is what the next step reads."""
    ps, qs = parameters(), parameters()
    opt, other = build(name, ps, workers=2), build(name, qs, workers=2)
    a, b = opt.state[ps["a.weight"]], opt.state[ps["b.weight"]]
    assert a.keys() == b.keys() and len(a) >= 1
    for address in a:
        assert a[address].untyped_storage().data_ptr() == b[address].untyped_storage().data_ptr(), address
        assert re.match(r"(worker|server|replica)\.\w+\.\w+$", address)
    train(opt, ps, range(2))
    with torch.no_grad():
        for n in ps:
            qs[n].copy_(ps[n])
            for address, view in other.state[qs[n]].items():
                view.copy_(opt.state[ps[n]][address])
    other.steps = opt.steps
    train(opt, ps, range(2, 4))
    train(other, qs, range(2, 4))
    same(values(ps), values(qs))


STATE = (Path(__file__).parents[2] / "docs" / "state.md").read_text()
FORMULAS = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", STATE, re.MULTILINE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("workers", [1, 3])
@every_preset
def test_state_bytes_are_the_documented_formula(name: str, workers: int, dtype: torch.dtype) -> None:
    """docs/state.md: c bytes an entry, N workers, d entries and B matrices of the model."""
    ps = parameters(dtype=dtype)
    opt = build(name, ps, workers=workers)
    d, B, c = sum(p.numel() for p in ps.values()), len(ps), 8 if dtype == torch.float64 else 4
    expected = eval(FORMULAS[name], {"N": workers, "d": d, "B": B, "c": c})
    assert sum(view.nbytes for view in states(opt).values()) == expected
    storages = {v.untyped_storage() for p in ps.values() for v in opt.state[p].values()}
    storages = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert sum(storages.values()) == expected
    train(opt, ps, range(2))
    assert sum(view.nbytes for view in states(opt).values()) == expected
    assert set(FORMULAS) == set(PRESETS)


def test_repr_shows_the_groups() -> None:
    opt = signa.build("signmuon", mlp(), lr=0.02)
    text = repr(opt)
    assert text.startswith("SignA (") and "lr: 0.02" in text and "name: signmuon" in text and "name: rest" in text
    assert repr(signa.Loopback(3)) == "Loopback(workers=3)"


# The exact model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["signmuon", "ef21muonusign"])
def test_a_model_loaded_after_building_is_honoured(name: str) -> None:
    model, other = mlp(), mlp()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(2.0)
    opt, own = build(name, model), build(name, other)
    model.load_state_dict(other.state_dict())
    train(opt, dict(model.named_parameters()), range(3))
    train(own, dict(other.named_parameters()), range(3))
    same(values(dict(model.named_parameters())), values(dict(other.named_parameters())))


def test_a_model_loaded_under_ef21p_resets_the_exact_model() -> None:
    model, other = mlp(), mlp()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(2.0)
    opt, own = build("ef21muonsign", model), build("ef21muonsign", other)
    model.load_state_dict(other.state_dict())
    with pytest.warns(signa.Advice, match=r"0.weight.* changed outside the optimizer: the server's exact model X was"):
        train(opt, dict(model.named_parameters()), [0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(opt, dict(model.named_parameters()), [1, 2])
        train(own, dict(other.named_parameters()), range(3))
    same(values(dict(model.named_parameters())), values(dict(other.named_parameters())))


def test_a_resumed_optimizer_and_its_model_fit_without_advice() -> None:
    """model.load_state_dict and optimizer.load_state_dict in either order are one resume."""
    model = mlp()
    opt = build("ef21muonsign", model)
    train(opt, dict(model.named_parameters()), range(3))
    weights, state = copy.deepcopy(model.state_dict()), opt.state_dict()
    train(opt, dict(model.named_parameters()), range(3, 5))
    for first in ("model", "optimizer"):
        again = mlp()
        fresh = build("ef21muonsign", again)
        for what in ("model", "optimizer") if first == "model" else ("optimizer", "model"):
            again.load_state_dict(weights) if what == "model" else fresh.load_state_dict(state)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(fresh, dict(again.named_parameters()), range(3, 5))
        same(values(dict(again.named_parameters())), values(dict(model.named_parameters())))


@every_preset
def test_exact_shows_the_servers_model_and_gives_the_replicas_back(name: str) -> None:
    ps, qs = parameters(), parameters()
    opt, other = build(name, ps), build(name, qs)
    train(opt, ps, range(3))
    train(other, qs, range(3))
    W = values(ps)
    with opt.exact():
        X = values(ps)
    same(values(ps), W)
    keeps = name == "ef21muonsign"
    assert all(torch.equal(X[n], W[n]) != keeps for n in ps if ps[n].ndim > 1)
    if keeps:
        same(X, {n: opt.state[p]["server.step.x"] for n, p in ps.items()})
        same(W, {n: opt.state[p]["replica.down.H"] for n, p in ps.items()})
    with pytest.raises(ZeroDivisionError), opt.exact():
        raise ZeroDivisionError
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(opt, ps, range(3, 5))
        train(other, qs, range(3, 5))
    same(values(ps), values(qs))


# 17: workers, stacks, seeds ------------------------------------------------------------------------------------------


@every_preset
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_workers_that_agree_are_one(name: str, workers: int) -> None:
    """Bit for bit where the mean of equal numbers is exact (2 and 4 workers, and every vote); else to rounding."""
    method = signa.method(name)
    exact = workers != 3 or method.aggregate.kind == "majority_vote"
    dtype = torch.float32 if exact else torch.float64
    changes = {address: {"kind": "spectral", "dtype": "parameter"} for part in ("worker", "server", "replica")
               for address, stage in method.stages(part) if stage.kind == "spectral" and not exact}  # fmt: skip
    ps, qs = parameters(dtype=dtype), parameters(dtype=dtype)
    train(build(method.replace(changes), ps), ps, range(6), lambda n, p, t, j: gradient(n, p, t, 0))
    train(build(method.replace(changes), qs, workers=workers), qs, range(6), lambda n, p, t, j: gradient(n, p, t, 0))
    if exact:
        same(values(ps), values(qs))
    else:
        assert all(torch.allclose(ps[n], qs[n], atol=1e-9, rtol=0) for n in ps)


@every_preset
def test_same_seed_same_bits_other_seed_other_coins(name: str) -> None:
    found = []
    for seed in (1, 1, 2):
        ps = parameters()
        train(build(name, ps, workers=4, seed=seed), ps, range(5), with_zeros)
        found.append(values(ps))
    same(found[0], found[1])
    channels = [signa.method(name).up, signa.method(name).down]
    coins = any(channel.compressor.kind in ("sign", "scaled_sign") for channel in channels)
    assert coins == any(not torch.equal(found[0][n], found[2][n]) for n in found[0])


@every_preset
def test_stacked_is_alone(name: str) -> None:
    """An optimizer over three equal layers against one for each, bit for bit, absent gradients included."""
    shapes = {f"layers.{i}.weight": (9, 21) for i in range(3)}
    together, apart = parameters(shapes), parameters(shapes)
    opt = build(name, together, workers=3, weight_decay=0.1)
    alone = [build(name, {n: p}, workers=3, weight_decay=0.1) for n, p in apart.items()]

    def make(n: str, p: Tensor, t: int, j: int) -> Tensor | None:
        return None if (t, j, n) in ((1, 0, "layers.0.weight"), (2, 2, "layers.2.weight")) else with_zeros(n, p, t, j)

    train(opt, together, range(4), make)
    for own, (n, p) in zip(alone, apart.items()):
        train(own, {n: p}, range(4), make)
    same(values(together), values(apart))
    same(states(opt), {key: value for own in alone for key, value in states(own).items()})


def test_a_block_pattern_is_separate_parameters() -> None:
    """matrix/sizes: a fused weight of three blocks and two heads moves as its six blocks do."""
    fused = nn.Parameter(normal(12, 5, seed=1))
    opt = build("ef21muonusign", {"w": fused}, matrix="(three h d) i -> three h d i", sizes={"three": 3, "h": 2})
    assert opt.routing[0].layout.count == 6 and (opt.routing[0].layout.m, opt.routing[0].layout.n) == (2, 5)
    blocks = {f"w{i}": nn.Parameter(b.clone()) for i, b in enumerate(normal(12, 5, seed=1).split(2))}
    own = build("ef21muonusign", blocks)
    whole = nn.Parameter(normal(12, 5, seed=1))
    plain = build("ef21muonusign", {"w": whole})
    for t in range(3):
        g = gradient("w", fused, t, 0)
        fused.grad, whole.grad = g.clone(), g.clone()
        for p, b in zip(blocks.values(), g.split(2)):
            p.grad = b.clone()
        for o in (opt, own, plain):
            o.step()
    assert torch.equal(fused, torch.cat(list(blocks.values())))
    assert not torch.allclose(fused, whole, atol=1e-3)
    other = nn.Parameter(normal(12, 5, seed=1))
    halves = build("ef21muonusign", {"w": other}, matrix="(three h d) i -> three h d i", sizes={"three": 1, "h": 2})
    train(halves, {"w": other}, range(3))
    assert not torch.equal(other, fused)


def test_a_transposing_pattern_is_the_transposed_parameter() -> None:
    p, q = nn.Parameter(normal(9, 5, seed=1)), nn.Parameter(normal(9, 5, seed=1).T.contiguous())
    a, b = build("muon", {"w": p}, matrix="v d -> d v"), build("muon", {"w": q})
    for t in range(3):
        p.grad = gradient("w", p, t, 0)
        q.grad = p.grad.T.contiguous()
        a.step()
        b.step()
    assert torch.equal(p.T, q)


@pytest.mark.parametrize("workers", [1, 2])
def test_coins_reach_the_model_as_they_are_defined(workers: int) -> None:
    """Zeros inside a matrix take the worker's coins, ties the server's; entries count through a parameter's blocks."""
    method = signa.method("signsgd").replace({"worker.momentum.beta": 0.0})
    p = nn.Parameter(torch.zeros(6, 15))
    opt = build(method, {"deep.w": p}, workers=workers, seed=9, lr=1.0, scaling="none",
                matrix="(h d) i -> h d i", sizes={"h": 2})  # fmt: skip
    for step in range(3):
        before = p.detach().clone()
        for j in range(workers):
            with opt.worker(j):
                p.grad = torch.full((6, 15), 1.0 - 2 * j) if workers == 2 else torch.zeros(6, 15)
                p.grad[0, 0] = p.grad[3, 0] = 1.0
        opt.step()
        opt.zero_grad()
        actor, hop = (SERVER, "aggregate") if workers == 2 else (0, "up")
        key = [name_key("deep.w")] * 2
        coins = Coins(9, step, key, [0, 1], [actor] * 2).at(hop)  # each head of 45 entries begins at a word
        coin = coins.toss(torch.zeros(2, 1, 45)).view(6, 15)
        coin[0, 0] = coin[3, 0] = 1.0
        assert torch.equal(before - p.detach(), coin)


def test_batchnorm_buffers_are_worker_0s() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    alone = copy.deepcopy(model)
    opt = build("signmuon", model, workers=3)
    for j in (2, 0, 1):
        with opt.worker(j):
            model(normal(8, 6, seed=j)).sum().backward()
    alone(normal(8, 6, seed=0))
    same(dict(model.named_buffers()), dict(alone.named_buffers()))
    assert int(model[1].num_batches_tracked) == 1


# Bits ----------------------------------------------------------------------------------------------------------------


class CNN2(nn.Module):
    """The published CIFAR network: 762 560 matrix entries in three tensors, 2 146 others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 64, 5, padding=2), nn.BatchNorm2d(64)
        self.conv2, self.norm2 = nn.Conv2d(64, 128, 5), nn.BatchNorm2d(128)
        self.fc1, self.norm3 = nn.Linear(128 * 6 * 6, 120), nn.BatchNorm1d(120)
        self.classifier = nn.Linear(120, 10)

    def forward(self, x: Tensor) -> Tensor:
        pool = nn.functional.max_pool2d
        x = pool(self.norm1(self.conv1(x)).relu(), 2)
        x = pool(self.norm2(self.conv2(x)).relu(), 2)
        return self.classifier(self.norm3(self.fc1(x.flatten(1))).relu())


TABLE = {
    **dict.fromkeys(("signmuon", "signsgd", "muonsign"), (1.08700, 1.08700, 29.43894)),
    "ef21muonsign": (1.08712, 1.08712, 29.43554),
    "muonusign": (1.08700, 32.0, 1.93429),
    "muonusign_1bit": (1.08700, 1.08700, 29.43894),
    **dict.fromkeys(("ef21signmuon", "ef21muonusign"), (1.08712, 32.0, None)),
    **dict.fromkeys(("muon", "muon_worker", "sgd", "adamw"), (32.0, 32.0, 1.0)),
}


@pytest.mark.parametrize("name", TABLE)
def test_bits_of_the_published_network(name: str) -> None:
    """Reference, section 5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", signa.Advice)
        opt = signa.build(name, CNN2(), lr=0.02)
    own = [route.layout for route in opt.routing if opt.spec.groups[route.group].name == name]
    matrices = sum(layout.m * layout.n for layout in own)
    assert matrices == 762_560 and sum(p.numel() for p in CNN2().parameters()) == 762_560 + 2_146
    up, down, trip = TABLE[name]
    bits = opt.bits()
    assert bits.up == pytest.approx(up, abs=6e-6) and bits.down == pytest.approx(down, abs=6e-6)
    assert bits.round_trip == pytest.approx(64 / (bits.up + bits.down), rel=1e-12)
    if trip is not None:
        assert bits.round_trip == pytest.approx(trip, abs=6e-6)


def test_the_published_network_learns() -> None:
    model = CNN2()
    opt = signa.build("signmuon", model, lr=0.02)
    x, y = normal(4, 3, 32, 32, seed=0), torch.tensor([0, 1, 2, 3])
    losses = []
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
