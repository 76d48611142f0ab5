"""The synthetic benchmark: published problems, a tuner that is the whole grid, studies whose answers are known."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from signa.errors import SpecError
from signa.lab.synthetic import METHODS, STUDIES, Best, Grid, Instances, Runs, Store, Trial, published
from signa.lab.synthetic.descent import closed_forms
from signa.lab.synthetic.problem import PUBLISHED
from signa.lab.synthetic.runs import FACTORS
from signa.lab.synthetic.tuning import fewest, fly, geomean, lowest, on_edge, slope, walk

EXAMPLE = Path(__file__).parents[2] / "examples" / "synthetic"
TINY = Instances(rows=8, columns=6, seeds=(1, 2))
SIX = 10 ** (1 / 6)


# The problems --------------------------------------------------------------------------------------------------------


def test_a_gpu_drew_the_published_instances() -> None:
    """L and sigma of the three seeds to all published digits; the matrices up to the rounding of a QR."""
    drawn, stored = Instances().build(), published()
    assert drawn.L.tolist() == pytest.approx([0.9905046224594116, 0.9878029227256775, 0.9963338971138], rel=1e-12)
    sigma = [2.7133657567901537e-05, 7.890402775956318e-05, 4.650573100661859e-05]
    assert drawn.sigma.tolist() == pytest.approx(sigma, rel=1e-12)
    for name in ("A", "B", "x0"):
        torch.testing.assert_close(getattr(drawn, name), getattr(stored, name), rtol=0, atol=2e-6)
    value, gradient = stored.look(stored.x0)
    assert geomean(value.numpy()) == pytest.approx(12.793715, rel=1e-6)
    assert geomean(torch.linalg.vector_norm(gradient, dim=(1, 2)).numpy()) == pytest.approx(3.4487283, rel=1e-6)
    with np.load(PUBLISHED) as raw:
        assert np.array_equal(raw["A/1338"], stored.A[1].numpy())


def test_the_generator_of_a_cpu_draws_others() -> None:
    sigma = Instances(generator="mersenne").build().sigma.tolist()
    assert sigma == pytest.approx([2.385e-4, 2.005e-6, 1.413e-5], rel=1e-3)


@pytest.mark.parametrize("basis", ["haar", "diagonal"])
def test_constants_are_those_of_the_hessian(basis: str) -> None:
    """L and sigma against the eigenvalues of the Kronecker product; the gradient against autograd."""
    problem = Instances(rows=5, columns=4, seeds=(3,), basis=basis, shift=0.7).build()
    eigenvalues = torch.linalg.eigvalsh(torch.kron(problem.A[0].double(), problem.B[0].double()))
    assert float(problem.L[0]) == pytest.approx(float(eigenvalues[-1]), rel=1e-5)
    assert float(problem.sigma[0]) == pytest.approx(float(eigenvalues[0]), rel=1e-3)
    assert bool((problem.A[0] == problem.A[0].diag().diag()).all()) == (basis == "diagonal")
    x = problem.x0.clone().requires_grad_()
    (0.5 * ((x - problem.C) * (problem.A @ (x - problem.C) @ problem.B)).sum()).backward()
    torch.testing.assert_close(x.grad, problem.gradient(problem.x0), rtol=1e-4, atol=1e-6)
    assert float(problem.C.std()) == pytest.approx(0.7, rel=0.5)
    assert float(problem.look(problem.C)[0]) == 0.0


def test_a_logarithmic_spectrum_has_its_kappa() -> None:
    problem = Instances(rows=6, columns=5, spectrum="logspace", kappa=1e4).build()
    assert problem.L.tolist() == pytest.approx([1.0] * 3)
    assert (problem.L / problem.sigma).tolist() == pytest.approx([1e4] * 3, rel=1e-4)
    assert not torch.equal(problem.A[0], problem.A[1])


def test_the_start_and_the_seeds_count() -> None:
    one = TINY.build()
    other = TINY.model_copy(update={"start": 7}).build()
    assert torch.equal(one.A, other.A) and not torch.equal(one.x0, other.x0)
    assert not torch.equal(one.A, TINY.model_copy(update={"seeds": (1, 3)}).build().A)
    with pytest.raises(SpecError, match=r"kappa 0\.5 is below 1"):
        Instances(kappa=0.5)
    with pytest.raises(SpecError, match="no seeds"):
        Instances(seeds=())


# The published winners -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, lr, beta, published_iterations",
    [("muon", 1e-2, 0.5, 266.67), ("sgd", 1e-3 * SIX**20, 0.5, 66.0), ("signmuon", 1e-3, 0.0, 363.67)],
)
def test_published_winners_take_as_long_here(name: str, lr: float, beta: float, published_iterations: float) -> None:
    """Within 5 % of the published iterations to F <= 1e-3, with Newton-Schulz in float32."""
    steps = 500
    runs = Runs(METHODS[name].method(beta, "float32"), published(), [Trial(lr, beta)], steps)
    best = Best(3, steps, 1e-3)
    for t in range(steps):
        best.note(runs.rows, t, *runs.look())
        if bool((best.iterations < steps).all()):
            break
        runs.step()
    assert float(best.iterations.double().mean()) == pytest.approx(published_iterations, rel=0.05)


# The runs ------------------------------------------------------------------------------------------------------------


def test_sgd_by_hand() -> None:
    """Momentum, schedules and what is noted, against four lines."""
    problem, steps = TINY.build(), 20
    trials = [Trial(0.5, 0.5, schedule) for schedule in FACTORS]
    runs = Runs(METHODS["sgd"].method(0.5), problem, trials, steps)
    best = fly(runs, Best(6, steps, 0.02))
    for row, trial in enumerate(t for t in trials for _ in range(2)):
        i, x, m, fs = row % 2, problem.x0[row % 2].double(), 0.0, []
        A, B = problem.A[i].double(), problem.B[i].double()
        for t in range(steps):
            g = A @ x @ B
            fs.append(float(0.5 * (x * g).sum()))
            m = 0.5 * m + g
            x = x - 0.5 * FACTORS[trial.schedule](t, steps) * m
        assert float(best.f[row]) == pytest.approx(min(fs), rel=1e-4)
        assert int(best.iterations[row]) == next((t + 1 for t, f in enumerate(fs) if f <= 0.02), steps)
    assert 1 < int(best.iterations.min()) < steps


def test_a_diverged_run_ends() -> None:
    problem = TINY.build()
    runs = Runs(METHODS["sgd"].method(0.0), problem, [Trial(1e4), Trial(0.1)], 40)
    best = fly(runs, Best(4, 40))
    assert best.diverged.tolist() == [True, True, False, False]
    assert runs.rows.tolist() == [2, 3]
    assert bool(best.f.isfinite().all())
    best.note(torch.tensor([0, 1]), 39, torch.zeros(2), torch.zeros(2))
    assert bool((best.f > 0).all()) and best.iterations[:2].tolist() == [40, 40]


def test_the_exact_model_counts() -> None:
    """EF21-MuonSign is judged at X, and its gradient is taken at W."""
    runs = Runs(METHODS["ef21muonsign"].method(0.0, "float32"), TINY.build(), [Trial(0.05)], 5)
    for _ in range(5):
        runs.look()
        runs.step()
    f, _ = runs.look()
    exact, held = runs.optimizer.exact, runs.optimizer.x
    assert not torch.equal(exact, held)
    problem = TINY.build()
    torch.testing.assert_close(f, problem.look(exact)[0])
    torch.testing.assert_close(runs.gradient, problem.gradient(exact))


# The tuner -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, target", [("signsgd", 2e-3), ("sgd", 1e-2), ("adam", 1e-2), ("sgd", 0.0)])
def test_pruning_does_not_change_the_winner(name: str, target: float) -> None:
    """Also where nobody arrives (target 0), and where several tie."""
    problem, entry = TINY.build(), METHODS[name]
    lrs = Grid(1e-3, 1e1, 3).values
    groups = [[Trial(lr, beta) for lr in lrs] for beta in entry.momenta[:3]]
    results = [fewest(entry.method, problem, groups, 150, target, prune=prune) for prune in (True, False)]
    assert results[0] == results[1]
    assert (results[0][1] < 150) == (target > 0)


def test_a_tie_goes_to_the_best_f() -> None:
    """All reach a target that the start has already; the winner is the one that gets lowest by the end."""
    problem, entry = TINY.build(), METHODS["sgd"]
    trials = [Trial(lr) for lr in (1e-3, 1e-2, 1.0, 1e-1)]
    trial, iterations = fewest(entry.method, problem, [trials], 30, 1e3)
    assert (trial.lr, iterations) == (1.0, 1.0)


def test_one_run_has_all_horizons() -> None:
    """Prefix minima of the longest run are the shorter runs, and rows of a stack are runs of their own."""
    problem, method = TINY.build(), METHODS["signsgd"].method(0.5)
    trials = [Trial(lr, 0.5, schedule) for lr in Grid(1e-3, 1e0, 2).values for schedule in ("const", "sqrt")]
    together = lowest(method, problem, trials, (5, 12, 30))
    for at, T in enumerate((5, 12, 30)):
        for trial, values in zip(trials, together):
            alone = lowest(method, problem, [trial], (T,))[0][0]
            assert values[at] == pytest.approx(alone, rel=1e-4)
    with pytest.raises(ValueError, match="one horizon at a time"):
        lowest(method, problem, [Trial(0.1, 0.5, "linear")], (5, 12))


def test_all_diverged_still_has_every_horizon() -> None:
    found = lowest(METHODS["sgd"].method(0.0), TINY.build(), [Trial(1e5)], (5, 100, 200))
    assert len(found[0]) == 3 and found[0][1] == found[0][2]


@pytest.mark.parametrize("seed", range(5))
def test_a_walk_finds_what_the_grid_has(seed: int) -> None:
    """On valleys with a ripple of 1.5, at several horizons; and it looks at fewer points."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 31, 3)
    values = [[(float(1.6 ** abs(i - c) * rng.uniform(1, 1.5)), 0.0) for c in centres] for i in range(31)]

    def evaluate(at: list[int]) -> list[list[tuple[float, float]]]:
        return [values[i] for i in at]

    whole = walk(31, evaluate, bad=0, worse=2.0, start=(0, 15, 30))
    part = walk(31, evaluate, bad=2, worse=2.0, start=(0, 15, 30))
    assert len(whole) == 31 > len(part)
    for T in range(3):
        assert min(whole, key=lambda i: whole[i][T]) == min(part, key=lambda i: part[i][T])
    shorter = walk(31, evaluate, bad=1, worse=1.0001, start=(0, 15, 30))
    assert len(shorter) < len(part) < len(walk(31, evaluate, bad=2, worse=30.0, start=(0, 15, 30)))


def test_edges() -> None:
    lrs, momenta = (0.1, 1.0, 10.0), (0.0, 0.9)
    assert not on_edge(Trial(1.0, 0.0), lrs, momenta)  # no momentum is no edge
    assert on_edge(Trial(0.1, 0.0), lrs, momenta) and on_edge(Trial(10.0, 0.0), lrs, momenta)
    assert on_edge(Trial(1.0, 0.9), lrs, momenta)
    assert not on_edge(Trial(1.0, 0.0), lrs, (0.0,))


def test_grids_and_slopes() -> None:
    assert len(METHODS["signmuon"].grid.values) == 31 and len(METHODS["adam"].grid.values) == 25
    assert METHODS["muon"].grid.values[12] == pytest.approx(1e-2)
    assert len(METHODS["sgd"].floor_grid.values) == 7
    assert str(Grid.parse("1e-5:1e0:x6")) == "1e-05:1:x6"
    for wrong in ("1e-5", "1:2:3:4", "1:0.1:x6", "a:b:x1", "0:1:x6"):
        with pytest.raises(SpecError, match="is no grid"):
            Grid.parse(wrong)
    p, r2 = slope([1, 2, 4], [1, 2, 8])
    assert p == pytest.approx(1.5) and 0.9 < r2 < 1


# The studies ---------------------------------------------------------------------------------------------------------


def run(name: str, method: str, out: Path, **fields: Any) -> dict[str, Any]:
    study = STUDIES[name](**{"problem": TINY, **fields})
    return study.run(METHODS[method], Store(out))


def test_grid_and_final(tmp_path: Path) -> None:
    fields = {"steps": 100, "target": 1e-2, "lrs": "3e-3:1e-1:x3", "momenta": (0.0, 0.5)}
    found = run("grid", "muon", tmp_path, **fields)
    assert found["reached"] and found["iterations"] == pytest.approx(found["searched"], rel=0.05)
    assert found["float32"]["iterations"] == pytest.approx(found["iterations"], rel=0.2)
    assert found["best_f"] <= 1e-2 and found["beta"] in (0.0, 0.5)
    final = run("final", "muon", tmp_path, **fields)
    assert final["iterations"] == found["iterations"] and final["lr"] == found["lr"]
    curves = final["curves"]
    assert curves["t"][0] == 0 and curves["t"][-1] < 100 and min(curves["f"]) >= 0.99 * final["best_f"]
    assert len(curves["t"]) == len(curves["f"]) == len(curves["gnorm"])
    assert "float32" not in run("grid", "sgd", tmp_path, **fields)  # it has no Newton-Schulz
    assert "float32" not in run("grid", "muon", tmp_path, **fields, dtype="float32")


def test_grid_knobs(tmp_path: Path) -> None:
    fields = {"steps": 200, "target": 1e-2, "lrs": "1e-2:1e1:x3", "momenta": (0.0,)}
    usual = run("grid", "sgd", tmp_path, **fields)
    assert run("grid", "sgd", tmp_path, **{**fields, "target": 1e-1})["iterations"] < usual["iterations"]
    slow = {**fields, "lrs": "1e-2:1e-1:x3"}
    waits = [run("grid", "sgd", tmp_path, **slow, schedule=name)["iterations"] for name in ("const", "linear", "sqrt")]
    assert waits == sorted(waits) and waits[0] < waits[1] < waits[2]
    assert not run("grid", "sgd", tmp_path, **{**fields, "steps": 3})["reached"]
    assert run("grid", "sgd", tmp_path, **{**fields, "momenta": (0.5,)})["beta"] == 0.5
    edge = run("grid", "sgd", tmp_path, **{**fields, "lrs": "1e-3:1e-2:x3"})
    assert edge["on_edge"] and edge["lr"] == pytest.approx(1e-2)


def test_alignment(tmp_path: Path) -> None:
    """Without momentum, rho at X_0 is what the closed form says; SGD follows the gradient."""
    fields = {"horizons": (10, 40), "lrs": "1e-3:1e-1:x1", "momenta": (0.0,)}
    for name in ("sgd", "signsgd", "muon"):
        found = run("alignment", name, tmp_path, **fields, dtype="float32")
        assert found["at_start"] == pytest.approx(found["closed_form"][name], rel=0.05 if name == "muon" else 1e-5)
        assert found["min"] <= found["p01"] <= found["p05"] <= found["median"] <= found["max"] <= 1 + 1e-6
        assert 0 <= found["negative"] <= 1
    assert closed_forms(TINY.build())["signsgd"] < 1
    assert run("alignment", "sgd", tmp_path, **fields)["mean"] == pytest.approx(1.0, abs=1e-5)


def test_horizon(tmp_path: Path) -> None:
    """SGD on a quadratic: its exponents are those of its points, a whole grid finds the same winners."""
    fields = {"horizons": (10, 20, 40), "lrs": "1e-2:1e1:x3", "momenta": (0.0, 0.5)}
    found = run("horizon", "sgd", tmp_path, **fields)
    points = found["points"]
    assert [point["T"] for point in points] == [10, 20, 40]
    assert all(point["dual"] == pytest.approx(point["gnorm"], rel=1e-3) for point in points)  # Frobenius is its own
    assert found["p_dual"] == pytest.approx(2 * found["p_gnorm"], rel=1e-2) and found["p_gnorm"] > 0
    assert found["r2"] <= 1
    assert run("horizon", "sgd", tmp_path, **fields, walk=0)["points"] == points
    sqrt = run("horizon", "sgd", tmp_path, **fields, schedules=("sqrt",))
    assert {point["schedule"] for point in sqrt["points"]} == {"sqrt"}
    duals = run("horizon", "signsgd", tmp_path, **{**fields, "lrs": "1e-3:1e-1:x2"})["points"]
    assert all(point["gnorm"] < point["dual"] < point["gnorm"] * 48**0.5 for point in duals)


def test_floor(tmp_path: Path) -> None:
    """A sign step of constant size stalls in proportion to it; a budget that is cut is not enough to settle."""
    fields = {"steps": 60, "most": 560, "lrs": "1e-3:1e-2:x2"}
    found = run("floor", "signsgd", tmp_path, **fields)
    assert [point["steps"] for point in found["points"]] == [560, 190, 60]
    assert all(point["settled"] for point in found["points"])
    assert found["slope_gnorm"] == pytest.approx(1.0, abs=0.25) and found["slope_f"] == pytest.approx(2.0, abs=0.5)
    assert run("floor", "signsgd", tmp_path, **{**fields, "most": 100})["points"][0]["steps"] == 100
    fields["lrs"] = "3e-1:1e0:x2"
    falling = run("floor", "sgd", tmp_path, **fields)  # it has no floor without noise
    assert not any(point["settled"] for point in falling["points"]) and "slope_f" not in falling
    assert all(point["settled"] for point in run("floor", "sgd", tmp_path, **fields, settled=1e9)["points"])


def test_stability_of_sgd_is_two_over_l(tmp_path: Path) -> None:
    """A run may grow 1e12-fold before it counts as diverged: 6 % above 2 / L in 300 steps, less in more."""
    near = {"low": 1.5, "high": 4.0, "halvings": 6}
    found = run("stability", "sgd", tmp_path, **near)
    assert not found["on_edge"] and run("stability", "sgd", tmp_path, high=1.0, halvings=3)["on_edge"]
    assert 1.02 <= found["edge"] / found["two_over_L"] < 1.06
    assert 1 <= run("stability", "sgd", tmp_path, steps=800, **near)["edge"] / found["two_over_L"] < 1.03
    assert found["two_over_L"] == pytest.approx(2 / float(TINY.build().L.max()))
    assert run("stability", "sgd", tmp_path, low=0.9, high=1.0, halvings=4)["edge"] == pytest.approx(1.0, rel=0.01)
    assert run("stability", "sgd", tmp_path, low=50.0, halvings=2)["edge"] == 50.0
    assert run("stability", "sgd", tmp_path, halvings=1)["edge"] == pytest.approx(1e-2)


def test_kappa(tmp_path: Path) -> None:
    """The harder the problem, the larger the gradient that is left."""
    fields = {"problem": TINY.model_copy(update={"spectrum": "logspace"}), "lrs": "1e-1:1e1:x3", "momenta": (0.0,)}
    found = run("kappa", "sgd", tmp_path, **fields, kappas=(10.0, 100.0, 1000.0), steps=60)
    gnorms = [point["gnorm"] for point in found["points"]]
    assert gnorms[0] < gnorms[1] < gnorms[2] and found["slope"] > 0
    longer = run("kappa", "sgd", tmp_path, **fields, kappas=(10.0,), steps=120)
    assert longer["points"][0]["gnorm"] < gnorms[0] and "slope" not in longer


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished is read and not run again, and the two studies that can share do."""
    fields = {"horizons": (5, 10), "lrs": "1e-2:1e0:x1", "momenta": (0.0, 0.5)}
    first = run("horizon", "sgd", tmp_path, **fields)

    def never(*args: object, **named: object) -> None:
        raise AssertionError("computed twice")

    monkeypatch.setattr("signa.lab.synthetic.descent.lowest", never)
    assert run("horizon", "sgd", tmp_path, **fields) == first
    assert run("alignment", "sgd", tmp_path, **fields)["beta"] in (0.0, 0.5)
    for other in ({"horizons": (5, 11)}, {"lrs": "1e-2:1e1:x1"}, {"dtype": "float32"}, {"walk": 1}, {"worse": 3.0}):
        with pytest.raises(AssertionError, match="computed twice"):
            run("horizon", "sgd", tmp_path, **{**fields, **other})


def test_one_file_has_one_protocol(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add("grid", {"steps": 5}, "sgd", {"x": 1.0})
    store.add("grid", {"steps": 5}, "muon", {"x": float("inf")})
    kept = json.loads((tmp_path / "grid.json").read_text())
    assert kept["methods"] == {"sgd": {"x": 1.0}, "muon": {"x": "inf"}}
    with pytest.raises(SpecError, match=r"other settings \(steps\)"):
        store.add("grid", {"steps": 6}, "sgd", {"x": 2.0})


# The page ------------------------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_results() -> None:
    """``python examples/synthetic/synthetic.py tables`` makes them anew."""
    page = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(EXAMPLE / "tables.py"))["filled"](page, EXAMPLE / "results") == page
    assert page.count("<!-- table: ") == page.count("<!-- end -->") == 6


def test_the_committed_figures_are_the_published_ones() -> None:
    """Iterations within 5 %, float32 within 3 % of bfloat16, exponents within 0.1."""
    expected = json.loads((EXAMPLE / "published.json").read_text(encoding="utf-8"))
    for name, own in json.loads((EXAMPLE / "results" / "grid.json").read_text(encoding="utf-8"))["methods"].items():
        assert own["iterations"] == pytest.approx(expected["grid"][name]["iterations"], rel=0.05), name
        if "float32" in own:
            assert own["float32"]["iterations"] == pytest.approx(own["iterations"], rel=0.03), name
    for name, own in json.loads((EXAMPLE / "results" / "horizon.json").read_text(encoding="utf-8"))["methods"].items():
        for key, value in expected["horizon"][name].items():
            assert own[key] == pytest.approx(value, abs=0.1), (name, key)


@pytest.mark.parametrize("mode", ["grid", "horizon"])
def test_the_command(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [mode, "--methods", "sgd", "--out", str(tmp_path), "--lrs", "1e-1:1e0:x1", "--momenta", "0", "0.5"]
    words += ["--set", "problem={rows: 6, columns: 5, seeds: [1]}", "--dtype", "float32"]
    words += ["--set", "steps=20"] if mode == "grid" else ["--set", "horizons=[5, 10]"]
    monkeypatch.setattr("sys.argv", ["synthetic.py", *words])
    runpy.run_path(str(EXAMPLE / "synthetic.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("sgd ")
    made = json.loads((tmp_path / f"{mode}.json").read_text())
    assert (
        made["settings"]["dtype"] == "float32" and made["settings"]["problem"]["rows"] == 6 and "sgd" in made["methods"]
    )
    monkeypatch.setattr("sys.argv", ["synthetic.py", *words, "--set", "stepz=3"])
    with pytest.raises(SystemExit, match="stepz"):
        runpy.run_path(str(EXAMPLE / "synthetic.py"), run_name="__main__")
