"""What N simulated workers cost beside N times one worker, and how much memory they take.

    python benchmarks/simulate.py                    # one core, 2 minutes -> results/simulate.json, results/simulate.md
    python benchmarks/simulate.py --workers 64 --width 256

A step of SignMuon on a stack of square layers, gradients given. ``ratio`` is the whole step of N workers over N times
one worker's LMO, in turns in one process, the least CPU time of several rounds: what is above 1 is momentum, packing,
the vote and the model's move. Memory is what the process' peak grows by from the built model on: gradients, state,
messages, and what is computed with at once (:data:`signa.transport.WORKING`).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402
from signa.stage import Context  # noqa: E402


def build(workers: int, width: int, layers: int, state: str) -> signa.SignA:
    """Square layers whose gradients are all there."""
    generator = torch.Generator().manual_seed(0)
    ps = {f"w{i}": nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5) for i in range(layers)}
    spec = {"groups": [{"match": "*", "method": "signmuon", "lr": 0.02, "state": state}]}
    return signa.build(spec, ps.items(), transport=signa.Loopback(workers))


def fill(opt: signa.SignA) -> None:
    """A gradient of its own for every worker."""
    generator = torch.Generator().manual_seed(1)
    for worker in opt.transport.local:
        with opt.worker(worker):
            for route in opt.routing:
                p = route.named.parameter
                p.grad = torch.randn(p.shape, generator=generator)


def cost(workers: int, width: int, layers: int, state: str = "full", rounds: int = 3) -> dict[str, float]:
    """Seconds of one worker's LMO, of a step of N workers, and their ratio over N."""
    opt = build(workers, width, layers, state)
    spectral = opt.spec.groups[0].method.worker[-1]
    x = torch.randn(layers, width, width)

    def lmo() -> None:
        spectral(x, {}, Context())

    best = {"lmo": float("inf"), "step": float("inf")}
    for _ in range(rounds):
        fill(opt)
        best["step"] = min(best["step"], timed(opt.step))
        best["lmo"] = min(best["lmo"], *(timed(lmo) for _ in range(max(3, workers // 4))))
    return best | {"ratio": best["step"] / (workers * best["lmo"])}


def timed(work: Callable[[], Any]) -> float:
    """Seconds of this thread's CPU in one call: others that share the machine do not count."""
    begun = time.thread_time()
    work()
    return time.thread_time() - begun


def peak() -> int:
    """The process' own peak in bytes. (Linux keeps the parent's in ru_maxrss, so a fresh process asks /proc.)"""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def grown(workers: int, width: int, layers: int, state: str, steps: int = 2) -> dict[str, float]:
    """Bytes that the peak grows by, a worker and entry, and seconds of a step, in this process."""
    warm = build(1, 16, 1, state)
    fill(warm)
    warm.step()
    before = peak()
    opt, seconds = build(workers, width, layers, state), []
    for _ in range(steps):
        fill(opt)
        seconds.append(timed(opt.step))
        opt.zero_grad()
    bytes_ = peak() - before
    return {"bytes": bytes_, "bytes_per_entry": bytes_ / (workers * layers * width**2), "seconds": min(seconds)}


def alone(workers: int, width: int, layers: int, state: str) -> dict[str, float]:
    """The same in a process of its own."""
    code = "import json; from benchmarks import simulate; simulate.torch.set_num_threads(1); "
    code += f"print(json.dumps(simulate.grown({workers}, {width}, {layers}, {state!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(costs: list[dict[str, Any]], memory: list[dict[str, Any]]) -> str:
    """Both."""
    lines = ["| workers | layers | step / (N x LMO) |", "|--:|---|--:|"]
    lines += [f"| {r['workers']} | {r['layers']} x {r['width']} x {r['width']} | {r['ratio']:.2f} |" for r in costs]
    lines += ["", "| workers | parameters | state | seconds a step | peak grows by | bytes a worker and entry |"]
    lines += ["|--:|--:|---|--:|--:|--:|"]
    for r in memory:
        lines.append(
            f"| {r['workers']} | {r['layers'] * r['width'] ** 2:,} | {r['state']} | {r['seconds']:.2f} | "
            f"{r['bytes'] / 2**20:.0f} MiB | {r['bytes_per_entry']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--width", type=int, nargs="*", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "simulate.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    costs, memory = [], []
    for width in options.width:
        for workers in options.workers:
            layers = max(1, 256**2 // width**2)
            one = {"workers": workers, "width": width, "layers": layers}
            costs.append(one | cost(**one, rounds=options.rounds))
            print(costs[-1], flush=True)
    for state in ("full", "bfloat16", "int8"):
        one = {"workers": 1024, "width": 160, "layers": 4, "state": state}
        memory.append(one | alone(**one))
        print(memory[-1], flush=True)
    record = {
        "command": " ".join(["python", "benchmarks/simulate.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "costs": costs,
        "memory": memory,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(table(costs, memory) + "\n")


if __name__ == "__main__":
    main()
