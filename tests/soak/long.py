"""A long run, watched: resident memory, descriptors, threads, and the digest of every replica."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import signa
from signa import errors
from tests.ranks.cases import build, fingerprint, parameters, plain, step
from tests.ranks.worlds import processes

SHAPES = {"a": (24, 16), "b": (12, 40), "bias": (7,)}
SOURCE = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "ef21muonsign", "lr": 0.02}]}
LIMIT = 1.0  # MB of memory by 1,000 steps
JUDGED = 2000  # steps from which a slope says something: a third of a MB of caches is 3 MB by 1,000 in 100 steps
WARM = 0.2  # the share of the steps before which caches and allocators may grow
SAMPLES = 100
WORKERS = 2
TIMEOUT = 60.0
Sample = dict[str, Any]


def resident() -> float:
    """This process' memory, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def watched(
    r: int, arguments: dict[str, Any], say: Callable[[Any], None], simulated: bool, steps: int, leak: int
) -> Any:
    """Train, and say at a hundred places how much is held. ``leak``: bytes to lose at each step, to prove the watch."""
    transport: Any = signa.Loopback(WORKERS) if simulated else signa.Group(**arguments, check_replicas_every=500)
    ps = parameters(shapes=SHAPES)
    opt = build(SOURCE, ps, transport, seed=1)
    lost = []
    try:
        for t in range(1, steps + 1):
            step(opt, ps, t % 64, plain)
            if leak:
                lost.append(bytearray(os.urandom(leak)))
            if t % max(1, steps // SAMPLES) == 0:
                facts = {"fds": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}
                say({"step": t, "mb": resident(), **facts, "digest": fingerprint(ps)})
    except errors.SignaError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares' dy/dx.

    >>> slope([(0, 1), (1, 3), (2, 5)])
    2.0
    """
    x = sum(p[0] for p in points) / len(points)
    y = sum(p[1] for p in points) / len(points)
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


@dataclass(frozen=True)
class Watched:
    """What one process of a long run held."""

    samples: list[Sample]
    end: str

    @property
    def late(self) -> list[Sample]:
        """Those after the warm-up."""
        return [s for s in self.samples if s["step"] >= WARM * self.samples[-1]["step"]]

    @property
    def by_thousand(self) -> float:
        """MB of memory by 1,000 steps."""
        return slope([(s["step"] / 1000, s["mb"]) for s in self.late])

    def told(self) -> dict[str, Any]:
        """As plain data, without the samples."""
        first, last = self.late[0], self.samples[-1]
        spread = {what: sorted({s[what] for s in self.late}) for what in ("fds", "threads")}
        return {
            "steps": last["step"], "mb_after_warm_up": round(first["mb"], 2), "mb_at_the_end": round(last["mb"], 2),
            "mb_per_1000_steps": round(self.by_thousand, 4), "descriptors": spread["fds"], "threads": spread["threads"],
            "digest": last["digest"],
        }  # fmt: skip


def run(simulated: bool, steps: int, *, leak: int = 0, deadline: float = 7200.0) -> list[Watched]:
    """One process with simulated workers, or a rank for each."""
    size = 1 if simulated else WORKERS
    ended = processes(size, watched, simulated, steps, leak, timeout=TIMEOUT, deadline=deadline)
    return [Watched([w for w in each.said if isinstance(w, dict)], str(each.result)) for each in ended]


def faults(worlds: dict[str, list[Watched]]) -> list[str]:
    """What is wrong with long runs of the same steps: growth, an early end, digests that differ anywhere."""
    found: list[str] = []
    reference = next(iter(worlds.values()))[0]
    for name, ranks in worlds.items():
        for r, each in enumerate(ranks):
            where = f"{name}, rank {r}"
            if each.end != "done":
                found.append(f"{where}: {each.end}")
                continue
            if each.samples[-1]["step"] >= JUDGED and each.by_thousand > LIMIT:
                found.append(f"{where}: memory grows by {each.by_thousand:.2f} MB by 1,000 steps")
            for what in ("fds", "threads"):
                if each.samples[-1][what] > each.late[0][what]:
                    found.append(f"{where}: {what} grow from {each.late[0][what]} to {each.samples[-1][what]}")
            for a, b in zip(reference.samples, each.samples, strict=True):
                if a["digest"] != b["digest"]:
                    found.append(f"{where}: another digest at step {b['step']}")
                    break
    return found


def soak(steps: int, say: Callable[[str], None]) -> tuple[dict[str, list[Watched]], dict[str, float]]:
    """The same steps simulated and on ranks; and the seconds each took."""
    worlds, seconds = {}, {}
    for name, simulated in (("simulated", True), ("ranks", False)):
        begun = time.monotonic()
        worlds[name] = run(simulated, steps)
        seconds[name] = round(time.monotonic() - begun, 1)
        for r, each in enumerate(worlds[name]):
            if each.samples:
                say(f"{name}, rank {r}: {each.told()}")
    return worlds, seconds
