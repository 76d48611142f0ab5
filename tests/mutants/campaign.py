"""A campaign: a seeded sample of mutants, spread evenly over the groups, each put to its tests; resumable, as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import random
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.mutants.cover import fingerprint, measured
from tests.mutants.modules import GROUPS, PROCESSES, ROOT, TESTS, modules
from tests.mutants.mutant import Mutant, mutants
from tests.mutants.trial import preload, tried

FOLDER = ROOT / "build" / "mutants"
#: A mutant hangs after five times what its slowest test takes as it is, and so many seconds to import and collect.
PATIENCE, START = 5.0, 20.0
#: Processes import torch anew.
BEGIN = 90.0
MISSED = ("survived", "untested")


def main(argv: list[str]) -> int:
    """Run it; 1 where a test fails without a mutant, and 2 where nothing is to be mutated."""
    asked = _parser().parse_args(argv)
    chosen = list(sample(asked.seed, asked.module))
    if not chosen:
        print(f"no mutant in {', '.join(asked.module)}; the modules are:", *modules(), sep="\n  ")
        return 2
    lines = measured(FOLDER / "lines.json")
    end = time.monotonic() + 60 * asked.minutes if asked.minutes else float("inf")
    found = _begun(asked)
    known = {(one["module"], one["number"]): place for place, one in enumerate(found["mutants"])}
    preload()
    wanted = asked.mutants or (len(chosen) if asked.module or asked.minutes else 400)
    for mutant in chosen:
        place = known.get((mutant.module, mutant.number))
        again = place is not None and asked.again and found["mutants"][place]["how"] in MISSED
        if time.monotonic() > end or (not asked.again and len(found["mutants"]) >= wanted):
            break
        if again or (place is None and not asked.again and mutant.differs()):
            one = _put(mutant, lines, asked)
            if place is None:
                found["mutants"].append(one)
            else:
                found["mutants"][place] = one
            found["score"] = scores(found["mutants"])
            asked.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{len(found['mutants']):5}  {told(one)}", flush=True)
    return _closed(found, asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run.py mutants", description="Small faults, which the tests catch.")
    parser.add_argument("--mutants", type=int, default=0, help="how many (400; all of the modules asked for)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0, help="which ones, and in which order")
    parser.add_argument("--module", action="append", default=[], help="a group, a file or file:line; may be repeated")
    parser.add_argument("--most", type=float, default=8.0, help="seconds of tests for one mutant (8)")
    parser.add_argument("--again", action="store_true", help="those alone that were not caught, with the tests of now")
    parser.add_argument("--out", type=Path, default=FOLDER / "found.json", help="one of the same seed is gone on with")
    parser.add_argument("--loud", action="store_true", help="show what pytest says of each")
    return parser


def sample(seed: int, only: list[str]) -> Iterator[Mutant]:
    """Every mutant of these modules, each group in an order of its own, one group after the other in turn."""
    groups: dict[str, list[Mutant]] = {group: [] for group in GROUPS}
    for module, group in modules().items():
        asked = [one for one in only if module.startswith(one.partition(":")[0]) or one == group]
        at = {int(one.partition(":")[2]) for one in asked if ":" in one}
        if asked or not only:
            groups[group] += [mutant for mutant in mutants(module) if not at or mutant.line in at]
    for group, each in groups.items():
        random.Random(f"{seed} {group}").shuffle(each)
    for turn in zip_longest(*groups.values()):
        yield from (mutant for mutant in turn if mutant is not None)


def _put(mutant: Mutant, lines: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    names, took = lines["tests"], lines["seconds"]
    able = _ordered(_able(mutant, lines), names, took)
    tests, budget, slowest = [], asked.most, 0.0
    for test in able:
        if tests and budget < took[test]:
            continue
        tests.append(names[test])
        budget, slowest = budget - took[test], max(slowest, took[test])
    one = {"module": mutant.module, "number": mutant.number, "line": mutant.line, "kind": mutant.kind}
    one |= {"before": mutant.before, "after": mutant.after, "tests": len(tests), "able": len(able)}
    if not tests:
        return one | {"how": "untested"}
    limit = START + PATIENCE * slowest + (BEGIN if any(test.partition("::")[0] in PROCESSES for test in tests) else 0.0)
    ended = tried(mutant.module, mutant.code(), tests, limit, loud=asked.loud)
    if ended.how == "hang":  # or the machine had no time for it: the test alone may take three times as long
        alone = tried(mutant.module, mutant.code(), [ended.by] if ended.by else tests[:1], 3 * limit, loud=asked.loud)
        if alone.how != "hang":
            ended = tried(mutant.module, mutant.code(), tests, 3 * limit, loud=asked.loud)
    return one | {"how": ended.how, "by": ended.by, "seconds": ended.seconds}


def _able(mutant: Mutant, lines: dict[str, Any]) -> list[int]:
    """Those that run it, and of the files whose ranks are processes, in which nobody looks, all for their modules."""
    own = [file for file, modules in PROCESSES.items() if mutant.module in modules]
    files = [name.partition("::")[0] for name in lines["tests"]]
    seen = mutant.tests(lines["lines"].get(mutant.module, {}))
    return sorted(
        {*(test for test in seen if files[test] not in PROCESSES)} | {t for t, f in enumerate(files) if f in own}
    )


def _ordered(able: list[int], names: list[str], took: list[float]) -> list[int]:
    """The quickest case of every test function, then the second of each, and so on: all of them have a say early."""
    functions: dict[str, list[int]] = {}
    for test in sorted(able, key=lambda test: (took[test], names[test])):
        functions.setdefault(names[test].partition("[")[0], []).append(test)
    return [test for turn in zip_longest(*functions.values()) for test in turn if test is not None]


def scores(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By group, by kind and of all: how many, how many of them were caught, and the share."""
    group = modules()
    table: dict[str, Counter[str]] = {}
    for one in found:
        for row in (group.get(one["module"], "gone"), f"kind: {one['kind']}", "all"):
            table.setdefault(row, Counter()).update([one["how"], "mutants"])
    return {
        row: {**table[row], "score": round(_caught(table[row]) / table[row]["mutants"], 4)} for row in sorted(table)
    }


def _caught(row: Counter[str]) -> int:
    return row["killed"] + row["hang"] + row["crash"]


def told(one: dict[str, Any]) -> str:
    """One mutant in a line."""
    by = f"   by {one['by']}" if one.get("by") else ""
    return f"{one['how']:8} {one['module']}:{one['line']}  {one['before']}  ->  {one['after']}{by}"


def _closed(found: dict[str, Any], asked: argparse.Namespace) -> int:
    """The killers once more, without a mutant: one that fails then has killed nothing."""
    killers = sorted({one["by"] for one in found["mutants"] if one["how"] == "killed" and "::" in one["by"]})
    ended = tried("signa/__init__.py", None, killers, 600.0, loud=asked.loud) if killers else None
    print(f"\n{'':16}{'mutants':>8}{'caught':>8}{'score':>8}")
    for row, counts in found["score"].items():
        print(f"{row:16}{counts['mutants']:8}{_caught(Counter(counts)):8}{100 * counts['score']:7.1f}%")
    print("\nNot caught:")
    for one in found["mutants"]:
        if one["how"] in MISSED:
            print(f"  {told(one)}")
    print(f"\nEverything is in {asked.out}")
    if ended is not None and ended.how != "survived":
        print(f"WITHOUT A MUTANT {ended.by or 'a test'} FAILS TOO ({ended.how}): what it caught does not count")
        return 1
    return 0


def _begun(asked: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run of this seed found in the same code, or nothing yet."""
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    words = ["run.py", "mutants", *(f"--module={one}" for one in asked.module), f"--seed={asked.seed}"]
    begun = {
        "command": " ".join(words),
        "seed": asked.seed,
        "code": fingerprint(*(ROOT / module for module in modules())),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "tests": list(TESTS),
    }
    if asked.out.is_file():
        earlier = json.loads(asked.out.read_text(encoding="utf-8"))
        if all(earlier.get(key) == value for key, value in begun.items()):
            return earlier
    return {**begun, "score": {}, "mutants": []}
