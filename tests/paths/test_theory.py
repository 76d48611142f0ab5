"""The constants of Theorems 1 to 4, through the methods; and convergence where no theorem forbids it."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import signa
from signa import presets
from signa.lab.theory import (
    EXACT,
    Universal,
    climbs,
    muonsign_descent,
    muonusign_descent,
    signmuon_descent,
    small,
    theorem1,
    theorem2,
    walk,
    with_momentum,
    with_oracle,
)
from signa.lab.theory.linear import M_BOUND, SIGMA_BOUND
from signa.lab.theory.universal import DRIFT, GAMMA, ITERATES, MOMENTA, RATE


def exactly(name: str, *, beta: float = 0.0, nesterov: bool = False) -> signa.Method:
    """A preset with exact polar factors and another momentum."""
    return with_oracle(with_momentum(signa.method(name), beta, nesterov=nesterov), EXACT)


ROOT = math.sqrt(17)
#: <G, d> of the first step, to 1e-9 (three decimals where only those are published).
CONSTANTS = [
    ("signmuon", theorem1(1000), -42468 / 103, 1e-9),
    ("signmuon", theorem1(100), -3768 / 103, 1e-9),
    ("signmuon", small(), -21.0, 1e-9),
    ("muon", small(), math.sqrt(787) + 2, 1e-9),
    ("muonusign", theorem1(1000), 881.830, 6e-4),
    ("muonusign_1bit", theorem1(1000), 881.830, 6e-4),
    ("muonsign", theorem1(1000), 3527.320, 6e-4),
    ("signsgd", theorem1(1000), 3527.320, 6e-4),
    ("muon", theorem1(1000), 1004.0, 1e-9),
    ("muon_worker", theorem1(1000), 1004.0, 1e-9),
    ("muonusign", theorem2(100), 6 - 82 / ROOT, 1e-9),
    ("muonusign_1bit", theorem2(100), 6 - 82 / ROOT, 1e-9),
    ("muonusign", theorem2(500), 6 + ROOT - 499 / ROOT, 1e-9),
    ("muonsign", theorem2(100), -76.0, 1e-9),
    ("muonsign", theorem2(500), -476.0, 1e-9),
    ("signsgd", theorem2(100), 124.0, 1e-9),
    ("muon", theorem2(100), 108.0, 1e-9),
]


@pytest.mark.parametrize(("name", "G", "expected", "within"), CONSTANTS, ids=lambda x: x if isinstance(x, str) else "")
def test_descent_of_a_step(name: str, G: Tensor, expected: float, within: float) -> None:
    path = walk(exactly(name), lambda X: G.clone(), tuple(G.shape), 3)
    for before, after in itertools.pairwise(path):
        assert float((G * (before - after)).sum()) == pytest.approx(expected, abs=within, rel=1e-12)


def test_signmuon_on_theorem_2_is_no_constant() -> None:
    """polar(G) has 8 zeros there, whose computed signs are rounding noise: 116 +- 8 (published: 118)."""
    (before, after) = walk(exactly("signmuon"), lambda X: theorem2(100), (5, 5), 1)
    assert float((theorem2(100) * (before - after)).sum()) in [108 + 2 * i for i in range(9)]


def test_the_closed_forms() -> None:
    """Each formula against the method on its instance, beside eps = 1 too; and the bounds are where it is 0."""
    for sigma in (7.0, 50.0, 333.0):
        assert descent("signmuon", theorem1(sigma)) == pytest.approx(signmuon_descent(sigma), abs=1e-9)
    for M, eps in ((30.0, 1.0), (77.0, 1.0), (77.0, 0.5), (20.0, 3.0)):
        assert descent("muonusign", theorem2(M, eps)) == pytest.approx(muonusign_descent(M, eps), abs=1e-9)
        assert descent("muonsign", theorem2(M, eps)) == pytest.approx(muonsign_descent(M, eps), abs=1e-9)
    assert signmuon_descent(SIGMA_BOUND) == pytest.approx(0, abs=1e-9)
    assert muonusign_descent(M_BOUND) == pytest.approx(0, abs=1e-9)


def descent(name: str, G: Tensor) -> float:
    before, after = walk(exactly(name), lambda X: G.clone(), tuple(G.shape), 1)
    return float((G * (before - after)).sum())


#: <G, d> of the first step with the oracle as implemented: its fields, at sigma = 1000, at 100, and polar(S)[3, 1].
ORACLES = [
    ({"schedule": "jordan5", "dtype": "float32"}, 3470.951, -36.583, -0.0503),
    ({"schedule": "jordan5", "steps": 6, "dtype": "float32"}, -412.311, -36.583, -0.3863),
    ({"schedule": "jordan5", "steps": 20, "dtype": "float32"}, -412.311, -36.583, -0.4239),
    ({"schedule": "jordan5", "dtype": "bfloat16"}, 3470.951, -36.583, None),
]


@pytest.mark.parametrize(("oracle", "large", "usual", "entry"), ORACLES, ids=lambda x: x if isinstance(x, str) else "")
def test_newton_schulz_can_undo_theorem_1(oracle: dict[str, Any], large: float, usual: float, entry: float) -> None:
    method = with_oracle(with_momentum(signa.method("signmuon"), 0.0), oracle)
    for sigma, expected in ((1000.0, large), (100.0, usual)):
        G = theorem1(sigma)
        _, X = walk(method, lambda X, G=G: G.clone(), (4, 4), 1)
        assert -float((G * X).sum()) == pytest.approx(expected, abs=6e-4)
    if entry is not None:
        _, X = walk(with_oracle(signa.method("muonusign"), oracle), lambda X: theorem2(100), (5, 5), 1)
        assert -float(X[3, 1]) == pytest.approx(entry, abs=6e-5)


@pytest.mark.parametrize(("name", "ascends"), [("signmuon", True), ("muonusign", False), ("muonsign", False)])
@pytest.mark.parametrize("workers", [1, 3])
def test_ascent_is_the_methods_and_any_number_of_workers(name: str, ascends: bool, workers: int) -> None:
    X = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
    group = {"method": exactly(name), "lr": 1e-3, "scaling": "none"}
    opt = signa.build({"groups": [group]}, [("X", X)], transport=signa.Loopback(workers))
    G = theorem1(1000)
    for _ in range(59):
        for j in range(workers):
            with opt.worker(j):
                X.grad = G.clone()
        opt.step()
    f = float((G * X.detach()).sum())
    assert (f > 0) == ascends
    if name == "signmuon":
        assert f == pytest.approx(59e-3 * 42468 / 103, abs=1e-9) and f == pytest.approx(24.326, abs=2e-3)


@pytest.mark.parametrize(
    ("G", "lr", "means"),
    [
        (theorem1(1000), 1e-3, {"ef21signmuon": 970.241, "ef21muonusign": 1000.530, "ef21muonsign": 1000.530}),
        (theorem2(100), 5e-3, {"ef21signmuon": 100.410, "ef21muonusign": 103.439, "ef21muonsign": 103.439}),
    ],
    ids=["theorem1", "theorem2"],
)
def test_error_feedback_descends_on_the_linear_problems(G: Tensor, lr: float, means: dict[str, float]) -> None:
    for name, mean in means.items():
        path = walk(exactly(name), lambda X: G.clone(), tuple(G.shape), 60, lr=lr)
        # Theorem 2's polar(G) has zeros, whose noise decides a few signs of EF21-SignMuon's compressor.
        within = 0.1 if name == "ef21signmuon" and len(G) == 5 else 6e-4
        assert float((G * (path[0] - path[-1])).sum()) / (60 * lr) == pytest.approx(mean, abs=within), name


def test_the_matrices_of_the_theorems_are_what_they_say() -> None:
    G = theorem1(1000)
    assert torch.allclose(torch.linalg.svdvals(G), torch.tensor([1001.0, 1, 1, 1]).double(), atol=1e-9)
    assert torch.equal(theorem2(100).sign(), theorem2(1)) and torch.equal(theorem2(9, 0.5).sign(), theorem2(1))
    S = theorem2(1)
    values = torch.tensor([(3 + ROOT) / 2, 2, 2, 2, (ROOT - 3) / 2], dtype=torch.float64)
    assert torch.allclose(torch.linalg.svdvals(S), values, atol=1e-12)
    D = signa.lmos.get("spectral")(schedule="exact").direction(S)
    assert float((S * D).sum()) == pytest.approx(6 + ROOT, abs=1e-9)
    wrong = (S * D) < 0
    assert wrong.nonzero().tolist() == [[3, 1]] and float(D[3, 1]) == pytest.approx(-1 / ROOT, abs=1e-9)


# Theorem 4 -----------------------------------------------------------------------------------------------------------

CASES = [(mu, variant) for mu in MOMENTA for variant in ("standard", "nesterov")]


@pytest.mark.parametrize(("mu", "variant"), CASES)
def test_ef21_signmuon_climbs_at_the_rate_of_theorem_4(mu: float, variant: str) -> None:
    problem = Universal(mu, variant)
    method = exactly("ef21signmuon", beta=mu, nesterov=variant == "nesterov")
    steps = 45
    path = walk(method, problem.grad, (2, 2), steps)
    expected = [list(map(float, row)) for row in ITERATES]
    while len(expected) <= steps:
        expected.append([x + float(d) for x, d in zip(expected[-2], DRIFT)])
    table = torch.tensor(expected, dtype=torch.float64).view(-1, 2, 2)
    assert torch.allclose(torch.stack(path), table, atol=1e-9, rtol=0)
    values = [problem.f(X) for X in path]
    for t in range(3, steps - 1):
        assert values[t + 2] - values[t] == pytest.approx(2 * float(RATE), abs=1e-9)
    gap = problem.grad(path[6]) - problem.grad(path[3])
    assert float((gap * (path[6] - path[3])).sum()) == pytest.approx(-9 * problem.amplitude / 50, rel=1e-9)


def test_the_objective_of_theorem_4() -> None:
    """Published values, and a gradient that is the objective's (central differences)."""
    f = Universal(0.0, "standard").f
    published = (0.3013661977, -0.0619671356, 0.4471995311, 0.2692828644, 0.6513661977)
    for row, value in zip(ITERATES, published):
        X = torch.tensor(list(map(float, row)), dtype=torch.float64).view(2, 2)
        assert f(X) == pytest.approx(value, abs=1e-9)
    amplitudes = {
        "standard": (1, 5 / 3, 3, 19, 39, 199),
        "nesterov": (1, 10 / 9, 3 / 2, 95 / 14, 13.448, 66.78),
    }
    for variant, expected in amplitudes.items():
        found = [Universal(mu, variant).amplitude for mu in MOMENTA]
        assert found == pytest.approx(list(expected), rel=1e-4)
    generator, problem, checked = torch.Generator().manual_seed(0), Universal(0.5, "nesterov"), 0
    for centre in (*problem.centres, torch.full((2, 2), 1.5, dtype=torch.float64)):
        for _ in range(10):
            W = centre + 0.012 * torch.randn(2, 2, generator=generator, dtype=torch.float64)
            for entry in range(4):
                step = torch.zeros(4, dtype=torch.float64)
                step[entry] = 1e-7
                slope = (problem.f(W + step.view(2, 2)) - problem.f(W - step.view(2, 2))) / 2e-7
                assert slope == pytest.approx(float(problem.grad(W).flatten()[entry]), abs=2e-5 * (1 + abs(slope)))
                checked += 1
    assert checked == 160 and GAMMA == 7 / 12


@pytest.mark.parametrize("name", [name for name in presets.names() if name not in ("adamw", "sgd")])
def test_only_ef21_signmuon_climbs_on_theorem_4(name: str) -> None:
    problem = Universal(0.0, "standard")
    values = [problem.f(X) for X in walk(exactly(name), problem.grad, (2, 2), 60)]
    assert climbs(values) == (name == "ef21signmuon")
    if name == "ef21signmuon":
        assert values[59] == pytest.approx(5.986, abs=6e-4)
    else:
        assert values[-1] < 1.0


# Convergence ---------------------------------------------------------------------------------------------------------

RATES = {"ef21muonsign": 0.03, "sgd": 0.02, "ef_signsgd": 0.2, "doublesqueeze": 0.1}


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_converges_on_a_quadratic(name: str) -> None:
    """f_j(X) = 1/2 ||X - C_j||^2, whose minimum is the mean of the C_j; the learning rate falls linearly.

    A vote, and a mean of signs or polar factors, has its fixed point elsewhere if the workers disagree: there the C_j
    are equal. No theorem forbids any preset to converge here (Theorem 4 needs its own objective).
    """
    method, workers, steps = signa.method(name), 3, 700 if name.startswith("ef21") else 300
    disagree = method.before("up").role == "gradient" and method.up.compressor.kind != "sign"
    generator = torch.Generator().manual_seed(1)
    C = torch.randn(12, 8, generator=generator)
    own = [0.5 * disagree * torch.randn(12, 8, generator=generator) for _ in range(workers)]
    mean = sum(own) / workers
    X = nn.Parameter(torch.zeros(12, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", signa.Advice)
        group = {"method": name, "lr": RATES.get(name, 0.1)}
        opt = signa.build({"groups": [group]}, [("X", X)], transport=signa.Loopback(workers))
    schedule = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: 1 - t / steps)
    gaps = []
    for _ in range(steps):
        for j in range(workers):
            with opt.worker(j):
                X.grad = X.detach() - (C + own[j] - mean)
        opt.step()
        schedule.step()
        opt.zero_grad()
        gaps.append(float(torch.linalg.matrix_norm(X.detach() - C) / torch.linalg.matrix_norm(C)))
    assert gaps[-1] < 0.05 < 0.85 < gaps[0], gaps[::50]
