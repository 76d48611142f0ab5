"""Runs tests of a copy in a process of its own that has torch already, and nothing of signa."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

#: What takes seconds to import and is not under test.
PRELOADED = ["torch", "torch._dynamo", "torch.distributed", "torch.distributed.fsdp", "pytest", "hypothesis"]


def outcome(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code (negative: the signal that ended it) and words for these tests of a copy."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    said = tree / "said.txt"
    process = context.Process(target=_run, args=(str(tree), list(tests), str(said)))
    process.start()
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    assert code is not None
    return code, said.read_text(errors="replace")


def _run(tree: str, tests: list[str], said: str) -> None:
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.chdir(tree)
    sys.path.insert(0, tree)
    os.environ |= {"PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}
    # Without compiled files: two texts of one length and one second are one file to Python.
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    assert not any(name.partition(".")[0] == "signa" for name in sys.modules), "the copy must be what is imported"
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    import pytest
    import torch

    torch.set_num_threads(1)
    code = pytest.main(["-q", "-p", "no:cacheprovider", "-rfE", "--tb=line", "-m", "", "--rootdir", tree, *tests])
    sys.stdout.flush()
    os._exit(int(code))
