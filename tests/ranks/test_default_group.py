"""Groups as torch makes them: torchrun's environment, DeviceMesh, subgroups; DistributedDataParallel; pickle."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import signa
from signa import errors
from tests.ranks.cases import SMALL, SOURCE, build, fingerprint, parameters, plain, step
from tests.ranks.worlds import processes

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
Say = Callable[[Any], None]


def launched(r: int, arguments: dict[str, Any]) -> None:
    """What torchrun tells a process."""
    store = arguments["store"]
    if r == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            store.set("port", str(free.getsockname()[1]))
    size = str(arguments["process_group"].size())
    port = store.get("port").decode()
    os.environ.update({"RANK": str(r), "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})


def digests(opt: signa.SignA, ps: Any, steps: range) -> list[str]:
    found = []
    for t in steps:
        step(opt, ps, t, plain)
        found.append(fingerprint(ps))
    return found


def joins(r: int, arguments: dict[str, Any], say: Say) -> None:
    launched(r, arguments)
    with pytest.raises(errors.SignaError, match=r"torch.distributed runs 2 ranks, but no transport was given"):
        default = signa.Group(timeout=20.0)
        signa.build("signmuon", nn.Linear(3, 3))
    ps = parameters(shapes=SMALL)
    opt = build(SOURCE, ps, default)
    say(digests(opt, ps, range(3)))

    ps, opt = pickle.loads(pickle.dumps((ps, opt)))  # joins the default group again
    assert opt.transport is not default and opt.transport.ranks.timeout == 20.0
    say(digests(opt, ps, range(3, 5)))

    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("data",))
    for group in (mesh, mesh["data"], dist.new_group([0, 1])):
        ps = parameters(shapes=SMALL)
        say(digests(build(SOURCE, ps, signa.Group(group, timeout=20.0)), ps, range(2)))

    alone = [dist.new_group([0]), dist.new_group([1])][r]
    ps = parameters(shapes=SMALL)
    opt = build(SOURCE, ps, signa.Group(alone, timeout=20.0))
    assert opt.transport.size == 1 and opt.transport.workers == 1
    say(digests(opt, ps, range(2)))
    dist.barrier()
    dist.destroy_process_group()


def test_the_default_group_and_what_torch_makes_of_it() -> None:
    def run(workers: int, steps: int) -> list[str]:
        ps = parameters(shapes=SMALL)
        return digests(build(SOURCE, ps, signa.Loopback(workers)), ps, range(steps))

    two, one = run(2, 5), run(1, 2)
    for ended in processes(2, joins, timeout=20.0, deadline=60.0):
        assert ended.code == 0, ended
        assert ended.said == [two[:3], two[3:], two[:2], two[:2], two[:2], one, None]


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_(plain(name, p, 0, 0))
    return net


def trained(model: nn.Module, opt: signa.SignA, r: int, backward: Callable[[torch.Tensor], None]) -> str:
    for t in range(3):
        opt.zero_grad()
        backward(plain("x", torch.empty(4, 6), t, r))
        opt.step()
    return fingerprint({name.removeprefix("module."): p for name, p in model.named_parameters()})


def wraps(r: int, arguments: dict[str, Any], say: Say) -> None:
    launched(r, arguments)
    group = signa.Group(timeout=20.0)

    net = network()
    say(trained(net, signa.build("signmuon", net, transport=group), r, lambda x: net(x).square().sum().backward()))

    silent = DistributedDataParallel(network())

    def quietly(x: torch.Tensor) -> None:
        with silent.no_sync():
            silent(x).square().sum().backward()

    say(trained(silent, signa.build("signmuon", silent, transport=signa.Group()), r, quietly))

    hooked = DistributedDataParallel(network())
    hooked.register_comm_hook(None, noop_hook)
    opt = signa.build("signmuon", hooked, transport=signa.Group())
    say(trained(hooked, opt, r, lambda x: hooked(x).square().sum().backward()))

    averaging = DistributedDataParallel(network())
    opt = signa.build("signmuon", averaging, transport=signa.Group())
    before = fingerprint(dict(averaging.named_parameters()))
    averaging(plain("x", torch.empty(4, 6), 0, r)).square().sum().backward()
    for _ in range(2):
        with pytest.raises(errors.AveragedGradients, match=r"take it off \(signa.replicate.*no_sync\(\).*noop_hook"):
            opt.step()
    assert fingerprint(dict(averaging.named_parameters())) == before
    for given in ("the module inside", "pairs", "a module around it", "built before the wrapper"):
        inner = network()
        opt = signa.build("signmuon", inner, transport=signa.Group()) if given.startswith("built") else None
        outer = DistributedDataParallel(inner)
        around = nn.ModuleDict({"body": outer})
        model: Any = {"pairs": inner.named_parameters(), "a module around it": around}.get(given, outer.module)
        opt = opt or signa.build("signmuon", model, lr=0.1, transport=signa.Group())
        outer(plain("x", torch.empty(4, 6), 0, r)).square().sum().backward()
        with pytest.raises(errors.AveragedGradients, match=r"a DistributedDataParallel around it.*take it off"):
            opt.step()
        del outer, around, model, opt
    dist.barrier()
    dist.destroy_process_group()


def test_distributed_data_parallel() -> None:
    """no_sync() and the hook that does nothing give the simulation's bits; averaging is refused with the remedy."""
    model, opt = (net := network()), signa.build("signmuon", net, transport=signa.Loopback(2))
    for t in range(3):
        opt.zero_grad()
        for j in range(2):
            with opt.worker(j):
                model(plain("x", torch.empty(4, 6), t, j)).square().sum().backward()
        opt.step()
    expected = fingerprint(dict(model.named_parameters()))
    for ended in processes(2, wraps, timeout=20.0, deadline=60.0):
        assert ended.code == 0, ended
        assert ended.said == [expected] * 3 + [None]


def test_without_a_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="start the script with torchrun --nproc-per-node=N, or call"):
        signa.Group()
