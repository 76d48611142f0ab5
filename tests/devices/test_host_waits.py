"""A step on a device makes the host wait for nothing but what it was asked to look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import signa
from signa.lmo import spectral
from signa.stages import momentum
from tests.devices.pretend import DEVICE, HostWaits, pretend
from tests.devices.runs import FORMS, Run, in_fewer_bits, same
from tests.ranks.test_memory import few_at_a_time

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")


def goes_on_without_waiting(run: Run, cpu: Run) -> None:
    """Behind the first step, which may wait: two more, with the bits of a CPU."""
    assert same(run.step(), cpu.step())
    for _ in range(2):
        run.prepare()
        run.backward()
        with pretend(waits=False):
            run.opt.step()
        assert same(run.model(), cpu.step()) and same(run.state(), cpu.state())


@pytest.mark.parametrize("name", signa.presets.names())
def test_no_step_waits_and_none_has_other_bits_than_on_a_cpu(name: str) -> None:
    cpu = Run(name, "cpu", 3)
    with pretend():
        goes_on_without_waiting(Run(name, DEVICE, 3, nonfinite="ignore"), cpu)


@pytest.mark.parametrize("name", [*signa.presets.names(), *map(in_fewer_bits, FORMS)], ids=str)
def test_no_part_of_a_step_waits(name: str | dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers' matrices some at a time, and words of 64 entries at the server, where not everybody has a gradient."""
    few_at_a_time(monkeypatch, 300)
    absent = {(1, "a.weight"), (2, "c.bias"), *((j, "b.weight") for j in range(3))}
    cpu = Run(name, "cpu", 3, absent)
    with pretend():
        goes_on_without_waiting(Run(name, DEVICE, 3, absent, nonfinite="ignore"), cpu)


@pytest.mark.parametrize("name", ["adamw", "signmuon", "ef21muonsign"])
def test_looking_at_the_gradients_is_one_wait_for_a_worker(name: str) -> None:
    with pretend():
        run = Run(name, DEVICE)
        run.step()
        run.prepare()
        run.backward()
        with pretend() as waits:
            run.opt.step()
    assert waits == ["aten._local_scalar_dense.default"]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x[[0, 1]],
        lambda x: x.__setitem__([0], 0.0),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: torch.ones(2).to(x.device),
        lambda x: x.copy_(torch.ones(2, 3)),
        lambda x: x + torch.ones(2, 3),
        lambda x: torch.linalg.svd(x),
    ],
)
def test_what_makes_the_host_wait_is_seen(read: Callable[[torch.Tensor], object]) -> None:
    with pretend():
        x = torch.ones(2, 3).to(DEVICE)
        (x * 2 + x.sum()).clamp(min=1).sort(0)
        with pytest.raises(HostWaits), pretend(waits=False):
            read(x)


@pytest.mark.parametrize("part", [momentum.Momentum, spectral.Spectral])
def test_a_read_in_a_stage_is_seen(part: type, monkeypatch: pytest.MonkeyPatch) -> None:
    act = part.__call__
    monkeypatch.setattr(part, "__call__", lambda self, x, *rest: act(self, x, *rest) if bool(x.isfinite().all()) else x)
    with pretend():
        run = Run("signmuon", DEVICE, nonfinite="ignore")
        with pytest.raises(HostWaits), pretend(waits=False):
            run.prepare()
            run.backward()
            run.opt.step()
