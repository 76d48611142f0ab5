"""`python3 run.py soak --minutes N`: kills and resumes across three ranks, then a long run under watch.

Half of the time is for each; ``--kills`` and ``--steps`` ask for so many instead. Exit with 1 where anything is wrong.
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

from signa import __version__
from tests.soak import kills, long

WARMING = 200  # steps that are timed to see how many fit


def main(words: list[str] | None = None) -> int:
    """Soak; the exit status."""
    parser = argparse.ArgumentParser(prog="run.py soak", description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long in all (10)")
    parser.add_argument("--kills", type=int, help="so many kills, however long they take; 0 for none")
    parser.add_argument("--steps", type=int, help="so many steps of the long run; 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    options = parser.parse_args(words)
    if not sys.platform.startswith("linux"):
        parser.error("this reads /proc and stops processes by signals, so it runs on Linux alone")
    found: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
        "signa": __version__, "seed": options.seed,
    }  # fmt: skip
    wrong: list[str] = []
    if options.kills != 0:
        told = _kills(options)
        found["kills"], wrong = told, [*told["mismatches"], *told["hangs"], *told["leftovers"], *told["untyped"]]
        wrong += [] if told["kills"] else ["nobody was killed"]
    if options.steps != 0:
        found["long"] = _long(options)
        wrong += found["long"]["faults"]
    if options.json:
        options.json.write_text(json.dumps({**found, "fine": not wrong}, indent=1) + "\n", encoding="utf-8")
    for line in wrong:
        print(f"WRONG: {line}")
    print("soak: " + ("nothing is wrong" if not wrong else f"{len(wrong)} faults"))
    return 1 if wrong else 0


def _kills(options: argparse.Namespace) -> dict[str, Any]:
    begun = time.monotonic()

    def wanted(tally: kills.Tally) -> bool:
        if options.kills is not None:
            return tally.kills < options.kills
        return time.monotonic() - begun < options.minutes * 30 or tally.runs == 0

    told = kills.soak(wanted, seed=options.seed, say=_say).told()
    told["seconds"] = round(time.monotonic() - begun, 1)
    counts = {key: len(told[key]) for key in ("mismatches", "hangs", "leftovers", "untyped", "without_a_kill")}
    _say(f"{told['kills']} kills in {told['runs']} runs and {told['attempts']} attempts, {told['seconds']} s: {counts}")
    _say(f"where: {told['by_phase']}; errors met: {told['errors']}, the slowest after {told['slowest_error']:.2f} s")
    return told


def _long(options: argparse.Namespace) -> dict[str, Any]:
    steps = options.steps
    if steps is None:
        begun = time.monotonic()
        long.run(True, WARMING)
        long.run(False, WARMING)
        each = (time.monotonic() - begun) / WARMING
        steps = max(long.SAMPLES, int(options.minutes * 30 / each))
    worlds, seconds = long.soak(steps, _say)
    told = {name: [w.told() for w in ranks if w.samples] for name, ranks in worlds.items()}
    return {"steps": steps, **told, "seconds": seconds, "faults": long.faults(worlds)}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
