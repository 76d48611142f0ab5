"""Hosts on one machine: a network namespace and a process each, links of a chosen rate, and every byte counted.

A host has one network interface, joined to the others' by a bridge (Linux, root, iproute2). Both directions of its link
pass a token bucket (tc tbf), so that a host that three others write to at once gets no more than the link carries. No
delay is added: what is slow here is the rate.

Bytes are those that the link's queue has passed on: Ethernet, IP and TCP headers of every segment at MTU 1500, and
acknowledgements. (The interface's own counter sees segments before they are cut, and misses 4 % of that.)

The benchmark asks and hosts answer, a line of JSON each: :class:`Hosts` on one side, :func:`orders` on the other.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count as counting
from pathlib import Path
from string import ascii_lowercase
from typing import Any

HERE = Path(__file__).resolve().parent
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
UNSHAPED = "unshaped"
_BURST = 1e-3  # seconds of the rate that may pass at once; more would carry a whole small message for nothing
_LEAST_BURST = 16_000  # bytes; ten segments, as small as a token bucket works well with
_QUEUE = "200ms"  # of the rate, what a link's queue holds before it drops


def bits_per_second(rate: str) -> float:
    """Of a rate as tc writes it; infinite for ``unshaped``.

    >>> bits_per_second("20mbit")
    20000000.0
    """
    if rate == UNSHAPED:
        return float("inf")
    unit = next((unit for unit in UNITS if rate.endswith(unit)), None)
    if unit is None or not rate.removesuffix(unit).replace(".", "", 1).isdigit():
        raise SystemExit(f"a rate is '{UNSHAPED}' or a number and one of {', '.join(UNITS)} (20mbit), not '{rate}'")
    return float(rate.removesuffix(unit)) * UNITS[unit]


_turn = counting()


class Hosts:
    """``count`` hosts in a ``with`` block; where the system does not let us, processes on the loopback interface.

    ``real`` tells which, and ``reason`` why not. Without namespaces nothing can be shaped, and a host's bytes are its
    equal share of the loopback interface's.
    """

    def __init__(self, count: int) -> None:
        # Two benchmarks at once must not take each other's network away, and a name is not free at once when it ends.
        own = f"{os.getpid() % 100_000}{ascii_lowercase[next(_turn) % 26]}"
        self.count, self._bridge = count, f"sb{own}"
        self._names = [f"s{own}-{rank}" for rank in range(count)]
        self._links = [("", f"v{name}") for name in self._names] + [(name, "eth0") for name in self._names]
        self._running: list[subprocess.Popen[str]] = []
        self.reason = _missing()

    def __enter__(self) -> Hosts:
        # so that the namespaces go as well
        self._before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        if not self.reason:
            try:
                self._join()
            except subprocess.CalledProcessError as error:
                self.close()
                self.reason = f"'{' '.join(error.cmd)}' failed: {error.stderr.strip()}"
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        signal.signal(signal.SIGTERM, self._before)

    @property
    def real(self) -> bool:
        """Whether every host has a network of its own."""
        return not self.reason

    # The network -------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "link", "set", self._bridge, "up")
        for rank, name in enumerate(self._names):
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", f"v{name}", "master", self._bridge, "up")
            _run("ip", "-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
        self.shape(UNSHAPED)

    def shape(self, rate: str) -> None:
        """Give every link this rate, in both directions; the counts begin anew."""
        if not self.real:
            raise SystemExit(f"links cannot be shaped here: {self.reason}")
        burst = max(_LEAST_BURST, int(bits_per_second(rate) / 8 * _BURST)) if rate != UNSHAPED else 0
        queue = ["tbf", "rate", rate, "burst", str(burst), "latency", _QUEUE] if burst else ["pfifo", "limit", "10000"]
        for name, interface in self._links:
            where = ["-n", name] if name else []
            _run("tc", *where, "qdisc", "replace", "dev", interface, "root", *queue)

    def sent(self) -> list[int]:
        """Bytes that each host has put on its link."""
        if self.real:
            return [_passed("-n", name, "-s", "-j", "qdisc", "show", "dev", "eth0") for name in self._names]
        counts = [line.split() for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line]
        return [int(counts[0][9]) // self.count] * self.count

    # The processes -----------------------------------------------------------------------------------------------

    def start(self, script: str, *words: str) -> list[dict[str, Any]]:
        """Run a script on every host, in torch.distributed's environment and on one thread; what each says first."""
        port = 29_500 if self.real else _free_port()
        for rank, name in enumerate(self._names):
            env = {
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "RANK": str(rank),
                "WORLD_SIZE": str(self.count),
                "MASTER_ADDR": "10.77.0.1" if self.real else "127.0.0.1",
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "eth0" if self.real else "lo",
                "PYTHONPATH": str(HERE.parent),
                "TORCH_CPP_LOG_LEVEL": "ERROR",  # a namespace has no names of hosts, which torch would miss
            }
            inside = ["ip", "netns", "exec", name] if self.real else []
            command = [*inside, sys.executable, script, *words]
            pipe = subprocess.PIPE
            self._running.append(subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True))
        return self._answers()

    def ask(self, **order: Any) -> list[dict[str, Any]]:
        """What every host answers to an order."""
        line = json.dumps(order) + "\n"
        for process in self._running:
            assert process.stdin is not None
            process.stdin.write(line)
            process.stdin.flush()
        return self._answers()

    def _answers(self) -> list[dict[str, Any]]:
        found = []
        for rank, process in enumerate(self._running):
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the process of host {rank} ended with {process.wait()}; its errors stand above")
            found.append(json.loads(line))
        return found

    def stop(self) -> None:
        """End the scripts; the network stays."""
        for process in self._running:  # all at once: their last words may be to each other
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
        for process in self._running:
            process.wait()
            process.stdout.close()
        self._running = []

    def close(self) -> None:
        """Take everything away."""
        for process in self._running:
            process.kill()
            process.communicate()
        self._running = []
        for command in (["link", "del", self._bridge], *(["netns", "del", name] for name in self._names)):
            if shutil.which("ip"):
                subprocess.run(["ip", *command], capture_output=True)


def orders() -> Iterator[dict[str, Any]]:
    """On a host: say that it is ready, then every order until the benchmark ends. :func:`answer` each of them."""
    answer()
    for line in sys.stdin:
        yield json.loads(line)


def answer(**facts: Any) -> None:
    """On a host: a line to the benchmark."""
    print(json.dumps(facts), flush=True)


def _missing() -> str:
    """What namespaces need and is not there."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    return f"there is no {' and no '.join(absent)} (iproute2)" if absent else ""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def _passed(*words: str) -> int:
    out = subprocess.run(["tc", *words], check=True, capture_output=True, text=True).stdout
    return int(json.loads(out)[0]["bytes"])


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most, to four digits."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    named = {"median": middle, "least": ordered[0], "most": ordered[-1]}
    return {name: float(f"{value:.4g}") for name, value in named.items()}
