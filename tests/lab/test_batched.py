"""A row of the batched runner is the real optimizer's run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import signa
from signa.lab.batched import Batched
from signa.scaling import scalings

SHAPE, STEPS = (9, 6), 12
LRS = torch.tensor([0.3, 0.01, 0.05], dtype=torch.float64)
NAMES = [
    "muon", "muon_worker", "signmuon", "muonusign", "muonusign_1bit", "muonsign", "ef21signmuon", "ef21muonusign",
    "ef21muonsign", "signsgd", "sgd", "nsgd", "adamw", "ef_signsgd", "doublesqueeze", "lion", "dlion_vote",
]  # fmt: skip


def gradients(workers: int) -> Tensor:
    """(STEPS, workers, m, n), with zeros, for which coins are tossed; a worker's whole gradient is 0 once."""
    generator = torch.Generator().manual_seed(3)
    found = torch.randn(STEPS, workers, *SHAPE, generator=generator)
    found[:, :, 0, :3] = 0.0
    found[4, 0] = 0.0
    return found


def float32(name: str) -> signa.Method:
    """A preset with Newton-Schulz in float32: in bfloat16 a rounding of 1e-7 may come out as one of 1e-3."""
    found = signa.method(name)
    for part in ("worker", "server", "replica"):
        for address, stage in found.stages(part):
            if stage.kind == "spectral":
                found = found.replace({f"{address}.dtype": "float32"})
    return found


def real(
    method: signa.Method, x0: Tensor, grads: Tensor, lr: float, *, weight_decay: float, scaling: str, seed: int
) -> tuple[Tensor, Tensor]:
    """The parameter, and the exact model, after the steps."""
    weight = nn.Parameter(x0.clone())
    group = {"match": ["*"], "method": method, "lr": lr, "scaling": scaling, "weight_decay": weight_decay}
    workers = grads.shape[1]
    transport = signa.Loopback(workers)
    opt = signa.build({"groups": [group]}, [("weight", weight)], transport=transport, seed=seed)
    for row in grads:
        for j, g in enumerate(row):
            with opt.worker(j):
                (weight * g).sum().backward()
        opt.step()
        opt.zero_grad()
    with opt.exact():
        exact = weight.detach().clone()
    return weight.detach(), exact


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_the_real_optimizer(name: str, workers: int) -> None:
    """To 3e-6 of the distance gone: a step of its own rounds lr d before it subtracts (1 ulp), products may too."""
    method, grads = float32(name), gradients(workers)
    x0 = torch.randn(len(LRS), *SHAPE, generator=torch.Generator().manual_seed(4))
    runs = Batched(method, x0, workers=workers, scaling=scalings.get("unit_gain")(), weight_decay=0.1, seed=5)
    for row in grads:
        runs.step(row[:, None].expand(-1, len(LRS), -1, -1), LRS)
    for b, lr in enumerate(LRS.tolist()):
        weight, exact = real(method, x0[b], grads, lr, weight_decay=0.1, scaling="unit_gain", seed=5)
        gone = (weight - x0[b]).abs().max()
        assert gone > 0
        torch.testing.assert_close(runs.x[b], weight, rtol=0, atol=3e-6 * max(1.0, float(gone)))
        torch.testing.assert_close(runs.exact[b], exact, rtol=0, atol=3e-6 * max(1.0, float(gone)))
    apart = (runs.exact - runs.x).abs().max()
    assert (apart > 1e-3) == (name == "ef21muonsign")


@pytest.mark.parametrize("worker, decay", [("decay momentum", "decoupled"), ("momentum", "cautious")])
def test_the_other_decays(worker: str, decay: str) -> None:
    method = signa.Method(worker=worker, replica=({"kind": "step", "decay": decay},))
    grads, x0 = gradients(1), torch.randn(len(LRS), *SHAPE, generator=torch.Generator().manual_seed(4))
    runs = Batched(method, x0, weight_decay=0.5)
    for row in grads:
        runs.step(row[:, None].expand(-1, len(LRS), -1, -1), LRS)
    for b, lr in enumerate(LRS.tolist()):
        weight, _ = real(method, x0[b], grads, lr, weight_decay=0.5, scaling="none", seed=0)
        torch.testing.assert_close(runs.x[b], weight, rtol=0, atol=3e-6)


def test_one_learning_rate_for_all_is_that_rate_for_each() -> None:
    x0, grads = torch.zeros(2, *SHAPE), gradients(1)
    one, each = Batched(signa.method("sgd"), x0), Batched(signa.method("sgd"), x0)
    for row in grads:
        one.step(row[:, None].expand(-1, 2, -1, -1), 0.1)
        each.step(row[:, None].expand(-1, 2, -1, -1), torch.tensor([0.1, 0.1], dtype=torch.float64))
    assert torch.equal(one.x, each.x) and bool(one.x.any())


@pytest.mark.parametrize("name", ["ef21muonsign", "signmuon", "adamw", "sgd"])
def test_dropped_rows_leave_the_others_alone(name: str) -> None:
    """`keep` takes the state of both ends and all workers along."""
    method, grads = float32(name), gradients(3)
    x0 = torch.randn(len(LRS), *SHAPE, generator=torch.Generator().manual_seed(4))
    whole, part = Batched(method, x0, workers=3), Batched(method, x0, workers=3)
    lrs = LRS
    for t, row in enumerate(grads):
        whole.step(row[:, None].expand(-1, len(LRS), -1, -1), LRS)
        if t == 5:
            part.keep(torch.tensor([True, False, True]))
            lrs = LRS[[0, 2]]
        part.step(row[:, None].expand(-1, len(lrs), -1, -1), lrs)
    torch.testing.assert_close(part.x, whole.x[[0, 2]], rtol=0, atol=3e-6)
    torch.testing.assert_close(part.exact, whole.exact[[0, 2]], rtol=0, atol=3e-6)
    assert part.direction.shape == part.x.shape == (2, *SHAPE)


def test_the_gradient_is_borrowed() -> None:
    grads = gradients(1)[0][:, None].contiguous()
    before = grads.clone()
    for name in NAMES:
        Batched(signa.method(name), torch.zeros(1, *SHAPE)).step(grads, 0.1)
    assert torch.equal(grads, before)
