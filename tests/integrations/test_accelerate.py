"""Accelerate prepares a SignA as any optimizer: with its wrapper, its accumulation, its scaler and its checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import signa
from signa.errors import SpecError
from signa.integrations.accelerate import own_wire
from tests.integrations.common import SPEC, batches, needs, network, same, same_state, simulated, two_ranks

accelerate = needs("accelerate")
Accelerator, AcceleratedOptimizer = accelerate.Accelerator, needs("accelerate.optimizer").AcceleratedOptimizer


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Accelerate's state is the process'."""
    yield
    needs("accelerate.state").AcceleratorState._reset_state(True)
    needs("accelerate.state").GradientState._reset_state()


def prepared(seed: int = 0, scale: float = 0.0, **options: object):
    """Model, optimizer and schedule, as Accelerate hands them back; ``scale`` is a GradScaler's."""
    accelerator = Accelerator(cpu=True, **options)
    if scale:  # Accelerate makes one on GPUs alone; the wrapper takes any
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    model = network(seed)
    opt = signa.build(SPEC, model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    model, wrapped, scheduler = accelerator.prepare(model, opt, scheduler)
    assert isinstance(wrapped, AcceleratedOptimizer) and wrapped.optimizer is opt
    return accelerator, model, wrapped, scheduler


def train(accelerator, model, opt, scheduler, data, clip: float = 0.0) -> None:
    for x, y in data:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
            if clip and accelerator.sync_gradients:
                if accelerator.scaler:  # clip_grad_norm_ does it where the precision is fp16, on GPUs
                    accelerator.scaler.unscale_(opt.optimizer)
                accelerator.clip_grad_norm_(model.parameters(), clip)
            opt.step()
            scheduler.step()
            opt.zero_grad()


def by_hand(data, every: int = 1, clip: float = 0.0, bf16: bool = False):
    model = network()
    opt = signa.build(SPEC, model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    for start in range(0, len(data), every):
        for x, y in data[start : start + every]:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                out = model(x)
            (nn.functional.mse_loss(out.float(), y) / every).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        opt.step()
        scheduler.step()
        opt.zero_grad()
    return model, opt


@pytest.mark.parametrize(
    ("options", "loop", "hand"),
    [
        ({}, {}, {}),
        ({"gradient_accumulation_steps": 2}, {}, {"every": 2}),
        ({}, {"clip": 0.01}, {"clip": 0.01}),
        ({"mixed_precision": "bf16"}, {}, {"bf16": True}),
        ({"scale": 2.0**10}, {}, {}),  # a power of two scales without rounding
        ({"scale": 2.0**10}, {"clip": 0.01}, {"clip": 0.01}),
        ({"scale": 2.0**10, "gradient_accumulation_steps": 2}, {}, {"every": 2}),
    ],
    ids=["plain", "accumulation", "clipping", "bf16", "scaler", "scaler and clipping", "scaler and accumulation"],
)
def test_it_is_the_loop_by_hand(options: dict, loop: dict, hand: dict) -> None:
    accelerator, model, opt, scheduler = prepared(**options)
    train(accelerator, model, opt, scheduler, batches(6), **loop)
    net, plain = by_hand(batches(6), **hand)
    assert same(accelerator.unwrap_model(model), net) and same_state(opt.optimizer, plain)
    assert plain.steps == 6 // hand.get("every", 1)


def test_an_overflow_moves_nothing_and_halves_the_scale() -> None:
    accelerator, model, opt, scheduler = prepared(scale=2.0**10)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = batches(1)[0]
    accelerator.backward(nn.functional.mse_loss(model(x), y) * float("inf"))
    opt.step()
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters()))
    assert opt.optimizer.steps == 0 and accelerator.scaler.get_scale() == 2.0**9
    assert not accelerator.optimizer_step_was_skipped  # SignA leaves it out, on all processes; torch's fused do so too
    opt.zero_grad()
    train(accelerator, model, opt, scheduler, batches(2))
    net, plain = by_hand(batches(2))
    assert same(model, net) and same_state(opt.optimizer, plain)


@pytest.mark.parametrize("scale", [0.0, 2.0**10])
def test_a_saved_state_goes_on_bit_for_bit(tmp_path: Path, scale: float) -> None:
    data = batches(6)
    accelerator, model, opt, scheduler = prepared(scale=scale)
    train(accelerator, model, opt, scheduler, data[:3])
    accelerator.save_state(tmp_path)
    train(accelerator, model, opt, scheduler, data[3:])
    again, other, resumed, later = prepared(seed=5, scale=scale)
    again.load_state(tmp_path)
    train(again, other, resumed, later, data[3:])
    assert same(model, other) and same_state(opt.optimizer, resumed.optimizer)


def test_simulated_workers_are_the_optimizers_own() -> None:
    accelerator = Accelerator(cpu=True)
    model = network()
    opt = signa.build(SPEC, model, transport=signa.Loopback(2))
    model, wrapped = accelerator.prepare(model, opt)
    before = [p.detach().clone() for p in model.parameters()]
    for worker, (x, y) in enumerate(batches(2)):
        with opt.worker(worker):
            accelerator.backward(nn.functional.mse_loss(model(x), y))
    wrapped.step()
    assert opt.steps == 1 and not any(torch.equal(p, q) for p, q in zip(before, model.parameters()))


RANK = """
import sys
from accelerate import Accelerator
from signa.integrations.accelerate import own_wire

accelerator = Accelerator(cpu=True)
if sys.argv[1] == "own":
    accelerator.ddp_handler = own_wire()
model = network()
opt = signa.build(SPEC, model, transport=signa.Group())
model, wrapped = accelerator.prepare(model, opt)
assert isinstance(model, nn.parallel.DistributedDataParallel)
try:
    for x, y in batches(4):
        accelerator.backward(nn.functional.mse_loss(model(x + accelerator.process_index), y))
        wrapped.step()
        wrapped.zero_grad()
    tell(opt)
except signa.SignaError as error:
    tell(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["own", "averaged"])
def test_ranks_under_a_wrapper(tmp_path: Path, wire: str) -> None:
    """Accelerate's DistributedDataParallel stays out of the way where it is told to; else it is noticed."""
    told = simulated(4) if wire == "own" else "AveragedGradients"
    assert two_ranks(tmp_path, RANK, wire) == [told] * 2


def test_the_wrappers_options_are_kept() -> None:
    handler = own_wire(bucket_cap_mb=3)
    assert isinstance(handler, accelerate.DistributedDataParallelKwargs)
    assert handler.to_kwargs() == {"bucket_cap_mb": 3}


def test_without_accelerate_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(SpecError, match=r"needs Accelerate\n  because: it is not installed\n  instead: pip install"):
        own_wire()
