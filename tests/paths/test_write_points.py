"""A checkpoint is complete or invisible: every single operation on disk is where a save dies, or finds no room."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import signa
from signa.checkpoints.archive import Archive
from signa.errors import CheckpointError
from tests.paths.test_checkpoints import ROOT, build, net, refused, same, saved, snapshot, train
from tests.paths.write_points import FREEING, Fault, Killed, failing_from, failing_once, killed_at, nothing, watched


class Run:
    """A folder with an older checkpoint and what a save left behind, and a run that is a step further."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.start = folder / "run", folder / "start"
        self.model, self.twin = net(), net(seed=1)
        self.opt, self.other = build("ef21muonsign", self.model, 1), build("ef21muonsign", self.twin, 1)
        train(self.model, self.opt, None, 1)
        signa.save_checkpoint(self.start, self.model, self.opt)
        left = self.start / ".step-00000007.0123abcd"
        left.mkdir()
        (left / "shared.pt").write_bytes(b"half")
        self.states = {1: snapshot(self.model, self.opt)}
        train(self.model, self.opt, None, 1)
        self.states[2] = snapshot(self.model, self.opt)

    def save(self, fault: Fault) -> list[str]:
        """What was done in a save of step 2 that also deletes step 1, beginning from the same folder every time."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.start, self.folder)
        with watched(fault) as disk:
            try:
                signa.save_checkpoint(self.folder, self.model, self.opt, keep=1)
            finally:
                self.done = disk.done
        return disk.done

    def check(self, label: Any) -> int:
        """What is visible loads, and is one of the two; the step of the newest. Afterwards a save succeeds."""
        names = sorted(path.name for path in self.folder.glob("step-*"))
        assert names, label
        for name in names:
            step = signa.load_checkpoint(self.folder / name, self.twin, self.other)["step"]
            assert name == f"step-{step:08d}", label
            same(snapshot(self.twin, self.other), self.states[step])
        newest = signa.load_checkpoint(self.folder, self.twin, self.other)["step"]
        assert names[-1] == f"step-{newest:08d}", label
        if newest == 1:
            signa.save_checkpoint(self.folder, self.model, self.opt, keep=1)
            assert [path.name for path in self.folder.iterdir()] == ["step-00000002"], label
        return newest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    return Run(tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def points(run: Run) -> list[str]:
    """What a save does on a healthy disk."""
    return run.save(nothing)


def test_every_byte_is_seen(run: Run, points: list[str]) -> None:
    """The count knows of all that is written: else the faults below would miss a point."""
    shutil.rmtree(run.folder)
    with watched(nothing) as disk:
        path = signa.save_checkpoint(run.folder, run.model, run.opt)
    assert disk.bytes == sum(file.stat().st_size for file in path.iterdir()) > 10_000
    assert disk.done.count("open") == len(list(path.iterdir())) == 3
    assert disk.done.count("fsync") == 3 + 2 and disk.done[-2:] == ["replace", "fsync"]
    assert len(points) > 20 and {"mkdir", "open", "write", "fsync", "replace", "unlink", "rmdir"} == set(points)


def test_killed_at_every_point(run: Run, points: list[str]) -> None:
    """As by SIGKILL: nothing behind the point happens, nothing is cleaned up, unwritten buffers are lost."""
    visible = points.index("replace") + 1
    for number, what in enumerate(points, 1):
        with pytest.raises(Killed):
            run.save(killed_at(number, Killed()))
        assert len(run.done) >= number, "the fault did not fire"
        assert run.check((number, what)) == (1 if number <= visible else 2)


FULL = (errno.ENOSPC, FREEING)
READ_ONLY: tuple[int, tuple[str, ...]] = (errno.EROFS, ())


@pytest.mark.parametrize(("code", "spares"), [FULL, READ_ONLY], ids=["full", "read-only"])
def test_a_disk_that_refuses_from_any_point_on(code: int, spares: tuple[str, ...], run: Run, points: list[str]) -> None:
    visible = points.index("replace") + 1
    for number, what in enumerate(points, 1):
        if what in spares:
            continue
        told = outcome(run, failing_from(number, code, spares))
        assert len(run.done) >= number, "the fault did not fire"
        if number <= visible:
            assert os.strerror(code) in told, (number, what)
            assert spares == () or [path.name for path in run.folder.iterdir() if path.name.startswith(".")] in (
                [],
                [".step-00000007.0123abcd"],  # it had not come so far
            )
        elif number == visible + 1:
            assert "is complete, but its name may not survive a power failure" in told
        assert run.check((number, what)) == (1 if number <= visible else 2)


def test_an_operation_that_fails_once(run: Run, points: list[str]) -> None:
    """A disk that is well again at once must not make half a save look whole."""
    visible = points.index("replace") + 1
    for number, what in enumerate(points, 1):
        told = outcome(run, failing_once(number, OSError(errno.EIO, os.strerror(errno.EIO))))
        assert len(run.done) >= number, "the fault did not fire"
        assert what == "mkdir" or "Input/output error" in told, (number, what, told)
        assert run.check((number, what)) == (1 if number <= visible and told else 2)


def test_an_interrupt_is_one_wherever_it_comes(run: Run, points: list[str]) -> None:
    """torch's zip writer would make a RuntimeError of it, and the run would go on."""
    visible = points.index("replace") + 1
    for number, what in enumerate(points, 1):
        with pytest.raises(KeyboardInterrupt):
            run.save(failing_once(number, KeyboardInterrupt()))
        assert run.check((number, what)) == (1 if number <= visible else 2)


def outcome(run: Run, fault: Fault) -> str:
    """The error of a save, or its advice."""
    with warnings.catch_warnings(record=True) as advice:
        warnings.simplefilter("always")
        try:
            run.save(fault)
        except CheckpointError as error:
            return str(error)
    return " ".join(str(one.message) for one in advice)


# Really killed -------------------------------------------------------------------------------------------------------

DRIVER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.paths.test_write_points import Run
from tests.paths.write_points import killed_at, nothing
run = Run(Path(sys.argv[1]))
points = run.save(nothing)
found = []
for number in range(1, len(points) + 1):
    child = os.fork()
    if not child:
        run.save(killed_at(number))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found.append([points[number - 1], os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, run.check(number)])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_killed_for_good_at_every_point(tmp_path: Path) -> None:
    """The same by SIGKILL, a process for every point."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    visible = [what for what, *_ in found].index("replace")
    assert len(found) > 20 and all(signal == 9 for _, signal, _ in found)
    assert [newest for *_, newest in found] == [1 + (at > visible) for at in range(len(found))]


# Damage of every length ----------------------------------------------------------------------------------------------

FILES = ("shared.pt", "rank-00000.pt", "manifest.json")


def lengths(size: int) -> Iterator[int]:
    """Nothing, a byte, around every power of two, half, all but one, and one too many."""
    around = {1 << power for power in range(1, 20)}
    yield from sorted({0, 1, size // 2, size - 1, size + 1, *(n for n in around | {a + 1 for a in around} if n < size)})


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_any_other_length_is_refused(name: str, tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    data = (path / name).read_bytes()
    tried = list(lengths(len(data)))
    assert len(tried) > 12
    model = net(seed=1)
    opt = build("ef21muonsign", model)
    for length in tried:
        (path / name).write_bytes((data + b"\n")[:length])
        if name == "manifest.json" and length >= len(data) - 1:  # white space at the end of JSON says nothing
            assert Archive(path).workers == 3
            continue
        refused(path, "the checkpoint is damaged|is damaged", model=model, opt=opt)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    (path / name).unlink()
    refused(path, "is not complete" if name == "manifest.json" else f"{name}' is missing: the checkpoint is damaged")


def test_files_that_change_places_are_refused(tmp_path: Path) -> None:
    *_, path = saved(tmp_path)
    (path / "shared.pt").rename(path / "other")
    (path / "rank-00000.pt").rename(path / "shared.pt")
    (path / "other").rename(path / "rank-00000.pt")
    refused(path, "and not .* the checkpoint is damaged|wrong sha256")
