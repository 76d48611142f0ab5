"""The container behaves as torchtitan's does: as an Optimizer, a Stateful, and something to iterate over."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.stateful import Stateful
from torch.optim.lr_scheduler import LambdaLR

import signa
from signa.errors import SpecError, StateError
from signa.integrations.torchtitan import OptimizersContainer
from tests.integrations.common import SPEC, batches, network, same, same_state


def parts(model: nn.Sequential) -> list[nn.Module]:
    """Two stages, whose parameters have the names that they have in the whole."""
    first, second = nn.Sequential(), nn.Sequential()
    for stage, names in ((first, "0"), (second, "12")):
        for name in names:
            stage.add_module(name, model.get_submodule(name))
    return [first, second]


def train(model: nn.Module, opt: torch.optim.Optimizer, scheduler: LambdaLR | None, data: list) -> None:
    for x, y in data:
        opt.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        opt.step()
        if scheduler:
            scheduler.step()


def test_the_shape() -> None:
    container = OptimizersContainer(parts(network()), SPEC)
    assert isinstance(container, torch.optim.Optimizer) and isinstance(container, Stateful)
    assert len(container) == 1 and isinstance(next(iter(container)), signa.SignA)
    assert len(container.model_parts) == 2


@pytest.mark.parametrize("where", ["each", "container"])
def test_it_is_the_optimizer_of_the_whole_model(where: str) -> None:
    """Schedulers on its optimizers, as torchtitan makes them, or on itself: both reach every step."""
    ours, theirs = network(), network()
    container, plain = OptimizersContainer(parts(ours), SPEC), signa.build(SPEC, theirs)
    [on] = [*container] if where == "each" else [container]
    seen: list[str] = []
    container.register_step_pre_hook(lambda *_: seen.append("before"))
    container.register_step_post_hook(lambda *_: seen.append("after"))
    train(ours, container, LambdaLR(on, lambda step: 0.5**step), batches(4))
    train(theirs, plain, LambdaLR(plain, lambda step: 0.5**step), batches(4))
    assert same(ours, theirs) and same_state(next(iter(container)), plain)
    assert seen == ["before", "after"] * 4
    container.zero_grad()
    assert all(p.grad is None for p in ours.parameters())


def test_a_closure() -> None:
    model = network()
    container, (x, y) = OptimizersContainer(parts(model), SPEC), batches(1)[0]

    def closure() -> float:
        container.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return float(loss.detach())

    assert container.step(closure) > container.step(closure)


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """By dcp.save and dcp.load, which call state_dict() for the places and load_state_dict() with what was read."""
    data, models, containers = batches(6), [], []
    for seed in (0, 0, 5):
        models.append(network(seed))
        containers.append(OptimizersContainer(parts(models[-1]), SPEC, seed=seed))
    train(models[0], containers[0], None, data)
    train(models[1], containers[1], None, data[:3])
    dcp.save({"optimizer": containers[1], "model": models[1].state_dict()}, checkpoint_id=tmp_path)
    weights = models[2].state_dict()
    dcp.load({"optimizer": containers[2], "model": weights}, checkpoint_id=tmp_path)
    models[2].load_state_dict(weights)
    train(models[2], containers[2], None, data[3:])
    assert same(models[0], models[2]) and same_state(*containers[0], *containers[2])


def test_the_keys_are_flat_and_plain() -> None:
    state = OptimizersContainer(parts(network()), SPEC).state_dict()
    assert {"signa", "0.weight/worker.momentum.m/0", "2.bias/replica.adam.m"} <= state.keys()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True).keys() == state.keys()


def test_another_ones_state_is_refused() -> None:
    container = OptimizersContainer(parts(network()), SPEC)
    with pytest.raises(StateError, match="does not fit"):
        container.load_state_dict(OptimizersContainer(parts(network()), "signmuon").state_dict())
    with pytest.raises(SpecError, match="lr does not go with a spec"):
        OptimizersContainer(parts(network()), SPEC, lr=0.1)


def test_a_group_may_be_added() -> None:
    container, extra = OptimizersContainer(parts(network()), SPEC), nn.Parameter(torch.ones(2, 2))
    container.add_param_group({"params": [("extra", extra)], "method": "signsgd", "lr": 0.5})
    extra.grad = torch.ones(2, 2)
    container.step()
    assert len(container.param_groups) == len(container.optimizers[0].param_groups) == 3
    assert bool((extra < 1).all())
