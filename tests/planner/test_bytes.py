"""Planned bytes against those that real ranks send, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa.planner.blueprint import Blueprint
from signa.planner.models import of_shapes
from signa.planner.wire import moves
from signa.spec import Spec
from signa.transport.cut import evenly, runs
from signa.transport.payload import payload_size
from tests.ranks.worlds import every, world

SHAPES = {"a.weight": (40, 24), "b.weight": (40, 24), "c.weight": (7, 9), "d.weight": (130, 5), "d.bias": (37,)}
#: A vote; scales of matrices and rows, which travel with every piece; a split server; top-k; dense.
METHODS = ("signmuon", "ef21muonsign", "ef21signmuon", "ef_signsgd", "doublesqueeze", "dlion_mean", "muon")
ROWS = signa.Method(worker="momentum", up={"kind": "scaled_sign", "per": "row"}, aggregate="mean")
TOP = signa.Method(worker="momentum", up={"kind": "top_k", "fraction": 0.1}, server="spectral")


def spec_of(method: Any) -> Spec:
    return Spec.load({"groups": [
        {"match": ["*.weight"], "method": method, "lr": 0.01}, {"match": ["*"], "method": "adamw", "lr": 0.01}]
    })  # fmt: skip


def sent(spec: Spec, ranks: int, **asked: Any) -> int:
    """Bytes that all ranks send in one real step, the second: in the first they compare their gradients."""

    def rank(number: int, arguments: dict[str, Any]) -> int:
        generator = torch.Generator().manual_seed(number)
        named = [(name, nn.Parameter(torch.zeros(shape))) for name, shape in SHAPES.items()]
        group = signa.Group(check_replicas_every=0, **asked, **arguments)
        opt = signa.build(spec, named, transport=group)
        for _, p in named:
            p.grad = torch.randn(p.shape, generator=generator)
        opt.step()
        before = group.traffic[0]
        opt.step()
        return group.traffic[0] - before

    return sum(every(world(ranks, rank)))


def planned(spec: Spec, ranks: int, exchange: str = "auto", server: str = "auto", bucket_mb: float = 4.0) -> int:
    blueprint = Blueprint.of(spec, of_shapes(SHAPES), bucket_mb)
    found = moves(blueprint, ranks, "gloo", exchange, server).every
    return sum(move.number * phase.total for move in found for phase in move.phases)


@pytest.mark.parametrize("method", [*METHODS, ROWS, TOP], ids=str)
def test_what_group_chooses(method: Any) -> None:
    for ranks in (2, 3, 4):
        assert planned(spec_of(method), ranks) == sent(spec_of(method), ranks)


@pytest.mark.parametrize("asked", [
    {"exchange": "alltoall"}, {"exchange": "allgather"}, {"exchange": "ring"}, {"exchange": "int8"},
    {"exchange": "lanes"}, {"exchange": "alltoall", "server": "replicated"}, {"bucket_mb": 0.0002},
    {"exchange": "alltoall", "server": "sharded"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("method", ["signmuon", "ef21muonsign", "muon", ROWS], ids=str)
def test_what_is_asked_for(method: Any, asked: dict[str, Any]) -> None:
    assert planned(spec_of(method), 3, **asked) == sent(spec_of(method), 3, **asked)


def test_overlap_has_the_buckets_that_group_has() -> None:
    """Its stacks are smaller ones."""
    spec = spec_of("signmuon")
    blueprint = Blueprint.of(spec, of_shapes(SHAPES), overlap=True)
    found = sum(m.number * phase.total for m in moves(blueprint, 3, "gloo", "auto", "auto").every for phase in m.phases)
    assert found == sent(spec, 3, overlap=True)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8, 31, 64, 1000])
@pytest.mark.parametrize("method", ["signmuon", "ef_signsgd", "muon"])
def test_runs_are_the_chunks_of_evenly(method: str, ranks: int) -> None:
    """Told once where they are of one size, they are as many bytes."""
    lanes = [stack.lane for stack in Blueprint.of(spec_of(method), of_shapes(SHAPES)).stacks]
    ups = [lane.up for lane in lanes]
    told = [(count, payload_size(ups, pieces, 1, 9)) for count, pieces in runs(lanes, ranks)]
    assert [size for count, size in told for _ in range(count)] == [
        payload_size(ups, pieces, 1, 9) for pieces in evenly(lanes, ranks)
    ]
    if ranks == 1000:
        assert len(told) < 60
