"""What is mutated, in groups, and by which tests it is to be caught."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: The groups that the sample is spread over evenly; wire is the code that makes and reads transport's bytes.
GROUPS = {
    "lmo": ("signa/lmo",),
    "compressors": ("signa/compressors",),
    "aggregators": ("signa/aggregators",),
    "feedback": ("signa/feedback.py",),
    "transport": ("signa/transport",),
    "wire": ("signa/packing.py", "signa/codec.py"),
}

#: Their quick tests. Those of the command line and the lab go through the same code at greater length.
TESTS = ("tests/laws", "tests/paths", "tests/ranks", "tests/planner")

#: Those whose ranks are processes are slow, and mind a busy machine: they are for the modules that no others run.
PROCESSES: dict[str, tuple[str, ...]] = {
    "tests/ranks/test_shard.py": ("signa/transport/shards.py", "signa/transport/node.py"),
    "tests/ranks/test_default_group.py": ("signa/transport/launch.py",),
    "tests/ranks/test_dcp.py": (),
    "tests/ranks/test_deaths.py": (),
    "tests/ranks/test_deaths_saving.py": (),
}


def modules() -> dict[str, str]:
    """The group of each module, by its path from the root."""
    found = {}
    for group, paths in GROUPS.items():
        for path in paths:
            files = sorted((ROOT / path).rglob("*.py")) if (ROOT / path).is_dir() else [ROOT / path]
            found |= {file.relative_to(ROOT).as_posix(): group for file in files}
    return found


def test_files() -> list[str]:
    """The files of tests, and the modules themselves, whose examples are tests too."""
    files = [file for path in TESTS for file in sorted((ROOT / path).glob("test_*.py"))]
    return [*(file.relative_to(ROOT).as_posix() for file in files), *modules()]
