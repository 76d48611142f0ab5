"""Infinities and NaNs on some rank, and buffers: on ranks as in the simulation."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import signa
from signa import errors
from tests.ranks.cases import (
    SMALL,
    SOURCE,
    Net,
    Run,
    build,
    everywhere,
    fingerprint,
    loopback,
    outcome,
    parameters,
    plain,
    ranks,
    same,
    step,
)
from tests.ranks.worlds import world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")

# Buffers -------------------------------------------------------------------------------------------------------------


def buffers_after(transport: Any, away: tuple[int, int] = (-1, -1), bad: int = -1, policy: Any = "abstain") -> Run:
    """Four steps; worker ``away[0]`` has no batch in step ``away[1]``, worker 1 a NaN in step ``bad``."""
    model = Net(flipped=0 not in transport.local)
    opt = signa.build("signmuon", model, lr=0.05, transport=transport, nonfinite=policy)
    digests = []
    for t in range(4):
        opt.zero_grad()
        for j in transport.local:
            with opt.worker(j) if len(transport.local) > 1 else nullcontext():  # a block would put them back itself
                if (j, t) != away:
                    x = plain("x", torch.empty(8, 6), t, j)
                    model(x * torch.nan if (j, t) == (1, bad) else x).square().mean().backward()
        opt.step()
        digests.append(fingerprint(dict(model.named_parameters())))
    run = outcome(opt, dict(model.named_parameters()), digests)
    return run._replace(values=run.values | dict(model.state_dict()))


@pytest.mark.parametrize("away", [(-1, -1), (0, 3), (1, 3), (0, 2)])
def test_buffers_follow_worker_0(away: tuple[int, int]) -> None:
    """Also where worker 0 has no batch and another has; the modules stand in another order on the other ranks."""
    reference, *_ = everywhere(lambda transport: buffers_after(transport, away))
    assert reference.values["level"] > 0 and reference.values["norm.num_batches_tracked"] > 0


@pytest.mark.parametrize("policy", ["abstain", "skip"])
def test_buffers_follow_worker_0_in_a_step_that_is_skipped(policy: str) -> None:
    everywhere(lambda transport: buffers_after(transport, bad=3, policy=policy))


def test_different_buffers_refuse_to_start() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> Any:
        model = Net()
        if r:
            model.register_buffer("more", torch.zeros(2))
        signa.build("signmuon", model, transport=signa.Group(**arguments))

    results = world(2, rank)
    assert all(isinstance(result, errors.LayoutMismatch) for result in results), results
    assert "buffers: " in str(results[0]) and "Net.more (2,) float32 on rank 1" in str(results[0])


# Infinities and NaNs -------------------------------------------------------------------------------------------------


def spoilt(at: dict[tuple[int, int], float], instead: bool = False) -> Any:
    """Gradients with a bad number for some (step, worker), or with nothing of that worker instead."""

    def grad(name: str, p: Tensor, t: int, j: int) -> Tensor | None:
        g = plain(name, p, t, j)
        if (t, j) not in at:
            return g
        if instead:
            return None
        if name == "b":
            g.view(-1)[7] = at[t, j]
        return g

    return grad


BAD = {(0, 2): float("nan"), (2, 1): float("inf"), (3, 1): -float("inf")}
OPTIONS: dict[str, Any] = {"steps": 5, "shapes": SMALL}


@pytest.mark.parametrize("group", [{"exchange": "alltoall"}, {"exchange": "allgather"}, {"exchange": "ring"}])
def test_a_worker_that_is_not_finite_abstains(group: dict[str, str]) -> None:
    """As if it had no gradients at all; every rank counts it by name."""
    absent = loopback(SOURCE, 3, grad=spoilt(BAD, instead=True), **OPTIONS)
    simulated = loopback(SOURCE, 3, grad=spoilt(BAD), **OPTIONS)
    same(absent, [simulated])
    found = ranks(SOURCE, [1, 1, 1], group, grad=spoilt(BAD), **OPTIONS)
    if group["exchange"] != "ring":
        same(absent, found)
    for run in [simulated, *found]:
        assert run.opt.nonfinite_counts == {(2, "b"): 1, (1, "b"): 2}


def test_all_skip_the_same_step() -> None:
    found = ranks(SOURCE, [1, 1, 1], grad=spoilt(BAD), nonfinite="skip", **OPTIONS)
    reference = loopback(SOURCE, 3, grad=spoilt(BAD), nonfinite="skip", **OPTIONS)
    same(reference, found)
    for run in [reference, *found]:
        assert run.opt.steps == 2 and run.opt.nonfinite_counts == {(2, "b"): 1, (1, "b"): 2}


def test_all_raise_the_same_error_and_may_go_on() -> None:
    def script(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, transport, nonfinite="raise")
        digests = []
        for t in range(4):
            try:
                step(opt, ps, t, spoilt(BAD))
            except errors.NonFinite as error:
                digests.append(str(error))
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    digests = everywhere(script)[0].digests
    assert digests[0].startswith("the gradient of 'b' of worker 2 is not finite at step 0; nothing was written")


@pytest.mark.parametrize("at", [{(1, 1): 5.0}, {(1, 2): torch.inf, (2, 0): torch.inf, (2, 1): torch.nan}])
def test_a_scaler_that_found_an_infinity_stops_everybody(at: dict[tuple[int, int], float]) -> None:
    """torch's own GradScaler, one on every rank; an infinity on one of them."""

    def script(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, transport)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        scaler.scale(torch.ones(()))
        digests, scaled = [], spoilt(at)
        for t in range(4):
            opt.zero_grad()
            for j in transport.local:
                with opt.worker(j):
                    for name, p in ps.items():
                        p.grad = scaled(name, p, t, j) * scaler.get_scale()
            scaler.step(opt)
            scaler.update()
            digests.append(f"{opt.steps} {fingerprint(ps)}")
        return outcome(opt, ps, digests)

    bad = len({t for (t, _), value in at.items() if not torch.tensor(value).isfinite()})
    assert everywhere(script)[0].opt.steps == 4 - bad
