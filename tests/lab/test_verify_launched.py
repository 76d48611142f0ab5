"""`signa verify` of a run that torchrun started: one process replays what several ranks recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from signa.lab.verify import verify as replayed
from tests.lab.test_launched import HANGS, environment, torchrun
from tests.lab.tiny import words


def verify(run: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit status and verdict of `signa verify RUN --json`, in a process with one thread, as the ranks had."""
    command = [sys.executable, "-m", "signa", "verify", str(run), "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=HANGS, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.filterwarnings("ignore::signa.errors.Advice")
def test_a_run_of_ranks_is_replayed_by_one_process(tmp_path: Path) -> None:
    """Three workers on two ranks: the same, bit for bit; and one bit of one parameter is found where it is."""
    sized = ("--workers", "3", "--steps", "6", "--name", "run")
    done = torchrun(*words(tmp_path, *sized, "--set", "train.overlap=true"))
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ranks"] == 2 and summary["payload_sent"] > 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    code, told = verify(run, "--steps", "0")
    assert (code, told["same"], told["steps"], told["of"]) == (0, True, 6, 6)
    assert told["apart"] == [] == told["not_recorded"]
    assert told["compared"]["losses"] == 6 and told["compared"]["digests of the model"] == 4  # at 0, 2, 4 and 6
    assert told["compared"]["digests of the final model"] == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    trail = run / "trail.jsonl"
    head, *lines = [json.loads(line) for line in trail.read_text().splitlines()]
    digest = lines[1]["digests"][3]  # of the step 4
    lines[1]["digests"][3] = f"{int(digest, 16) ^ 1:0{len(digest)}x}"
    trail.write_text("".join(json.dumps(line) + "\n" for line in (head, *lines)))
    found = replayed(run, steps=4).difference
    assert found is not None and (found.step, found.what, found.names) == (4, "the model", (head["names"][3],))
