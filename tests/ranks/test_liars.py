"""Whom each exchange trusts: an owner that lies rules its share of exchange A, and nothing of exchange B."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import signa
from signa.errors import ReplicaDrift
from signa.testing.liar import LyingOwner
from tests.ranks.cases import Run, loopback, plain, same, train
from tests.ranks.worlds import every, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
SHAPES = {"w": (48, 64), "v": (48, 64), "u": (48, 64)}
LIAR = 1


def source(method: Any) -> dict[str, Any]:
    return {"groups": [{"match": "*", "method": method, "lr": 0.02}]}


def world_with_a_liar(method: Any, *, compared: int, steps: int = 1, **options: Any) -> list[Any]:
    def rank(r: int, arguments: dict[str, Any]) -> Run:
        kind = LyingOwner if r == LIAR else signa.Group
        group = kind(**arguments, **options, check_replicas_every=compared)
        return train(source(method), group, steps=steps, shapes=SHAPES, grad=plain)

    return world(3, rank)


@pytest.mark.parametrize("method", ["signmuon", "muon", "muonsign"])
@pytest.mark.parametrize("server", ["replicated", "sharded"])
def test_everybody_believes_the_owner_of_a_chunk(method: str, server: str) -> None:
    """The replicas agree after every step, so no digest finds him, and a third of the model went the wrong way."""
    found = every(world_with_a_liar(method, compared=1, exchange="alltoall", server=server))
    honest = loopback(source(method), 3, steps=1, shapes=SHAPES, grad=plain)
    start = loopback(source(method), 3, steps=0, shapes=SHAPES, grad=plain).values
    assert all(run.digests == found[0].digests for run in found) and found[0].digests != honest.digests
    moved = torch.cat([(found[0].values[name] - start[name]).flatten() for name in SHAPES])
    right = torch.cat([(honest.values[name] - start[name]).flatten() for name in SHAPES])
    wrong = float((moved * right < 0).double().mean())
    assert 0.3 < wrong < 0.36 if method == "signmuon" or server == "sharded" else wrong > 0.1


@pytest.mark.parametrize("method", ["signmuon", "muon", "muonsign"])
def test_where_all_gather_all_a_liar_deceives_himself(method: str) -> None:
    found = every(world_with_a_liar(method, compared=0, steps=3, exchange="allgather"))
    honest = loopback(source(method), 3, steps=3, shapes=SHAPES, grad=plain)
    same(honest, [run for r, run in enumerate(found) if r != LIAR])
    assert found[LIAR].digests != honest.digests


def test_and_the_digest_names_him() -> None:
    for error in world_with_a_liar("signmuon", compared=1, exchange="allgather"):
        assert isinstance(error, ReplicaDrift) and "rank 1" in str(error)


@pytest.mark.parametrize("exchange", ["auto", "alltoall", "lanes", "allgather"])
def test_what_remembers_is_gathered(exchange: str) -> None:
    """Everybody keeps the same records, and the plan says why it is not the exchange that was asked for."""
    method = {"worker": ["momentum", "spectral"], "up": "sign", "aggregate": "weighted_vote", "server": ["spectral"]}
    options = {"exchange": exchange} | ({"server": "sharded"} if exchange == "alltoall" else {})

    def rank(r: int, arguments: dict[str, Any]) -> tuple[str, Run]:
        group = signa.Group(**arguments, **options)
        run = train({"groups": [{"match": "*", "lr": 0.02, **method}]}, group, steps=3, shapes=SHAPES, grad=plain)
        return str(group), run

    found = every(world(3, rank))
    same(
        loopback({"groups": [{"match": "*", "lr": 0.02, **method}]}, 3, steps=3, shapes=SHAPES, grad=plain),
        [run for _, run in found],
    )
    said = found[0][0]
    assert "\n    allgather: " in said
    assert ("since everybody must remember what the weighted_vote does" in said) == (exchange != "allgather")
    records = [value for key, value in found[0][1].states.items() if key.endswith("server.aggregate.right")]
    assert len(records) == 3 and all(bool((value != 0.5).all()) for value in records)
