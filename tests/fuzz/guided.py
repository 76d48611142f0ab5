"""Coverage-guided inputs by atheris (libFuzzer), where it is installed: it keeps the bytes that reach new lines."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

#: Bytes of an input: longer ones reach no new line, and take longer.
_MOST = 4096
#: The doors that libFuzzer's bytes go through, by the first byte; the second says the suffix.
_DOORS = ("spec", "build", "settings", "study", "sentence", "assign", "vary", "plan", "manifest", "archive", "shapes")
_SUFFIXES = (".yaml", ".json", ".toml")
#: Whose lines are counted as new.
_WATCHED = ("signa", "yaml", "tomllib", "tests.fuzz.doors")


def main(minutes: float, seed: int, out: Path | None = None) -> int:
    """So many minutes; 1 where an input broke the promise, 2 where atheris is missing."""
    try:
        import atheris
    except ImportError:
        print("run.py fuzz: --engine atheris needs atheris, which is not installed: pip install atheris (Linux, macOS)")
        return 2
    with atheris.instrument_imports(include=[*_WATCHED]):
        from tests.fuzz.campaign import FOUND, versions
        from tests.fuzz.trial import Tally, folder, judged, kept, warm
    from tests.fuzz.inputs import Case, made

    tally, known = Tally(), set[tuple[str, str]]()
    with folder() as place, tempfile.TemporaryDirectory() as corpus:
        for index in range(500):  # to begin with
            case = made(seed, index)
            if case.door in _DOORS and case.suffix in (*_SUFFIXES, ".txt") and len(case.data) < _MOST:
                (Path(corpus) / str(index)).write_bytes(_packed(case))
        warm(place)

        end = time.monotonic() + 60 * minutes

        def once(data: bytes) -> None:
            if time.monotonic() > end:  # libFuzzer ends a process without asking Python
                code = _told(tally, versions() | {"atheris": version("atheris")}, seed, out)
                sys.stdout.flush()
                os._exit(code)
            if len(data) < 3:
                return
            case = Case(_DOORS[data[0] % len(_DOORS)], _SUFFIXES[data[1] % len(_SUFFIXES)], data[2:])
            verdict = judged(case, place)
            tally.count(tally.inputs, case, verdict)
            if verdict.failed and verdict.signature not in known:
                known.add(verdict.signature)
                file = kept(case, f"{verdict.outcome}-atheris-{len(known)}", FOUND)
                tally.failures.append({"outcome": verdict.outcome, "what": verdict.what, "file": file.as_posix()})
                print(f"{verdict.outcome}: {verdict.what}\n  {file}", flush=True)

        def mutate(data: bytes, most: int, chance: int) -> bytes:
            """Every third time one of our own mutations of the text, for libFuzzer's know no YAML."""
            rng = Random(chance)
            if len(data) < 3 or rng.random() < 0.67:
                return bytes(atheris.Mutate(data, most))
            from tests.fuzz.inputs import broken_text

            text = broken_text(rng, data[2:].decode("utf-8", "replace"))
            return (data[:2] + text.encode("utf-8", "surrogatepass"))[:most]

        options = [f"-seed={seed + 1}", f"-max_len={_MOST}", "-timeout=60", "-rss_limit_mb=8192", "-verbosity=0"]
        atheris.Setup([sys.argv[0], corpus, *options], once, custom_mutator=mutate)
        atheris.Fuzz()
    return 0


def _packed(case: Any) -> bytes:
    suffix = _SUFFIXES.index(case.suffix) if case.suffix in _SUFFIXES else 0
    return bytes([_DOORS.index(case.door), suffix]) + case.data


def _told(tally: Any, versions: dict[str, str], seed: int, out: Path | None) -> int:
    report = {
        "seed": seed,
        "inputs": tally.inputs,
        "outcomes": dict(sorted(tally.outcomes.items())),
        "slowest_seconds": round(tally.slowest[0], 3),
        "failures": tally.failures,
        "versions": versions,
        "machine": "2 CPU cores",
    }
    print(f"atheris: {tally.inputs:,} inputs, {len(tally.failures)} failures, the slowest {tally.slowest[0]:.2f} s")
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(bool(tally.failures))
