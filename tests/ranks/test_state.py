"""Workers' states in fewer bits: the grammar, what the optimizer keeps, and that ranks still are the simulation."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa
from signa.coins import Coins
from signa.errors import SpecError
from signa.part import opened
from signa.storage import BLOCK, FORMS
from tests.ranks.cases import (
    SMALL,
    Net,
    Run,
    build,
    everywhere,
    loopback,
    outcome,
    parameters,
    plain,
    ranks,
    same,
    spec,
    step,
)

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
EF14 = {
    "worker": ["momentum"],
    "up": {"feedback": "ef14", "compressor": "scaled_sign"},
    "aggregate": "mean",
}


def held(method: Any, state: Any, **group: Any) -> dict[str, Any]:
    """The spec of :func:`spec` with a form for the state of its matrices."""
    found = spec(method, decays=False)
    for own in found["groups"]:
        own |= {"state": "bfloat16" if own.get("method") == "adamw" else state, **group}
    return found


def small(state: Any, method: str = "signmuon") -> dict[str, Any]:
    return {"groups": [{"match": "*", "method": method, "lr": 0.02, "state": state}]}


CASES = [
    ("signmuon", "int8"),
    ("signmuon", "bfloat16"),
    ({**EF14, "server": ["momentum", "spectral"], "down": EF14["up"]}, "int8"),
    ("ef21muonsign", {"momentum": "int8"}),
    (EF14, "int8"),
    (EF14, {"up": "bfloat16"}),
    ("adamw", "int8"),
    ("lion", "bfloat16"),
]


@pytest.mark.parametrize(("method", "state"), CASES, ids=str)
def test_group_is_loopback(method: Any, state: Any) -> None:
    """Awkward gradients and ragged shapes, two workers on a rank and one on another, and the stored bits themselves."""
    source = held(method, state)
    same(loopback(source, 3, steps=5), ranks(source, [2, 1], {"bucket_mb": 1e-3}, steps=5))


def test_overlap_stores_what_a_plain_step_stores() -> None:
    source = {"groups": [{"match": "*", "method": "signmuon", "lr": 0.02, "state": "int8"}]}

    def script(transport: Any) -> Run:
        model = Net()
        opt = signa.build(source, model, transport=transport)
        for t in range(5):
            for j in opt.transport.local:
                with opt.worker(j):
                    x = plain("x", torch.empty(8, 6), t, j)
                    model(x).square().sum().backward()
            opt.step()
            opt.zero_grad()
        return outcome(opt, dict(model.named_parameters()), [])

    everywhere(script, 2, overlap=True, bucket_mb=1e-4)


def sizes(state: Any, method: Any = "signmuon") -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    ps = {"w": nn.Parameter(torch.randn(24, 16))}
    opt = build({"groups": [{"match": "*", "method": method, "lr": 0.1, "state": state}]}, ps, signa.Loopback(3))
    return {address: (view.dtype, tuple(view.shape)) for address, view in opt.state[ps["w"]].items()}


def test_what_is_held() -> None:
    """A field that is ignored fails here: dtypes, shapes, and what stays as it is computed."""
    m, whole = "worker.momentum.m", (3, 24, 16)
    assert sizes("full") == {m: (torch.float32, whole)}
    assert sizes("bfloat16") == {m: (torch.bfloat16, whole)}
    scales = (3, 1, 1, -(-24 * 16 // BLOCK))
    assert sizes("int8") == {m: (torch.int8, whole), f"{m}:scale": (torch.float32, scales)}
    assert sizes({"momentum": "bfloat16"}) == sizes("bfloat16")
    adam = sizes("bfloat16", "adamw")
    assert adam["replica.adam.m"][0] == adam["replica.adam.v"][0] == torch.bfloat16
    assert adam["replica.adam.t"][0] == torch.float64  # it counts
    ef21 = sizes({"momentum": "bfloat16"}, "ef21muonsign")
    assert ef21[m][0] == torch.bfloat16 and ef21["worker.up.h"][0] == torch.float32
    assert ef21["server.up.H"] == (torch.float32, (24, 16))


@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_states_stay_near_those_that_are_not_rounded(state: str) -> None:
    """A momentum that forgets keeps its error small, however long the run is."""
    found = []
    for form in ("full", state):
        ps = parameters(shapes=SMALL)
        opt = build(small(form), ps, signa.Loopback(2))
        for t in range(60):
            step(opt, ps, t, plain)
        (stack,) = [stack for _, stack in opt.stacks if stack.m == 24]
        found.append(opened(stack.state, stack.forms, stack.dtype)["worker.momentum.m"])
    error = (found[1] - found[0]).norm() / found[0].norm()
    assert 1e-4 < error < {"bfloat16": 0.02, "int8": 0.12}[state], error


def text(state: Any, method: str = "ef21muonsign") -> str:
    with pytest.raises(SpecError) as raised:
        signa.Spec.load(small(state, method))
    return str(raised.value)


def test_ef21s_memory_is_not_rounded() -> None:
    said = text("int8")
    assert "state int8 cannot hold the memory of up: ef21(scaled_sign)" in said
    assert "adds up what was sent" in said and "write state: {momentum: int8}" in said
    assert "memory of up: " in text({"up": "bfloat16"}) and "memory of down: " in text({"down": "bfloat16"})
    assert signa.Spec.load(small({"momentum": "int8"}, "ef21muonsign")).groups[0].form("worker.up") == "full"


def test_ef21s_memory_would_drift() -> None:
    """The reason, measured: H = mean(h) no longer, and further from it every step."""
    gaps = []
    h = sent = torch.zeros(1, 16, 16)
    for t in range(200):
        c = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(t)) * 0.01 + 0.01
        sent = sent + c
        h = FORMS["bfloat16"].read(FORMS["bfloat16"].write(h + c, Coins(0, t, [1], [0], [0])), torch.float32)
        gaps.append(float((h - sent).norm() / sent.norm()))
    assert gaps[199] > 2 * gaps[9] > 0


def test_words_that_mean_nothing() -> None:
    said = text({"momentun": "int8"})
    assert "no stage called 'momentun' remembers anything" in said and "did you mean 'momentum'?" in said
    assert "int4" in text("int4", "signmuon")


def test_a_spec_says_its_forms_and_keeps_its_id() -> None:
    old = signa.Spec.load({"groups": [{"match": "*", "method": "signmuon", "lr": 0.02}]})
    new = old.replace({"groups.0.state": "int8"})
    assert old.id == signa.Spec.load(small("full")).id != new.id
    assert signa.Spec.load(small("int8")).id == new.id
    assert "state: int8" in new.dump() and "state" not in str(old)


@pytest.mark.parametrize("state", ["bfloat16", "int8"])
def test_resumed_is_uninterrupted(state: str, tmp_path: Path) -> None:
    """state_dict, checkpoints and copies carry what is stored, bit for bit."""

    def start() -> tuple[nn.Module, signa.SignA]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 4))
        return model, signa.build(small(state, "muon"), model, transport=signa.Loopback(3))

    def steps(model: nn.Module, opt: signa.SignA, first: int, last: int) -> None:
        for t in range(first, last):
            for j in range(3):
                with opt.worker(j):
                    model(plain("x", torch.empty(5, 20), t, j)).square().sum().backward()
            opt.step()
            opt.zero_grad()

    model, opt = start()
    steps(model, opt, 0, 3)
    signa.save_checkpoint(tmp_path, model, opt)
    kept, weights = opt.state_dict(), copy.deepcopy(model.state_dict())
    assert any(v.dtype in (torch.bfloat16, torch.int8) for v in kept["state"]["0.weight"].values())
    twin_model, twin = copy.deepcopy((model, opt))
    steps(model, opt, 3, 6)
    steps(twin_model, twin, 3, 6)
    loaded_model, loaded = start()
    signa.load_checkpoint(tmp_path, loaded_model, loaded)
    steps(loaded_model, loaded, 3, 6)
    again_model, again = start()
    again_model.load_state_dict(weights)
    again.load_state_dict(kept)
    steps(again_model, again, 3, 6)
    for other in (twin_model, loaded_model, again_model):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    plain_model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 4))
    full = signa.build(small("full", "muon"), plain_model, transport=signa.Loopback(3))
    with pytest.raises(signa.SignaError, match=r"groups\.0\.state: '\w+' there, None here"):
        full.load_state_dict(kept)


@pytest.mark.parametrize("state", ["full", "bfloat16", "int8"])
def test_the_mean_of_workers_is_of_values(state: str, tmp_path: Path) -> None:
    """Codes have no mean: another number of workers gets the mean of what they stand for."""

    def start(workers: int) -> tuple[nn.Module, signa.SignA]:
        torch.manual_seed(0)
        model = nn.Linear(40, 20, bias=False)
        return model, signa.build(small(state), model, transport=signa.Loopback(workers))

    def m(opt: signa.SignA) -> Tensor:
        ((_, stack),) = opt.stacks
        return opened(stack.state, stack.forms, stack.dtype)["worker.momentum.m"]

    model, opt = start(3)
    for j in range(3):
        with opt.worker(j):
            model(plain("x", torch.empty(5, 40), 0, j)).mul(10.0**j).square().sum().backward()
    opt.step()
    opt.zero_grad()
    signa.save_checkpoint(tmp_path, model, opt)
    other_model, other = start(2)
    signa.load_checkpoint(tmp_path, other_model, other, on_world_change="mean")
    mean = m(opt).mean(0)
    for row in m(other):
        assert (row - mean).abs().max() <= {"full": 1e-6, "bfloat16": 2**-8, "int8": 0.017}[state] * mean.abs().max()
