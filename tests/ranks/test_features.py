"""What a training loop does beside stepping, on ranks as in the simulation: copies, groups, scalings, replicas."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import signa
from signa import errors
from tests.ranks.cases import (
    SMALL,
    SOURCE,
    Net,
    Run,
    build,
    everywhere,
    fingerprint,
    outcome,
    parameters,
    plain,
    ranks,
    spec,
    step,
)
from tests.ranks.worlds import every, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")


# Loops ---------------------------------------------------------------------------------------------------------------


def test_the_exact_model_is_the_same_everywhere() -> None:
    def script(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, transport)
        digests = []
        for t in range(3):
            step(opt, ps, t, plain)
            with opt.exact():
                digests.append(fingerprint(ps))
            assert fingerprint(ps) != digests[-1]
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    everywhere(script, server="sharded")
    everywhere(script, exchange="allgather")


def test_a_group_is_added() -> None:
    def script(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, transport)
        step(opt, ps, 0, plain)
        ps |= parameters(shapes={"new": (11, 12), "new2": (3,)})
        more = [(name, ps[name]) for name in ("new", "new2")]
        opt.add_param_group({"params": more, "method": "muonsign", "lr": 0.1})
        digests = []
        for t in range(1, 4):
            step(opt, ps, t, plain)
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    everywhere(script, server="sharded")


def test_schedulers_and_closures() -> None:
    def script(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, transport)
        schedule = lr_scheduler.OneCycleLR(opt, max_lr=[0.1, 0.2], total_steps=6, cycle_momentum=False)
        digests = []
        for t in range(5):

            def closure(t: int = t) -> float:
                opt.zero_grad()
                for j in transport.local:
                    with opt.worker(j):
                        for name, p in ps.items():
                            p.grad = plain(name, p, t, j)
                return float(t)

            assert opt.step(closure) == t
            schedule.step()
            digests.append(fingerprint(ps))
        return outcome(opt, ps, digests)

    everywhere(script)


@pytest.mark.parametrize("grown", [False, True])
def test_a_deep_copy_goes_its_own_way(grown: bool) -> None:
    """Both step on, over the same ranks, and both as in the simulation; also after a group was added."""

    def script(transport: Any) -> Run:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, transport)
        step(opt, ps, 0, plain)
        if grown:
            ps |= parameters(shapes={f"new{i}": (9, 21 + i % 2) for i in range(5)})
            more = [(name, p) for name, p in ps.items() if name.startswith("new")]
            opt.add_param_group({"params": more, "method": "ef21muonsign", "lr": 0.1})
            step(opt, ps, 5, plain)
        ps2, opt2 = copy.deepcopy((ps, opt))
        digests = []
        for t in range(1, 4):
            step(opt, ps, t, plain)
            step(opt2, ps2, t + 7, plain)
            digests += [fingerprint(ps), fingerprint(ps2)]
        return outcome(opt2, ps2, digests)

    assert len(set(everywhere(script, server="sharded")[0].digests)) == 6


@pytest.mark.parametrize("shared", [True, False])
def test_two_optimizers_over_the_same_ranks(shared: bool) -> None:
    """A generator and a discriminator, with a Group each or one for both."""

    def script(transports: Any) -> list[str]:
        worlds = [transports(), None]
        worlds[1] = worlds[0] if shared else transports()
        models = [parameters(shapes=SMALL), parameters(shapes={"a": (12, 5), "c": (7, 7)})]
        sources = [SOURCE, {"groups": [{"method": "signmuon", "lr": 0.1}]}]
        opts = [build(*triple) for triple in zip(sources, models, worlds, strict=True)]
        digests = []
        for t in range(4):
            for which in (1, 1, 0) if t % 2 else (0, 1):
                step(opts[which], models[which], 10 * t + which, plain)
            digests.append(fingerprint(models[0]) + fingerprint(models[1]))
        return digests

    reference = script(lambda: signa.Loopback(3))
    found = every(world(3, lambda r, a: script(lambda: signa.Group(**a, check_replicas_every=1))))
    assert found == [reference] * 3


# Replicas ------------------------------------------------------------------------------------------------------------


def test_replicate() -> None:
    def rank(r: int, arguments: dict[str, Any]) -> str:
        group = signa.Group(**arguments)
        model = Net()
        model.thin = nn.Parameter(torch.zeros(2, 3, dtype=torch.bfloat16))
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(r)
        with pytest.raises(errors.ReplicaDrift, match=r"step 0.* call signa.replicate\(model, group\) before"):
            signa.build("signmuon", model, transport=signa.Group(**arguments))
        signa.replicate(model, group)
        signa.build("signmuon", model, transport=group)
        return fingerprint({**dict(model.named_parameters()), **dict(model.named_buffers())})

    model = Net()
    model.thin = nn.Parameter(torch.zeros(2, 3, dtype=torch.bfloat16))
    expected = fingerprint({**dict(model.named_parameters()), **dict(model.named_buffers())})
    assert every(world(3, rank)) == [expected] * 3


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("where", ["a", "b (replica.down.H)"])
def test_a_flipped_bit_is_found(where: str, size: int) -> None:
    """In production: one bit of a parameter, or of a replica's state, on the last rank."""

    def rank(r: int, arguments: dict[str, Any]) -> None:
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, signa.Group(**arguments, check_replicas_every=2))
        for t in range(6):
            step(opt, ps, t, lambda name, p, t, j: None if name in where else plain(name, p, t, j))
            if t == 2 and r == size - 1:
                opt.replicas()[where].detach().view(torch.int32).view(-1)[3] ^= 1

    results = world(size, rank)
    for result in results:
        assert isinstance(result, errors.ReplicaDrift), results
        assert f"the replicas differ at step 4: '{where}' on rank {size - 1}" in str(result), str(result)
        assert "go on from the last checkpoint" in str(result)


def test_workers_are_numbered_rank_by_rank() -> None:
    held = [2, 1, 3]

    def rank(r: int, arguments: dict[str, Any]) -> Any:
        group = signa.Group(**arguments, workers_per_rank=held[r])
        opt = build("signmuon", {"w": nn.Parameter(torch.ones(3, 3))}, group)
        with pytest.raises(IndexError, match=f"local workers are {group.local.start} to"):
            with opt.worker(6):
                pass
        return group.workers, list(group.local), group.rank, group.size

    local = [[0, 1], [2], [3, 4, 5]]
    assert every(world(3, rank)) == [(6, local[r], r, 3) for r in range(3)]


def test_all_ranks_with_the_same_gradients_are_told() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", signa.Advice)
        ranks(SOURCE, [1, 1, 1], steps=1, shapes=SMALL, grad=lambda name, p, t, j: plain(name, p, t, 0))
        ranks(spec("signmuon"), [1, 1, 1], steps=1)
    told = [str(warning.message) for warning in caught if "same gradients" in str(warning.message)]
    assert len(told) == 1 and told[0].startswith("all ranks have the same gradients in the first step")
