"""Lines and branches that the tests run, floor by floor: what is too little on floors 0 to 3 fails.

pyproject.toml says how coverage.py measures: with branches, and in every process and thread that a test starts. Each
writes a file of its own into build/coverage; they are combined here, and what is missing is told file by file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.test_floors import FILES, FLOOR, FLOORS, part

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "coverage"
REPORT = "report.json"
#: Percent of lines, and of branches, on each of the floors that are held to it.
LEAST, HELD = 95.0, (0, 1, 2, 3)
FAILED = 1  # pytest's exit code where tests have failed, and not pytest
SETTLED = 5.0  # seconds without another file


@dataclass
class Floor:
    """What was found on one floor, and the lines to print of each file that has something missing."""

    lines: int = 0
    lines_run: int = 0
    branches: int = 0
    branches_run: int = 0
    missing: list[tuple[int, str]] = field(default_factory=list)

    def add(self, file: str, found: dict[str, Any]) -> None:
        """Count one file of coverage.py's JSON report."""
        told = found["summary"]
        self.lines += told["num_statements"]
        self.lines_run += told["covered_lines"]
        self.branches += told["num_branches"]
        self.branches_run += told["covered_branches"]
        # A branch out of a line that never ran is no news.
        never = set(found["missing_lines"])
        jumps = [f"{a}->{b if b > 0 else 'out'}" for a, b in found["missing_branches"] if a not in never]
        count = told["missing_lines"] + told["missing_branches"]
        if count:
            self.missing.append((count, f"{file}: {', '.join([*spans(found['missing_lines']), *jumps])}"))

    @property
    def shares(self) -> tuple[float, float]:
        """Percent of the lines, and of the branches; a floor without any has them all."""
        pairs = ((self.lines_run, self.lines), (self.branches_run, self.branches))
        return tuple(100.0 * run / of if of else 100.0 for run, of in pairs)  # type: ignore[return-value]


def spans(lines: list[int]) -> list[str]:
    """[3, 4, 5, 9] -> ['3-5', '9']."""
    found: list[list[int]] = []
    for line in lines:
        if found and found[-1][1] == line - 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return [str(a) if a == b else f"{a}-{b}" for a, b in found]


def floors(report: dict[str, Any], omitted: set[str]) -> list[Floor]:
    """The floors of a report, each file on its own. A file that is neither reported nor omitted was lost: an error."""
    found = [Floor() for _ in FLOORS]
    reported = {name.replace(os.sep, "/").removeprefix("signa/"): one for name, one in report["files"].items()}
    for file in sorted(FILES):
        if file in reported:
            found[FLOOR[part(file)]].add(file, reported[file])
        elif file not in omitted and FILES[file].read_text(encoding="utf-8").strip():
            raise LookupError(f"signa/{file} is not in coverage.py's report: was another checkout's signa measured?")
    return found


def told(found: list[Floor]) -> list[str]:
    """A line for each floor, and under it its files, those that miss most first."""
    text = []
    for number, floor in enumerate(found):
        lines, branches = floor.shares
        short = number in HELD and min(lines, branches) < LEAST
        text.append(
            f"floor {number}: {lines:6.2f} % of {floor.lines} lines, {branches:6.2f} % of {floor.branches} branches"
            + (f"   LESS THAN {LEAST:g} %" if short else "")
        )
        if number in HELD:
            text += [f"    {line}" for _, line in sorted(floor.missing, reverse=True)]
    return text


def enough(found: list[Floor]) -> bool:
    """Whether every floor that is held to it has its lines and its branches run."""
    return all(min(found[number].shares) >= LEAST for number in HELD)


def main(argv: list[str]) -> int:
    """Run pytest under coverage.py and judge; 1 where a test fails or too little is run."""
    parser = argparse.ArgumentParser(
        prog="run.py coverage",
        description=f"Lines and branches that the tests run, by floor; under {LEAST:g} % on floors 0 to 3 it fails.",
        epilog="All else goes to pytest; nothing else is the quick suite, on two workers: -n 2.",
    )
    parser.add_argument("--told", action="store_true", help="run nothing: tell again what the last run found")
    asked, pytest = parser.parse_known_args(argv)
    if not asked.told and find_spec("coverage") is None:
        print("run.py coverage: coverage.py is not installed here: run it as python3 run.py coverage")
        return 2
    failed = 0 if asked.told else measure(pytest or ["-n", "2"])
    file = FOLDER / REPORT
    if not file.is_file():
        print(f"run.py coverage: no run has been measured: {file} is not there")
        return 2
    found = floors(json.loads(file.read_text(encoding="utf-8")), omitted())
    print(*told(found), sep="\n")
    return failed or int(not enough(found))


def measure(pytest: list[str]) -> int:
    """Run pytest with these words and leave the report of it; pytest's exit code.

    A test that fails is run again without being measured, and that decides: a tracer slows down what is held to a
    time, and Python 3.11 cannot always install it in two threads at once ("another trace function is being installed").
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    env = {"OMP_NUM_THREADS": "1", **os.environ, "COVERAGE_FILE": str(FOLDER / "data")}
    coverage = [sys.executable, "-m", "coverage"]
    keep = ["-p", "tests.coverage.keep"]
    code = subprocess.call([*coverage, "run", "-m", "pytest", *keep, *pytest], cwd=ROOT, env=env)
    settle(FOLDER)
    if code == FAILED:
        print("run.py coverage: those that failed, again, and not measured")
        code = subprocess.call([sys.executable, "-m", "pytest", "--last-failed", *pytest], cwd=ROOT, env=env)
    for step in (["combine", "--quiet"], ["json", "--quiet", "-o", str(FOLDER / REPORT)]):
        subprocess.run([*coverage, *step], cwd=ROOT, env=env, check=True)
    return code


def settle(folder: Path) -> None:
    """Until nobody writes there any more: a server of forks ends, and writes what it ran, after pytest has ended."""
    before, now = -1, 0
    while now != before:
        time.sleep(SETTLED)
        before, now = now, sum(1 for _ in os.scandir(folder))


def omitted() -> set[str]:
    """The files that pyproject.toml leaves out; it says why beside each."""
    import coverage

    patterns = coverage.Coverage(config_file=str(ROOT / "pyproject.toml")).get_option("run:omit") or []
    return {pattern.partition("signa/")[2] for pattern in patterns}  # type: ignore[union-attr]
