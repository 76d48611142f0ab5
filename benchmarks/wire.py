"""Bytes on the wire and seconds per exchange, one host per rank, counted on each host's own link.

Every rank gets a network namespace of its own (benchmarks/hosts.py; without them, the loopback interface's counter over
all ranks). The headers of every segment at MTU 1500 are in the count.

    python benchmarks/wire.py                               # 10 M entries, 4 and 8 ranks -> results/wire.json
    python benchmarks/wire.py --ranks 4 --rate 100mbit      # the links shaped by tc
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402
from benchmarks.hosts import UNSHAPED, Hosts, answer, orders  # noqa: E402

CASES: dict[str, dict[str, Any]] = {
    "signmuon": {"method": "signmuon"},
    "signmuon, allgather": {"method": "signmuon", "exchange": "allgather"},
    "signsgd": {"method": "signsgd"},
    "signsgd, lanes": {"method": "signsgd", "exchange": "lanes"},
    "signsgd, int8": {"method": "signsgd", "exchange": "int8"},
    "ef21muonsign, sharded": {"method": "ef21muonsign", "server": "sharded"},
    "ef21muonusign": {"method": "ef21muonusign"},
    "sgd (dense, exact)": {"method": "sgd", "exchange": "alltoall"},
    "sgd (dense, ring)": {"method": "sgd", "exchange": "ring"},
}


def model(entries: int) -> nn.Module:
    """Square matrices of 1024 x 1024 and one ragged one."""
    generator = torch.Generator().manual_seed(0)
    count, rest = divmod(entries, 1 << 20)
    shapes = [(1024, 1024)] * count + ([(rest // 1000, 1000)] if rest >= 1000 else [])
    return nn.ParameterList([torch.randn(*shape, generator=generator) for shape in shapes])


def host(case: str, entries: int, steps: int) -> None:
    """One rank: a warm-up step, then as many as are ordered."""
    options = dict(CASES[case])
    method = options.pop("method")
    net = model(entries)
    group = signa.Group(timeout=600, check_replicas_every=0, **options)
    spec = {"groups": [{"match": "*", "method": method, "lr": 0.01}]}
    opt = signa.build(spec, net, transport=group)
    generator = torch.Generator().manual_seed(group.rank)
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=generator)
    opt.step()
    for _ in orders():
        sent, begun = group.traffic[0], time.perf_counter()
        for _ in range(steps):
            opt.step()
        seconds = (time.perf_counter() - begun) / steps
        total = sum(p.numel() for p in net.parameters())
        payload = 8 * (group.traffic[0] - sent) / steps / total
        answer(payload_bits=payload, seconds_per_step=seconds, entries=total, chosen=str(group).splitlines()[1:])
    group.close()


def measure(hosts: Hosts, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """One method on these hosts."""
    words = ["--host", case, "--entries", str(options.entries), "--steps", str(options.steps)]
    hosts.start(__file__, *words)
    before = sum(hosts.sent())
    reports = hosts.ask()
    time.sleep(0.2)  # the last acknowledgements
    link = 8 * (sum(hosts.sent()) - before) / hosts.count / options.steps / reports[0]["entries"]
    hosts.stop()
    return {
        "case": case,
        "ranks": hosts.count,
        "entries": options.entries,
        "payload_bits": round(sum(report["payload_bits"] for report in reports) / hosts.count, 4),
        "interface_bits": round(link, 4),
        "seconds_per_step": round(max(report["seconds_per_step"] for report in reports), 3),
        "rate": options.rate,
        "interface": "own network namespace, MTU 1500" if hosts.real else "loopback",
        "chosen": reports[0]["chosen"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="4,8")
    parser.add_argument("--cases", default=";".join(CASES))
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rate", default=UNSHAPED, help="of every link, for tc: 100mbit")
    parser.add_argument("--host", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="where the figures go; with no argument at all, results/wire.json")
    options = parser.parse_args()
    out = options.out or (HERE / "results" / "wire.json" if len(sys.argv) == 1 else None)
    if options.host:
        host(options.host, options.entries, options.steps)
        return
    found = []
    print("bits per parameter, worker and step, sent: payload, and on the link; seconds per step")
    for ranks in map(int, options.ranks.split(",")):
        with Hosts(ranks) as hosts:
            if options.rate != UNSHAPED:
                hosts.shape(options.rate)
            for case in options.cases.split(";"):
                found.append(one := measure(hosts, case, options))
                numbers = f"{one['payload_bits']:8.3f} {one['interface_bits']:8.3f}   {one['seconds_per_step']:.2f} s"
                print(f"N={ranks}  {case:24} {numbers}", flush=True)
    environment = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    if out:
        out.write_text(json.dumps({"environment": environment, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
