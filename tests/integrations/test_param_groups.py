"""The spec's routing for torch's own optimizers, and models in parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import signa
from signa.errors import RoutingError, SpecError
from tests.integrations.common import SPEC, batches, network, same


def test_the_groups_are_those_of_the_optimizer() -> None:
    model = network()
    groups = signa.param_groups(model, SPEC)
    keys = ["params", "name", "lr", "weight_decay", "signa_names"]
    assert [list(group) for group in groups] == [keys, keys]
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups] == [
        ("matrices", 0.02, 0.1),
        ("rest", 1e-3, 0.0),
    ]
    assert [group["signa_names"] for group in groups] == [["0.weight", "2.weight"], ["0.bias", "2.bias"]]
    assert all(a is b for a, b in zip(groups[0]["params"], (model[0].weight, model[2].weight)))
    opt = signa.build(SPEC, model)
    assert [[*map(id, group["params"])] for group in opt.param_groups] == [[*map(id, g["params"])] for g in groups]


@pytest.mark.parametrize("kind", ["Muon", "AdamW"])
def test_torchs_optimizers_take_them(kind: str) -> None:
    """Each group is stepped with its own rate and decay: as by hand, bit for bit."""
    ours, theirs = network(), network()
    matrices, rest = signa.param_groups(ours, SPEC)
    hand = [
        {"params": [theirs[0].weight, theirs[2].weight], "lr": 0.02, "weight_decay": 0.1},
        {"params": [theirs[0].bias, theirs[2].bias], "lr": 1e-3, "weight_decay": 0.0},
    ]
    first = getattr(torch.optim, kind)
    pairs = [[first([matrices]), torch.optim.AdamW([rest])], [first(hand[:1]), torch.optim.AdamW(hand[1:])]]
    before = [p.detach().clone() for p in ours.parameters()]
    for x, y in batches(3):
        for model, optimizers in zip((ours, theirs), pairs):
            nn.functional.mse_loss(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert same(ours, theirs) and not any(torch.equal(p, q) for p, q in zip(before, ours.parameters()))


def test_what_is_wrong_is_refused_as_by_build() -> None:
    with pytest.raises(SpecError, match=r"groups\.0\.lr: expected a number, got 'fast'"):
        signa.param_groups(network(), {"groups": [{"match": "*", "method": "muon", "lr": "fast"}]})
    with pytest.raises(RoutingError, match=r"no group takes parameter '0\.bias'"):
        signa.param_groups(network(), {"groups": [{"ndim": 2, "method": "muon", "lr": 0.1}]})


class Stage(nn.Module):
    """A stage of a pipeline, whose layers keep the whole model's names; each has a buffer."""

    def __init__(self, whole: nn.Sequential, names: list[str]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, whole.get_submodule(name))
            self.register_buffer(f"seen{name}", torch.zeros(()))


def test_parts_of_a_model_are_one_model() -> None:
    """Bit for bit, and with the same names, as the model in one piece; buffers of every part are a worker's own."""
    ours, theirs = network(), network()
    parts = [Stage(ours, ["0"]), Stage(ours, ["1", "2"])]
    opts = [
        signa.build(SPEC, parts, transport=signa.Loopback(2)),
        signa.build(SPEC, theirs, transport=signa.Loopback(2)),
    ]
    assert opts[0].state_dict()["param_groups"] == opts[1].state_dict()["param_groups"]
    for x, y in batches(3):
        for model, opt in zip((ours, theirs), opts):
            for worker in range(2):
                with opt.worker(worker):
                    nn.functional.mse_loss(model(x + worker), y).backward()
                    for part in parts:
                        for buffer in part.buffers():
                            buffer.add_(worker)  # worker 1's, which nobody is to see
            opt.step()
            opt.zero_grad()
    assert same(ours, theirs)
    assert [float(buffer) for part in parts for buffer in part.buffers()] == [3.0, 3.0, 3.0]  # of the other's blocks


def test_parts_that_share_a_name_are_refused() -> None:
    with pytest.raises(RoutingError, match=r"two parameters are called 0\.bias, 0\.weight"):
        signa.build("signmuon", [nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))])
