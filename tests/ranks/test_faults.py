"""Ranks that are not alike, and messages that are damaged: one typed error everywhere, and no step after it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import signa
from signa import errors, saving
from signa.transport.ranks import Ranks
from tests.ranks.cases import build, fingerprint, loopback, parameters, plain, same, step, train
from tests.ranks.worlds import every, within, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
TIMEOUT = 1.5
SMALL = {"a": (9, 21), "b": (24, 16), "bias": (5,)}
SOURCE = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "muonsign", "lr": 0.02}]}


def outcomes(size: int, f: Callable[[int, dict[str, Any]], Any]) -> list[tuple[str, str]]:
    """The kind and text of every rank's error, of one kind all of them."""
    results = world(size, f, timeout=TIMEOUT)
    assert all(isinstance(result, errors.SignaError) for result in results), results
    assert len({type(result) for result in results}) == 1, results
    return [(type(result).__name__, str(result)) for result in results]


def started(**change: Any) -> Callable[[int, dict[str, Any]], Any]:
    """A run whose last rank differs: in group options, build options, spec or shapes."""

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        odd = change if r == arguments["process_group"].size() - 1 else {}
        group = signa.Group(**arguments, **odd.get("group", {}))
        options = odd.get("options", {})
        return train(odd.get("source", SOURCE), group, steps=2, shapes=odd.get("shapes", SMALL), grad=plain, **options)

    return rank


OTHER_LR = {"groups": [SOURCE["groups"][0], {"method": "muonsign", "lr": 0.03}]}
UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "spec": ({"source": OTHER_LR}, r"spec: groups.1.lr = 0.02 on rank 0, 1 \| groups.1.lr = 0.03 on rank 2"),
    "seed": ({"options": {"seed": 5}}, r"seed: 0 on rank 0, 1 \| 5 on rank 2"),
    "policy": ({"options": {"nonfinite": "skip"}}, r"nonfinite: abstain on rank 0, 1 \| skip on rank 2"),
    "shape": ({"shapes": SMALL | {"a": (9, 20)}}, r"parameters: a \(9, 21\).* on rank 0, 1 \| a \(9, 20\)"),
    "swapped shapes": ({"shapes": SMALL | {"a": (24, 16), "b": (9, 21)}}, r"parameters: a \(9, 21\)"),
    "a parameter more": ({"shapes": SMALL | {"c": (3, 3)}}, r"parameters: nothing on rank 0, 1 \| c \(3, 3\)"),
    "dtype": ({"options": {"dtype": torch.float64}}, r"parameters: .*float32.* \| .*float64"),
    "exchange": ({"group": {"exchange": "allgather"}}, r"exchange: auto on rank 0, 1 \| allgather on rank 2"),
    "bucket": ({"group": {"bucket_mb": 1.0}}, r"bucket_mb: 4.0 on rank 0, 1 \| 1.0 on rank 2"),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_ranks_that_are_not_alike_refuse_to_start(what: str) -> None:
    change, text = UNLIKE[what]
    for kind, said in outcomes(3, started(**change)):
        assert kind == "LayoutMismatch" and "start every rank with the same code, spec, seed and model" in said
        assert re.search(text, said), said


def test_another_version_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = saving.export_facts

    def other(opt: signa.SignA, buffers: Any) -> dict[str, str]:
        odd = opt.transport.rank == 1  # type: ignore[attr-defined]
        return facts(opt, buffers) | ({"version": "signa 9.9"} if odd else {})

    monkeypatch.setattr("signa.optim.export_facts", other)
    for kind, said in outcomes(2, started()):
        assert kind == "LayoutMismatch" and "version: signa" in said and "signa 9.9 on rank 1" in said


def test_another_order_of_the_same_names_works() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> Any:
        shapes = dict(reversed(SMALL.items())) if r else SMALL
        return train(SOURCE, signa.Group(**arguments), steps=4, shapes=shapes)

    same(loopback(SOURCE, 2, steps=4, shapes=SMALL), every(world(2, rank)))


def test_swapped_names_of_equal_shapes_drift() -> None:
    """Equal names and shapes, but the values stand under each other's: told before the first step."""

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        ps = parameters(shapes={"a": (6, 4), "b": (6, 4)})
        pairs = [("a", ps["b"]), ("b", ps["a"])] if r == 2 else list(ps.items())
        return build({"groups": [{"method": "signmuon", "lr": 0.1}]}, pairs, signa.Group(**arguments))

    for kind, said in outcomes(3, rank):
        assert kind == "ReplicaDrift"
        assert "'a' on rank 2, 'b' on rank 2: call signa.replicate(model, group) before signa.build" in said


def moves(at: int, act: Callable[[signa.SignA, dict[str, Any]], None], **group: Any) -> Callable[..., Any]:
    """Three steps; in front of step ``at`` rank 1 does something of its own."""

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, signa.Group(**arguments, **group))
        try:
            for t in range(3):
                if t == at and r == 1:
                    act(opt, ps)
                step(opt, ps, t, plain)
        except errors.SignaError:
            # Of any other kind it would pass for the first error.
            with pytest.raises(errors.SignaError, match=r"no further step .* start again from the last checkpoint"):
                opt.step()
            raise

    return rank


@pytest.mark.parametrize("exchange", ["alltoall", "allgather"])
def test_a_rank_is_a_step_ahead(exchange: str) -> None:
    """Its counter was set forward (a checkpoint of another step, say): the headers disagree."""

    def ahead(opt: signa.SignA, ps: Any) -> None:
        opt.steps += 1

    for kind, said in outcomes(3, moves(1, ahead, exchange=exchange)):
        assert kind == "LayoutMismatch" and "at step" in said
        assert "every rank must take the same steps of the same optimizer" in said


def test_a_rank_steps_twice_as_often() -> None:
    """Its steps meet the others' next ones; at the end it waits for those that do not come."""

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, signa.Group(**arguments))
        for t in range(4 if r == 1 else 2):
            step(opt, ps, t, plain)
        return "left"

    results = world(3, rank, timeout=TIMEOUT)
    assert results[0] == results[2] == "left"
    assert isinstance(results[1], errors.PeerLost | errors.CollectiveTimeout)


@pytest.mark.parametrize("exchange", ["alltoall", "allgather"])
@pytest.mark.parametrize("what", ["adds a group", "has a GradScaler", "shows the exact model"])
def test_a_rank_calls_what_the_others_do_not(what: str, exchange: str) -> None:
    """gloo aborts a process that meets one kind of collective with another size; no such pair may meet."""

    def act(opt: signa.SignA, ps: Any) -> None:
        if what == "adds a group":
            opt.add_param_group({"params": [("new", torch.nn.Parameter(torch.ones(3, 3)))], "method": "muon", "lr": 1})
        elif what == "has a GradScaler":
            opt.found_inf = torch.zeros(1)  # type: ignore[attr-defined]
        else:
            opt._engine._buckets[0].bucket.ranks.largest("the exact model")  # type: ignore[attr-defined]

    for kind, _ in outcomes(3, moves(1, act, exchange=exchange)):
        assert kind in ("CollectiveTimeout", "PeerLost")


def damage(ranks: Ranks, change: Callable[[Tensor], None]) -> None:
    """Change rank 1's next payload after its checksum."""
    for name in ("swap", "gather"):
        original = getattr(ranks, name)

        def call(payload: Tensor, *rest: Any, original: Any = original) -> Any:
            change(payload)
            return original(payload, *rest)

        setattr(ranks, name, call)


@pytest.mark.parametrize("exchange", ["alltoall", "allgather", "ring"])
@pytest.mark.parametrize(
    ("place", "kind", "text"),
    [
        (-1, "CorruptMessage", "the checksum of what rank 1 sent in step 1, bucket 0"),
        (0, "CorruptMessage", "what rank 1 sent in step 1, bucket 0, .* is no message of SignA"),
        (5, "LayoutMismatch", "wire version"),
        (14, "LayoutMismatch", "layout"),
    ],
)
def test_a_damaged_payload(place: int, kind: str, text: str, exchange: str) -> None:
    """One bit is flipped behind the checksum's back: of the last field, the magic, the version, the layout hash."""

    def flip(opt: signa.SignA, ps: Any) -> None:
        def change(payload: Tensor) -> None:
            payload[place] ^= 16

        damage(opt.transport.ranks, change)  # type: ignore[attr-defined]

    for found, said in outcomes(3, moves(1, flip, exchange=exchange)):
        assert found == kind and re.search(text, said), said


def test_an_error_in_step_is_told_to_the_others() -> None:
    """A sparse gradient on one rank: it raises its own error, the others name it at once."""

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, signa.Group(**arguments))
        for name, p in ps.items():
            p.grad = plain(name, p, 0, r)
        if r == 1:
            ps["a"].grad = torch.zeros(9, 21).to_sparse()
        before = fingerprint(ps)
        begun = time.monotonic()
        with pytest.raises(errors.SignaError) as met:
            opt.step()
        ps["a"].grad = None  # it is well again, but too late
        with pytest.raises(errors.Poisoned):
            opt.step()
        return type(met.value).__name__, str(met.value), time.monotonic() - begun, fingerprint(ps) == before

    results = every(world(3, rank, timeout=10.0))
    assert [kind for kind, *_ in results] == ["PeerLost", "UnsupportedParameter", "PeerLost"]
    assert all(seconds < within(2) and unmoved for *_, seconds, unmoved in results), results
    assert "rank 1 stopped: UnsupportedParameter: the gradient of 'a' is sparse" in results[0][1]


def test_a_new_group_over_the_same_ranks_starts_clean() -> None:
    """A refused start does not haunt the next one, even where that is slow enough to look for faults."""

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        with pytest.raises(errors.LayoutMismatch):
            build(SOURCE, parameters(shapes=SMALL), signa.Group(**arguments), seed=r)

        def slow(name: str, p: Tensor, t: int, j: int) -> Tensor:
            if name == "a" and j == 1 and t == 0:
                time.sleep(0.6)  # more than two looks
            return plain(name, p, t, j)

        return train(SOURCE, signa.Group(**arguments), steps=2, shapes=SMALL, grad=slow)

    same(loopback(SOURCE, 2, steps=2, shapes=SMALL, grad=plain), every(world(2, rank)))


def test_different_models_cannot_be_replicated() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> Any:
        signa.replicate(torch.nn.Linear(4, 2 + r // 2), signa.Group(**arguments))

    for kind, said in outcomes(3, rank):
        assert kind == "LayoutMismatch" and "model: weight (2, 4)" in said and "weight (3, 4)" in said
