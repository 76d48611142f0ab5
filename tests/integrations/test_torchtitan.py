"""torchtitan itself around the container: its schedulers, its configuration, its MoE hook."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

import signa
from signa.integrations import torchtitan as ours
from tests.integrations.common import SPEC, needs, network, same
from tests.integrations.test_torchtitan_shape import batches, parts, train

needs("torchtitan.components.optimizer.optimizer")
titan = needs("torchtitan.components.optimizer")
Configurable = needs("torchtitan.config").Configurable


class Container(ours.OptimizersContainer, Configurable):
    """As docs/integrations.md says: what a torchtitan configuration builds."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        spec: str = "signmuon"

    def __init__(self, config: Config, *, model_parts: list) -> None:
        super().__init__(model_parts, SPEC if config.spec == "SPEC" else config.spec)


def test_built_by_a_configuration_and_scheduled() -> None:
    model, whole = network(), network()
    container = Container.Config(spec="SPEC").build(model_parts=parts(model))
    schedulers = titan.LRSchedulersContainer.Config(warmup_steps=2).build(optimizers=container, training_steps=6)
    rates = []
    for step, (x, y) in enumerate(batches(6)):
        rates.append([group["lr"] for group in container.param_groups])
        train(model, container, None, [(x, y)])
        schedulers.step()
        if step == 2:
            state = schedulers.state_dict()
    assert [round(rate / rates[1][0], 6) for rate, _ in rates] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert [round(rest / rates[1][1], 6) for _, rest in rates] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert schedulers.get_metrics().keys() == {"lr/SignA/0", "lr/SignA/1"}
    plain = signa.build(SPEC, whole)
    for (x, y), rate in zip(batches(6), rates):
        for group, lr in zip(plain.param_groups, rate):
            group["lr"] = lr
        train(whole, plain, None, [(x, y)])
    assert same(model, whole)
    again = titan.LRSchedulersContainer.Config(warmup_steps=2).build(optimizers=container, training_steps=6)
    again.load_state_dict(state)
    assert next(iter(again)).get_last_lr() == rates[3]


class Experts(nn.Module):
    """What the hook looks for in a layer: how often each expert was asked, and the bias that evens it out."""

    moe_enabled, load_balance_coeff = True, 0.1

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))
        self.register_buffer("tokens_per_expert_E", torch.tensor([5.0, 3.0, 1.0]))
        self.register_buffer("expert_bias_E", torch.zeros(3))
        self.__dict__["moe"] = self  # the layer and its experts in one


def test_its_moe_hook_runs_before_the_step() -> None:
    part = nn.Module()
    part.layers = nn.ModuleDict({"0": Experts()})
    container = Container.Config().build(model_parts=[part])
    dims = SimpleNamespace(get_optional_mesh=lambda name: None, ep_enabled=False)
    titan.register_moe_load_balancing_hook(container, container.model_parts, dims)
    container.step()
    torch.testing.assert_close(part.layers["0"].expert_bias_E, torch.tensor([-0.1, 0.0, 0.1]))
