"""Measured rates of composed methods on problems with known smoothness constants, beside the bounds of docs/theory.md.

    python examples/theory/rates.py            # runs what is missing, then writes the tables and the figures
    python examples/theory/rates.py --only horizon --force

Every number is a function of this file and the seeds. A cell that stands in results/*.json is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import signa
from signa.lab.smooth import Noise, NormName, Problem, Row, kappa, problems, run, slope
from signa.lab.smooth.base import oracle
from signa.lab.smooth.bounds import Setting, aligned, horizon_lr, tracking
from signa.lab.tasks.base import seed_of
from signa.theory import WITNESSES

HERE = Path(__file__).parent
SEEDS = range(5)
PROBLEMS: dict[str, dict[str, Any]] = {
    "softmax": {"kind": "softmax", "data": "mnist", "samples": 128},
    "factorisation": {"kind": "factorisation"},
    "log_cosh": {"kind": "log_cosh"},
    "quadratic": {"kind": "quadratic"},
}
EXACT = {"kind": "spectral", "schedule": "exact"}
Arm = tuple[dict[str, Any], NormName, str]
#: The sentence without momentum, the norm whose dual is measured, and the theorem that covers it.
QUIET: dict[str, Arm] = {
    "nsgd": ({"server": ["frobenius"]}, "frobenius", "A"),
    "muon": ({"server": [EXACT]}, "spectral", "A"),
    "signsgd": ({"up": "sign", "aggregate": "majority_vote"}, "linf", "B"),
    "column": ({"server": ["column"]}, "column", "A"),
    "row": ({"server": ["row"]}, "row", "A"),
    "ef21muonusign": ({"up": "ef21(scaled_sign)", "server": [EXACT]}, "spectral", "D"),
    "ef21muonsign": (
        {"up": "ef21(scaled_sign)", "server": [EXACT, "step"], "down": "ef21(scaled_sign)"}, "spectral", "E",
    ),
    "signmuon": ({"worker": [EXACT], "up": "sign", "aggregate": "majority_vote"}, "linf", ""),
    "muonusign": ({"up": "sign", "aggregate": "majority_vote", "server": [EXACT]}, "spectral", ""),
    "muonsign": ({"up": "sign", "aggregate": "majority_vote", "server": [EXACT], "down": "sign"}, "linf", ""),
    "signmuon_polar": (
        {"worker": [EXACT], "up": "sign", "aggregate": "majority_vote", "replica": [EXACT, "step"]}, "spectral", "",
    ),
}  # fmt: skip
HORIZONS = [64, 128, 256, 512, 1024]
#: Of the bound's own step size, per theorem: EF21's constants are worst cases, so its own steps are far too short.
FACTORS = {"A": [2.0**k for k in range(-4, 5)], "D": [4.0**k for k in range(6)],
           "E": [1.0, *(4.0**k for k in range(2, 9))]}  # fmt: skip
FACTORS |= {"B": FACTORS["A"], "": FACTORS["A"]}


def method(parts: dict[str, Any], beta: float = 0.0) -> signa.Method:
    """A sentence, with a momentum in front where beta is not 0."""
    momentum = [{"momentum": {"beta": beta}}] if beta else []
    return signa.Method(**{**parts, "worker": [*momentum, *parts.get("worker", [])]})


def gap(problem: Problem, seed: int) -> float:
    """f(X_0) - f*, or what is known to be above it."""
    return float(problem.loss(problem.start(seed))) - problem.lower


def setting(problem: Problem, norm: NormName, theorem: str, seed: int, lr: float, steps: int, **more: Any) -> Setting:
    """What the bounds need to know."""
    g = problem.gradient(problem.start(seed))
    delta = 1 / (problem.m * problem.n)  # what scaled_sign guarantees, one scale per matrix
    return Setting(
        gap=gap(problem, seed), L=problem.constant(norm), kappa=kappa(norm, problem.m, problem.n),
        first=float(oracle(norm).dual(g)), first_frobenius=float(g.norm()), lr=lr, steps=steps,
        up=delta if theorem in ("D", "E") else 1.0, down=delta if theorem == "E" else 1.0, **more,
    )  # fmt: skip


def own_lr(problem: Problem, norm: NormName, theorem: str, seed: int, steps: int) -> float:
    """The step size that minimises the bound: it is a / eta + b + c eta."""
    if not theorem:
        return horizon_lr(gap(problem, seed), problem.constant(norm), steps)
    one, two = (tracking(setting(problem, norm, theorem, seed, lr, steps)) for lr in (1.0, 2.0))
    a = gap(problem, seed) / steps
    return math.sqrt(a / (two - one + a / 2))


# Cells: name -> what is measured -------------------------------------------------------------------------------------


def horizon(problem_name: str, arm: str) -> dict[str, Any]:
    """Stationarity after T noise-free steps, at the bound's own step size and at larger ones."""
    problem = problems.parse(PROBLEMS[problem_name]).build()
    parts, norm, theorem = QUIET[arm]
    rows, keys, factors = [], [], FACTORS[theorem]
    for steps in HORIZONS:
        for factor in factors:
            for seed in SEEDS:
                rows.append(Row(factor * own_lr(problem, norm, theorem, seed, steps), steps, seed))
                keys.append((steps, factor, seed))
    found = dict(zip(keys, run(method(parts), problem, rows, norm=norm), strict=True))
    bounds = [
        [tracking(setting(problem, norm, theorem, seed, own_lr(problem, norm, theorem, seed, steps), steps))
         for seed in SEEDS] if theorem else [] for steps in HORIZONS
    ]  # fmt: skip
    return {
        "norm": norm,
        "theorem": theorem,
        "L": problem.constant(norm),
        "mean": {str(f): [[found[T, f, s].mean for s in SEEDS] for T in HORIZONS] for f in factors},
        "least": {str(f): [[found[T, f, s].least for s in SEEDS] for T in HORIZONS] for f in factors},
        "bound": bounds,
        "inside": max(outcome.reach for key, outcome in found.items() if key[1] == 1.0) <= problem.radius,
    }


WORKERS, LENGTHS, SIGMAS = [1, 3, 9, 27], [256, 1024, 4096], [1.0, 2.0, 4.0, 8.0]
BASE = (1024, 1, 4.0)  # T, N, sigma
GRID = [2.0**k for k in range(-4, 7, 2)]
#: Parts, norm, theorem, whether a momentum with 1 - beta = T^(-1/2) stands in front, the law of the noise.
NOISY: dict[str, tuple[dict[str, Any], NormName, str, bool, str]] = {
    "mean, linf": ({"server": ["linf"]}, "linf", "A", False, "gaussian"),
    "mean, linf, momentum": ({"server": ["linf"]}, "linf", "A", True, "gaussian"),
    "mean, spectral, momentum": ({"server": [EXACT]}, "spectral", "A", True, "gaussian"),
    "vote": (QUIET["signsgd"][0], "linf", "C", False, "gaussian"),
    "vote, momentum": (QUIET["signsgd"][0], "linf", "B", True, "gaussian"),
    "vote, Student t(3)": (QUIET["signsgd"][0], "linf", "C", False, "student"),
    "mean, linf, Student t(3)": ({"server": ["linf"]}, "linf", "A", False, "student"),
}
#: Lines through the base: one of the three changes.
LINES = {
    "T": [(T, *BASE[1:]) for T in LENGTHS],
    "N": [(BASE[0], N, BASE[2]) for N in WORKERS],
    "sigma": [(*BASE[:2], sigma) for sigma in SIGMAS],
}


def noisy(arm: str) -> dict[str, Any]:
    """Mean stationarity with the best step size of a grid, along T, N and sigma, on log_cosh."""
    problem = problems.parse(PROBLEMS["log_cosh"]).build()
    parts, norm, theorem, momentum, law = NOISY[arm]
    start = torch.stack([problem.gradient(problem.start(seed)) for seed in SEEDS])
    entry = float(start.square().mean().sqrt())  # sigma = 1 is the size of an entry of the first gradient
    points: dict[str, Any] = {}
    for T, N, sigma in sorted({point for line in LINES.values() for point in line}):
        beta = 1 - T**-0.5 if momentum else 0.0
        base = horizon_lr(statistics.mean(gap(problem, s) for s in SEEDS), problem.constant(norm), T)
        noise = Noise(law=law, sigma=sigma * entry)
        rows = [Row(factor * base, T, seed) for factor in GRID for seed in SEEDS]
        out = run(method(parts, beta), problem, rows, norm=norm, workers=N, noise=noise)
        means = [[out[i * len(SEEDS) + s].mean for s in SEEDS] for i in range(len(GRID))]
        best = min(range(len(GRID)), key=lambda i: statistics.mean(means[i]))
        lr = GRID[best] * base
        size = sigma * entry * math.sqrt(problem.m * problem.n)
        more = {"sigma": size, "workers": N, "beta": beta, "alone": theorem == "B"}
        more["factor"] = 2 * N / math.ceil(N / 2) if theorem == "B" else 2.0
        bound = statistics.mean(tracking(setting(problem, norm, theorem, s, lr, T, **more)) for s in SEEDS)
        record: dict[str, Any] = {"mean": means[best], "lr": GRID[best], "bound": bound}
        if theorem == "C":  # the bound is of another measure: run the best again and measure that
            rows = [Row(lr, T, seed) for seed in SEEDS]
            again = run(method(parts), problem, rows, norm=norm, workers=N, noise=noise,
                        measure=lambda g, N=N, sigma=sigma: aligned(g, sigma * entry, N))  # fmt: skip
            record["phi"] = [outcome.mean for outcome in again]
            quiet = [gap(problem, s) / (lr * T) + problem.constant(norm) * lr / 2 for s in SEEDS]
            record["bound"] = statistics.mean(quiet)
        points[f"{T},{N},{sigma:g}"] = record
    return {"norm": norm, "theorem": theorem, "points": points}


VOTERS = [1, 3, 9, 27, 81]
#: In units of the largest entry of the gradient.
LEVELS = [10 ** (k / 4) for k in range(-8, 9)]
DRAWS = 400
TERM: dict[str, Arm] = {
    "mean, linf": ({"server": ["linf"]}, "linf", "A"),
    "mean, spectral": ({"server": [EXACT]}, "spectral", "A"),
    "mean, frobenius": ({"server": ["frobenius"]}, "frobenius", "A"),
    "vote": (QUIET["signsgd"][0], "linf", "C"),
    "workers' linf, mean": ({"worker": ["linf"]}, "linf", "B"),
    "workers' spectral, mean": ({"worker": [EXACT]}, "spectral", "B"),
}


def term(arm: str) -> dict[str, Any]:
    """The stochastic term itself: ``max_sigma (||g||_* - E<g, d>) / (kappa sigma_F)`` at the first gradient."""
    problem = problems.parse(PROBLEMS["log_cosh"]).build()
    parts, norm, theorem = TERM[arm]
    g = problem.gradient(problem.start(0))
    sentence, entry = method(parts), float(g.abs().max())
    total = math.sqrt(g.numel()) * kappa(norm, problem.m, problem.n)
    table = []
    for N in VOTERS:
        row = []
        for part in range(4):  # four independent quarters, for the interval
            generator = torch.Generator().manual_seed(seed_of("term", part))
            draws = torch.randn(N, DRAWS // 4, *g.shape, generator=generator, dtype=torch.float64)
            row.append(max(_deficit(sentence, g, level * entry * draws, norm) / (level * entry * total)
                           for level in LEVELS))  # fmt: skip
        table.append(row)
    return {"norm": norm, "theorem": theorem, "deficit": table}


def _deficit(sentence: signa.Method, g: Tensor, noise: Tensor, norm: NormName) -> float:
    from signa.lab.batched import Batched

    runs = Batched(sentence, torch.zeros(noise.shape[1:], dtype=g.dtype), workers=len(noise))
    runs.step(g + noise, 1.0)
    return float(oracle(norm).dual(g) - (g * runs.direction).sum((-2, -1)).mean())


ASCENT = {"signmuon": 0, "muonusign": 1, "muonsign": 1, "signmuon_polar": 2}
STEPS = 200


def ascent(arm: str) -> dict[str, Any]:
    """f(X) = log(1 + exp<G, X>) under a method that nothing covers, and under some that a theorem does."""
    from signa.lab.batched import Batched

    G = WITNESSES[ASCENT[arm]].matrix
    G = G / torch.linalg.matrix_norm(G, ord="nuc")
    found = {}
    for name in (arm, "muon", "signsgd", "ef21muonusign"):
        for beta in (0.0, 0.9):
            runs = Batched(method(QUIET[name][0], beta), torch.zeros(1, *G.shape, dtype=G.dtype))
            for _ in range(STEPS):
                runs.step(torch.sigmoid((G * runs.x).sum()) * G.expand(1, 1, *G.shape), 0.1)
            found[f"{name}, beta {beta:g}"] = float(torch.nn.functional.softplus((G * runs.exact).sum()))
    return {"witness": WITNESSES[ASCENT[arm]].name, "last": found}


SUITES: dict[str, tuple[Callable[..., dict[str, Any]], list[tuple[str, ...]]]] = {
    "term": (term, [(arm,) for arm in TERM]),
    "ascent": (ascent, [(arm,) for arm in ASCENT]),
    "noise": (noisy, [(arm,) for arm in NOISY]),
    "horizon": (horizon, [(problem, arm) for problem in PROBLEMS for arm in QUIET]),
}


def cells(suite: str, force: bool) -> dict[str, Any]:
    """A suite's results: those that are there, and those that were missing, written as they come."""
    path = HERE / "results" / f"{suite}.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() and not force else {}
    measure, wanted = SUITES[suite]
    for cell in wanted:
        key = "/".join(cell)
        if key not in known:
            began = time.process_time()
            known[key] = {**_short(measure(*cell)), "cpu_seconds": round(time.process_time() - began, 1)}
            print(f"{suite}: {key}, {known[key]['cpu_seconds']} s", flush=True)
            path.write_text(json.dumps(known, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    return {key: known[key] for key in map("/".join, wanted)}


def _short(value: Any) -> Any:
    """Six digits are enough, and make small files."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list) else value


# What is printed -----------------------------------------------------------------------------------------------------


def best(cell: dict[str, Any], what: str = "mean") -> list[list[float]]:
    """What the best factor measured at every horizon, by the mean over seeds."""
    return [cell[what][factor][i] for i, factor in enumerate(winners(cell, what))]


def winners(cell: dict[str, Any], what: str = "mean") -> list[str]:
    """The best factor at every horizon."""
    tables = cell[what]
    return [min(tables, key=lambda f, i=i: statistics.mean(tables[f][i])) for i in range(len(HORIZONS))]


def dagger(won: Sequence[Any], grid: Sequence[Any]) -> str:
    """A mark where a winner stands at an end of its grid, so that the best may lie beyond."""
    return " †" if {grid[0], grid[-1]} & set(won) else ""


def horizon_table(found: dict[str, Any]) -> str:
    """Exponents in T, and how far the bound is from what was measured."""
    rows = [
        "| problem | method | theorem | exponent of the mean, own step | tuned | of the least, tuned | "
        f"mean at T = {HORIZONS[-1]}, own step | tuned | bound |",
        "|---|---|---|---|---|---|--:|--:|--:|",
    ]
    for key, cell in found.items():
        problem, arm = key.split("/")
        own = cell["mean"]["1.0"]
        least = best(cell, "least")
        bound = f"{statistics.mean(cell['bound'][-1]):.3g}" if cell["theorem"] else "none"
        exponent = str(slope(HORIZONS, own)) if cell["theorem"] else "-"
        first = f"{statistics.mean(own[-1]):.3g}" if cell["theorem"] else "-"
        outside = "" if cell["inside"] else " (left the ball)"
        tuned, grid = best(cell), list(cell["mean"])
        edge, low, end = (dagger(won, grid) for won in (winners(cell), winners(cell, "least"), winners(cell)[-1:]))
        rows.append(
            f"| {problem} | {arm}{outside} | {cell['theorem'] or 'none'} | {exponent} | "
            f"{slope(HORIZONS, tuned)}{edge} | {slope(HORIZONS, least)}{low} | {first} | "
            f"{statistics.mean(tuned[-1]):.3g}{end} | {bound} |"
        )
    return "\n".join(rows)


def noise_table(found: dict[str, Any]) -> str:
    """Exponents in T, N and sigma, of ||grad f||_* and, where Theorem C holds, of Phi_N."""
    rows = ["| method | theorem | in T | in N | in sigma | at T = 1024, N = 27, sigma = 4: measured | bound |",
            "|---|---|---|---|---|--:|--:|"]  # fmt: skip
    for arm, cell in found.items():
        exponents = []
        for line in LINES.values():
            x = [next(p[i] for i in range(3) if len({q[i] for q in line}) > 1) for p in line]
            points = [cell["points"][f"{T},{N},{s:g}"] for T, N, s in line]
            edge = dagger([point["lr"] for point in points], GRID)
            exponents.append(f"{slope(x, [point['mean'] for point in points])}{edge}")
        last = cell["points"][f"{BASE[0]},{WORKERS[-1]},{BASE[2]:g}"]
        measured, unit = (last["phi"], " of Phi_N") if "phi" in last else (last["mean"], "")
        rows.append(f"| {arm} | {cell['theorem']} | {' | '.join(exponents)} | {statistics.mean(measured):.3g}{unit} | "
                    f"{last['bound']:.3g} |")  # fmt: skip
    return "\n".join(rows)


def term_table(found: dict[str, Any]) -> str:
    """The stochastic term against N."""
    rows = [f"| method | theorem | {' | '.join(f'N = {N}' for N in VOTERS)} | exponent in N | bound |",
            f"|---|---|{'--:|' * len(VOTERS)}---|---|"]  # fmt: skip
    for arm, cell in found.items():
        values = " | ".join(f"{statistics.mean(row):.3f}" for row in cell["deficit"])
        bound = "2" if cell["theorem"] == "B" else "2 / sqrt(N)"
        rows.append(f"| {arm} | {cell['theorem']} | {values} | {slope(VOTERS, cell['deficit'])} | {bound} |")
    return "\n".join(rows)


def ascent_table(found: dict[str, Any]) -> str:
    """f after the run; it starts at log 2 = 0.693, and its infimum is 0."""
    rows = [f"| G of | method | f after {STEPS} steps, beta 0 | beta 0.9 |", "|---|---|--:|--:|"]
    for cell in found.values():
        names = dict.fromkeys(key.split(", ")[0] for key in cell["last"])
        for name in names:
            values = " | ".join(f"{cell['last'][f'{name}, beta {beta}']:.4g}" for beta in ("0", "0.9"))
            rows.append(f"| {cell['witness']} | {name} | {values} |")
    return "\n".join(rows)


TABLES = {"horizon": horizon_table, "noise": noise_table, "term": term_table, "ascent": ascent_table}


def write_tables(found: dict[str, dict[str, Any]], page: Path) -> None:
    """Between the markers of a page."""
    text = page.read_text(encoding="utf-8")
    for name, cell in found.items():
        table = TABLES[name](cell)
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


def draw(found: dict[str, dict[str, Any]]) -> str:
    """horizon.svg and noise.svg, or why there are none."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return "no figures: matplotlib is not installed (pip install 'signa-optim[train]')"
    with rc_context({"svg.hashsalt": "signa", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 7), layout="constrained")
        for axes, problem in zip(figure.subplots(2, 2).flat, PROBLEMS, strict=True):
            for index, arm in enumerate(["nsgd", "muon", "signsgd", "ef21muonusign", "ef21muonsign"]):
                cell, colour = found["horizon"][f"{problem}/{arm}"], f"C{index}"
                for values, style in ((cell["mean"]["1.0"], "o-"), (best(cell), "^:"), (cell["bound"], "--")):
                    axes.loglog(HORIZONS, [statistics.mean(v) for v in values], style, color=colour, markersize=3,
                                label=arm if style == "o-" else None)  # fmt: skip
            axes.set(title=problem, xlabel="T", ylabel="mean over t of the dual norm")
            axes.grid(visible=True, which="major", linewidth=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.suptitle("dots: the bound's own step size; triangles: tuned; dashed: the bound")
        figure.savefig(HERE / "horizon.svg", metadata={"Date": None})
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        for axes, (along, line) in zip(figure.subplots(1, 3, sharey=True), LINES.items(), strict=True):
            x = [next(p[i] for i in range(3) if len({q[i] for q in line}) > 1) for p in line]
            for arm, cell in found["noise"].items():
                y = [statistics.mean(cell["points"][f"{T},{N},{s:g}"]["mean"]) for T, N, s in line]
                axes.loglog(x, y, "o-", markersize=3, linewidth=1, label=arm)
            axes.set_xticks(x, [f"{value:g}" for value in x])
            axes.set_xticks([], minor=True)
            axes.set(xlabel=along, ylabel="mean dual norm" if along == "T" else "")
            axes.grid(visible=True, which="major", linewidth=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(HERE / "noise.svg", metadata={"Date": None})
    return ""


def main() -> None:
    """Run, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=list(SUITES), nargs="*", default=list(SUITES), help="these suites alone")
    parser.add_argument("--force", action="store_true", help="run again what is there")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {suite: cells(suite, chosen.force) for suite in chosen.only}
    write_tables(found, HERE / "README.md")
    said = draw(found) if {"horizon", "noise"} <= found.keys() else ""
    print(said or "wrote the tables" + (" and the figures" if len(found) == len(SUITES) else ""))


if __name__ == "__main__":
    main()
