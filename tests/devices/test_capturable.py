"""``capturable``: the bits of the ordinary step, also where a graph replays it, and errors where no graph can be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa import Fault
from tests.devices.pretend import DEVICE, Recording, pretend
from tests.devices.runs import FORMS, Run, in_fewer_bits, same

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
ON: dict[str, Any] = {"capturable": True, "nonfinite": "ignore"}


class Wire:
    """A transport that is not Loopback."""

    def __init__(self) -> None:
        self._own = signa.Loopback()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __repr__(self) -> str:
        return "Wire()"


@pytest.mark.parametrize("name", [*signa.presets.names(), *map(in_fewer_bits, FORMS)], ids=str)
def test_a_replayed_step_is_the_ordinary_step(name: str | dict[str, Any]) -> None:
    ordinary, cpu = Run(name, "cpu", 3), Run(name, "cpu", 3, **ON)
    with pretend():
        run, graph = Run(name, DEVICE, 3, **ON), Recording()
        for t in range(4):
            if t == 0:
                model = run.step()
            else:
                run.prepare()
                if t == 1:
                    run.backward()
                    with pretend(waits=False, record=graph):
                        run.opt.step()
                else:
                    graph.replay()
                model = run.model()
            wanted = ordinary.step()
            assert same(cpu.step(), wanted) and same(model, wanted), t
            assert same(cpu.state(), ordinary.state()) and same(run.state(), ordinary.state()), t
        assert run.opt.steps == cpu.opt.steps == 4


def test_cautious_decay_takes_a_rate_as_it_takes_a_number() -> None:
    spec = {"groups": [{"method": {"method": "lion", "replica": ["linf", {"kind": "step", "decay": "cautious"}]}}]}
    models = []
    for options in ({}, ON):
        p = nn.Parameter(torch.randn(33, 65, generator=torch.Generator().manual_seed(0)))
        opt = signa.build({"groups": [spec["groups"][0] | {"lr": 0.03, "weight_decay": 0.2}]}, [("w", p)], **options)
        for t in range(3):
            p.grad = torch.randn(33, 65, generator=torch.Generator().manual_seed(t))
            opt.step()
        models.append(p.detach())
    assert torch.equal(*models)


def test_a_state_goes_from_one_kind_to_the_other_and_tensors_stay_where_they_are() -> None:
    graph, plain = Run("signmuon", "cpu", **ON), Run("signmuon", "cpu")
    for _ in range(3):
        graph.step()
    rates = [group["lr"] for group in graph.opt.param_groups]
    state = graph.opt.state_dict()
    assert all(isinstance(group["lr"], float) for group in state["param_groups"])
    plain.opt.load_state_dict(state)
    assert plain.opt.steps == 3 and plain.opt.param_groups[0]["lr"] == pytest.approx(0.02 * 0.9**2)
    state["param_groups"][0]["lr"], state["signa"]["step"] = 0.5, 7
    graph.opt.load_state_dict(state)
    assert graph.opt.steps == 7 and float(rates[0]) == 0.5
    assert all(group["lr"] is rate for group, rate in zip(graph.opt.param_groups, rates, strict=True))
    again = copy.deepcopy(graph.opt)
    assert again.steps == 7 and isinstance(again.param_groups[0]["lr"], torch.Tensor)


def test_a_scaler_unscales_in_front_of_the_step() -> None:
    models = []
    for scale in (1.0, 1024.0):
        p = nn.Parameter(torch.ones(4, 4))
        opt = signa.build("muon", [("w", p)], lr=0.1, **ON)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        for g in (torch.eye(4), torch.full((4, 4), torch.inf)):
            opt.zero_grad()
            scaler.scale((p * g).sum()).backward()
            scaler.step(opt)
            scaler.update()
        assert opt.steps == 1
        models.append(p.detach())
    assert torch.equal(*models) and not torch.equal(models[0], torch.ones(4, 4))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"capturable": True}, "nonfinite='abstain'.*host reads whether the gradients are finite.*nonfinite='ignore'"),
        (ON | {"transport": Wire()}, r"Wire\(\).*host reads what comes over a wire.*Loopback"),
    ],
)
def test_what_no_graph_can_hold_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Fault, match=said):
        signa.build("signmuon", nn.Linear(4, 4), lr=0.02, **options)


@pytest.mark.parametrize(
    "parts",
    [
        {"server": [{"kind": "spectral", "schedule": "exact"}]},
        {"replica": ["step", {"kind": "project", "norm": "spectral"}]},
    ],
)
def test_lapack_is_refused(parts: dict[str, Any]) -> None:
    spec = {"groups": [{"name": "all", "lr": 0.1, "method": {"method": "sgd", **parts}}]}
    signa.build(spec, nn.Linear(4, 4))
    with pytest.raises(Fault, match=r"groups\.all: capturable is not possible with .*SVD"):
        signa.build(spec, nn.Linear(4, 4), **ON)


def test_several_devices_are_refused() -> None:
    with pretend(), pytest.raises(Fault, match="the parameters are on cpu and pretend:0"):
        moved = nn.Parameter(torch.ones(4, 4).to(DEVICE))
        signa.build("muon", [("a", nn.Parameter(torch.ones(4, 4))), ("b", moved)], lr=0.1, **ON)


def test_a_learning_rate_that_became_a_number_is_refused() -> None:
    run = Run("muon", "cpu", **ON)
    run.opt.param_groups[0]["lr"] = 0.5
    with pytest.raises(Fault, match=r"learning rate of group '.*' is the number 0\.5.*fill_\(0\.5\)"):
        run.step()


def test_ignore_lets_a_nan_through_and_the_default_does_not() -> None:
    found = {}
    for policy in ("abstain", "ignore"):
        p = nn.Parameter(torch.ones(4, 4))
        opt = signa.build("sgd", [("w", p)], lr=0.1, nonfinite=policy)
        p.grad = torch.full((4, 4), torch.nan)
        opt.step()
        found[policy] = bool(p.isfinite().all())
    assert found == {"abstain": True, "ignore": False}
