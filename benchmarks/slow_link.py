"""Whole training steps on slow links: DistributedDataParallel with torch.optim.Muon, beside SignMuon.

Every host is a process in a network namespace of its own, on one thread, behind a link of the named rate (root, tc;
without them this says so and ends). One step is forward, backward, exchange and update of a stack of linear layers, on
data of the host's own. All arms run in one go, in turns, so that what else the machine does hits all of them alike;
ratios are taken within a turn. Both Newton-Schulz are bfloat16 with their shipped schedules: jordan5 (5 steps) in
torch.optim.Muon, polar6 (6 steps) in SignMuon; one arm is SignMuon with jordan5. DDP has its default buckets, and
overlaps its exchange with backward.

    python benchmarks/slow_link.py              # 4 hosts, 8 M parameters, 4 rates -> results/slow_link.json and .md
    python benchmarks/slow_link.py --quick      # 2 hosts, tiny: does it run?
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402
from benchmarks.hosts import UNSHAPED, Hosts, answer, bits_per_second, orders, spread  # noqa: E402
from benchmarks.workload import Trainee, stack  # noqa: E402
from signa.lab.records import environment  # noqa: E402

LR = 1e-3
WARM_UP = 2  # DistributedDataParallel arranges its buckets anew behind the first step


def bfloat16(group, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations, and would find strings
    """Gradients rounded to bfloat16 on their way; torch's own bf16_compress_hook refuses gloo."""
    whole = bucket.buffer()
    half = (whole / group.size()).to(torch.bfloat16)
    work = dist.all_reduce(half, group=group, async_op=True)
    return work.get_future().then(lambda _: whole.copy_(half))


class Arm(NamedTuple):
    """A way to take a step: with DDP and its hook, or a method with ``signa.Group`` and its arguments."""

    hook: Any = None
    group: dict[str, Any] | None = None
    method: Any = "signmuon"


#: As many Newton-Schulz steps as torch.optim.Muon takes, with its coefficients.
JORDAN5 = signa.Method(worker=["momentum", {"spectral": {"schedule": "jordan5"}}], up="sign", aggregate="majority_vote")
ARMS = {
    "DDP fp32 + torch.optim.Muon": Arm(),
    "DDP bf16 + torch.optim.Muon": Arm(hook=bfloat16),
    "SignMuon, signs summed as int8": Arm(group={"exchange": "int8"}),
    "SignMuon, signs summed in lanes": Arm(group={"exchange": "lanes"}),
    "SignMuon": Arm(group={}),
    "SignMuon, overlap": Arm(group={"overlap": True}),
    "SignMuon, Muon's own jordan5": Arm(group={}, method=JORDAN5),
}
BASE = next(iter(ARMS))


def host(layers: int, width: int, batch: int) -> None:
    """One host: every arm's model side by side, and one step of one of them at a time."""
    dist.init_process_group("gloo")
    trainees = {}
    for name, arm in ARMS.items():
        model: torch.nn.Module = stack(layers, width)
        ranks = dist.new_group()  # of its own, as overlap asks
        if arm.group is not None:
            group = signa.Group(ranks, **arm.group)
            opt: torch.optim.Optimizer = signa.build(arm.method, model, lr=LR, transport=group)
        else:
            opt = torch.optim.Muon(model.parameters(), lr=LR)
            model = DistributedDataParallel(model, process_group=ranks, gradient_as_bucket_view=True)
            if arm.hook is not None:
                model.register_comm_hook(ranks, arm.hook)
        trainees[name] = Trainee(model, opt, width, batch, dist.get_rank())
    for order in orders():
        answer(**trainees[order["arm"]].step())
    dist.destroy_process_group()


def measure(hosts: Hosts, rates: dict[str, int], parameters: int) -> list[dict[str, Any]]:
    """Every arm at every rate, in turns."""
    hosts.shape(UNSHAPED)
    for arm in [*ARMS] * WARM_UP:
        hosts.ask(arm=arm)
    found = []
    for rate, turns in rates.items():
        hosts.shape(rate)
        seen: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for _ in range(turns):
            for arm in ARMS:
                before = sum(hosts.sent())
                answers = hosts.ask(arm=arm)
                slowest = {key: max(each[key] for each in answers) for key in answers[0]}
                bits = 8 * (sum(hosts.sent()) - before) / hosts.count / parameters
                seen[arm].append({**slowest, "bits": bits})
        print(f"\n{rate}\n{'':32}{'seconds (least, most)':>26}{'in step()':>11}{'bits':>8}{'link':>6}{'faster':>8}")
        for arm in ARMS:
            found.append(record(rate, arm, seen, parameters))
            print(line(found[-1]), flush=True)
    return found


def record(rate: str, arm: str, seen: dict[str, list[dict[str, float]]], parameters: int) -> dict[str, Any]:
    """What is kept of an arm at a rate."""
    own = seen[arm]
    faster = [base["seconds"] / one["seconds"] for base, one in zip(seen[BASE], own, strict=True)]
    seconds, bits = spread([one["seconds"] for one in own]), spread([one["bits"] for one in own])
    return {
        "rate": rate,
        "arm": arm,
        "turns": len(own),
        "seconds": seconds,
        "update_seconds": spread([one["update_seconds"] for one in own]),
        "cpu_seconds": spread([one["cpu_seconds"] for one in own]),
        "link_bits": bits,
        "link_busy": round(bits["median"] * parameters / bits_per_second(rate) / seconds["median"], 3),
        "times_faster": spread(faster),
    }


def line(one: dict[str, Any]) -> str:
    """A row of what is printed."""
    seconds, faster = one["seconds"], one["times_faster"]["median"]
    times = f"{seconds['median']:.3f} ({seconds['least']:.3f}, {seconds['most']:.3f})"
    busy = f"{one['link_busy']:.0%}" if one["link_busy"] else ""
    return (
        f"{one['arm']:32}{times:>26}{one['update_seconds']['median']:>11.3f}{one['link_bits']['median']:>8.2f}"
        f"{busy:>6}{faster:>7.2f}x"
    )


def table(runs: list[dict[str, Any]]) -> str:
    """For a page: seconds of a step, and how many times faster than the first arm."""
    rates = list(dict.fromkeys(one["rate"] for one in runs))
    rows = [
        f"| step | bits per parameter | {' | '.join(rates)} |",
        f"|---|--:|{'--:|' * len(rates)}",
    ]
    for arm in dict.fromkeys(one["arm"] for one in runs):
        own = {one["rate"]: one for one in runs if one["arm"] == arm}
        cells = []
        for rate in rates:
            times = f", {own[rate]['times_faster']['median']:.2f}x" if arm != BASE else ""
            cells.append(f"{own[rate]['seconds']['median']:.2f} s{times}")
        rows.append(f"| {arm} | {own[rates[-1]]['link_bits']['median']:.2f} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=4)
    parser.add_argument("--layers", type=int, default=31, help="square matrices")
    parser.add_argument("--width", type=int, default=512, help="their side")
    parser.add_argument("--batch", type=int, default=64, help="of each host")
    parser.add_argument("--rates", default="20mbit,100mbit,1gbit,unshaped", help="of every link, as tc writes them")
    parser.add_argument("--steps", default="3,6,10,10", help="turns at each rate; one number is for all of them")
    parser.add_argument("--quick", action="store_true", help="2 hosts, 3 layers of 64 x 64, one turn at two rates")
    parser.add_argument("--out", type=Path, help="a folder for the figures; with no argument at all, results")
    parser.add_argument("--host", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.hosts, options.layers, options.width, options.batch = 2, 3, 64, 8
        options.rates, options.steps = "100mbit,unshaped", "1"
    if options.host:
        host(options.layers, options.width, options.batch)
        return
    out = options.out or (HERE / "results" if len(sys.argv) == 1 else None)
    rates = options.rates.split(",")
    turns = [int(number) for number in options.steps.split(",")]
    turns = turns * len(rates) if len(turns) == 1 else turns
    if len(turns) != len(rates):
        raise SystemExit(f"--steps has {len(turns)} numbers and --rates {len(rates)}: give as many, or one number")
    parameters = options.layers * options.width**2
    with Hosts(options.hosts) as hosts:
        if not hosts.real:
            print(f"skipped: links cannot be shaped here, for {hosts.reason}")
            return
        sizes = {"layers": options.layers, "width": options.width, "batch": options.batch}
        words = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
        hosts.start(__file__, "--host", *words)
        print(f"{options.hosts} hosts, {parameters:,} parameters; seconds of the slowest host, bits per parameter sent")
        runs = measure(hosts, dict(zip(rates, turns)), parameters)
        hosts.stop()
    facts = environment(["python", "benchmarks/slow_link.py", *sys.argv[1:]], torch.device("cpu"))
    facts |= {"cores": os.cpu_count(), "hosts": options.hosts, "threads": 1, **sizes}
    facts |= {"schedules": {"torch.optim.Muon": "jordan5", "SignMuon": "polar6"}, "lr": LR}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "slow_link.json").write_text(json.dumps({"environment": facts, "runs": runs}, indent=1) + "\n")
        (out / "slow_link.md").write_text(table(runs) + "\n")
    print("\n" + table(runs))


if __name__ == "__main__":
    main()
