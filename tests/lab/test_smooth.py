"""Problems with known constants: gradients, the constants themselves, noise, runs and exponents."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

import signa
from signa.lab.batched import Batched
from signa.lab.datasets.find import find
from signa.lab.smooth import NORMS, Noise, NormName, Problem, Row, kappa, problems, run, slope
from signa.lab.smooth.base import oracle
from signa.lab.smooth.bounds import Setting, aligned, horizon_lr, right_votes, tracking, vote_margin

CONFIGS = [
    {"kind": "softmax", "rows": 5, "columns": 7, "samples": 40},
    {"kind": "softmax", "rows": 2, "columns": 7, "samples": 40, "weight": 0.5},
    {"kind": "factorisation"},
    {"kind": "log_cosh", "rows": 4, "columns": 6, "samples": 50},
    {"kind": "log_cosh", "rows": 4, "columns": 6, "samples": 50, "wave": 0.0},
    {"kind": "quadratic", "rows": 4, "columns": 6},
]
#: L over the change that the class's own corner reaches: the constants are no larger than this times the best ones.
SLACK = {"softmax": 4.0, "factorisation": 2.0, "log_cosh": 1.5, "quadratic": 2.2}
everywhere = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c["kind"])


def built(config: dict) -> Problem:
    return problems.parse(config).build()


def inside(problem: Problem, X: Tensor) -> Tensor:
    """Onto the ball where the constants hold."""
    size = torch.linalg.matrix_norm(X, ord=2)[..., None, None]
    return X if problem.radius == math.inf else X * (problem.radius / size).clamp(max=1)


def ratio(problem: Problem, X: Tensor, Y: Tensor, norm: NormName) -> Tensor:
    """The change of the gradient over the distance, in the norm's pair."""
    ball = oracle(norm)
    return ball.dual(problem.gradient(X) - problem.gradient(Y)) / ball.norm(X - Y)


@everywhere
def test_the_gradient_is_the_losss(config: dict) -> None:
    problem = built(config)
    X = problem.start(3).requires_grad_()
    (found,) = torch.autograd.grad(problem.loss(X), X)
    assert torch.allclose(found, problem.gradient(X.detach()), atol=1e-12)
    D, e = oracle("frobenius").direction(problem.start(4)), 1e-5
    slope_of = (problem.loss(X.detach() + e * D) - problem.loss(X.detach() - e * D)) / (2 * e)
    assert float(slope_of) == pytest.approx(float((found * D).sum()), abs=1e-8)


@everywhere
def test_leading_axes_are_batch_and_the_bound_is_below(config: dict) -> None:
    problem = built(config)
    X = torch.stack([problem.start(s) for s in range(6)]).view(2, 3, problem.m, problem.n)
    assert problem.loss(X).shape == (2, 3) and bool((problem.loss(X) >= problem.lower).all())
    assert torch.allclose(problem.gradient(X)[1, 2], problem.gradient(problem.start(5)))
    assert torch.equal(problem.start(5), built(config).start(5)) and not torch.equal(problem.start(5), problem.start(4))


@everywhere
@pytest.mark.parametrize("norm", NORMS)
def test_no_pair_exceeds_the_constant_and_one_comes_near(config: dict, norm: NormName) -> None:
    problem, L = built(config), built(config).constant(norm)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 0.1, 1.0, 10.0):
        X, Y = (scale * torch.randn(40, problem.m, problem.n, generator=generator, dtype=torch.float64) for _ in "XY")
        X, Y = inside(problem, X), inside(problem, X + 0.1 * Y)
        assert float(ratio(problem, X, Y, norm).max()) <= L * (1 + 1e-9)
    X, D = problem.corner(norm)
    assert float(oracle(norm).norm(D)) == pytest.approx(1, abs=1e-9)
    found = float(ratio(problem, X + 1e-4 * D, X - 1e-4 * D, norm))
    ball = oracle(norm)
    for _ in range(20):  # uphill from the corner: the direction that the change of the gradient points in
        change = problem.gradient(X + 1e-4 * D) - problem.gradient(X - 1e-4 * D)
        D = ball.direction(change)
        found = max(found, float(ratio(problem, X + 1e-4 * D, X - 1e-4 * D, norm)))
    assert L / SLACK[config["kind"]] <= found <= L * (1 + 1e-6)


def test_kappa_is_the_largest_ratio_and_reached() -> None:
    generator = torch.Generator().manual_seed(0)
    for norm in NORMS:
        ball = oracle(norm)
        G = torch.randn(50, 3, 5, generator=generator, dtype=torch.float64)
        size = torch.linalg.matrix_norm(G)
        assert bool((ball.dual(G) <= kappa(norm, 3, 5) * size + 1e-9).all()) and bool(
            (ball.dual(G) >= size - 1e-9).all()
        )
        assert bool((ball.norm(G) <= size + 1e-9).all())
        D = ball.direction(G)
        assert torch.allclose(torch.linalg.matrix_norm(D), torch.tensor(kappa(norm, 3, 5), dtype=torch.float64))


def test_the_non_convex_ones_are_not_convex() -> None:
    for config, at in (
        ({"kind": "softmax", "samples": 4, "weight": 5.0, "rows": 2, "columns": 2}, 1.0),
        ({"kind": "log_cosh", "samples": 4, "rows": 2, "columns": 2}, 9.0),
        ({"kind": "log_cosh", "samples": 1, "rows": 2, "columns": 2, "wave": 0.002}, 9.0),  # any wave will do
        ({"kind": "factorisation", "rows": 3, "columns": 1}, 0.5),
    ):
        problem = built(config)
        X = at * torch.randn(400, problem.m, problem.n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        D = torch.randn(400, problem.m, problem.n, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        bend = problem.loss(X + 1e-3 * D) + problem.loss(X - 1e-3 * D) - 2 * problem.loss(X)
        assert float(bend.min()) < 0 < float(bend.max()), config


@pytest.mark.skipif(not find("mnist"), reason="MNIST is not here")
def test_mnist_gives_the_real_features() -> None:
    problem = built({"kind": "softmax", "data": "mnist", "samples": 32})
    assert (problem.m, problem.n) == (10, 49)
    assert 0 <= float(problem.A.min()) < float(problem.A.max()) <= 1  # type: ignore[attr-defined]


# Noise and runs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["gaussian", "student"])
def test_noise_has_its_variance_and_is_the_workers_own(law: str) -> None:
    noise = Noise(law=law, sigma=2.0, freedom=6.0)
    few, many = (noise.source(seeds=[0, 1], workers=w, m=20, n=30) for w in (2, 3))
    drawn = [(few.draw(t), many.draw(t)) for t in range(130)]
    assert all(torch.equal(a, b[:2]) for a, b in drawn)
    values = torch.stack([b for _, b in drawn])
    assert float(values.std()) == pytest.approx(2.0, rel=0.02) and abs(float(values.mean())) < 0.02
    assert not torch.equal(values[0], values[64]) and not torch.equal(values[:, 0], values[:, 1])
    kurtosis = float((values / 2).pow(4).mean())
    assert kurtosis == pytest.approx(3 if law == "gaussian" else 6, rel=0.25)


def test_noise_without_a_variance_is_refused() -> None:
    with pytest.raises(signa.SpecError, match="no variance"):
        Noise(law="student", freedom=2.0)


def test_rows_do_not_see_each_other() -> None:
    problem, noise = built(CONFIGS[3]), Noise(sigma=0.1)
    rows = [Row(0.1, 30, 1), Row(0.2, 50, 0), Row(0.05, 70, 2)]
    method = signa.Method(worker="momentum", up="ef21(scaled_sign)", server=["linf", "step"], down="ef21(scaled_sign)")
    together = run(method, problem, rows, norm="linf", workers=2, noise=noise)
    for row, outcome in zip(rows, together, strict=True):
        (alone,) = run(method, problem, [row], norm="linf", workers=2, noise=noise)
        assert alone.mean == pytest.approx(outcome.mean, rel=1e-9) and alone.last == pytest.approx(
            outcome.last, rel=1e-9
        )
        assert alone.least <= alone.mean


def test_every_seed_has_coins_of_its_own() -> None:
    """Two workers that disagree everywhere: the coins of the tie are the row's name's, in a stack as alone."""
    method, x0 = signa.Method(up="sign", aggregate="majority_vote"), torch.zeros(3, 4, 5)
    g = torch.ones(3, 4, 5)
    stack = Batched(method, x0, workers=2, name=["a", "b", "a"])
    alone = {name: Batched(method, x0[:1], workers=2, name=name) for name in "ab"}
    for rows in ([0, 1, 2], [1, 2]):
        stack.step(torch.stack([g, -g])[:, rows], 1.0)
        for runs in alone.values():
            runs.step(torch.stack([g, -g])[:, :1], 1.0)
        names = ["aba"[row] for row in rows]
        assert all(torch.equal(stack.x[i], alone[name].x[0]) for i, name in enumerate(names))
        stack.keep(torch.tensor([False, True, True]) if len(rows) == 3 else torch.tensor([0, 1]))
    assert not torch.equal(alone["a"].x, alone["b"].x)


class Corner(Problem):
    """f sees one entry, and starts alike for every seed: only the coins of the other entries tell two runs apart."""

    m, n = 3, 4

    def loss(self, X: Tensor) -> Tensor:
        return (X.flatten(-2) * 2.0 ** torch.arange(12)).sum(-1)  # read back, not descended

    def gradient(self, X: Tensor) -> Tensor:
        g = torch.zeros_like(X)
        g[..., 0, 0] = 1
        return g

    def constant(self, norm: NormName) -> float:
        return 1.0

    def corner(self, norm: NormName) -> tuple[Tensor, Tensor]:
        return torch.zeros(3, 4), torch.zeros(3, 4)

    def start(self, seed: int) -> Tensor:
        return torch.zeros(3, 4, dtype=torch.float64)


def test_rows_of_one_seed_share_coins_and_others_do_not() -> None:
    rows = [Row(1.0, 1, 0), Row(1.0, 1, 0), Row(1.0, 1, 1)]
    one, same, other = (outcome.last for outcome in run(signa.Method(up="sign"), Corner(), rows, norm="linf"))
    assert one == same != other


def test_a_run_is_the_optimizers() -> None:
    """Batched rows against the optimizer on one parameter, and the measure against its own definition."""
    problem = built(CONFIGS[5])
    method = signa.Method(server="frobenius")
    X = torch.nn.Parameter(problem.start(0))
    opt = signa.build({"groups": [{"method": method, "lr": 0.1, "scaling": "none"}]}, [("X", X)])
    sizes = []
    for _ in range(20):
        X.grad = problem.gradient(X.detach())
        sizes.append(float(X.grad.norm()))
        opt.step()
    (outcome,) = run(method, problem, [Row(0.1, 20)], norm="frobenius")
    assert outcome.mean == pytest.approx(sum(sizes) / 20) and outcome.least == pytest.approx(min(sizes))
    assert outcome.last == pytest.approx(float(problem.loss(X.detach()))) and outcome.reach == 0
    (other,) = run(method, problem, [Row(0.1, 20)], norm="frobenius", measure=lambda g: g.abs().sum((-2, -1)))
    assert other.mean > outcome.mean
    (ball,) = run(method, built(CONFIGS[2]), [Row(0.1, 5)], norm="frobenius")
    assert ball.reach > 0


# Bounds --------------------------------------------------------------------------------------------------------------

ARMS = [
    ({"server": ["frobenius"]}, "frobenius", {}),
    ({"server": [{"kind": "spectral", "schedule": "exact"}]}, "spectral", {"beta": 0.8}),
    ({"server": ["linf"]}, "linf", {"beta": 0.8, "nu": 0.9}),
    ({"worker": ["row"]}, "row", {"beta": 0.8, "alone": True}),
    ({"up": "sign", "aggregate": "majority_vote"}, "linf", {"beta": 0.8, "alone": True, "factor": 3.0}),
    ({"up": "ef21(scaled_sign)", "server": ["frobenius"]}, "frobenius", {"beta": 0.8, "up": 1 / 24}),
    ({"up": "ef21(scaled_sign)", "server": ["linf"]}, "linf", {"beta": 0.8, "nu": 0.5, "up": 1 / 24}),
    ({"up": "ef21(top_k)", "server": ["column", "step"], "down": "ef21(scaled_sign)"}, "column",
     {"beta": 0.8, "up": 1 / 24, "down": 1 / 24}),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "norm", "more"), ARMS, ids=lambda x: str(x)[:40])
def test_runs_stay_below_their_bounds(parts: dict, norm: NormName, more: dict) -> None:
    problem, sigma, workers = built(CONFIGS[3]), 0.02, 3
    beta, nu = more.get("beta", 0.0), more.get("nu", 1.0)
    momentum = [{"momentum": {"beta": beta, "nu": nu}}] if beta else []
    method = signa.Method(**{**parts, "worker": [*momentum, *parts.get("worker", [])]})
    g = problem.gradient(problem.start(0))
    for lr in (0.01, 0.1, 1.0):
        (outcome,) = run(method, problem, [Row(lr, 100)], norm=norm, workers=workers, noise=Noise(sigma=sigma))
        setting = Setting(
            gap=float(problem.loss(problem.start(0))), L=problem.constant(norm), kappa=kappa(norm, 4, 6), lr=lr,
            steps=100, first=float(oracle(norm).dual(g)), first_frobenius=float(g.norm()), sigma=sigma * math.sqrt(24),
            workers=workers, **more,
        )  # fmt: skip
        assert outcome.mean <= tracking(setting)


def test_every_argument_of_the_bound_counts() -> None:
    base = {"gap": 1, "L": 1, "kappa": 2, "first": 1, "first_frobenius": 1, "lr": 0.1, "steps": 50, "beta": 0.5,
            "sigma": 1.0, "workers": 4, "up": 0.5, "down": 0.5}  # fmt: skip
    changes = {"gap": 2, "L": 2, "kappa": 3, "first": 2, "first_frobenius": 2, "lr": 0.2, "steps": 60, "beta": 0.6,
               "nu": 0.5, "sigma": 2.0, "workers": 5, "alone": True, "up": 0.4, "down": 0.4, "factor": 4.0}  # fmt: skip
    own = tracking(Setting(**base))
    assert all(tracking(Setting(**{**base, key: value})) != own for key, value in changes.items())
    assert horizon_lr(2.0, 1.0, 400) == horizon_lr(2.0, 4.0, 100) == horizon_lr(0.5, 1.0, 100) == 0.1


def test_a_nu_of_0_is_no_momentum_and_a_nu_between_has_a_floor() -> None:
    """Lemma 4(a): what nu lets through undamped is 4 kappa sigma r / (1 - r) that neither steps nor workers lower."""
    base = {"gap": 1, "L": 1, "kappa": 2, "first": 1, "first_frobenius": 1, "lr": 1e-6, "steps": 10**15,
            "sigma": 1.0, "workers": 10**12, "up": 0.75}  # fmt: skip
    assert tracking(Setting(**base, beta=0.9, nu=0.0)) == pytest.approx(tracking(Setting(**base)), rel=1e-12)
    for nu in (0.0, 0.5, 0.75):
        floor = (1 - nu) * 4 * 2 * 1.0 * 0.5 / 0.5
        assert tracking(Setting(**base, beta=1 - 1e-4, nu=nu)) == pytest.approx(floor, rel=0.05)
    assert tracking(Setting(**base, beta=1 - 1e-4)) < 0.05


def test_ef21s_noise_does_not_average() -> None:
    """Top-1 of 2 on noise of three atoms, no momentum: more is left than 2 kappa sigma / sqrt(N), as Theorem D says."""
    atoms, N, steps = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-2.0, -1.0]], dtype=torch.float64), 6400, 60
    sigma = float(atoms.square().sum(1).mean().sqrt())
    up = {"feedback": "ef21", "compressor": {"top_k": {"fraction": 0.5}}}
    runs = Batched(signa.Method(up=up, server=["frobenius"]), torch.zeros(1, 1, 2, dtype=torch.float64), workers=N)
    generator, sizes = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        sizes.append(float(runs.x.norm()))  # f = ||X||^2 / 2
        runs.step(runs.x + atoms[torch.randint(0, 3, (N,), generator=generator)].view(N, 1, 1, 2), 0.01)
    assert sum(sizes[30:]) / 30 > 2 * sigma / math.sqrt(N)
    bound = Setting(
        gap=0, L=1, kappa=1, first=0, first_frobenius=0, lr=0.01, steps=steps, sigma=sigma, workers=N, up=0.5
    )
    assert sum(sizes) / steps < tracking(bound)


def expected(method: signa.Method, g: Tensor, sigma: float, workers: int, draws: int = 4000) -> float:
    """E<g, d> under Gaussian noise."""
    noise = torch.randn(workers, draws, *g.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    runs = Batched(method, torch.zeros(draws, *g.shape, dtype=torch.float64), workers=workers)
    runs.step(g + sigma * noise, 1.0)
    return float((g * runs.direction).sum((-2, -1)).mean())


def test_a_weighted_vote_is_below_phi_and_above_its_own_bound() -> None:
    """Theorem C counts N voices; of weights Lemma 3 alone is true, with the factor 4. So are ties that go one way."""
    g = torch.tensor([[-0.1, -0.2, -0.05]], dtype=torch.float64)
    heavy = {"weighted_mean": {"weights": [100.0, *[1.0] * 8]}}
    phi = float(aligned(g, 1.0, 9))
    assert expected(signa.Method(up="sign", aggregate="majority_vote"), g, 1.0, 9) > phi
    assert expected(signa.Method(up="sign", aggregate=heavy, down="sign"), g, 1.0, 9) < phi
    one_way = signa.Method(up="sign", down={"sign": {"zeros": "positive"}})
    assert expected(one_way, g, 1.0, 2) < 0 < float(aligned(g, 1.0, 2))
    shares = torch.tensor([5.0, 3.0, 1.0, 1.0], dtype=torch.float64) / 10
    vote = signa.Method(
        up="sign", aggregate={"weighted_mean": {"weights": [5, 3, 1, 1]}}, down={"sign": {"zeros": "keep"}}
    )
    u = torch.randn(4, 500, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    runs, target = Batched(vote, torch.zeros_like(u[0]), workers=4), u.mean(0)
    runs.step(u, 1.0)
    off = torch.einsum("w,wb->b", shares, (u - target).abs().sum((-2, -1)))
    left = (target * runs.direction).sum((-2, -1)) - target.abs().sum((-2, -1)) + 4 * off
    assert float(left.min()) >= 0


def test_the_votes_alignment_is_below_what_gaussian_votes_do() -> None:
    """Theorem C's lower bound against the chance that Gaussian votes are right, which is known."""
    S = torch.logspace(-2, 1, 50, dtype=torch.float64)
    chance = torch.special.ndtr(S)
    assert bool((right_votes(S) <= 2 * chance - 1 + 1e-12).all())
    for N in (1, 2, 3, 9, 27):
        margin = torch.linspace(0, 1, 20, dtype=torch.float64)
        assert bool((vote_margin(margin, N).diff() > -1e-12).all())
        wrong = S * (1 - vote_margin(right_votes(S), N)) / 2
        assert N % 2 == 0 or float(wrong.max()) <= 1 / math.sqrt(N)  # |g| P(vote wrong) <= sigma / sqrt(N)
    g = torch.tensor([[1.0, -0.1]], dtype=torch.float64)
    assert float(aligned(g, 0.5, 3)) < float(aligned(g, 0.5, 9)) < float(g.abs().sum())


def test_slopes() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    generator = torch.Generator().manual_seed(0)
    y = [[3 * v**-0.5 * (1 + 0.05 * float(torch.randn((), generator=generator))) for _ in range(8)] for v in x]
    fit = slope(x, y)
    assert fit.low < fit.value < fit.high and fit.value == pytest.approx(-0.5, abs=0.05)
    assert fit == slope(x, y) and str(fit).startswith("-0.")


# The committed results ---------------------------------------------------------------------------------------------


def test_the_committed_tables_are_the_results() -> None:
    """examples/theory: the tables follow from the JSON files, and every own-step run is below its bound."""
    folder = Path(__file__).parents[2] / "examples" / "theory"
    rates = runpy.run_path(str(folder / "rates.py"), run_name="rates")
    page = (folder / "README.md").read_text(encoding="utf-8")
    for name, table in rates["TABLES"].items():
        found = json.loads((folder / "results" / f"{name}.json").read_text())
        if name == "horizon":
            assert all(list(c["mean"]) == [str(f) for f in rates["FACTORS"][c["theorem"]]] for c in found.values())
        assert list(found) == ["/".join(cell) for cell in rates["SUITES"][name][1]] or name == "noise"
        shown = page.partition(f"<!-- table: {name} -->\n")[2].partition("\n<!-- end -->")[0]
        assert shown == table(found), f"python examples/theory/rates.py --only {name} rewrites the table"
    assert [rates["dagger"](won, [1, 2, 4]) for won in ([2, 2], [2, 1], [4, 2])] == ["", " †", " †"]
    assert page.count(" †") == 2  # the note, and the one that no shorter step than the least could better
    covered = 0
    for key, cell in json.loads((folder / "results" / "horizon.json").read_text()).items():
        for own, bounds in zip(cell["mean"]["1.0"], cell["bound"], strict=True):
            assert cell["inside"] and all(a <= b for a, b in zip(own, bounds, strict=bool(bounds))), key
            covered += len(bounds)
    assert covered == 4 * 7 * 5 * 5  # problems, arms with a theorem, horizons, seeds
