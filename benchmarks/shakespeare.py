"""SignMuon against Muon, SignSGD and AdamW on the main job, each at its own best matrix learning rate.

    python benchmarks/shakespeare.py                                    # about 2 h on two cores
    python benchmarks/shakespeare.py --methods signmuon,muon --steps 50 # a quick look: pass another --results as well

Per method: validation loss (whole validation set, last step) over the lattice ... 1 2 5 x 10^k of the matrix learning
rate with seed 0, widened at its edges until the best value is interior; then three seeds at that value. The rest is the
shipped experiment, the same for all. An arm runs on one thread, two arms at a time. Every finished arm is written
at once: an interrupted benchmark goes on where it was, and arms of another experiment are refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "signa" / "lab" / "data" / "shakespeare.yaml"
SEEDS = (0, 1, 2)
MOST_RATES = 12  # of one method: an optimum that runs away is an error, not an endless search
Arm = tuple[str, int, int]  # method, index on the lattice, seed


def rate(index: int) -> float:
    """The lattice 1, 2, 5: rate(0) = 1, rate(-3) = 0.1, rate(-5) = 0.02."""
    decade, place = divmod(index, 3)
    return float(f"{(1, 2, 5)[place]}e{decade}")


def nearest(lr: float) -> int:
    """The index on the lattice next to a learning rate."""
    return min(range(-18, 6), key=lambda i: abs(math.log(rate(i) / lr)))


def run_arm(arm: Arm, steps: int | None) -> dict[str, Any]:
    """Train one arm in this process. A diverged run has the loss None."""
    import torch

    torch.set_num_threads(1)
    from signa.lab.compare import with_method
    from signa.lab.runner import Diverged, train

    method, index, seed = arm
    spec = with_method(experiment(steps), method, rate(index)).replace({"train.seed": seed})
    row: dict[str, Any] = {"method": method, "lr": rate(index), "seed": seed}
    with tempfile.TemporaryDirectory() as out:
        try:
            result = train(spec, name="arm", out=Path(out))
        except Diverged:
            return row | {"val_loss": None}
    keep = ("val_loss", "bits_up", "bits_down", "round_trip", "steps", "workers", "examples")
    return row | {key: value for key, value in result.summary().items() if key in keep}


def experiment(steps: int | None) -> Any:
    """The shipped experiment on the CPU."""
    from signa.lab.settings import load_experiment

    changes: dict[str, Any] = {"train.device": "cpu"} | ({} if steps is None else {"train.steps": steps})
    return load_experiment(SPEC, changes=changes)


class Book:
    """The finished arms, on disk after each."""

    def __init__(self, path: Path, steps: int | None, command: str) -> None:
        import torch

        from signa.lab.compare import with_method
        from signa.lab.records import environment
        from signa.lab.runner import resolve

        spec, settings = resolve(experiment(steps))
        # What the arms share: neither the method under test nor the table of learning rates that this benchmark fills.
        text = with_method(spec, "signmuon", 1.0).replace({"train.compare": {}}).dump("yaml")
        self.path = path
        machine = environment(command.split(), torch.device("cpu"))
        machine["threads"] = 1
        name = hashlib.sha256(text.encode()).hexdigest()
        self.data: dict[str, Any] = {"experiment": name, "environment": machine, "spec": text, "arms": []}
        if path.exists():
            old = json.loads(path.read_text())
            if old["experiment"] != self.data["experiment"]:
                sys.exit(f"{path} holds arms of another experiment: move it away, or pass another --results")
            self.data["arms"] = old["arms"]
        self.rates = settings.compare

    def get(self, arm: Arm) -> dict[str, Any] | None:
        """The row of an arm that was run."""
        wanted = (arm[0], rate(arm[1]), arm[2])
        return next((row for row in self.data["arms"] if (row["method"], row["lr"], row["seed"]) == wanted), None)

    def loss(self, arm: Arm) -> float:
        """Its validation loss; infinite where it diverged."""
        row = self.get(arm)
        assert row is not None
        return math.inf if row["val_loss"] is None else float(row["val_loss"])

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, on disk at once."""
        self.data["arms"].append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".part")
        scratch.write_text(json.dumps(self.data, indent=1) + "\n")
        scratch.replace(self.path)
        loss = "diverged" if row["val_loss"] is None else f"{row['val_loss']:.4f}"
        print(f"{row['method']:10} lr {row['lr']:<7g} seed {row['seed']}  {loss}", flush=True)


def run_all(arms: Iterable[Arm], book: Book, pool: ProcessPoolExecutor, steps: int | None) -> None:
    """Run the arms that were not run yet."""
    todo = [pool.submit(run_arm, arm, steps) for arm in dict.fromkeys(arms) if book.get(arm) is None]
    for future in as_completed(todo):
        book.add(future.result())


def search(methods: list[str], book: Book, pool: ProcessPoolExecutor, steps: int | None) -> dict[str, int]:
    """The best lattice index of each method, with a worse value on either side of it."""
    seen = {m: set(range(nearest(book.rates[m]) - 1, nearest(book.rates[m]) + 2)) for m in methods}
    best: dict[str, int] = {}
    while len(best) < len(methods):
        run_all(((m, i, 0) for m in methods for i in sorted(seen[m])), book, pool, steps)
        for m in methods:
            top = min(seen[m], key=lambda i: book.loss((m, i, 0)))
            if len(seen[m]) > MOST_RATES:
                sys.exit(f"{m}: no interior optimum among {sorted(map(rate, seen[m]))}")
            missing = {top - 1, top + 1} - seen[m]
            seen[m] |= missing
            if not missing:
                best[m] = top
    return best


def table(methods: list[str], best: dict[str, int], book: Book) -> str:
    """Mean and sample standard deviation over the seeds, at the best rate; and the whole lattice."""
    lines = [
        "| method | lr | val loss (3 seeds) | bits up | bits down | round trip |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for m in sorted(methods, key=lambda m: statistics.mean(book.loss((m, best[m], s)) for s in SEEDS)):
        rows = [row for s in SEEDS if (row := book.get((m, best[m], s)))]
        losses = [row["val_loss"] for row in rows]
        bits = f"{rows[0]['bits_up']:.2f} | {rows[0]['bits_down']:.2f} | {rows[0]['round_trip']:.1f}x"
        spread = f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}"
        lines.append(f"| {m} | {rate(best[m]):g} | {spread} | {bits} |")
    lines += ["", "Seed 0 at every learning rate tried:", "", "| method | lr: val loss |", "| --- | --- |"]
    for m in methods:
        mine = sorted(
            (row["lr"], row["val_loss"]) for row in book.data["arms"] if (row["method"], row["seed"]) == (m, 0)
        )
        lines.append(f"| {m} | " + ", ".join(f"{lr:g}: {'-' if v is None else f'{v:.4f}'}" for lr, v in mine) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="signmuon,muon,signsgd,adamw")
    parser.add_argument("--steps", type=int, help="steps of each arm; the experiment's where not given")
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "shakespeare.json")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # the arms are new processes and read it when they load torch
    methods = options.methods.split(",")
    command = " ".join(["python", "benchmarks/shakespeare.py", *sys.argv[1:]])
    book = Book(options.results, options.steps, command)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        best = search(methods, book, pool, options.steps)
        run_all(((m, best[m], s) for m in methods for s in SEEDS), book, pool, options.steps)
    text = table(methods, best, book)
    options.results.with_suffix(".md").write_text(f"`{command}`\n\n{text}\n")
    print("\n" + text)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
