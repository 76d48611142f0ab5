"""Every number and figure of this folder's README: Theorems 1 to 4, under which oracles they hold, how small they get.

python examples/counterexamples/theorems.py                 # all of it, about a minute on one core
python examples/counterexamples/theorems.py --only oracles  # one part
python examples/counterexamples/theorems.py --tables        # rewrite the tables from results/*.json alone
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]
import tables  # noqa: E402

from signa import presets  # noqa: E402
from signa.lab import theory  # noqa: E402
from signa.sentence import Method  # noqa: E402

EIGHT = ("muon", "signsgd", "signmuon", "muonusign", "muonsign", "ef21signmuon", "ef21muonusign", "ef21muonsign")
STEPS = 60
LINEAR = {"theorem 1": (theory.theorem1(1000.0), 1e-3), "theorem 2": (theory.theorem2(100.0), 5e-3)}
ORACLES: dict[str, dict[str, Any]] = {
    "exact": theory.EXACT,
    "NS5 f32": {"schedule": "jordan5", "dtype": "float32"},
    "NS5 bf16": {"schedule": "jordan5", "dtype": "bfloat16"},
    **{f"NS{k} f32": {"schedule": "jordan5", "steps": k, "dtype": "float32"} for k in (6, 8, 10, 20)},
    "polar6 f32": {"schedule": "polar6", "dtype": "float32"},
    "polar6 bf16": {"schedule": "polar6", "dtype": "bfloat16"},
}
MOMENTA = [(mu, variant) for mu in (0.0, 0.5, 0.9) for variant in ("standard", "nesterov")]
SHAPES = {
    "sign": [(2, n) for n in range(2, 13)] + [(3, n) for n in range(3, 13)] + [(4, n) for n in (4, 5, 6, 7)]
    + [(5, 5), (5, 6)],
    "ternary": [*((2, n) for n in range(2, 6)), (3, 3), (3, 4), (3, 5), (4, 4)],
}  # fmt: skip
SEARCHES = [
    ("signmuon", (3, 3)), ("signmuon", (3, 4)), ("signmuon", (4, 4)), ("muonusign", (4, 4)), ("muonusign", (4, 5)),
    ("muonusign", (5, 5)), ("muonsign", (4, 5)), ("signmuon_polar", (4, 4)), ("signmuon_polar", (5, 5)),
    ("muon", (4, 5)), ("signsgd", (4, 5)), ("ef21muonusign", (4, 5)),
]  # fmt: skip
TRIES, TRIES_WITH_MEMORY = 100_000, 5_000


def method(name: str, mu: float = 0.0, variant: str = "standard", oracle: dict[str, Any] = theory.EXACT) -> Method:
    """A preset with another momentum and oracle."""
    chosen = theory.with_momentum(presets.get(name).method, mu, nesterov=variant == "nesterov" and mu > 0)
    return theory.with_oracle(chosen, oracle)


def linear() -> dict[str, Any]:
    """f(X_t) of the eight methods on the two constant gradients."""
    found: dict[str, Any] = {"steps": STEPS}
    for label, (G, lr) in LINEAR.items():
        runs = {}
        for name in EIGHT:
            path = theory.walk(method(name), lambda _, G=G: G.clone(), tuple(G.shape), STEPS, lr=lr)
            values = [float((G * X).sum()) for X in path]
            first, mean = (values[0] - values[1]) / lr, (values[0] - values[-1]) / lr / STEPS
            runs[name] = {"first": first, "mean": mean, "f": values}
        found[label] = {"lr": lr, "matrix": G.tolist(), "runs": runs}
    return found


def oracles() -> dict[str, Any]:
    """<G, d> of the first step where the polar factor is computed as in practice."""

    def descent(name: str, G: torch.Tensor, oracle: dict[str, Any]) -> float:
        return float(theory.margins(method(name, oracle=oracle), G[None]).descent)

    def entry(oracle: dict[str, Any]) -> float:
        direction = theory.margins(method("muonusign", oracle=oracle), theory.theorem2(100.0)[None]).direction
        return float(direction[0, 3, 1])

    sigmas = [round(10 ** (k / 40), 6) for k in range(20, 141)]
    return {
        "table": {
            name: {
                **{f"Theorem 1, sigma = {s}": descent("signmuon", theory.theorem1(s), o) for s in (1000, 100)},
                "the 3×4 matrix": descent("signmuon", theory.small(), o),
                "polar(S) at (3, 1)": entry(o),
                **{f"Theorem 2, M = {M}": descent("muonusign", theory.theorem2(M), o) for M in (100, 500)},
                **{f"Theorem 3, M = {M}": descent("muonsign", theory.theorem2(M), o) for M in (100, 500)},
            }
            for name, o in ORACLES.items()
        },
        "sigmas": sigmas,
        "signmuon": {
            name: [descent("signmuon", theory.theorem1(s), o) / (1 + s) for s in sigmas] for name, o in ORACLES.items()
        },
        "ascends": {
            f"Theorem 1, sigma = {s}": [n for n, o in ORACLES.items() if descent("signmuon", theory.theorem1(s), o) < 0]
            for s in (30, 50, 80, 100, 120, 150, 200, 1000)
        }
        | {
            f"Theorem 2, M = {M}": [n for n, o in ORACLES.items() if descent("muonusign", theory.theorem2(M), o) < 0]
            for M in (100, 250, 500, 1000)
        },
    }


def minimality() -> dict[str, Any]:
    """Which shapes have a pattern whose polar factor disagrees with it."""
    rows = []
    for alphabet, shapes in SHAPES.items():
        for m, n in shapes:
            found = theory.census(m, n, alphabet)  # type: ignore[arg-type]
            rows.append({"alphabet": alphabet, "shape": [m, n], **found._asdict()})
    return {"rows": rows}


def universal() -> dict[str, Any]:
    """The eight methods on Theorem 4's instance for their own momentum, and the rate for all published momenta."""
    verdicts, rates = [], []
    for mu, variant in MOMENTA:
        problem = theory.Universal(mu, variant)  # type: ignore[arg-type]
        for name in EIGHT:
            path = theory.walk(method(name, mu, variant), problem.grad, (2, 2), STEPS)
            values = [problem.f(X) for X in path]
            one = {"mu": mu, "variant": variant, "method": name, "climbs": theory.climbs(values), "f": values}
            verdicts.append(one)
    for mu in theory.universal.MOMENTA:
        for variant in ("standard", "nesterov"):
            problem = theory.Universal(mu, variant)  # type: ignore[arg-type]
            path = theory.walk(method("ef21signmuon", mu, variant), problem.grad, (2, 2), 45)
            values = [problem.f(X) for X in path]
            gap = problem.grad(path[6]) - problem.grad(path[3])
            known = torch.tensor([[float(x) for x in row] for row in theory.universal.ITERATES], dtype=torch.float64)
            rates.append(
                {
                    "mu": mu,
                    "variant": variant,
                    "A": problem.amplitude,
                    "rate": (values[43] - values[3]) / 40,
                    "off": float((torch.stack(path[:8]).flatten(1) - known).abs().max()),
                    "nonconvex": float((gap * (path[6] - path[3])).sum()),
                    "first": values[:5],
                }
            )
    return {"steps": STEPS, "verdicts": verdicts, "rates": rates}


def certificates() -> dict[str, Any]:
    """What the search finds by itself, exact polar factors, seed 0."""
    found = []
    for name, shape in SEARCHES:
        chosen = theory.with_oracle(presets.get(name).method, theory.EXACT)
        memory = theory.remembers(chosen)
        budget = {"steps": 40 if memory else 1, "tries": TRIES_WITH_MEMORY if memory else TRIES}
        result = asdict(theory.certify(chosen, shape, seconds=math.inf, **budget))
        result.pop("seconds")  # the one number that another machine would not repeat
        found.append({"preset": name, "shape": shape, **result})
    return {"found": found}


PARTS = {f.__name__: f for f in (linear, oracles, minimality, universal, certificates)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="recompute this part alone")
    parser.add_argument("--tables", action="store_true", help="recompute nothing; rewrite the README and the figures")
    parser.add_argument("--out", type=Path, default=HERE, help="where README.md and results/ are (default: here)")
    options = parser.parse_args()
    results = options.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    for name in () if options.tables else [options.only] if options.only else PARTS:
        begun = time.monotonic()
        text = json.dumps(tables.rounded(PARTS[name]()), indent=1)
        (results / f"{name}.json").write_text(tables.short(text) + "\n", encoding="utf-8")
        print(f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
    tables.rewrite(options.out / "README.md", results)
    print(tables.draw(results) or f"wrote {results} and the tables of {options.out / 'README.md'}")


if __name__ == "__main__":
    main()
