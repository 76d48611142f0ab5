"""A mutant put to its tests: a forked child imports signa with the fault in it and runs them, the quickest first.

The parent imports what costs seconds (torch, pytest) once and never signa, so every child reads the package anew:
faults in class bodies, properties and decorated functions are in place before anything uses them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import marshal
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

from tests.mutants.modules import ROOT
from tests.mutants.quiet import arguments, calm

#: Imported once: what signa and the tests import and is not signa. torch imports its compiler for the first optimizer.
HEAVY = ("torch", "torch._dynamo", "torch.distributed", "torch.distributed.fsdp", "torch.distributed.checkpoint")
HEAVY += ("torch.utils.data", "numpy", "pydantic", "einops", "yaml", "hypothesis", "hypothesis.strategies", "pytest")
HEAVY += ("unittest.mock", "multiprocessing.managers", "typer", "typer.testing")
SITE = Path(__file__).parent / "site"
#: Seconds between two looks at a child. One that comes much later does not count in full: the machine stood still.
LOOK = 0.05


@dataclass(frozen=True)
class Ended:
    """``how``: killed, survived, hang or crash; ``by`` is the test that failed or was under way."""

    how: str
    by: str = ""
    seconds: float = 0.0


def preload() -> None:
    """Before the first trial. Forking wants one thread."""
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    seen = [name for name in sys.modules if name.partition(".")[0] == "signa"]
    assert not seen, f"{seen} are imported before any mutant is"


def tried(module: str, code: CodeType | None, tests: Sequence[str], limit: float, *, loud: bool = False) -> Ended:
    """What became of it; ``limit``: seconds without a word. No code: the module as it stands."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words, begun = Path(folder) / "words", time.monotonic()
        child = os.fork()
        if child == 0:
            _run(str(ROOT / module), code, tests, words, folder, loud)
        status = _waited(child, words, limit)
        seconds = round(time.monotonic() - begun, 2)
        told = json.loads(words.read_text()) if words.is_file() else {}
    by = told.get("failed", "")
    if status is None:
        return Ended("hang", told.get("under", ""), seconds)
    if by or "code" in told:
        if told.get("code") in (4, 5):
            raise RuntimeError(f"pytest found none of {len(tests)} tests for {module}: measure again which there are")
        return Ended("killed" if by or told["code"] else "survived", by, seconds)
    return Ended("crash", told.get("under", ""), seconds)


def _waited(child: int, words: Path, limit: float) -> int | None:
    """The exit status; None if it was silent for so long and had to be stopped. What it started ends with it."""
    used, last, status, heard, queued = 0.0, time.monotonic(), None, 0, 0.0
    while used < limit:
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            status = code
            break
        time.sleep(LOOK)
        now = time.monotonic()
        queue = _queued(child)
        used += max(0.0, min(now - last, 4 * LOOK) - max(0.0, queue - queued))
        last, queued = now, queue
        if words.is_file() and (said := words.stat().st_mtime_ns) != heard:
            used, heard = 0.0, said
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def _queued(child: int) -> float:
    """Seconds for which its threads were ready and others had the processor; 0 where the system does not tell."""
    waits = 0
    for task in Path(f"/proc/{child}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError):
            waits += int(task.read_text().split()[1])
    return waits / 1e9


def _run(path: str, code: CodeType | None, tests: Sequence[str], words: Path, folder: str, loud: bool) -> NoReturn:
    os.setsid()  # one signal ends it and all that it starts
    os.environ["TMPDIR"], tempfile.tempdir = folder, folder
    if not loud:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
    if code is not None:
        _put(path, code, Path(folder) / "mutant")
    import pytest

    calm()
    told = Told(tests, words)
    files = dict.fromkeys(name.partition("::")[0] for name in tests)
    told.tell(code=int(pytest.main(["-x", *arguments(*files)], plugins=[told])))
    os._exit(0)  # threads that hang are left


def _put(path: str, code: CodeType, file: Path) -> None:
    """For this process, and for all that it starts."""
    file.write_bytes(path.encode() + b"\n" + marshal.dumps(code))
    os.environ["MUTANT"] = str(file)
    os.environ["PYTHONPATH"] = os.pathsep.join((str(SITE), os.environ.get("PYTHONPATH", str(ROOT))))
    runpy.run_path(str(SITE / "sitecustomize.py"))


class Told:
    """Runs these tests alone, in this order, and writes down how it stands."""

    def __init__(self, tests: Sequence[str], words: Path) -> None:
        self.order, self.words = {name: place for place, name in enumerate(tests)}, words
        self.so_far: dict[str, Any] = {}

    def tell(self, **words: Any) -> None:
        """Into a file that a child which dies leaves whole."""
        self.so_far |= words
        self.words.with_suffix(".new").write_text(json.dumps(self.so_far))
        self.words.with_suffix(".new").replace(self.words)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """The quickest first."""
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Of a child that hangs or dies, this is the culprit."""
        self.tell(under=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """The first that fails."""
        if report.failed and "failed" not in self.so_far:
            self.tell(failed=report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        """A fault at import fails the tests' file."""
        if report.failed and "failed" not in self.so_far:
            self.tell(failed=report.nodeid or "the import")
