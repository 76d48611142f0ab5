"""30 configurations x 200 steps: one stack of runs beside one run after the other, on one core.

    python benchmarks/synthetic.py                      # -> results/synthetic.json

The published instance of seed 1337 (100 x 100), five of Jordan's steps in bfloat16. Sequential is measured twice: the
same runner with one configuration at a time, and the real optimizer (`signa.build`) on one parameter. All in one
process, in turns, the best of several rounds in seconds of this process's CPU: the ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402
from signa.lab.synthetic import METHODS, Grid, Problem, Runs, Trial, published  # noqa: E402

MOST = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configurations", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["muon", "signmuon", "ef21muonsign"])
    parser.add_argument("--out", type=Path, help="with no argument at all, results/synthetic.json")
    options = parser.parse_args()
    out = options.out or (HERE / "results" / "synthetic.json" if len(sys.argv) == 1 else None)
    torch.set_num_threads(1)
    problem = published().rows(torch.tensor([0]))
    trials = [Trial(lr, 0.9) for lr in Grid(1e-4, 1e-1, 10).values][: options.configurations]
    record = {
        "configurations": len(trials),
        "steps": options.steps,
        "shape": [100, 100],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu_seconds": {},
        "ratio_to_the_same_runner": {},
        "ratio_to_the_optimizer": {},
    }
    for name in options.methods:
        method = METHODS[name].method(0.9)
        names: dict[str, Callable[[], None]] = {
            "batched": lambda method=method: runner(method, problem, trials, options.steps, len(trials)),
            "the same runner, one at a time": lambda method=method: runner(method, problem, trials, options.steps, 1),
            "the optimizer, one at a time": lambda method=method: optimizer(method, problem, trials, options.steps),
        }  # fmt: skip
        best = dict.fromkeys(names, float("inf"))
        for _ in range(options.rounds):
            for what, work in names.items():
                begun = time.process_time()
                work()
                best[what] = min(best[what], time.process_time() - begun)
        batched, alone, real = best.values()
        record["cpu_seconds"][name] = {what: round(seconds, 2) for what, seconds in best.items()}
        record["ratio_to_the_same_runner"][name] = round(batched / alone, 3)
        record["ratio_to_the_optimizer"][name] = round(batched / real, 3)
        verdict = "at most" if batched / alone <= MOST else "ABOVE"
        print(f"{name:14} {batched:7.2f} s batched, {batched / alone:.2f} of the runner ({verdict} {MOST}), "
              f"{batched / real:.2f} of the optimizer", flush=True)  # fmt: skip
    if out:
        out.write_text(json.dumps(record, indent=1) + "\n")


def runner(method: signa.Method, problem: Problem, trials: list[Trial], steps: int, together: int) -> None:
    """So many configurations at once."""
    for at in range(0, len(trials), together):
        runs = Runs(method, problem, trials[at : at + together], steps)
        for _ in range(steps):
            runs.look()
            runs.step()


def optimizer(method: signa.Method, problem: Problem, trials: list[Trial], steps: int) -> None:
    """Every configuration with an optimizer of its own."""
    for trial in trials:
        weight = nn.Parameter(problem.x0[0].clone())
        group = {"match": ["*"], "method": method, "lr": trial.lr, "scaling": "none", "weight_decay": 0.0}
        opt = signa.build({"groups": [group]}, [("weight", weight)])
        for _ in range(steps):
            weight.grad = problem.gradient(weight.detach()[None])[0]
            opt.step()


if __name__ == "__main__":
    main()
