"""Ranks that are killed at random moments, over and over, and runs that go on from their last checkpoint.

A run has three ranks, and each of its attempts may lose one: at the handshake, while a checkpoint is loaded, in a step
or while one is saved. The other two must end with a typed error, in time; then the run is started again. What it comes
to must be what one undisturbed process with three simulated workers comes to, bit for bit.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import signa
from signa import errors
from tests.ranks.cases import build, fingerprint, parameters, plain, step
from tests.ranks.worlds import Ended, processes

SIZE, STEPS, EVERY = 3, 8, 2
TIMEOUT = 2.0
GRACE = 4.0  # beyond the timeout, on a machine where other processes run: an error later than that is a hang
SHAPES = {"a": (9, 21), "b": (24, 16), "c": (65, 33), "bias": (5,)}
PHASES = ("handshake", "load", "step", "save")
LONGEST = {"handshake": 0.03, "load": 0.01, "step": 0.02, "save": 0.03}  # seconds into a phase that a kill may come
LEFT = re.compile(r"\.step-\d{8,}\.[0-9a-f]{8}\Z")  # docs/state.md: the next save removes it
Say = Callable[[Any], None]


def _groups(method: str) -> dict[str, Any]:
    return {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": method, "lr": 0.02}]}


#: What is trained, and how it talks.
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("signmuon", {"exchange": "alltoall"}),
    ("ef21muonusign", {"exchange": "alltoall", "server": "sharded"}),
    ("ef21muonsign", {"exchange": "allgather"}),
    ("muonsign", {"exchange": "alltoall", "overlap": True}),
    ("dlion_vote", {"exchange": "allgather"}),
    ("muon", {"exchange": "alltoall"}),
    ("adamw", {"exchange": "alltoall"}),
    ("doublesqueeze", {"exchange": "alltoall", "server": "sharded"}),
)


class Trained:
    """Parameters and their optimizer on a transport; what it does is a function of the step and the worker."""

    def __init__(self, method: str, transport: Any) -> None:
        self.ps = parameters(shapes=SHAPES)
        self.model = nn.ParameterDict(self.ps)
        self.opt = build(_groups(method), self.ps, transport, seed=1)

    def step(self) -> None:
        step(self.opt, self.ps, self.opt.steps, plain)

    def save(self, folder: Path) -> None:
        signa.save_checkpoint(folder, self.model, self.opt, keep=1)

    def load(self, folder: Path) -> None:
        signa.load_checkpoint(folder, self.model, self.opt)


def undisturbed(method: str, steps: int = STEPS) -> str:
    """What one process with simulated workers comes to."""
    run = Trained(method, signa.Loopback(SIZE))
    for _ in range(steps):
        run.step()
    return fingerprint(run.ps)


def rank(r: int, arguments: dict[str, Any], say: Say, method: str, exchange: dict[str, Any], folder: Path) -> Any:
    """One attempt: from the last checkpoint to the end. It says where it is; a typed error is its last word."""
    begun = time.monotonic()

    def at(phase: str) -> None:
        nonlocal begun
        begun = time.monotonic()
        say(phase)

    at("handshake")
    try:
        run = Trained(method, signa.Group(**arguments, **exchange))
        if any(folder.glob("step-*")):
            at("load")
            run.load(folder)
        while run.opt.steps < STEPS:
            at("step")
            run.step()
            if run.opt.steps % EVERY == 0:
                at("save")
                run.save(folder)
    except errors.SignaError as error:
        return {"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - begun}
    return {"digest": fingerprint(run.ps)}


@dataclass(frozen=True)
class Plan:
    """Who dies, in its which-th word of a phase, how long after it, and how."""

    victim: int
    phase: str
    nth: int
    delay: float
    stops: bool

    @classmethod
    def draw(cls, rng: random.Random, resumes: bool) -> Plan:
        """Any rank, any phase that comes, any moment of it; one of five is stopped and killed later."""
        phase = rng.choice([name for name in PHASES if resumes or name != "load"])
        nth = rng.randrange(2) if phase in ("step", "save") else 0
        return cls(rng.randrange(SIZE), phase, nth, rng.random() * LONGEST[phase], rng.random() < 0.2)


class Killer:
    """Carries out a plan; ``fired`` where a signal was sent."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.count, self.fired = plan, 0, False
        self.timer: threading.Timer | None = None

    def heard(self, rank: int, word: Any, pid: int) -> None:
        if (rank, word) == (self.plan.victim, self.plan.phase):
            if self.count == self.plan.nth:
                self.timer = threading.Timer(self.plan.delay, self._fire, [pid])
                self.timer.start()
            self.count += 1

    def _fire(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGSTOP if self.plan.stops else signal.SIGKILL)
            self.fired = True
        except ProcessLookupError:  # it was quicker
            pass

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer.join()


@dataclass
class Tally:
    """What came of it."""

    runs: int = 0
    attempts: int = 0
    kills: int = 0
    by_phase: Counter[str] = field(default_factory=Counter)
    by_method: Counter[str] = field(default_factory=Counter)
    stopped_first: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    slowest_error: float = 0.0
    mismatches: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    untyped: list[str] = field(default_factory=list)
    without_a_kill: list[str] = field(default_factory=list)
    paused: int = 0  # attempts in which the whole machine stood still for a second: their times mean nothing

    @property
    def fine(self) -> bool:
        return self.kills > 0 and not any((self.mismatches, self.hangs, self.leftovers, self.untyped))

    def judge(self, where: str, ended: list[Ended], dead: int | None, paused: bool) -> None:
        """The survivors of one attempt: each came to the end or met a typed error, in time, and went by itself."""
        for r, each in enumerate(ended):
            if r == dead:
                continue
            last = each.result if isinstance(each.result, dict) else {}
            if each.code is None and paused:
                continue
            if each.code is None:
                self.hangs.append(f"{where}: rank {r} had to be ended; it said {each.said[-1:]}")
            elif "error" in last:
                self.errors[last["error"]] += 1
                if not paused:
                    self.slowest_error = max(self.slowest_error, last["seconds"])
                if last["seconds"] > TIMEOUT + GRACE and not paused:
                    self.hangs.append(f"{where}: rank {r} met {last['error']} after {last['seconds']:.1f} s")
                if dead is None and not paused:
                    self.without_a_kill.append(f"{where}: rank {r}: {last['text']}")
            elif "digest" not in last:
                self.untyped.append(f"{where}: rank {r} ended with {each.code} after {each.said[-1:]}")

    def told(self) -> dict[str, Any]:
        """As plain data."""
        return {key: dict(value) if isinstance(value, Counter) else value for key, value in vars(self).items()}


class Pulse:
    """Whether this process stood still: a thread that should wake ten times a second, and when it did not."""

    def __init__(self) -> None:
        self.gap, self._end = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._end.wait(0.1):
            now = time.monotonic()
            self.gap, last = max(self.gap, now - last), now

    def end(self) -> bool:
        self._end.set()
        self._thread.join()
        return self.gap > 1.0


def attempt(tally: Tally, where: str, method: str, exchange: dict[str, Any], folder: Path, plan: Plan | None) -> bool:
    """One attempt of a run; whether it came to its end."""
    killer = Killer(plan) if plan else None
    pulse = Pulse()
    ended = processes(
        SIZE, rank, method, exchange, folder, timeout=TIMEOUT, deadline=TIMEOUT + 20, heard=killer and killer.heard
    )
    paused = pulse.end()
    dead = None
    if killer:
        killer.end()
        whole = isinstance(ended[killer.plan.victim].result, dict)  # its last word came before the signal
        if killer.fired and not whole:
            dead = killer.plan.victim
            tally.kills += 1
            tally.by_phase[ended[dead].result] += 1
            tally.by_method[method] += 1
            tally.stopped_first += killer.plan.stops
        elif killer.fired:
            dead = killer.plan.victim  # it had said everything: neither a kill nor a survivor
    tally.attempts += 1
    tally.paused += paused
    tally.judge(where, ended, dead, paused)
    return all(isinstance(each.result, dict) and "digest" in each.result for each in ended)


def trial(tally: Tally, number: int, rng: random.Random, root: Path, expected: str | None = None) -> None:
    """One run, killed at most five times, to its end; then what it came to, and what lies about."""
    method, exchange = RUNS[number % len(RUNS)]
    folder = root / f"run-{number}"
    folder.mkdir()
    where = f"run {number} ({method})"
    tally.runs += 1
    for lost in range(20):
        kills = lost < 5 and rng.random() < 0.8
        plan = Plan.draw(rng, any(folder.glob("step-*"))) if kills else None
        if attempt(tally, f"{where}, attempt {lost}, {plan}", method, exchange, folder, plan):
            break
    else:
        tally.hangs.append(f"{where} did not come to its end in 20 attempts")
        return
    strange = [
        path.name for path in folder.iterdir() if not (re.match(r"step-\d{8}\Z", path.name) or LEFT.match(path.name))
    ]
    run = Trained(method, signa.Loopback(SIZE))
    run.load(folder)
    found = fingerprint(run.ps)
    if (run.opt.steps, found) != (STEPS, expected or undisturbed(method)):
        tally.mismatches.append(f"{where}: {found} at step {run.opt.steps}")
    run.step()
    run.save(folder)  # what a kill left behind is gone after the next save
    names = sorted(path.name for path in folder.iterdir())
    tally.leftovers += [f"{where}: {name}" for name in strange]
    tally.leftovers += [f"{where}: {name}" for name in names if name != f"step-{STEPS + 1:08d}"]
    shutil.rmtree(folder)


def soak(wanted: Callable[[Tally], bool], *, seed: int, say: Callable[[str], None]) -> Tally:
    """Runs, as long as more are wanted; then what is left on the machine."""
    tally, rng = Tally(), random.Random(seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="signa-soak-") as name:
        root, before = Path(name), None
        number = 0
        while wanted(tally):
            trial(tally, number, rng, root)
            number += 1
            if before is None:  # the first run starts what stays: the server of the processes, torch's threads
                before = belongings()
            if number % 10 == 0:
                say(f"{tally.kills} kills in {tally.runs} runs and {tally.attempts} attempts")
        tally.leftovers += [f"in the folder of the runs: {path.name}" for path in root.iterdir()]
        after = belongings()
        for what, there in after.items():
            new = sorted(there - (before or after)[what])
            tally.leftovers += [f"{what}: {each}" for each in new]
    return tally


def belongings() -> dict[str, set[str]]:
    """Processes below this one, sockets it listens on, its descriptors by number, and its shared memory."""
    if not Path("/proc/self/fd").exists():
        return {}
    pids = set(_below(os.getpid()))
    links = {fd.name: _link(fd) for fd in Path("/proc/self/fd").iterdir()}
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            cells = line.split()
            if cells[3] == "0A":  # LISTEN
                listening.add(f"socket:[{cells[9]}]")
    shared = Path("/dev/shm")
    return {
        "process": {str(pid) for pid in pids},
        "listening socket": {link for link in links.values() if link in listening},
        "descriptor": {fd for fd, link in links.items() if link},
        "shared memory": {p.name for p in shared.iterdir() if p.stat().st_uid == os.getuid() and _ours(p.name)}
        if shared.is_dir()
        else set(),
    }


def _ours(name: str) -> bool:
    """Whether a name in /dev/shm is of the kinds that torch, gloo and multiprocessing make."""
    return name.startswith(("torch_", "gloo", "sem.", "psm_"))


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _below(pid: int) -> Iterable[int]:
    """The processes below one, by their parents."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            cells = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(cells[1]), []).append(int(stat.parent.name))
    todo = [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        yield from children
        todo += children
