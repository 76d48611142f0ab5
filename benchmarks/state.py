"""States in 32, 16 and 8 bits: how far they are from the unrounded ones, and what that does to a run.

    python benchmarks/state.py          # 2 minutes on one core -> results/state.json, results/state.md

A small GPT on tiny-shakespeare, five simulated workers, 100 steps, one seed. Every step of a run is also taken by a
shadow of its momentum that is never rounded, on the very same gradients: the error is |m - shadow| / |shadow| over all
workers and matrices, and a sign disagrees where the worker's stages put out another one from the shadow. Both are means
over the second half of the run. The loss is of the whole validation text.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402
from signa.lab.tasks.text import Shakespeare  # noqa: E402
from signa.stack import Sight, Stack  # noqa: E402
from signa.stage import Context  # noqa: E402

RATES = {"signmuon": 0.05, "ef21muonsign": 0.02, "ef_signsgd": 0.5}
FORMS = ("full", "bfloat16", "int8")
#: ef21's memory stays as it is computed: its receiver adds up what was sent.
ONLY = {"ef21muonsign": ("momentum",)}


KEPT = ("error", "apart")


class Shadow:
    """Momenta that are never rounded, beside those of an optimizer."""

    def __init__(self) -> None:
        self.m: dict[Stack, Tensor] = {}
        self.error: list[float] = []
        self.apart: list[float] = []
        self.measuring = False

    def look(self, sight: Sight) -> None:
        """Follow ``worker.momentum``."""
        if sight.address != "worker.momentum":
            return
        path = [stage for _, stage in sight.stack.method.stages("worker")]
        momentum, *rest = path
        before = self.m.setdefault(sight.stack, torch.zeros_like(sight.came))
        state = {"m": before}
        shadow = momentum(sight.came, state, Context())
        if self.measuring:
            self.error.append(float((sight.left - shadow).norm() / shadow.norm()))
            ours, theirs = sight.left, shadow
            for stage in rest:
                ours, theirs = (stage(x, {}, Context()) for x in (ours, theirs))
            self.apart.append(float((ours.sign() != theirs.sign()).double().mean()))


def run(method: str, form: str, steps: int, workers: int) -> dict[str, Any]:
    """One run's row."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    task = Shakespeare(layers=2, heads=4, width=64, context=32).open(workers=workers, batch=8, seed=0, device=device)
    model = task.model()
    held: Any = {stage: form for stage in ONLY[method]} if method in ONLY else form
    groups = [
        {"match": ["embed.*", "head.*"], "method": "adamw", "lr": 3e-3, "state": form},
        {"match": "*", "ndim": ">=2", "method": method, "lr": RATES[method], "state": held},
        {"match": "*", "method": "adamw", "lr": 3e-3, "optional": True},
    ]
    opt = signa.build({"groups": groups}, model, transport=signa.Loopback(workers))
    shadow = Shadow()
    for step in range(steps):
        for group in opt.param_groups:
            if step > steps // 2:  # down to nothing, in a straight line
                group["lr"] *= (steps - step) / (steps - step + 1)
        for worker in range(workers):
            with opt.worker(worker):
                task.loss(model, worker, step).backward()
        shadow.measuring = step >= steps // 2
        with opt.probe(shadow.look):
            opt.step()
        opt.zero_grad()
    with opt.exact():
        metrics = task.evaluate(model, whole=True)
    of_workers = [
        view
        for route in opt.routing
        for address, view in opt.state[route.named.parameter].items()
        if address.startswith("worker.")
    ]
    entries = sum(r.named.parameter.numel() for r in opt.routing if r.group == 1) * workers
    measured = {name: getattr(shadow, name) for name in KEPT}
    mean = {name: sum(found) / len(found) if found else None for name, found in measured.items()}
    return {
        "method": method,
        "state": form,
        "held": held,
        "val_loss": float(metrics[task.goal.metric]),
        "bytes_per_entry": sum(view.numel() * view.element_size() for view in of_workers) / entries,
        **mean,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """A line for every run."""
    lines = [
        "| method | of its state | form | bytes / entry | momentum's error | signs apart | val loss |",
        "|---|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        which = ", ".join(ONLY.get(row["method"], ("all",))) if row["state"] != "full" else "none"
        error, apart = (f"{100 * row[key]:.2f} %" if row[key] is not None else "" for key in KEPT)
        lines.append(
            f"| {row['method']} | {which} | {row['state']} | {row['bytes_per_entry']:.2f} | {error} | {apart} | "
            f"{row['val_loss']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "state.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for method in RATES:
        for form in FORMS:
            rows.append(run(method, form, options.steps, options.workers))
            print(rows[-1], flush=True)
    record = {
        "command": " ".join(["python", "benchmarks/state.py", *sys.argv[1:]]),
        "steps": options.steps,
        "workers": options.workers,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "runs": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
