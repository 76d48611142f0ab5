"""Trying cases one after the other, counting what became of them, and making small what failed."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.doors import NAMES, opened
from tests.fuzz.inputs import RIGHT, Case
from tests.fuzz.watch import DOCUMENTED, Verdict, tried

CORPUS = Path(__file__).parent / "corpus"


@contextmanager
def folder() -> Iterator[Path]:
    """A place for the files of the cases."""
    with tempfile.TemporaryDirectory(prefix="signa-fuzz-") as name:
        yield Path(name)


def judged(case: Case, place: Path) -> Verdict:
    """What becomes of a case."""
    return tried(opened(case.door, _file(case, place)))


def _file(case: Case, place: Path) -> Path:
    """The case as the only file in a place."""
    for left in place.iterdir():
        left.unlink()
    file = place / NAMES.get(case.door, f"input{case.suffix}")
    file.write_bytes(case.data)
    return file


def warm(place: Path) -> None:
    """Every door with what is right, so that what Python loads and compiles on first use is counted for no input."""
    repr(torch.ones(1))
    for door, text in RIGHT.items():
        for suffix in (".yaml", ".json") if door != "build" else (".yaml",) * 4:
            text += " " * (door == "build")  # some of these take a step
            with contextlib.suppress(*DOCUMENTED):  # a manifest of files that are not there
                opened(door, _file(Case(door, suffix, text.encode()), place))()


@dataclass
class Tally:
    """How many inputs of which door came to what, and the slowest."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: tuple[float, int, str] = (0.0, -1, "")
    failures: list[dict[str, Any]] = field(default_factory=list)

    def count(self, index: int, case: Case, verdict: Verdict) -> None:
        """One input more."""
        self.inputs += 1
        self.outcomes[f"{case.door} {verdict.outcome}"] += 1
        self.seconds += verdict.seconds
        self.slowest = max(self.slowest, (verdict.seconds, index, case.door))

    def add(self, other: Tally) -> None:
        """Another tally's inputs."""
        self.inputs += other.inputs
        self.outcomes += other.outcomes
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        self.failures += other.failures


def smaller(case: Case, fails: Callable[[Case], bool], tries: int = 400) -> Case:
    """A case from which no piece can be taken without it ceasing to fail, as far as so many tries get."""
    size = len(case.data) // 2
    while size and tries:
        at = 0
        while at < len(case.data) and tries:
            shorter = Case(case.door, case.suffix, case.data[:at] + case.data[at + size :])
            tries -= 1
            if fails(shorter):
                case = shorter
            else:
                at += size
        size //= 2
    return case


def kept(case: Case, name: str, into: Path) -> Path:
    """The case as a file: ``DOOR--NAME.SUFFIX``."""
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"{case.door}--{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')[:60]}{case.suffix}"
    path.write_bytes(case.data)
    return path


def corpus(place: Path = CORPUS) -> dict[str, Case]:
    """Cases that are kept as files, by name."""
    files = sorted(file for file in place.iterdir() if "--" in file.name) if place.is_dir() else []
    return {file.stem: Case(file.name.partition("--")[0], file.suffix, file.read_bytes()) for file in files}
