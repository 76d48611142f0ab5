"""A campaign: inputs spread over processes, each of which is ended if it hangs, and the figures as JSON."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from importlib.metadata import version
from multiprocessing import connection
from pathlib import Path
from typing import Any

#: Seconds of its own processor time after which a silent process hangs in code that no signal reaches (where the system
#: does not tell, looks a second apart). The clock's would also count while others have the processor.
SILENCE = 60.0
#: Bytes that a process may take besides what it has when it begins: what ends in more is a MemoryError, a crash.
MOST_MEMORY = 1 << 30
FOUND = Path("build") / "fuzz"


def main(argv: list[str]) -> int:
    """Run it; 1 where an input broke the promise."""
    asked = _parser().parse_args(argv)
    if asked.repeat:
        return _repeated(asked.repeat)
    if asked.engine == "atheris":
        from tests.fuzz.guided import main as guided

        return guided(asked.minutes or 1.0, asked.seed, asked.out)
    end = time.monotonic() + 60 * asked.minutes if asked.minutes else float("inf")
    report = _begun(asked)
    workers = [_Worker(asked, number) for number in range(asked.processes)]
    try:
        while running := [worker for worker in workers if worker.listen()]:
            if time.monotonic() > end:
                for worker in running:
                    worker.stop()
            if not connection.wait([worker.pipe for worker in running], timeout=1.0):
                for worker in running:
                    worker.wait()
    finally:
        for worker in workers:
            worker.process.kill()
    return _told(report, workers, asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run.py fuzz", description="Wrong, hostile and random specs: each is refused."
    )
    parser.add_argument("--inputs", type=int, default=10_000, help="how many (10,000)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="input I of seed S is always the same")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument(
        "--engine", choices=("structured", "atheris"), default="structured", help="atheris: by coverage"
    )
    parser.add_argument(
        "--out", type=Path, help="a JSON file; one of the same seed that ends at --first is gone on with"
    )
    parser.add_argument(
        "--repeat", metavar="SEED/INDEX|FILE", default="", help="one input again, with all that is known"
    )
    return parser


class _Worker:
    """A process that tries every n-th input, and its tally; started again behind an input that hangs."""

    def __init__(self, asked: argparse.Namespace, number: int) -> None:
        from tests.fuzz.trial import Tally

        self.asked, self.tally = asked, Tally()
        self._start(asked.first + number)

    def _start(self, first: int) -> None:
        asked = self.asked
        self.pipe, there = multiprocessing.get_context("spawn").Pipe()
        numbers = (asked.seed, first, asked.first + asked.inputs, asked.processes)
        self.process = multiprocessing.get_context("spawn").Process(target=_work, args=(there, numbers), daemon=True)
        self.process.start()
        there.close()
        self.at, self.looks, self.mark, self.over = first, 0, 0.0, False

    def stop(self) -> None:
        """After the input under way."""
        if self.process.is_alive():
            self.process.terminate()

    def listen(self) -> bool:
        """Take what the process told; whether it goes on."""
        try:
            while self.pipe.poll():
                told = self.pipe.recv_bytes()
                self._take(json.loads(told))
        except (EOFError, OSError):
            if not self.over and self.process.exitcode not in (0, -15, None):
                self._lost(f"the process ended with {self.process.exitcode}")
            else:
                return False
        return True

    def wait(self) -> None:
        """One look more at a silent process."""
        self.looks += 1
        burned = _burned(self.process.pid) or self.looks
        if not self.over and burned - self.mark > SILENCE:
            self.process.kill()
            self._lost(f"silent for {SILENCE:.0f} s")

    def _take(self, told: dict[str, Any]) -> None:
        from tests.fuzz.inputs import Case
        from tests.fuzz.watch import Verdict

        self.mark = _burned(self.process.pid) or self.looks
        if "begin" in told:
            self.at = told["begin"]
        for index, door, outcome, seconds in told.get("done", ()):
            self.tally.count(index, Case(door, "", b""), Verdict(outcome, "", seconds))
        if "failure" in told:
            self.tally.failures.append(told["failure"])
            print(_line(self.asked.seed, told["failure"]), flush=True)
        self.over = self.over or "over" in told

    def _lost(self, why: str) -> None:
        failure = {"index": self.at, "outcome": "hang", "what": why}
        self.tally.failures.append(failure)
        print(_line(self.asked.seed, failure), flush=True)
        self.over = self.at + self.asked.processes >= self.asked.first + self.asked.inputs
        if not self.over:
            self._start(self.at + self.asked.processes)


def _burned(pid: int | None) -> float:
    """A process' processor time in seconds; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(pipe: connection.Connection, numbers: tuple[int, int, int, int]) -> None:
    """The life of a process: input after input, told in batches."""
    from tests.fuzz.inputs import Case, made
    from tests.fuzz.trial import folder, judged, kept, smaller, warm

    seed, first, end, step = numbers
    known: set[tuple[str, str]] = set()
    with folder() as place:
        warm(place)
        _limit_memory()
        done: list[tuple[int, str, str, float]] = []
        last = time.monotonic()
        for index in range(first, end, step):
            pipe.send_bytes(json.dumps({"begin": index}).encode())  # so that one that hangs is known
            case = made(seed, index)
            verdict = judged(case, place)
            done.append((index, case.door, verdict.outcome, verdict.seconds))
            if verdict.failed and verdict.signature not in known:
                known.add(verdict.signature)

                def alike(other: Case, wanted: tuple[str, str] = verdict.signature, at: int = index) -> bool:
                    pipe.send_bytes(json.dumps({"begin": at}).encode())
                    return judged(other, place).signature == wanted

                least = smaller(case, alike, 20 if verdict.outcome == "slow" else 100)
                file = kept(least, f"{verdict.outcome}-{seed}-{index}", FOUND)
                failure = {"index": index, "outcome": verdict.outcome, "what": verdict.what, "file": file.as_posix()}
                pipe.send_bytes(json.dumps({"failure": failure}).encode())
            if time.monotonic() - last > 2.0 or verdict.failed:
                pipe.send_bytes(json.dumps({"done": done}).encode())
                done, last = [], time.monotonic()
        pipe.send_bytes(json.dumps({"done": done, "over": True}).encode())


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    with open("/proc/self/statm", encoding="ascii") if Path("/proc/self/statm").exists() else open(os.devnull) as file:
        pages = (file.read().split() or ["0"])[0]
    if int(pages):
        most = int(pages) * resource.getpagesize() + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _line(seed: int, failure: dict[str, Any]) -> str:
    again = f"python3 run.py fuzz --repeat {seed}/{failure['index']}"
    return f"{failure['outcome']}: {failure['what']}\n  {failure.get('file', '')}\n  again: {again}"


# Figures --------------------------------------------------------------------------------------------------------------


def _begun(asked: argparse.Namespace) -> dict[str, Any]:
    """The report that is gone on with, or an empty one."""
    empty: dict[str, Any] = {"seed": asked.seed, "inputs": 0, "outcomes": {}, "processor_seconds": 0.0, "failures": []}
    if asked.out is None or not asked.out.is_file():
        return empty
    found: dict[str, Any] = json.loads(asked.out.read_text(encoding="utf-8"))
    if (found.get("seed"), found.get("inputs"), found.get("versions")) == (asked.seed, asked.first, versions()):
        return found
    if asked.first:
        sys.exit(f"{asked.out} does not end at input {asked.first} of seed {asked.seed} with these versions")
    return empty


def versions() -> dict[str, str]:
    """Of what decides how an input is read."""
    names = ("torch", "pydantic", "PyYAML", "einops", "typer")
    return {"python": platform.python_version(), **{name.lower(): version(name) for name in names}}


def _told(report: dict[str, Any], workers: list[_Worker], asked: argparse.Namespace) -> int:
    """Print the figures, and write them."""
    from tests.fuzz.trial import Tally
    from tests.fuzz.watch import MOST_SECONDS

    whole = Tally()
    for worker in workers:
        whole.add(worker.tally)
    seconds, index, door = whole.slowest
    if seconds > report.get("slowest", {}).get("seconds", 0.0):
        report["slowest"] = {"seconds": round(seconds, 3), "index": index, "door": door}
    counts = {
        name: report["outcomes"].get(name, 0) + whole.outcomes[name] for name in {*report["outcomes"], *whole.outcomes}
    }
    report |= {
        "inputs": report["inputs"] + whole.inputs,
        "outcomes": dict(sorted(counts.items())),
        "processor_seconds": round(report["processor_seconds"] + whole.seconds, 1),
        "failures": report["failures"] + whole.failures,
    }
    report["crashes"] = sum(failure["outcome"] in ("crash", "hang", "long") for failure in report["failures"])
    report["code_executions"] = sum(failure["outcome"] == "code" for failure in report["failures"])
    report["over_one_second"] = sum(failure["outcome"] in ("slow", "hang") for failure in report["failures"])
    report |= {"limit_seconds": MOST_SECONDS, "machine": "2 CPU cores", "versions": versions()}
    accepted = sum(count for name, count in counts.items() if name.endswith(" accepted"))
    slowest = report.get("slowest", {"seconds": 0.0, "door": "-", "index": -1})
    print(
        f"{report['inputs']:,} inputs of seed {asked.seed}: {accepted:,} accepted, "
        f"{report['crashes']} crashes other than documented errors, {report['code_executions']} code executions, "
        f"{report['over_one_second']} over {MOST_SECONDS:g} s; "
        f"the slowest took {slowest['seconds']:.2f} s of processor time ({slowest['door']}, input {slowest['index']})"
    )
    if asked.out is not None:
        asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(bool(report["failures"]))


def _repeated(which: str) -> int:
    """One input again, by its number or its file, with the error as Python tells it."""
    from tests.fuzz.inputs import Case, made
    from tests.fuzz.trial import folder, judged, warm

    path = Path(which)
    if path.is_file():
        case = Case(path.name.partition("--")[0], path.suffix, path.read_bytes())
    else:
        seed, _, index = which.partition("/")
        case = made(int(seed), int(index))
    with folder() as place:
        warm(place)
        verdict = judged(case, place)
    print(f"{case.door} {case.suffix}, {len(case.data)} bytes: {case.data[:2000]!r}\n{verdict.outcome}: {verdict.what}")
    print(f"{verdict.seconds:.3f} s")
    return int(verdict.failed)
