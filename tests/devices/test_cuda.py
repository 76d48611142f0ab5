"""Steps on a GPU: none waits, and a captured one replays the eager one's bits; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa import Fault
from tests.devices.runs import FORMS, Run, in_fewer_bits, same

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
    pytest.mark.filterwarnings("ignore::signa.errors.Advice"),
]
ON = {"capturable": True, "nonfinite": "ignore"}
METHODS = [*signa.presets.names(), *map(in_fewer_bits, FORMS)]


@contextmanager
def unwaited() -> Iterator[None]:
    """Inside, what makes the host wait is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", METHODS, ids=str)
def test_no_step_waits(name: str | dict[str, Any], workers: int) -> None:
    run = Run(name, "cuda", workers, nonfinite="ignore")
    run.step()
    run.prepare()
    run.backward()
    with unwaited():
        run.opt.step()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", METHODS, ids=str)
def test_ten_replays_are_ten_steps(name: str | dict[str, Any], workers: int) -> None:
    eager, run = (Run(name, "cuda", workers, **ON) for _ in range(2))
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        assert same(run.step(), eager.step())
    torch.cuda.current_stream().wait_stream(aside)
    run.backward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run.opt.step()
    for _ in range(10):
        run.prepare()
        graph.replay()
        assert same(run.model(), eager.step()) and same(run.state(), eager.state())
    assert run.opt.steps == eager.opt.steps == 11


def test_a_capture_without_capturable_and_one_of_the_first_step_are_refused() -> None:
    for options, said in (({"nonfinite": "ignore"}, "pass capturable=True"), (ON, "take a step before the capture")):
        p = nn.Parameter(torch.ones(4, 4, device="cuda"))
        p.grad = torch.ones_like(p)
        opt = signa.build("signmuon", [("w", p)], lr=0.02, **options)  # type: ignore[arg-type]
        with pytest.raises(Fault, match=said), torch.cuda.graph(torch.cuda.CUDAGraph()):
            opt.step()
