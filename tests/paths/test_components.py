"""The parts that experiments ask for, as sentences: what they mean, that they compose, and that ranks agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa
from signa.aggregators import MajorityVote, WeightedMean
from signa.compressors import RandomK, Rank, StochasticSign, Ternary
from signa.errors import Fault
from signa.lmo import L1, Nuclear
from signa.rule import Rule
from signa.scaling import MatchAdamW, Semantic, UnitGain
from signa.signal import SQRT_MIN, SQRT_MN, Signal
from signa.stages import Project
from signa.testing import context, sample, threads
from tests.ranks.cases import loopback, plain, ranks, same, spec

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
EVERYONE = torch.ones(3, 1, dtype=torch.bool)


def trained(method: Any, workers: int = 3, steps: int = 5, lr: float = 0.5) -> Tensor:
    """A 9 x 21 matrix after some steps along Gaussian gradients."""
    w = nn.Parameter(sample(9, 21))
    opt = signa.build({"groups": [{**method, "lr": lr}]}, [("w", w)], transport=signa.Loopback(workers))
    for t in range(steps):
        for j in range(workers):
            with opt.worker(j):
                w.grad = plain("w", w, t, j)
        opt.step()
        opt.zero_grad()
    return w.detach()


# Oracles


def test_the_corner_of_l1_is_the_first_of_the_largest() -> None:
    g = torch.tensor([[[1.0, -4.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    expected = torch.tensor([[[0.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert torch.equal(L1().direction(g), expected)
    assert torch.equal(L1().norm(g), torch.tensor([9.0, 0.0, 2.0])) and L1().signal(Signal()).alphabet == "ternary"


@pytest.mark.parametrize("lmo", [Nuclear(), L1()], ids=str)
def test_frank_wolfe_steps_have_norm_lr(lmo: Any) -> None:
    method = {"worker": [lmo], "scaling": "none"}
    moved = trained(method, 1, 1, lr=0.25) - sample(9, 21)
    assert float(lmo.norm(moved)) == pytest.approx(0.25, rel=1e-4)
    assert int(torch.linalg.matrix_rank(moved, atol=1e-4)) == 1


# Compressors


def means(rule: Any, x: Tensor, draws: int = 4000) -> Tensor:
    """The mean of C(x) over so many rows' own coins, in standard errors from zero on."""
    return rule(x.expand(draws, *x.shape), context(range(draws)))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Ternary(), lambda x: x),
        (RandomK(fraction=0.25, unbiased=True), lambda x: x),
        (RandomK(fraction=0.25), lambda x: x / 4),
        (StochasticSign(), lambda x: x / x.abs().max()),
        (StochasticSign(norm="l2"), lambda x: x / x.norm()),
    ],
    ids=lambda value: str(value) if isinstance(value, Rule) else "mean",
)
def test_what_it_is_in_the_mean(rule: Any, expected: Callable[[Tensor], Tensor]) -> None:
    x = sample(4, 5, dtype=torch.float64)
    drawn = means(rule, x)
    error = drawn.std(0) / math.sqrt(len(drawn))
    assert ((drawn.mean(0) - expected(x)).abs() <= 5 * error + 1e-12).all()
    assert (drawn.std(0) > 0).any()


def test_terngrad_by_its_equations() -> None:
    x = sample(1, 9, 21)
    x[0, 0] = 0
    y, ctx = Ternary()(x, context()), context()
    size = x.abs().max()
    assert torch.equal(y, torch.where(ctx.uniform(x) < x.abs().double() / size.double(), x.sign() * size, 0))
    assert Ternary().contraction(9, 21) is None and Ternary().bits(Signal(), 8, 8) == 2.5


def test_terngrad_of_the_smallest_and_largest_numbers() -> None:
    for size in (2.0**-149, 3e38):
        y = Ternary()(torch.tensor([[size, -size, 0.0]]), context())
        assert torch.equal(y, torch.tensor([[size, -size, 0.0]]))
    least = torch.full((100, 1, 2), 2.0**-1074, dtype=torch.float64)  # of which a product with a draw rounds up
    assert torch.equal(Ternary()(least, context(range(100))), least)


def test_a_stochastic_sign_is_certain_of_the_largest_only() -> None:
    x = torch.tensor([[3.0, -3.0, 0.0, 1e-6]]).expand(500, 1, 4)
    drawn = means(StochasticSign(), x[0], 500)
    assert (drawn[:, 0, 0] == 1).all() and (drawn[:, 0, 1] == -1).all()
    assert ((drawn[:, 0, 2:].mean(0)).abs() < 5 / math.sqrt(500)).all() and (drawn.abs() == 1).all()


def test_random_k_keeps_k_and_another_k_elsewhere() -> None:
    rule, x = RandomK(fraction=0.1), sample(9, 21).abs() + 1
    y = rule(x.expand(3, 9, 21), context(range(3)))
    assert (y.ne(0).flatten(1).sum(1) == 19).all() and torch.equal(y[y != 0], x.expand_as(y)[y != 0])
    assert not torch.equal(y[0], y[1]) and not torch.equal(y[1], y[2])
    assert rule.contraction(9, 21) is None and RandomK(fraction=1.0).contraction(9, 21) == 1.0
    with pytest.raises(signa.SpecError, match="ef21 cannot follow a signal through 'random_k'"):
        signa.Method(up="ef21(random_k)")


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (64, 400)], ids=str)
def test_rank_is_near_the_best_of_its_rank(shape: tuple[int, int]) -> None:
    x = sample(*shape, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(x, full_matrices=False)
    low = U[:, :4] * torch.tensor([100.0, 50.0, 20.0, 10.0]) @ Vh[:4]  # a spectrum with a gap is found exactly
    assert torch.allclose(Rank()(low, context()), low, atol=1e-9)
    kept = [float(Rank(iterations=k)(x, context()).square().sum()) for k in (1, 2, 4, 8)]
    assert kept == sorted(kept) and 0.75 * float(S[:4].square().sum()) < kept[0]
    assert kept[-1] < float(S[:4].square().sum()) * (1 + 1e-12) and kept[-1] > 0.93 * float(S[:4].square().sum())
    y = Rank()(x, context())
    assert int(torch.linalg.matrix_rank(y)) == 4 and Rank().contraction(*shape) == 4 / min(shape)
    assert torch.equal(Rank(rank=64)(x, context()), x) and Rank(rank=64).contraction(*shape) == 1.0


@pytest.mark.parametrize("shape", [(200, 97), (31, 1000), (64, 64)], ids=str)
def test_rank_is_bit_stable(shape: tuple[int, int]) -> None:
    x = sample(4, *shape)
    found = []
    for count in (1, 2):
        with threads(count):
            found += [Rank(rank=3)(x, context()), torch.stack([Rank(rank=3)(one, context()) for one in x])]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_rank_of_awkward_matrices() -> None:
    few = [torch.ones(40, 50), torch.zeros(40, 50), sample(40, 1) @ sample(1, 50, seed=1)]
    for x in few:  # what is left of them is rounding, which is no direction
        assert torch.allclose(Rank(rank=5)(x, context()), x, atol=1e-5)
    lost = torch.eye(40, 50) - Rank(rank=5)(torch.eye(40, 50), context())
    assert float(lost.square().sum()) == pytest.approx(35, rel=1e-5)
    x = sample(40, 50)
    for size in (1e-30, 1e30):
        assert torch.allclose(Rank()(x * size, context()) / size, Rank()(x, context()), atol=1e-4)


# Weights


def test_a_weighted_mean_by_hand() -> None:
    x = torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    rule, active = WeightedMean(weights=(2, 1, 5)), EVERYONE.clone()
    assert float(rule(x, active, context())) == 512 / 8
    active[2] = False
    assert float(rule(x * active[..., None, None], active, context())) == 4.0
    assert float(rule(x * 0, ~EVERYONE, context())) == 0.0
    assert torch.equal(WeightedMean(weights=(4, 2, 10))(x, EVERYONE, context()), rule(x, EVERYONE, context()))


def test_as_many_weights_as_workers() -> None:
    with pytest.raises(Fault, match=r"has 2 weights for 3 workers: worker j's message .*: give 3 weights"):
        WeightedMean(weights=(1, 2))(torch.zeros(3, 1, 2, 2), EVERYONE, context())
    WeightedMean().admit(7)
    MajorityVote().admit(7)
    with pytest.raises(signa.SpecError, match="weights"):
        WeightedMean(weights=(1, 0))


VOTE = {"worker": ["momentum"], "up": "sign", "down": "sign"}


def weighing(*weights: float) -> dict[str, Any]:
    return {**VOTE, "aggregate": {"kind": "weighted_mean", "weights": list(weights)}}


def test_a_weighted_vote_is_a_vote() -> None:
    """Equal weights: the majority. One worker above all others: that worker. Both by the down channel's sign."""
    majority = {**VOTE, "aggregate": "majority_vote", "down": "identity"}
    assert torch.equal(trained(weighing(1, 1, 1)), trained(majority))
    assert torch.equal(trained({**VOTE, "aggregate": "weighted_mean"}), trained(majority))
    assert not torch.equal(trained(weighing(5, 1, 1)), trained(majority))
    served = {**weighing(5, 1, 1), "server": ["linf"], "down": "identity"}
    assert torch.equal(trained(weighing(5, 1, 1)), trained(served))


@pytest.mark.parametrize("choice", [{}, {"exchange": "alltoall", "server": "sharded"}, {"exchange": "allgather"}])
def test_weights_follow_their_workers_on_ranks(choice: dict[str, str]) -> None:
    method = spec(weighing(1, 2, 4))
    reference = loopback(method, 3, steps=4)
    same(reference, ranks(method, [2, 1] if not choice else [1, 1, 1], {**choice, "bucket_mb": 1e-3}, steps=4))
    assert loopback(spec(weighing(4, 2, 1)), 3, steps=4).digests != reference.digests


# The ball around the model


@pytest.mark.parametrize("norm", ["frobenius", "linf", "spectral", "column", "row"])
def test_the_model_stays_in_the_ball(norm: Any) -> None:
    sizes: dict[str, Callable[[Tensor], Tensor]] = {
        "frobenius": lambda x: x.norm(),
        "linf": lambda x: x.abs().max(),
        "spectral": lambda x: torch.linalg.matrix_norm(x, 2),
        "column": lambda x: x.norm(dim=0).max(),
        "row": lambda x: x.norm(dim=1).max(),
    }
    stage, size = Project(norm=norm, radius=0.75), sizes[norm]
    method = {"worker": ["momentum"], "up": "sign", "aggregate": "majority_vote"}
    for steps in (1, 4):
        w = trained({**method, "replica": ["step", stage]}, steps=steps)
        assert float(size(w)) == pytest.approx(0.75, rel=1e-5)
        assert float(size(trained(method, steps=steps))) > 1.0
    x = sample(9, 21, dtype=torch.float64)
    inside = x / size(x) * 0.7
    assert torch.equal(stage(inside, {}, context()), inside)
    y = stage(x, {}, context())
    assert torch.allclose(stage(y, {}, context()), y, atol=1e-12)
    for seed in range(20):  # the nearest point: <x - y, z - y> <= 0 for every z of the ball
        z = sample(9, 21, seed=seed + 1, dtype=torch.float64)
        assert float(((x - y) * (z / size(z) * 0.75 - y)).sum()) < 1e-9


def test_a_projection_stands_behind_the_step() -> None:
    with pytest.raises(signa.SpecError, match="'project' takes a model, but gets a gradient"):
        signa.Method(replica=["project", "step"])
    with pytest.raises(signa.SpecError, match="'project' cannot stand in 'worker'"):
        signa.Method(worker=["project"])


# Scalings


def test_match_adamw_and_semantic_by_hand() -> None:
    signs, polar = Signal("direction", "sign", SQRT_MN), Signal("direction", "dense", SQRT_MIN)
    for m, n in ((768, 3072), (3072, 768)):
        assert MatchAdamW()(polar, m, n) == pytest.approx(0.2 * math.sqrt(3072))
        assert MatchAdamW()(signs, m, n) == 0.2 and MatchAdamW(rms=0.1)(signs, m, n) == 0.1
        for s in (signs, polar):
            assert Semantic(transposed=False)(s, m, n) == pytest.approx(UnitGain()(s, m, n), rel=1e-15)
            assert Semantic()(s, m, n) == pytest.approx(UnitGain()(s, n, m), rel=1e-15)
    assert Semantic()(polar, 768, 3072) == 2 * UnitGain()(polar, 768, 3072)
    moved = trained({"worker": ["momentum", "spectral"], "scaling": "match_adamw"}, 1, 1, lr=0.1) - sample(9, 21)
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.01)


def test_weights_are_counted_before_the_first_step() -> None:
    group = {"match": "*", "lr": 0.1, "worker": "momentum", "aggregate": {"weighted_mean": {"weights": [1.0, 2.0]}}}
    spec = signa.Spec.load({"groups": [{"name": "all", **group}]})
    signa.build(spec, nn.Linear(3, 2), transport=signa.Loopback(2))
    with pytest.raises(signa.SpecError, match=r"groups.all.aggregate: .*2 weights for 3 workers"):
        signa.build(spec, nn.Linear(3, 2), transport=signa.Loopback(3))


def test_a_projection_needs_the_step_beside_it() -> None:
    with pytest.raises(signa.SpecError, match="cannot stand behind a step on the server"):
        signa.Method(worker="momentum", server="spectral step", down="ef21(scaled_sign)", replica="project")
