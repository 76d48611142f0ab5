"""Bytes on the wire and seconds per exchange, one host per rank, counted by each host's own network interface.

Every rank gets a network namespace of its own, joined by a bridge (Linux, root; without them, the loopback interface's
counter over all ranks). MTU 1500, so the TCP and IP headers of real Ethernet are in the count.

    python benchmarks/wire.py                               # 10 M entries, 4 and 8 ranks -> results/wire.json
    python benchmarks/wire.py --ranks 4 --rate 100mbit      # the links shaped by tc
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import signa  # noqa: E402

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


def worker(case: str, entries: int, steps: int) -> None:
    """One rank: a warm-up step, then the counted ones. Prints a JSON line."""
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
    group.ranks.texts("ready", "benchmark")
    interface = os.environ.get("SIGNA_INTERFACE", "lo")
    before, sent, begun = counter(interface), group.traffic[0], time.perf_counter()
    for _ in range(steps):
        opt.step()
    seconds = time.perf_counter() - begun
    payload = group.traffic[0] - sent
    time.sleep(0.2)  # the last acknowledgements
    after = counter(interface)
    total = sum(p.numel() for p in net.parameters())
    own = {
        "rank": group.rank,
        "payload_bits": 8 * payload / steps / total,
        "interface_bits": 8 * (after - before) / steps / total,
        "seconds_per_step": seconds / steps,
        "chosen": str(group).splitlines()[1:],
    }
    print(json.dumps(own), flush=True)
    group.ranks.texts("done", "benchmark")


def counter(interface: str) -> int:
    """Bytes this interface has sent."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            return int(numbers.split()[8])
    raise SystemExit(f"there is no interface {interface}")


class Hosts:
    """One network namespace per rank, on a bridge; or none, where the system does not let us."""

    def __init__(self, ranks: int, rate: str) -> None:
        own = os.getpid() % 100_000  # two benchmarks at once must not take each other's network away
        self.ranks, self.bridge = ranks, f"sb{own}"
        self.names = [f"s{own}-{rank}" for rank in range(ranks)]
        try:
            self._ip("link", "add", self.bridge, "type", "bridge")
            self._ip("link", "set", self.bridge, "up")
            for rank, name in enumerate(self.names):
                self._ip("netns", "add", name)
                self._ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
                self._ip("link", "set", f"v{name}", "master", self.bridge, "up")
                self._ip("-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", "eth0")
                self._ip("-n", name, "link", "set", "eth0", "up")
                self._ip("-n", name, "link", "set", "lo", "up")
                if rate:
                    shape = ["tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate]
                    subprocess.run([*shape, "burst", "256k", "latency", "200ms"], check=True)
            self.real = True
        except (OSError, subprocess.CalledProcessError):
            self.close()
            self.real = False

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def close(self) -> None:
        """Take everything away."""
        for command in (
            ["ip", "link", "del", self.bridge],
            *(["ip", "netns", "del", name] for name in self.names),
        ):
            subprocess.run(command, capture_output=True)

    def run(self, case: str, entries: int, steps: int, port: int) -> list[dict[str, Any]]:
        """Every rank's report."""
        running = []
        for rank, name in enumerate(self.names):
            env = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(self.ranks),
                "MASTER_ADDR": "10.77.0.1" if self.real else "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "eth0" if self.real else "lo",
                "SIGNA_INTERFACE": "eth0" if self.real else "lo",
                "PYTHONPATH": str(HERE.parent),
            }
            inside = ["ip", "netns", "exec", name] if self.real else []
            command = [sys.executable, __file__, "--worker", case, "--entries", str(entries), "--steps", str(steps)]
            running.append(subprocess.Popen([*inside, *command], env=env, stdout=subprocess.PIPE, text=True))
        reports = []
        for process in running:
            out, _ = process.communicate()
            if process.returncode:
                raise SystemExit(f"a rank of '{case}' failed")
            reports.append(json.loads(out.strip().splitlines()[-1]))
        return sorted(reports, key=lambda report: report["rank"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="4,8")
    parser.add_argument("--cases", default=";".join(CASES))
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rate", default="", help="of every link, for tc: 100mbit")
    parser.add_argument("--worker", default="")
    parser.add_argument("--out", type=Path, help="where the figures go; with no argument at all, results/wire.json")
    options = parser.parse_args()
    out = options.out or (HERE / "results" / "wire.json" if len(sys.argv) == 1 else None)
    if options.worker:
        worker(options.worker, options.entries, options.steps)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespaces go as well
    found = []
    print("bits per parameter, worker and step, sent: payload, and at the interface; seconds per step")
    for ranks in map(int, options.ranks.split(",")):
        hosts = Hosts(ranks, options.rate)
        try:
            for number, case in enumerate(options.cases.split(";")):
                reports = hosts.run(case, options.entries, options.steps, 29600 + 16 * ranks + number)
                share = 1 if hosts.real else ranks  # the loopback interface carries everybody's
                payload = sum(report["payload_bits"] for report in reports) / ranks
                wire = sum(report["interface_bits"] for report in reports) / ranks / share
                seconds = max(report["seconds_per_step"] for report in reports)
                record = {
                    "case": case,
                    "ranks": ranks,
                    "entries": options.entries,
                    "payload_bits": round(payload, 4),
                    "interface_bits": round(wire, 4),
                    "seconds_per_step": round(seconds, 3),
                    "rate": options.rate or "unshaped",
                    "interface": "own network namespace, MTU 1500" if hosts.real else "loopback",
                    "chosen": reports[0]["chosen"],
                }
                found.append(record)
                print(f"N={ranks}  {case:24} {payload:8.3f} {wire:8.3f}   {seconds:.2f} s", flush=True)
        finally:
            hosts.close()
    environment = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    if out:
        out.write_text(json.dumps({"environment": environment, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
