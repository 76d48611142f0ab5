"""``run.py coverage``: what it counts, what it refuses, and that it measures what is run in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.coverage import floors as told
from tests.test_floors import FILES

ROOT = Path(__file__).resolve().parents[1]


def file(lines=(10, 10), branches=(4, 4), missing_lines=(), missing_branches=()):
    (run, of), (taken, ways) = lines, branches
    summary = {"num_statements": of, "covered_lines": run, "missing_lines": of - run}
    summary |= {"num_branches": ways, "covered_branches": taken, "missing_branches": ways - taken}
    return {"summary": summary, "missing_lines": list(missing_lines), "missing_branches": list(missing_branches)}


def report(**files):
    """A report in which every file is run through, but for these."""
    every = {f"signa/{name}": file() for name in FILES}
    return {"files": every | {f"signa/{name.replace('__', '/')}.py": found for name, found in files.items()}}


def test_a_floor_is_the_sum_of_its_files():
    found = told.floors(report(codec=file((1, 11), (0, 6)), optim=file((9, 10), (4, 4))), set())
    assert min(min(found[floor].shares) for floor in (1, 2, 4)) == 100.0
    number = found[0].lines // 10
    assert found[0].shares == (100 * (10 * number - 9) / found[0].lines, 100 * (4 * number - 4) / (4 * number + 2))
    assert found[3].lines_run == found[3].lines - 1 and found[3].branches_run == found[3].branches


@pytest.mark.parametrize(("lines", "branches"), [((0, 1000), (4, 4)), ((10, 10), (0, 1000))])
@pytest.mark.parametrize(
    ("name", "held"), [("codec", 0), ("feedback", 1), ("sentence", 2), ("optim", 3), ("cli", None)]
)
def test_lines_and_branches_are_each_held_on_floors_0_to_3(name, held, lines, branches):
    found = told.floors(report(**{name: file(lines, branches)}), set())
    assert told.enough(found) == (held is None)
    short = [line for line in told.told(found) if "LESS THAN 95 %" in line]
    assert [line[:8] for line in short] == ([] if held is None else [f"floor {held}:"])


def test_what_is_missing_is_told_with_the_worst_file_first():
    few = file((9, 10), (4, 4), [7])
    many = file((6, 10), (1, 4), [3, 4, 5, 9], [[2, 3], [9, 10], [12, -1]])
    lines = told.told(told.floors(report(codec=few, packing=many), set()))
    at = lines.index("    packing.py: 3-5, 9, 2->3, 12->out")  # 9->10 left a line that never ran
    assert lines[at + 1] == "    codec.py: 7"


def test_a_file_that_was_lost_is_an_error_unless_it_is_left_out():
    less = report()
    del less["files"]["signa/codec.py"]
    with pytest.raises(LookupError, match=r"signa/codec\.py is not in coverage\.py's report"):
        told.floors(less, set())
    assert told.floors(less, {"codec.py"})[0].lines == told.floors(report(), set())[0].lines - 10


def test_only_what_triton_compiles_is_left_out():
    pytest.importorskip("coverage")
    assert told.omitted() == {"kernels/one_pass.py"}


@pytest.mark.parametrize(("code", "found", "wanted"), [(0, {}, 0), (3, {}, 3), (0, {"optim": file((0, 999))}, 1)])
def test_the_exit_code_is_the_tests_or_the_floors(monkeypatch, tmp_path, capsys, code, found, wanted):
    asked = []
    monkeypatch.setattr(told, "FOLDER", tmp_path)
    monkeypatch.setattr(told, "omitted", set)
    monkeypatch.setattr(told, "measure", lambda words: asked.append(words) or code)
    assert told.main([]) == 2 and "no run has been measured" in capsys.readouterr().out
    (tmp_path / told.REPORT).write_text(json.dumps(report(**found)))
    assert told.main(["tests/laws", "-k", "name"]) == told.main([]) == wanted
    assert asked == [["-n", "2"], ["tests/laws", "-k", "name"], ["-n", "2"]]
    assert told.main(["--told"]) == (1 if found else 0) and len(asked) == 3
    assert capsys.readouterr().out.count("floor 3:") == 3


@pytest.mark.parametrize(("codes", "wanted"), [((0,), 0), ((1, 0), 0), ((1, 1), 1), ((2,), 2)])
def test_what_fails_is_run_again_unmeasured(monkeypatch, tmp_path, codes, wanted):
    """A test that only a tracer makes too slow is no failure, one that fails alone is; an interrupted run is not begun
    anew."""
    asked, left = [], list(codes)
    monkeypatch.setattr(told, "FOLDER", tmp_path / "found")
    monkeypatch.setattr(told, "SETTLED", 0.0)
    monkeypatch.setattr(told.subprocess, "call", lambda command, **how: asked.append(command) or left.pop(0))
    monkeypatch.setattr(told.subprocess, "run", lambda command, **how: None)
    assert told.measure(["tests/laws"]) == wanted and not left
    assert asked[0][1:] == ["-m", "coverage", "run", "-m", "pytest", "-p", "tests.coverage.keep", "tests/laws"]
    assert asked[1:] == [[sys.executable, "-m", "pytest", "--last-failed", "tests/laws"]][: len(codes) - 1]


def test_files_that_come_late_are_waited_for(monkeypatch, tmp_path):
    """As of a process that ends after pytest: a file for each of the first three looks."""
    looks = []

    def wait(seconds):
        looks.append(seconds)
        if len(looks) < 4:
            (tmp_path / f"data.{len(looks)}").touch()

    monkeypatch.setattr(told.time, "sleep", wait)
    told.settle(tmp_path)
    assert looks == [told.SETTLED] * 4


ANOTHER = """
import subprocess, sys
def test():
    assert subprocess.call([sys.executable, '-c', 'import signa.toml_places']) == 0
"""
KILLED = """
import atexit, os, signal
def test():
    import signa.toml_places
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("written", "words"), [(ANOTHER, []), (KILLED, ["-n", "1"])], ids=["a test's", "killed late"])
def test_lines_run_in_another_process_count(written, words, monkeypatch, tmp_path):
    """As the run itself does it: what a test starts, and a worker that is killed when its tests are done."""
    pytest.importorskip("coverage")
    test = tmp_path / "test_one.py"
    test.write_text(written)
    monkeypatch.setattr(told, "FOLDER", tmp_path / "found")
    for name in [name for name in os.environ if name.startswith(("COVERAGE_", "PYTEST_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert told.measure(["-q", "-p", "no:cacheprovider", *words, str(test)]) == 0
    files = json.loads((tmp_path / "found" / told.REPORT).read_text())["files"]
    assert files["signa/toml_places.py"]["summary"]["covered_lines"] > 5


def test_the_command_starts():
    words = [sys.executable, "-m", "tests.coverage", "--help"]
    assert "under 95 % on floors 0 to 3" in " ".join(subprocess.check_output(words, cwd=ROOT, text=True).split())
