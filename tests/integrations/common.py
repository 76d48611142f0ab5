"""What these tests share. `python3 run.py integrations` has all the libraries; elsewhere the tests skip."""

from __future__ import annotations

import os
from importlib import import_module
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
