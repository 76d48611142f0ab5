"""Weak scaling: the work of a rank stays, the number of ranks grows; what a step of SignMuon costs, part by part.

The ranks share this machine's cores, so the clock grows with their number whatever the exchange does. What must stay is
the CPU time of a rank, and what must follow 2 (N - 1) / N bits per parameter are the bytes that it sends. Behind a
shaped link (root, tc) the clock shows the link: bytes over rate stand beside the seconds of the exchange, which also
hold the wait for the slowest rank.

    python benchmarks/weak_scaling.py           # 1 to 16 ranks, two rates -> results/weak_scaling.json and .md
    python benchmarks/weak_scaling.py --quick   # 1 and 2 ranks, tiny: does it run?
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402
from benchmarks.hosts import UNSHAPED, Hosts, answer, bits_per_second, orders, spread  # noqa: E402
from benchmarks.workload import Trainee, stack  # noqa: E402
from signa.lab.records import environment  # noqa: E402

WARM_UP = 2
PARTS = ("model", "message", "exchange", "update")


def host(layers: int, width: int, batch: int) -> None:
    """One rank: a step per order, with its parts by what a probe sees of it. All layers travel in one bucket."""
    group = signa.Group(exchange="alltoall")  # one exchange for every N, also where another would be cheaper
    model = stack(layers, width)
    opt = signa.build("signmuon", model, lr=1e-3, transport=group)
    trainee = Trainee(model, opt, width, batch, group.rank)
    seen: dict[str, float] = {}
    for _ in orders():
        sent = group.traffic[0]
        with opt.probe(lambda sight: seen.update({sight.address: time.perf_counter()})):
            step = trainee.step()
            ended = time.perf_counter()
        answer(
            **step,
            model=step["seconds"] - step["update_seconds"],
            message=seen["up"] - (ended - step["update_seconds"]),
            exchange=seen["aggregate"] - seen["up"],
            update=ended - seen["aggregate"],
            payload=group.traffic[0] - sent,
        )
    group.close()


def measure(hosts: Hosts, rate: str, steps: int, parameters: int) -> dict[str, Any]:
    """Steps of the ranks that are started."""
    sent = sum(hosts.sent())
    answers = [hosts.ask() for _ in range(steps)]
    link = 8 * (sum(hosts.sent()) - sent) / steps / hosts.count / parameters
    slowest = spread([max(each["seconds"] for each in every) for every in answers])
    mean = {
        key: spread([sum(each[key] for each in every) / hosts.count for every in answers])["median"]
        for key in (*PARTS, "cpu_seconds", "payload")
    }
    return {
        "ranks": hosts.count,
        "rate": rate,
        "steps": steps,
        "seconds": slowest,
        "parts": {part: mean[part] for part in PARTS},
        "cpu_seconds_per_rank": mean["cpu_seconds"],
        "payload_bits": round(8 * mean["payload"] / parameters, 4),
        "formula_bits": round(2 * (hosts.count - 1) / hosts.count, 4),
        "link_bits": round(link, 4),
        "link_seconds": float(f"{link * parameters / bits_per_second(rate):.4g}"),
    }


def cells(one: dict[str, Any]) -> list[str]:
    """A row of the table."""
    times = [one["cpu_seconds_per_rank"], one["seconds"]["median"], *one["parts"].values()]
    link = f"{one['link_seconds']:.3f}" if one["rate"] != UNSHAPED else ""
    bits = [one["formula_bits"], one["payload_bits"], one["link_bits"]]
    return [one["rate"], str(one["ranks"]), *(f"{t:.3f}" for t in times), link, *(f"{b:.3f}" for b in bits)]


HEAD = ["rate", "N", "CPU s", "step s", *PARTS, "bytes / rate", "2 (N - 1) / N", "payload", "on the link"]


def table(runs: list[dict[str, Any]]) -> str:
    """For a page."""
    rows = [HEAD, ["---", *["--:"] * (len(HEAD) - 1)], *map(cells, runs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2,4,8,16")
    parser.add_argument("--layers", type=int, default=8, help="square matrices on every rank")
    parser.add_argument("--width", type=int, default=512, help="their side")
    parser.add_argument("--batch", type=int, default=64, help="of each rank")
    parser.add_argument("--rates", default="unshaped,2mbit", help="of every link, as tc writes them")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="1 and 2 ranks, 3 layers of 64 x 64, one step, unshaped")
    parser.add_argument("--out", type=Path, help="a folder for the figures; with no argument at all, results")
    parser.add_argument("--host", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.ranks, options.layers, options.width, options.batch = "1,2", 3, 64, 8
        options.rates, options.steps = UNSHAPED, 1
    if options.host:
        host(options.layers, options.width, options.batch)
        return
    out = options.out or (HERE / "results" if len(sys.argv) == 1 else None)
    sizes = {"layers": options.layers, "width": options.width, "batch": options.batch}
    words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    parameters = options.layers * options.width**2
    runs = []
    print(f"{parameters:,} parameters; seconds, and bits per parameter sent by a rank\n{'  '.join(HEAD)}")
    for count in map(int, options.ranks.split(",")):
        with Hosts(count) as hosts:
            hosts.start(__file__, "--host", *words)
            for _ in range(WARM_UP):
                hosts.ask()
            for rate in options.rates.split(","):
                if rate != UNSHAPED and not hosts.real:
                    print(f"skipped: {rate}, for {hosts.reason}")
                    continue
                if hosts.real:
                    hosts.shape(rate)
                runs.append(measure(hosts, rate, options.steps, parameters))
                print("  ".join(f"{cell:>{len(name)}}" for cell, name in zip(cells(runs[-1]), HEAD)), flush=True)
            hosts.stop()
    facts = environment(["python", "benchmarks/weak_scaling.py", *sys.argv[1:]], torch.device("cpu"))
    facts |= {"cores": os.cpu_count(), "threads": 1, **sizes}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "weak_scaling.json").write_text(json.dumps({"environment": facts, "runs": runs}, indent=1) + "\n")
        (out / "weak_scaling.md").write_text(table(sorted(runs, key=lambda one: one["rate"] != UNSHAPED)) + "\n")
    print("\n" + table(runs))


if __name__ == "__main__":
    main()
