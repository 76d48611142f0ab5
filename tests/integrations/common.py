"""What these tests share. `python3 run.py integrations` has all the libraries; elsewhere the tests skip."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa

#: State of every sort: of workers, of the server, of the replicas, and an exact model beside the parameters.
SPEC = {
    "groups": [
        {"name": "matrices", "match": "*", "ndim": 2, "method": "ef21muonsign", "lr": 0.02, "weight_decay": 0.1},
        {"name": "rest", "match": "*", "method": "adamw", "lr": 1e-3},
    ]
}


def needs(library: str) -> Any:
    """The library; where it is not installed the file is skipped, but not where everything was to be installed."""
    return import_module(library) if "SIGNA_INTEGRATIONS" in os.environ else pytest.importorskip(library)


def network(seed: int = 0) -> nn.Sequential:
    """A model with a matrix of each sort of shape."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def batches(count: int, size: int = 4) -> list[tuple[Tensor, Tensor]]:
    """The same data each time."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator), torch.randn(size, 3, generator=generator)) for _ in range(count)
    ]


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether the parameters are equal, bit for bit."""
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def same_state(a: signa.SignA, b: signa.SignA) -> bool:
    """Whether two optimizers are at the same step, with the same state and rates, bit for bit."""
    one, other = a.state_dict(), b.state_dict()
    return (
        one["signa"]["step"] == other["signa"]["step"]
        and one["param_groups"] == other["param_groups"]
        and all(
            torch.equal(value, other["state"][name][address])
            for name, own in one["state"].items()
            for address, value in own.items()
        )
    )


def two_ranks(folder: Path, script: str, *words: str) -> list[str]:
    """What two processes under torchrun say of themselves: ``sum HEX`` of the parameters, or an error's name.

    A script calls ``tell(opt or error)``.
    """
    (folder / "rank.py").write_text(f"from tests.integrations.common import *\n{script}")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(folder / "rank.py")]
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    said = subprocess.run([sys.executable, *launcher, *words], capture_output=True, text=True, timeout=300, env=env)
    lines = re.findall(r"<(.*?)>", said.stdout)  # not by lines: two write at once
    assert len(lines) == 2, said.stderr
    return lines


def tell(what: object) -> None:
    """For :func:`two_ranks`."""
    print(f"<{total(what) if isinstance(what, signa.SignA) else type(what).__name__}>")


def total(opt: signa.SignA) -> str:
    """A number that two optimizers have in common where their parameters are equal, and their steps."""
    parameters = [p for group in opt.param_groups for p in group["params"]]
    return f"{opt.steps} {sum(float(p.detach().double().sum()) for p in parameters).hex()}"


def simulated(steps: int) -> str:
    """Two workers in one process, worker j with j added to its data."""
    model = network()
    opt = signa.build(SPEC, model, transport=signa.Loopback(2))
    for x, y in batches(steps):
        for worker in range(2):
            with opt.worker(worker):
                nn.functional.mse_loss(model(x + worker), y).backward()
        opt.step()
        opt.zero_grad()
    return total(opt)
