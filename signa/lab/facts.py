"""What of a run and of its machine can change its bits: written down by every run, and compared by a replay.

Python, the system and the processor's name change nothing by themselves; the libraries and kernels they choose do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .records import environment

if TYPE_CHECKING:
    from .job import Job

__all__ = ["Apart", "apart", "facts"]

#: The facts that a replay compares, the likeliest reason first, and what to do about each.
LIKELY = {
    "workers": "the run went on with another number of workers",
    "spec": "spec.yaml is not the one that was trained: bring back the file",
    "plugins": "bring back the plug-in's file",
    "data": "bring back the data that was trained on",
    "signa": "install that version",
    "commit": "check out that commit",
    "device": "verify on a device of that kind",
    "gpu": "verify on a device of that kind",
    "threads": "sums are added in another order: set OMP_NUM_THREADS to that number",
    "torch": "install that version",
    "numpy": "install that version",
    "cpu": "another processor takes other kernels: verify on one of that kind",
    "platform": "the system's libraries differ",
    "python": "install that version",
}


def facts(job: Job, command: Sequence[str], text: str) -> dict[str, Any]:
    """The environment, and digests of the spec's text, the data and the plug-ins."""
    return environment(command, job.world.device) | {
        "ranks": job.world.size,
        "workers": job.settings.workers,
        "spec": _short(text.encode()),
        "data": job.task.fingerprint() or None,
        "plugins": {Path(path).name: _short(Path(path).read_bytes()) for path in job.plugins},
    }


class Apart(NamedTuple):
    """A fact that is not what it was when the run began, or when it went on at step ``since``."""

    fact: str
    then: Any
    now: Any
    since: int
    instead: str

    def __str__(self) -> str:
        when = f" (from step {self.since} on)" if self.since else ""
        return f"{self.fact}: {_said(self.then)} then{when}, {_said(self.now)} now: {self.instead}"


def apart(recorded: Mapping[str, Any], now: Mapping[str, Any], last: int) -> tuple[list[Apart], list[str]]:
    """What differs of the facts under which steps up to ``last`` were taken, and which of them were not recorded.

    >>> apart({"torch": "2.12", "threads": 1, "resumed": []}, {"torch": "2.13", "threads": 1, "spec": "ab"}, 9)[1]
    ['spec']
    """
    parts = [(0, recorded)] + [(e["step"], e) for e in recorded.get("resumed", []) if e["step"] < last]
    found: dict[str, Apart] = {}
    for fact, instead in LIKELY.items():
        for since, part in parts:
            if fact in part and fact in now and part[fact] != now[fact]:
                found.setdefault(fact, Apart(fact, part[fact], now[fact], since, instead))
    return list(found.values()), [fact for fact in LIKELY if fact in now and fact not in recorded]


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short}" for name, short in value.items()) or "none"
    return "none" if value is None else str(value)
