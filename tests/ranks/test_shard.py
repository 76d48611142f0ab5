"""FSDP2 inside a node, one bit between nodes: what two nodes of two ranks do is what two simulated workers do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp

import signa
from signa.checkpoints import DCPState
from signa.transport.shards import span
from tests.ranks import hsdp
from tests.ranks.cases import awkward, build, fingerprint, loopback, parameters, plain, spec, step, train
from tests.ranks.worlds import Ended, processes, within

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
NODE = (0, 0, 1, 1)  # of every rank
TIMEOUT = 1.5
ROOT = Path(__file__).parents[2]


SCENARIOS = ("trains", "wraps", "counts", "abstains", "scales", "grows", "refuses", "stores")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded") / "step-2"


@pytest.fixture(scope="module")
def fine(folder: Path) -> dict[str, list[list[Any]]]:
    """What every rank said in every scenario."""
    ended = processes(4, hsdp.fine, str(folder), timeout=20.0, deadline=90.0)
    assert [rank.code for rank in ended] == [0] * 4, [(rank.code, rank.said[-1:]) for rank in ended]
    return {name: [rank.said[at] for rank in ended] for at, name in enumerate(SCENARIOS)}


@pytest.mark.parametrize("case", hsdp.CASES)
def test_two_nodes_are_two_simulated_workers(case: str, fine: dict[str, Any]) -> None:
    """Values after every step, and the whole state, each parameter's on one rank of each node, bit for bit."""
    method, dtype = hsdp.CASES[case]
    options = {"steps": hsdp.STEPS, "dtype": dtype, "shapes": hsdp.SHARDED, "grad": awkward}
    reference = train(spec(method), signa.Loopback(2), **options)
    holders: dict[str, list[int]] = {}
    for rank, said in enumerate(fine["trains"]):
        digests, states, table, bits = next(told[1:] for told in said if told[0] == case)
        assert digests == reference.digests, (rank, case)
        assert table == str(reference.opt.routing) and bits == tuple(reference.opt.bits())
        for key, found in states.items():
            whole = reference.states[key]
            own = whole[NODE[rank] : NODE[rank] + 1] if " worker." in key else whole
            assert found == fingerprint({"": own.contiguous()}), (rank, key)
            holders.setdefault(key, []).append(rank)
    assert holders.keys() == reference.states.keys()
    for key, ranks in holders.items():
        assert len(ranks) <= 2 and len({rank % 2 for rank in ranks}) == 1, (key, ranks)
        assert " server." in key or len(ranks) == 2, (key, ranks)
    homes = {ranks[0] % 2 for ranks in holders.values()}
    assert homes == {0, 1}


@pytest.mark.parametrize("how", hsdp.FSDP)
def test_fsdp_averages_inside_and_signa_votes_between(how: str, fine: dict[str, Any]) -> None:
    said = [rank[list(hsdp.FSDP).index(how)] for rank in fine["wraps"]]
    near = {"rtol": 0.1, "atol": 0.02} if "mixed" in how else {"rtol": 1e-5, "atol": 1e-6}
    start = said[0][0]
    assert all(rank[0] == start and rank[2:] == said[0][2:] for rank in said)

    def network() -> nn.Module:
        net = hsdp.Net()
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(torch.tensor(start[name]))
        return net

    net = network()
    opt = signa.build("signmuon", net, lr=0.02, transport=signa.Loopback(2))
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, gamma=0.5)
    for t in range(3):
        opt.zero_grad()
        for j in range(2):
            given = said[2 * j][1][t]
            assert given == said[2 * j + 1][1][t]
            means = [_gradients(net, t, rank) for rank in (2 * j, 2 * j + 1)]
            with opt.worker(j):
                for name, p in net.named_parameters():
                    p.grad = torch.tensor(given[name])
                    torch.testing.assert_close(p.grad, (means[0][name] + means[1][name]) / 2, **near)
        opt.step()
        schedule.step()
    assert fingerprint(dict(net.named_parameters())) == said[0][2]
    assert opt.param_groups[0]["lr"] == said[0][4] == 3e-4 / 8


def _gradients(net: nn.Module, t: int, rank: int) -> dict[str, torch.Tensor]:
    """What one rank of FSDP computes from its own batch."""
    loss = net(plain("x", torch.empty(4, 6), t, rank)).square().mean()
    return dict(zip(dict(net.named_parameters()), torch.autograd.grad(loss, list(net.parameters())), strict=True))


def test_the_bytes_between_nodes_are_the_formula_s(fine: dict[str, Any]) -> None:
    entries, nodes, ranks = 4 * 128 * 256, 2, 2
    bits = {"signmuon": 2.0, "ef21muonsign": 2.0, "muon": 64.0}  # times (M - 1) / M per parameter of the column
    for at, (method, factor) in enumerate(bits.items()):
        for _, sent, planned, here, inside in (rank[at] for rank in fine["counts"]):
            assert here == entries / ranks
            assert sent == pytest.approx(planned, rel=0.05)
            assert sent == pytest.approx(factor * (nodes - 1) / nodes * here / 8, rel=0.05), method
            # Inside: a gradient and a value to the home and a value back, of every shard that lies elsewhere.
            assert inside == pytest.approx(3 * 4 * entries / ranks * (ranks - 1) / ranks, rel=0.05)


def test_a_node_with_a_nan_in_one_shard(fine: dict[str, Any]) -> None:
    def poisoned(name: str, p: torch.Tensor, t: int, j: int) -> torch.Tensor:
        g = plain(name, p, t, j)
        if j == 1 and t == 1 and name == "big":
            g[0, 0] = torch.nan
        return g

    source = spec("signmuon")
    abstained = loopback(source, 2, steps=3, shapes=hsdp.SHARDED, grad=poisoned).digests
    skipped = loopback(source, 2, steps=3, shapes=hsdp.SHARDED, grad=poisoned, nonfinite="skip").digests
    assert skipped[0] == skipped[1] != abstained[1]
    for rank, (abstain, skip, raised) in enumerate(fine["abstains"]):
        assert abstain[1] == abstained and skip[1] == skipped and raised[1] == abstained[:1]
        if rank >= 2:
            assert abstain[2] == {(1, "big"): 1}
        assert skip[2] == {(1, "big"): 1} and (abstain[3], skip[3], raised[3]) == (3, 2, 1)


def test_a_scaler_that_finds_an_infinity_in_one_shard(fine: dict[str, Any]) -> None:
    ps = {name: nn.Parameter(hsdp.normal(name, shape, dtype=torch.float32)) for name, shape in
          {"a": (9, 21), "bias": (3,)}.items()}  # fmt: skip
    opt = signa.build("signmuon", list(ps.items()), lr=0.02, transport=signa.Loopback(2))
    expected = []
    for t in (0, 2):
        step(opt, ps, t, plain)
        expected.append(fingerprint(ps))
    for rank in fine["scales"]:
        assert rank[0] == ([expected[0], expected[0], expected[1]], 2)


def test_later_groups_foreign_values_and_the_exact_model(fine: dict[str, Any]) -> None:
    shapes = {"a": (9, 21), "b": (24, 16), "c": (5, 7), "bias": (3,)}
    every = {name: nn.Parameter(hsdp.normal(name, shape, dtype=torch.float32)) for name, shape in shapes.items()}
    ps = {name: every[name] for name in ("a", "b")}
    source = {"groups": [{"match": "*", "lr": 0.02, **hsdp.METHODS["top-k, ef21"]}]}
    opt = signa.build(source, list(ps.items()), transport=signa.Loopback(2))
    digests: list[str] = []

    def taken(t: int) -> None:
        step(opt, ps, t, plain)
        digests.append(fingerprint(ps))

    taken(0)
    opt.add_param_group({"params": [(n, every[n]) for n in ("c", "bias")], "method": "adamw", "lr": 0.01})
    ps = every
    taken(1)
    with opt.exact():
        digests.append(fingerprint(ps))
    digests.append(fingerprint(ps))
    with torch.no_grad():
        ps["a"].mul_(0.5)
        ps["bias"].data.add_(1.0)
        taken(2)
    with opt.exact(), torch.no_grad():
        ps["b"].zero_()
    digests.append(fingerprint(ps))
    assert digests[1] == digests[3] != digests[2]
    for rank in fine["grows"]:
        assert rank == [(digests, True)]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_of_torch_goes_on_sharded_or_simulated(fine: dict[str, Any], folder: Path) -> None:
    source = spec(hsdp.STORED)
    reference = loopback(source, 2, steps=4, shapes=hsdp.SHARDED)
    for rank in fine["stores"]:
        assert rank == [reference.digests]
    ps = parameters(shapes=hsdp.SHARDED)
    opt = build(source, ps, signa.Loopback(2))
    dcp.load({"model": ps, "optim": DCPState(opt, folder)}, checkpoint_id=folder)
    for t in (2, 3):
        step(opt, ps, t, awkward)
        assert fingerprint(ps) == reference.digests[t]


def test_what_is_refused_says_what_to_write(fine: dict[str, Any]) -> None:
    write = "fully_shard(model, mesh=mesh['shard'])"
    expected = [
        ("parameter 'plain' is not sharded, so nobody averages its gradient inside the node", write),
        ("parameter 'plane' lies on a mesh of 2 axes ('replicate', 'shard')", write),
        ("parameter 'copied' is placed as R", write),
        ("parameter 'elsewhere' is sharded over 4 ranks that are not the 2 of shard=", write),
        ("parameter 'w' is a DTensor", "transport=signa.Group(mesh['replicate'], shard=mesh['shard'])"),
        ("with shard= a node is one worker", "leave workers_per_rank=2 out"),
        ("with shard= a node is one worker", "leave overlap=True out"),
        ("a Group with shard= cannot be pickled", "opt.state_dict()"),
        ("the model is sharded (Group(..., shard=...))", "signa.checkpoints.DCPState(opt)"),
        ("has ranks with different places in their nodes (0 of 2, 1 of 2)", "init_device_mesh"),
        ("do not cross", "init_device_mesh"),
        ("has ranks with different places in their nodes", "init_device_mesh"),
    ]
    for (said,) in fine["refuses"]:
        for text, (what, instead) in zip(said, expected, strict=True):
            assert what in text and instead in text, text


def test_spans_are_torch_chunk_s() -> None:
    for size in range(12):
        for ranks in range(1, 6):
            pieces = [len(piece) for piece in torch.arange(size).chunk(ranks)] if size else []
            expected = (pieces + [0] * ranks)[:ranks]
            assert [span(size, rank, ranks)[1] for rank in range(ranks)] == expected
            assert [span(size, rank, ranks)[0] for rank in range(ranks)] == [
                min(sum(expected[:rank]), size) for rank in range(ranks)
            ]


@pytest.mark.slow
def test_the_example_runs() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command.append(str(ROOT / "examples" / "hsdp.py"))
    printed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True).stdout
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[0] > losses[-1] and losses[-1] < 2
    assert len(set(re.findall(r"digest (\w+)", printed))) == 1 and printed.count("whole matrices 50%") == 4


FAULTS = {
    "drift": ("ReplicaDrift", "'a' on rank"),
    "a gradient on one rank": ("PeerLost", "'b' has a gradient on some ranks of the node and none on rank 1"),
    "an error on one rank": ("PeerLost", "ZeroDivisionError"),
    "death": ("PeerLost", ""),
}


def test_a_fault_in_one_node_is_one_everywhere() -> None:
    ended: list[Ended] = processes(4, hsdp.faulty, timeout=TIMEOUT, deadline=60.0)
    assert [rank.code for rank in ended] == [0, 0, 0, -9], ended
    for rank, end in enumerate(ended):
        met = {what: rest for what, *rest in (word for word in end.said if word)}
        assert list(met) == list(FAULTS)[: 3 if rank == 3 else 4], end
        for what, (kind, text, seconds) in met.items():
            assert seconds < TIMEOUT + within(2), (rank, what, seconds)
            own = kind in ("GradientError", "Poisoned")  # who met it himself, and then tried again
            assert (kind == FAULTS[what][0] or own) and FAULTS[what][1] in text, (rank, what, kind, text)
