"""What the ranks of a sharded world do: nodes of two ranks, two nodes; each scenario on a mesh of its own."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import signa
from signa import errors
from signa.checkpoints import DCPState
from signa.transport import shards
from signa.transport.costs import choices
from tests.ranks.cases import SHAPES, awkward, fingerprint, normal, plain, spec
from tests.ranks.methods import METHODS

Say = Callable[[Any], None]
SHARDED = {name: shape for name, shape in SHAPES.items() if shape}  # FSDP2 takes no scalars
ALONG = {"qkv": 1, "conv": 2}  # the others along 0, unevenly: 65 rows, 7, 1, none
CASES: dict[str, tuple[Any, torch.dtype]] = {
    "vote": ("signmuon", torch.float32),
    "dense": ("muon", torch.float32),
    "split server": ("ef21muonsign", torch.float32),
    "states on the server": ("doublesqueeze", torch.float32),
    "exact model on the server": (METHODS["top-k, ef21"], torch.float32),
    "half precision": ("signmuon", torch.bfloat16),
}
STEPS = 4
WIDE = {f"w{i}": (128, 256) for i in range(4)}


def grid() -> Any:
    """Every scenario has groups of its own, so a fault in one is none in the next."""
    rank = dist.get_rank()
    rows, columns = ([dist.new_group(own) for own in every] for every in ([[0, 1], [2, 3]], [[0, 2], [1, 3]]))
    own = [columns[rank % 2], rows[rank // 2]]
    return DeviceMesh.from_group(own, "cpu", torch.arange(4).view(2, 2), mesh_dim_names=("replicate", "shard"))


def group(mesh: Any, **options: Any) -> signa.Group:
    return signa.Group(mesh["replicate"], shard=mesh["shard"], **{"timeout": 20.0, **options})


def cut(x: Tensor, mesh: Any, dim: int = 0) -> DTensor:
    """As FSDP2 does, without communication."""
    pieces = list(x.chunk(mesh.size(), dim)) if x.shape[dim] else [x]
    empty = x.narrow(dim, 0, 0)
    own = (pieces + [empty] * mesh.size())[mesh.get_local_rank()].clone()
    return DTensor.from_local(own, mesh, [Shard(dim)], run_check=False, shape=x.shape, stride=x.stride())


def sharded(mesh: Any, shapes: Mapping[str, Any] = SHARDED, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    found = {name: normal(name, shape, dtype=dtype) for name, shape in shapes.items()}
    return {name: nn.Parameter(cut(x, mesh["shard"], ALONG.get(name, 0))) for name, x in found.items()}


@torch.no_grad()
def wholes(ps: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: p.full_tensor() for name, p in ps.items()}


def give(ps: Mapping[str, Any], mesh: Any, t: int, grad: Any, scale: float = 1.0) -> None:
    """The node's gradients of step t."""
    for name, p in ps.items():
        g = grad(name, torch.empty(p.shape, dtype=p.dtype), t, mesh["replicate"].get_local_rank())
        p.grad = None if g is None else cut(g * scale, mesh["shard"], ALONG.get(name, 0))


def steps(opt: signa.SignA, ps: Mapping[str, Any], mesh: Any, which: range, grad: Any = awkward) -> list[str]:
    digests = []
    for t in which:
        give(ps, mesh, t, grad)
        opt.step()
        digests.append(fingerprint(wholes(ps)))
    return digests


def trains(say: Say) -> None:
    """Every kind of method, in many small buckets; the second half with every rank's own state saved and loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_MOST", 600)
        for case, (method, dtype) in CASES.items():
            say((case, *_trained(method, dtype)))


def _trained(method: Any, dtype: torch.dtype) -> tuple[Any, ...]:
    mesh = grid()
    ps = sharded(mesh, dtype=dtype)
    transport = group(mesh, check_replicas_every=2)
    opt = signa.build(spec(method), list(ps.items()), transport=transport)
    digests = steps(opt, ps, mesh, range(STEPS // 2))
    kept = opt.state_dict()
    opt = signa.build(spec(method), list(ps.items()), transport=transport)
    opt.load_state_dict(kept)
    digests += steps(opt, ps, mesh, range(STEPS // 2, STEPS))
    states = {
        f"{route.named.name} {address}": fingerprint({"": view.contiguous()})
        for route in opt.routing
        for address, view in opt.state[route.named.parameter].items()
    }
    assert len(opt._engine.homes._buckets) > 2 and "shard=rank" in str(transport)
    return digests, states, str(opt.routing), tuple(opt.bits())


STORED = METHODS["top-k, ef21"]  # state of workers, server and replicas


def stores(say: Say, folder: str) -> None:
    """A checkpoint of torch.distributed.checkpoint, into a fresh model and optimizer."""
    mesh = grid()
    ps = sharded(mesh)
    opt = signa.build(spec(STORED), list(ps.items()), transport=group(mesh))
    digests = steps(opt, ps, mesh, range(2))
    dcp.save({"model": ps, "optim": DCPState(opt)}, checkpoint_id=folder)
    ps = sharded(mesh)
    opt = signa.build(spec(STORED), list(ps.items()), transport=group(mesh))
    dcp.load({"model": ps, "optim": DCPState(opt, folder)}, checkpoint_id=folder)
    say(digests + steps(opt, ps, mesh, range(2, 4)))


def columns(p: nn.Parameter) -> Shard | None:
    """Matrices along axis 1 where two ranks divide it, as FSDP2 wants."""
    return Shard(1) if p.ndim == 2 and p.shape[1] % 2 == 0 else None


HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32)
FSDP: dict[str, dict[str, Any]] = {
    "reshards": {"reshard_after_forward": True},
    "does not reshard": {"reshard_after_forward": False},
    "mixed precision, other axes": {"mp_policy": HALF, "shard_placement_fn": columns},
}


class Net(nn.Module):
    """Sizes that two ranks do not divide, and biases shorter than the node."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 5), nn.Linear(5, 3), nn.Linear(3, 1)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.norm(self.first(x))))))


def wraps(say: Say) -> None:
    """FSDP2 itself, per layer and at the root; every rank has made other weights, and rank 0's count."""
    for options in FSDP.values():
        mesh = grid()
        torch.manual_seed(dist.get_rank())
        net = Net()
        for layer in (net.first, net.second):
            fully_shard(layer, mesh=mesh["shard"], **options)
        fully_shard(net, mesh=mesh["shard"])
        transport = group(mesh)
        net.norm.running_var.uniform_()
        signa.replicate(net, transport)
        start = {name: x.tolist() for name, x in wholes(dict(net.named_parameters())).items()}
        start["variance"] = net.norm.running_var.tolist()
        opt = signa.build("signmuon", net, lr=0.02, transport=transport)
        schedule = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
        grads = []
        for t in range(3):
            opt.zero_grad()
            net(plain("x", torch.empty(4, 6), t, dist.get_rank())).square().mean().backward()
            grads.append({name: p.grad.full_tensor().tolist() for name, p in net.named_parameters()})
            opt.step()
            schedule.step()
        end = fingerprint(wholes(dict(net.named_parameters())))
        say((start, grads, end, net.norm.running_mean.tolist(), opt.param_groups[0]["lr"]))


def counts(say: Say) -> None:
    """Bytes between the nodes against what the plan says of this column, and against the formula."""
    for method in ("signmuon", "ef21muonsign", "muon"):
        mesh = grid()
        ps = sharded(mesh, WIDE)
        transport = group(mesh, exchange="alltoall", check_replicas_every=0)
        opt = signa.build(method, list(ps.items()), lr=0.02, transport=transport)
        steps(opt, ps, mesh, range(1), plain)  # with what only a first step tells
        before, inside = transport.traffic[0], transport.node.ranks.sent
        steps(opt, ps, mesh, range(1, 3), plain)
        sent, inside = (transport.traffic[0] - before) / 2, (transport.node.ranks.sent - inside) / 2
        planned = sum(
            choice.nbytes
            for bucket in opt._engine.buckets
            for choice in choices(bucket.lanes, 2, 1, "gloo")
            if choice.exchange == "alltoall" and choice.sharded == bucket.sharded
        )
        here = sum(p.numel() for p in ps.values() if opt.state[p])
        say((method, sent, planned, here, inside))


def abstains(say: Say) -> None:
    """A NaN in one shard of node 1, three policies."""

    def poisoned(name: str, p: Tensor, t: int, j: int) -> Tensor:
        g = plain(name, p, t, j)
        if j == 1 and t == 1 and name == "big":
            g[0, 0] = torch.nan
        return g

    for policy in ("abstain", "skip", "raise"):
        mesh = grid()
        ps = sharded(mesh)
        opt = signa.build(spec("signmuon"), list(ps.items()), transport=group(mesh), nonfinite=policy)
        digests = steps(opt, ps, mesh, range(1), poisoned)
        if policy == "raise":
            give(ps, mesh, 1, poisoned)
            with pytest.raises(errors.NonFinite, match="the gradient of 'big' of worker 1 is not finite at step 1"):
                opt.step()
        else:
            digests += steps(opt, ps, mesh, range(1, 3), poisoned)
        say((policy, digests, dict(opt.nonfinite_counts), opt.steps))


def scales(say: Say) -> None:
    """A GradScaler finds an infinity in one shard: no rank takes that step."""
    mesh = grid()
    ps = sharded(mesh, {"a": (9, 21), "bias": (3,)})
    opt = signa.build("signmuon", list(ps.items()), lr=0.02, transport=group(mesh))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    digests = []
    for t in range(3):
        scale = float(scaler.scale(torch.ones(())))
        give(ps, mesh, t, plain, scale)
        if t == 1 and dist.get_rank() == 2:
            ps["a"].grad.to_local()[0, 0] = torch.inf
        scaler.step(opt)
        scaler.update()
        digests.append(fingerprint(wholes(ps)))
    say((digests, opt.steps))


def grows(say: Say) -> None:
    """A later group, values that somebody else writes, and the exact model."""
    mesh = grid()
    ps = sharded(mesh, {"a": (9, 21), "b": (24, 16)})
    more = sharded(mesh, {"c": (5, 7), "bias": (3,)})
    source = {"groups": [{"match": "*", "lr": 0.02, **METHODS["top-k, ef21"]}]}
    opt = signa.build(source, list(ps.items()), transport=group(mesh, check_replicas_every=1))
    digests = steps(opt, ps, mesh, range(1), plain)
    opt.add_param_group({"params": list(more.items()), "method": "adamw", "lr": 0.01})
    ps |= more
    digests += steps(opt, ps, mesh, range(1, 2), plain)
    with opt.exact():
        digests.append(fingerprint(wholes(ps)))
    digests.append(fingerprint(wholes(ps)))
    with torch.no_grad():
        ps["a"].mul_(0.5)
        ps["bias"].data.add_(1.0)
        digests += steps(opt, ps, mesh, range(2, 3), plain)
    with opt.exact(), torch.no_grad():
        ps["b"].zero_()
    digests.append(fingerprint(wholes(ps)))
    say((digests, opt.keeps_exact))


def refuses(say: Say) -> None:
    """What no home can be given to, and groups that do not cross."""
    mesh = grid()
    wide = {"w": (4, 4)}
    flat = init_device_mesh("cpu", (4,), mesh_dim_names=("all",))
    plane = distribute_tensor(torch.zeros(4, 4), mesh, [Replicate(), Shard(0)])
    given: list[tuple[Any, Any]] = [
        ("plain", torch.zeros(4, 4)),
        ("plane", plane),
        ("copied", distribute_tensor(torch.zeros(4, 4), mesh["shard"], [Replicate()])),
        ("elsewhere", cut(torch.zeros(4, 4), flat["all"])),
    ]
    said = []
    for name, tensor in given:
        transport = group(mesh)
        for act in (signa.build, signa.replicate):
            module = nn.Module()
            module.register_parameter(name, nn.Parameter(tensor))
            with pytest.raises(errors.UnsupportedParameter) as caught:
                act("signmuon", module, transport=transport) if act is signa.build else act(module, transport)
        said.append(str(caught.value))
    for transport in (signa.Loopback(), signa.Group(mesh["replicate"], timeout=20.0)):
        with pytest.raises(errors.UnsupportedParameter) as caught:
            signa.build("signmuon", list(sharded(mesh, wide).items()), transport=transport)
    said.append(str(caught.value))
    for option in ({"workers_per_rank": 2}, {"overlap": True}):
        with pytest.raises(ValueError, match="with shard= a node is one worker") as wrong:
            group(mesh, **option)
        said.append(str(wrong.value))
    transport = group(mesh)
    with pytest.raises(TypeError) as kept:
        pickle.dumps(transport)
    said.append(str(kept.value))
    net = nn.Linear(4, 4)
    fully_shard(net, mesh=mesh["shard"])
    signa.replicate(net, transport)
    opt = signa.build("signmuon", net, transport=transport)
    for act in (signa.save_checkpoint, signa.load_checkpoint):
        with pytest.raises(errors.CheckpointError) as stored:
            act("nowhere", net, opt)
    said.append(str(stored.value))
    for given in ("same", "ranks of a node", "whole world"):
        mesh = grid()
        one = {"same": "shard", "ranks of a node": "shard", "whole world": "replicate"}[given]
        other: Any = {"same": mesh["shard"], "whole world": init_device_mesh("cpu", (4,))}.get(given, mesh["replicate"])
        with pytest.raises(errors.LayoutMismatch) as crossed:
            signa.Group(mesh[one], shard=other) if given != "ranks of a node" else _twisted()
        said.append(str(crossed.value))
    say(said)


def _twisted() -> signa.Group:
    """Every rank's place in its groups is right, but one node's ranks meet other nodes."""
    rank = dist.get_rank()
    rows = [dist.new_group(ranks) for ranks in ([0, 1], [2, 3])]
    columns = [dist.new_group(ranks) for ranks in ([0], [2], [1, 3])]
    return signa.Group(columns[{0: 0, 2: 1}.get(rank, 2)], shard=rows[rank // 2])


def fine(r: int, arguments: dict[str, Any], say: Say, folder: str) -> None:
    """One world for all that goes well."""
    store = dist.PrefixStore("world", arguments["store"])
    dist.init_process_group("gloo", store=store, rank=r, world_size=4)
    for scenario in (trains, wraps, counts, abstains, scales, grows, refuses, partial(stores, folder=folder)):
        found: list[Any] = []
        scenario(found.append)
        say(found)
    dist.barrier()
    dist.destroy_process_group()


def met(say: Say, what: str, act: Callable[[], Any]) -> None:
    begun = time.monotonic()
    try:
        act()
    except errors.SignaError as error:
        say((what, type(error).__name__, str(error), time.monotonic() - begun))


def faulty(r: int, arguments: dict[str, Any], say: Say) -> None:
    """Faults, each met on all ranks; last a rank dies."""
    store = dist.PrefixStore("world", arguments["store"])
    dist.init_process_group("gloo", store=store, rank=r, world_size=4)
    for what in ("drift", "a gradient on one rank", "an error on one rank", "death"):
        mesh = grid()
        ps = sharded(mesh, {"a": (9, 21), "b": (24, 16)})
        transport = group(mesh, timeout=arguments["timeout"], check_replicas_every=1)
        opt = signa.build("signmuon", list(ps.items()), lr=0.02, transport=transport)
        give(ps, mesh, 0, plain)
        opt.step()  # no collective of DTensors here: torch may run it in the broken groups of an equal mesh before
        give(ps, mesh, 1, plain)
        if what == "drift" and r == 2:
            with torch.no_grad():
                ps["a"].to_local()[0, 0] += 1
        if what == "a gradient on one rank" and r == 1:
            ps["b"].grad = None
        if what == "an error on one rank" and r == 3:
            opt._engine.run = lambda *_: 1 / 0
        if what == "death" and r == 3:
            os.kill(os.getpid(), signal.SIGKILL)

        def twice(opt: signa.SignA = opt) -> None:
            try:
                opt.step()
            except ZeroDivisionError:
                opt.step()
            opt.step()  # a column that noticed nothing hears of it now

        met(say, what, twice)
        if what != "death":
            dist.barrier()
