"""With overlap, messages leave during backward; every bit is that of a step without."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa
from signa import presets
from signa.overlap import PATIENCE
from tests.ranks.cases import (
    SHAPES,
    Grad,
    Run,
    admits,
    awkward,
    build,
    everywhere,
    fingerprint,
    normal,
    outcome,
    parameters,
    plain,
    same,
    spec,
)
from tests.ranks.methods import METHODS, plugged
from tests.ranks.worlds import every, processes, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
NAMES = [*presets.names(), *METHODS]
OVERLAP: dict[str, Any] = {"overlap": True, "check_replicas_every": 3}
SMALL = {"a": (9, 21), "b": (24, 16), "c": (9, 21), "bias": (5,)}
SOURCE = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "ef21muonsign", "lr": 0.02}]}


@pytest.fixture(autouse=True, scope="module")
def _plugged() -> Iterator[None]:
    with plugged():
        yield


def backward(opt: signa.SignA, ps: Mapping[str, Tensor], t: int, grad: Grad = plain) -> None:
    """Every local worker's gradients, from a loss whose gradient they are."""
    for j in opt.transport.local:
        with opt.worker(j):
            grads = {name: grad(name, p, t, j) for name, p in ps.items()}
            there = [(ps[name] * g).sum() for name, g in grads.items() if g is not None]
            if there:
                torch.stack(there).sum().backward()


def early(opt: signa.SignA) -> int:
    """How many parcels have left before the step."""
    return 0 if opt._engine.overlap is None else len(opt._engine.overlap._flights)


def train(source: Any, transport: Any, steps: int, grad: Grad, shapes: Mapping[str, Any] = SHAPES) -> Run:
    ps = parameters(shapes=shapes)
    opt = build(source, ps, transport)
    digests = []
    for t in range(steps):
        opt.zero_grad()
        backward(opt, ps, t, grad)
        # Until the hooks are there, with several workers, and behind a gradient that nobody has, the step sends.
        wanted = transport.line is not None and t > 0 and len(transport.local) == 1 and grad is plain
        assert early(opt) == (len(opt._engine.overlap.parcels) if wanted else early(opt) * (t > 0))
        opt.step()
        if opt._engine.overlap is not None:
            assert opt._engine.overlap._useless == 0
        digests.append(fingerprint(ps))
    return outcome(opt, ps, digests)


@lru_cache(None)
def simulated(name: str, workers: int, grad: Grad) -> Run:
    return train(spec(METHODS.get(name, name)), signa.Loopback(workers), 5, grad)


def check(name: str, size: int, grad: Grad, **group: Any) -> None:
    source = spec(METHODS.get(name, name))
    size = size if admits(source, size) else 3
    found = world(size, lambda r, arguments: train(source, signa.Group(**arguments, **OVERLAP, **group), 5, grad))
    same(simulated(name, size, grad), every(found))


@pytest.mark.parametrize("at", range(len(NAMES)), ids=NAMES)
def test_overlap_is_no_overlap(at: int) -> None:
    check(NAMES[at], (2, 3, 4)[at % 3], (plain, awkward)[at % 2])


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_overlap_is_no_overlap_everywhere(name: str, size: int) -> None:
    for grad in (plain, awkward):
        check(name, size, grad)
        check(name, size, grad, server="sharded", bucket_mb=1e-4)
        check(name, size, grad, exchange="allgather")


@pytest.mark.parametrize("held", [[2, 2], [1, 3]])
def test_several_workers_to_a_rank(held: list[int]) -> None:
    source = spec("ef21muonsign")

    def rank(r: int, arguments: dict[str, Any]) -> Run:
        return train(source, signa.Group(**arguments, **OVERLAP, workers_per_rank=held[r]), 5, awkward)

    same(simulated("ef21muonsign", 4, awkward), every(world(2, rank)))


def test_parcels_are_many_and_leave_from_the_last_layer_to_the_first() -> None:
    layers = {f"layer{i}": (64, 64) for i in range(12)}
    order: list[list[list[str]]] = []

    def rank(r: int, arguments: dict[str, Any]) -> None:
        opt = build("signmuon", parameters(shapes=layers), signa.Group(**arguments, **OVERLAP, bucket_mb=0.001))
        names = {id(route.named.parameter): route.named.name for route in opt.routing}
        order.append([[names[id(p)] for p in parcel.parameters] for parcel in opt._engine.overlap.parcels])

    every(world(2, rank))
    assert order[0] == [[f"layer{i}", f"layer{i - 1}"] for i in range(11, 0, -2)] == order[1]


def test_rounds_that_are_hidden_choose_no_exchange() -> None:
    """Small buckets would go by all-gather, which has a round less and sends twice as much on four ranks."""

    def rank(r: int, arguments: dict[str, Any]) -> list[str]:
        chosen = []
        for overlap in (False, True):
            group = signa.Group(**arguments, overlap=overlap)
            opt = build("signmuon", parameters(shapes={"a": (512, 512)}), group)
            chosen += [parcel.bucket.exchange for parcel in opt._engine._buckets]  # type: ignore[attr-defined]
        return chosen

    assert every(world(4, rank)) == [["allgather", "alltoall"]] * 4


# What was sent is not what the step sends -----------------------------------------------------------------------------


Act = Callable[[signa.SignA, dict[str, nn.Parameter], int], None]
STEPS = 5


def script(act: Act, source: Any, steps: int = STEPS, **options: Any) -> Callable[[Any], Run]:
    """A run whose step t is what ``act`` makes of it."""

    def run(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(source, ps, transport, **options)
        digests = []
        for t in range(steps):
            opt.zero_grad()
            act(opt, ps, t)
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    return run


def clipped(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
    for j in opt.transport.local:
        with opt.worker(j):
            torch.stack([(p * plain(name, p, t, j)).sum() for name, p in ps.items()]).sum().backward()
            if t != 2:
                nn.utils.clip_grad_norm_(ps.values(), 0.5)
    opt.step()


def scheduled(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
    backward(opt, ps, t)
    for group in opt.param_groups:
        group["lr"] *= 0.5
    opt.step()


def accumulated(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
    for micro in range(3):
        backward(opt, ps, 10 * t + micro)
    opt.step()


def written(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
    backward(opt, ps, t)
    if t == 3:
        with torch.no_grad():
            ps["a"].mul_(2)
    opt.step()


def thrown_away(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
    if t % 2:
        backward(opt, ps, 100 + t)
        opt.zero_grad()
    backward(opt, ps, t)
    opt.step()


def reloaded(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
    if t == 1:
        opt.kept = opt.state_dict()  # type: ignore[attr-defined]
    backward(opt, ps, t)
    if t == 3:
        opt.load_state_dict(opt.kept)  # type: ignore[attr-defined]
    opt.step()


@pytest.mark.parametrize("act", [clipped, scheduled, accumulated, written, thrown_away, reloaded])
def test_a_step_is_what_it_is_when_it_is_taken(act: Act) -> None:
    _, *found = everywhere(script(act, SOURCE), 3, **OVERLAP)
    assert all(run.opt._engine.overlap._useless <= PATIENCE for run in found)


def test_accumulation_sends_in_the_last_pass() -> None:
    def act(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
        for micro in range(3):
            with opt.no_sync() if micro < 2 else nullcontext():
                backward(opt, ps, 10 * t + micro)
            if opt._engine.overlap is not None and t > 0:
                assert early(opt) == (micro == 2) * len(opt._engine.overlap.parcels)
        opt.step()

    _, *found = everywhere(script(act, SOURCE), 2, **OVERLAP)
    assert all(run.opt._engine.overlap._useless == 0 for run in found)


@pytest.mark.parametrize("policy", ["abstain", "skip", "raise"])
def test_a_gradient_that_is_not_finite(policy: Any) -> None:
    def bad(name: str, p: Tensor, t: int, j: int) -> Tensor:
        g = plain(name, p, t, j)
        return g * float("nan") if (name, t, j) == ("a", 2, 1) else g

    def act(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
        backward(opt, ps, t, bad)
        try:
            opt.step()
        except signa.errors.NonFinite:
            assert (policy, t) == ("raise", 2)

    _, *found = everywhere(script(act, SOURCE, nonfinite=policy), 3, **OVERLAP)
    for run in found:
        assert run.opt.nonfinite_counts == ({} if policy == "raise" else {(1, "a"): 1})
        assert run.opt._engine.overlap._useless == 0  # it was nobody's habit


def test_one_rank_alone_changes_what_it_sent() -> None:
    """All of them send again, and after some such steps in a row nobody sends early any more."""

    def act(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
        for j in opt.transport.local:
            with opt.worker(j):
                torch.stack([(p * plain(name, p, t, j)).sum() for name, p in ps.items()]).sum().backward()
                if j == 1:
                    ps["b"].grad.mul_(3)
        if opt._engine.overlap is not None:
            assert early(opt) == (0 < t <= PATIENCE) * len(opt._engine.overlap.parcels)
        opt.step()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, *found = everywhere(script(act, SOURCE, steps=PATIENCE + 3), 3, **OVERLAP)
    told = [str(w.message) for w in caught if "sent twice" in str(w.message)]
    assert len(told) == 3
    assert sum("clip by a stage" in text for text in told) == 1
    assert all(run.opt._engine.overlap._useless == PATIENCE for run in found)


def test_a_scaler() -> None:
    """Its scale is known to the step alone, so nothing that was sent before is of use."""

    def run(transport: Any) -> Run:
        ps, scaler = parameters(shapes=SMALL), torch.amp.GradScaler("cpu", init_scale=8.0)
        opt, digests = build(SOURCE, ps, transport), []
        for t in range(STEPS):
            opt.zero_grad()
            for j in opt.transport.local:
                with opt.worker(j):
                    loss = torch.stack([(p * plain(name, p, t, j)).sum() for name, p in ps.items()]).sum()
                    scaler.scale(loss * float("inf") if t == 2 else loss).backward()
            scaler.step(opt)
            scaler.update()
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    everywhere(run, 2, **OVERLAP)


def test_the_exact_model_and_a_save_between_backward_and_step() -> None:
    source = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "ef21muonsign", "lr": 0.02}]}

    def act(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
        backward(opt, ps, t, awkward)
        with opt.exact():
            act.seen[len(opt.transport.local), opt.transport.local.start, t] = fingerprint(ps)  # type: ignore[attr-defined]
        opt.step()

    act.seen = {}  # type: ignore[attr-defined]
    everywhere(script(act, source), 3, server="sharded", **OVERLAP)
    seen: dict[tuple[int, int, int], str] = act.seen  # type: ignore[attr-defined]
    assert all(seen[1, r, t] == seen[3, 0, t] for r in range(3) for t in range(STEPS))


def test_a_probe_on_one_rank_sees_the_step_once() -> None:
    hops: dict[tuple[int, int], list[str]] = {}

    def act(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
        here = opt.transport.local
        backward(opt, ps, t)
        if t != 2 or 1 not in here:
            opt.step()
            return
        seen = hops.setdefault((len(here), here.start), [])
        with opt.probe(lambda sight: seen.append(f"{sight.stack.routes[0].named.name} {sight.address}")):
            opt.step()

    _, *found = everywhere(script(act, SOURCE), 2, server="replicated", **OVERLAP)
    assert all(run.opt._engine.overlap._useless == 0 for run in found)
    alone = hops[1, 1]
    assert len(alone) == len(set(alone))
    assert {hop for hop in alone if "c " not in hop} == {hop for hop in hops[2, 0] if "c " not in hop}


def test_two_optimizers_of_one_group() -> None:
    """The second one's messages leave in its step, behind all of the first one's."""

    def run(transport: Any) -> Run:
        ps, qs = parameters(shapes=SMALL), parameters(shapes={f"{n}2": s for n, s in SMALL.items()})
        one, two = build(SOURCE, ps, transport), build("signmuon", qs, transport)
        digests = []
        for t in range(4):
            for opt, tensors in ((one, ps), (two, qs)):
                opt.zero_grad()
                backward(opt, tensors, t)
            assert early(two) == 0
            (two if t % 2 else one).step()
            (one if t % 2 else two).step()
            digests.append(fingerprint(ps) + fingerprint(qs))
        return outcome(one, ps, digests)

    everywhere(run, 2, **OVERLAP)


def test_nothing_to_send() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> None:
        ps = {"none": nn.Parameter(torch.zeros(0, 4))}
        opt = build("signmuon", ps, signa.Group(**arguments, **OVERLAP))
        for _ in range(2):
            ps["none"].sum().backward()
            opt.step()

    every(world(2, rank))


def test_new_parameters_are_sent_early_too() -> None:
    def act(opt: signa.SignA, ps: dict[str, nn.Parameter], t: int) -> None:
        if t == 2:
            ps["late"] = nn.Parameter(normal("late", (6, 4), dtype=torch.float32))
            opt.add_param_group({"params": [("late", ps["late"])], "method": "signmuon", "lr": 0.02})
        backward(opt, ps, t)
        if opt._engine.overlap is not None and t > 2:
            assert early(opt) == len(opt._engine.overlap.parcels) > 2
        opt.step()

    everywhere(script(act, SOURCE), 2, **OVERLAP)


# Refusals and faults -------------------------------------------------------------------------------------------------


def test_parameters_in_another_order_are_refused() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> None:
        ps = parameters(shapes=SMALL)
        names = list(ps)[:: 1 - 2 * r]
        build(SOURCE, {name: ps[name] for name in names}, signa.Group(**arguments, **OVERLAP))

    for error in world(2, rank):
        assert isinstance(error, signa.errors.LayoutMismatch)
        assert "order" in str(error)


@pytest.mark.parametrize("overlap", [1, "yes", None])
def test_overlap_is_true_or_false(overlap: Any) -> None:
    with pytest.raises(ValueError, match="overlap must be True or False"):
        signa.Group(overlap=overlap)


def test_the_hooks_go_with_the_optimizer() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> None:
        ps, group = parameters(shapes=SMALL), signa.Group(**arguments, **OVERLAP)
        for _ in range(2):  # the second one may send early, since the first one is gone
            opt = build(SOURCE, ps, group)
            for t in range(3):
                opt.zero_grad()
                backward(opt, ps, t)
                assert early(opt) == (t > 0) * len(opt._engine.overlap.parcels)
                opt.step()
            del opt

    every(world(2, rank))


def _killed(r: int, arguments: dict[str, Any], say: Callable[[Any], None]) -> None:
    ps = parameters(shapes=SMALL)
    opt = build(SOURCE, ps, signa.Group(**arguments, **OVERLAP))
    try:
        for t in range(20):
            opt.zero_grad()
            if (t, r) == (3, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            backward(opt, ps, t)
            say(time.monotonic())
            opt.step()
    except signa.errors.WireError as error:
        say((type(error).__name__, time.monotonic()))


def test_a_rank_dies_while_messages_are_under_way() -> None:
    ended = processes(3, _killed, timeout=2.0)
    for r in (0, 2):
        begun, (kind, met) = [word for word in ended[r].said if word is not None][-2:]
        assert kind in ("PeerLost", "CollectiveTimeout"), ended[r]
        assert met - begun < 4.0
        assert ended[r].code == 0
