"""What the planner says of the steps that slow_link.py measured, next to each other.

    python benchmarks/planned.py                          # results/slow_link.json, and this machine measured anew

Run it on the machine that measured, with nothing else running: the rates are those of as many processes at once as
there were hosts. The forward and backward pass is taken from the measurement (a step without its update).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from signa.planner import BASE, HALF, Link, Machine, Planner, measured, of_text  # noqa: E402
from signa.spec import Spec  # noqa: E402

WAYS = {
    "DDP fp32 + torch.optim.Muon": BASE,
    "DDP bf16 + torch.optim.Muon": HALF,
    "SignMuon": "signa",
    "SignMuon, overlap": "signa, overlap",
    "SignMuon, signs summed as int8": "signa, int8",
    "SignMuon, signs summed in lanes": "signa, lanes",
}
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
SHAPED = 1448 / 1514  # tc counts Ethernet's header, and neither preamble nor checksum
LATENCY = 30e-6  # of a veth pair and a bridge


def bits_per_second(rate: str) -> float:
    """Of a rate as tc writes it; of an unshaped link, more than gloo can use."""
    return next((float(rate.removesuffix(unit)) * scale for unit, scale in UNITS.items() if rate.endswith(unit)), 1e12)


def compared(results: dict[str, Any], machine: Machine) -> str:
    """A table for a page."""
    facts, runs = results["environment"], results["runs"]
    plain = [one for one in runs if one["arm"] == "SignMuon"]
    compute = min(one["seconds"]["median"] - one["update_seconds"]["median"] for one in plain)
    spec, model = Spec.load("signmuon"), of_text(f"{facts['width']}x{facts['width']}*{facts['layers']}")
    planner = Planner(spec, model, machine, compute=compute)
    rows = ["| link | step | measured | predicted | |", "|---|---|--:|--:|--:|"]
    for one in (one for one in runs if one["arm"] in WAYS):
        plan = planner.at(facts["hosts"], Link(bits_per_second(one["rate"]), LATENCY, SHAPED))
        real, said = one["seconds"]["median"], plan[WAYS[one["arm"]]].step
        rows.append(f"| {one['rate']} | {one['arm']} | {real:.2f} s | {said:.2f} s | {said / real - 1:+.0%} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "slow_link.json")
    parser.add_argument("--machine", type=Path, help="rates to take, and to keep")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    facts = results["environment"]
    torch.set_num_threads(facts["threads"])
    known = Machine(together=facts["hosts"])
    if options.machine and options.machine.exists():
        known = Machine.load(options.machine, facts["hosts"])
    model = of_text(f"{facts['width']}x{facts['width']}*{facts['layers']}")
    machine = measured(Spec.load("signmuon"), model, known=known)
    if options.machine:
        machine.save(options.machine)
    print(compared(results, machine))


if __name__ == "__main__":
    main()
