"""Steps of many tiny matrices: launched one operator after the other, and on a GPU as one CUDA graph.

    python benchmarks/graph.py                          # 256 matrices of 16 x 16, whose launches are all of their time
    python benchmarks/graph.py --device cpu             # without a graph

Prints one line for each preset: milliseconds a step, the best of several rounds. Writes no file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import signa


def milliseconds(act: Callable[[], object], device: str, rounds: int = 5, times: int = 20) -> float:
    """Of one act, the best of several rounds."""
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(times):
            act()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - begun) / times)
    return 1e3 * min(found)


def line(preset: str, device: str, count: int, side: int) -> str:
    """What a preset's steps take."""
    parameters = [(f"p{i}.weight", nn.Parameter(torch.randn(side, side, device=device))) for i in range(count)]
    for _, p in parameters:
        p.grad = torch.randn_like(p)
    opt = signa.build(preset, parameters, lr=1e-3, nonfinite="ignore", capturable=True)
    opt.step()
    text = f"{preset:>14}  {count} x ({side} x {side}) on {device}: {milliseconds(opt.step, device):.3f} ms a step"
    if device != "cuda":
        return text
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    return f"{text}, {milliseconds(graph.replay, device):.3f} as a graph"


def main() -> None:
    """The lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--side", type=int, default=16)
    given = parser.parse_args()
    for preset in ("adamw", "muon", "signmuon"):
        print(line(preset, given.device, given.count, given.side))


if __name__ == "__main__":
    main()
