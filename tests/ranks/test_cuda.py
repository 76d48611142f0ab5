"""Ranks whose tensors lie on a GPU; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn

import signa
from tests.ranks.cases import SHAPES, awkward, fingerprint, parameters, spec
from tests.ranks.worlds import processes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
NAMES = ("signmuon", "ef21muonsign", "muonsign", "dlion_mean", "adamw")


def trained(name: str, transport: Any, steps: int = 6) -> list[str]:
    """The parameters' fingerprint after every step on the GPU."""
    ps = {key: nn.Parameter(p.detach().cuda()) for key, p in parameters(shapes=SHAPES).items()}
    opt = signa.build(spec(name), ps.items(), transport=transport)
    found = []
    for t in range(steps):
        for j in transport.local:
            with opt.worker(j):
                for key, p in ps.items():
                    g = awkward(key, p.detach().cpu(), t, j)
                    p.grad = None if g is None else g.cuda()
        opt.step()
        opt.zero_grad()
        found.append(fingerprint({key: p.detach().cpu() for key, p in ps.items()}))
    return found


def _nccl(rank: int, arguments: dict[str, Any], say: Any) -> dict[str, bool]:
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    found = {}
    for name in NAMES:
        group = signa.Group(workers_per_rank=4, exchange="alltoall", timeout=30)
        found[name] = trained(name, group) == trained(name, signa.Loopback(4))
    dist.destroy_process_group()
    return found


def _shared(rank: int, arguments: dict[str, Any], say: Any) -> dict[str, bool]:
    return {name: trained(name, signa.Group(**arguments)) == trained(name, signa.Loopback(2)) for name in NAMES}


def test_one_nccl_rank_with_four_workers_is_loopback() -> None:
    (ended,) = processes(1, _nccl, timeout=30.0, deadline=200.0)
    assert ended.code == 0 and all(ended.result.values()), ended


def test_two_processes_that_share_the_gpu_over_gloo_are_loopback() -> None:
    ended = processes(2, _shared, timeout=30.0, deadline=200.0)
    assert all(rank.code == 0 and all(rank.result.values()) for rank in ended), ended
