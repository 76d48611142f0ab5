"""A component in two processes of their own, which know of it what a second machine would: a file and its fields.

``python -m signa.testing.two_ranks`` is one of them: it reads what to build from standard input, joins the other over
gloo, and prints the digests of its model.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from ..rule import Rule, plain

__all__ = ["run"]

_SECONDS = 120.0  # for both; a start takes two to five of them


def run(rule: Rule) -> list[list[dict[str, str]]]:
    """The digests (see :func:`.inside.digests`) that each of two ranks computes; workers are spread 2 and 1.

    Raises:
        AssertionError: another process cannot find the class, or a rank failed; with the end of what it said.
    """
    cls = type(rule)
    if "<locals>" in cls.__qualname__:
        raise AssertionError(
            f"{cls.__qualname__} stands in a function, where another process cannot find it: put the class at the top "
            "of a file, or leave the trial out with only=laws(rule)"
        )
    try:
        file = inspect.getfile(cls)
    except (OSError, TypeError):
        raise AssertionError(f"{cls.__qualname__} stands in no file: another process cannot read it") from None
    job = {
        "path": sys.path, "file": str(Path(file).resolve()), "module": cls.__module__, "class": cls.__qualname__,
        "fields": {name: value for name, value in plain(rule).items() if name != "kind"},
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ExitStack() as files:
        said = [[files.enter_context(TemporaryFile("w+")) for _ in range(2)] for _ in range(2)]  # out, err of each
        _run([_started(rank, port, json.dumps(job), *said[rank]) for rank in range(2)], said)
        for out, _ in said:
            out.seek(0)
        return [json.loads(out.read().splitlines()[-1]) for out, _ in said]


def _run(ranks: list[subprocess.Popen[str]], said: Sequence[Sequence[IO[str]]]) -> None:
    """Wait until both have ended well; as soon as one has not, the other is ended too."""
    end = time.monotonic() + _SECONDS
    try:
        while any(process.poll() is None for process in ranks) and not any(process.poll() for process in ranks):
            if time.monotonic() > end:
                raise AssertionError(f"the two ranks do not end within {_SECONDS:g} s")
            time.sleep(0.02)
    finally:
        codes = [process.poll() for process in ranks]
        for process in ranks:
            process.kill()
            process.wait()
    for rank, code in enumerate(codes):
        if code:
            said[rank][1].seek(0)
            last = "\n".join(said[rank][1].read().strip().splitlines()[-12:])
            raise AssertionError(f"rank {rank} failed:\n{last}")


def _started(rank: int, port: int, job: str, out: IO[str], err: IO[str]) -> subprocess.Popen[str]:
    torchruns = ("TORCHELASTIC_", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "RANK", "WORLD_SIZE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(torchruns)}
    own = {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]),
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-m", "signa.testing.two_ranks"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=err, text=True, env=kept | own)
    with suppress(BrokenPipeError):  # it died at once, and says why
        process.stdin.write(job)  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]
    return process


def _component(job: dict[str, Any]) -> Rule:
    """The component of the other process: its class from its module or, where no import finds that, from its file."""
    from ..plugin import load_plugins

    sys.path[:] = job["path"]
    try:
        module = importlib.import_module(job["module"]) if job["module"] != "__main__" else None
    except ImportError:
        module = None
    if module is None:
        load_plugins([job["file"]])
        module = next(m for m in sys.modules.values() if getattr(m, "__file__", None) == job["file"])
    found: Any = module
    for name in job["class"].split("."):
        found = getattr(found, name)
    return found(**job["fields"])


def _rank() -> None:
    from ..transport import Group
    from .inside import digests, group_with, trained, workers_of

    group = group_with(_component(json.loads(sys.stdin.read())))
    workers, rank = workers_of(group), int(os.environ["RANK"])
    held = workers // 2 if rank else workers - workers // 2
    wire = Group(workers_per_rank=held, timeout=_SECONDS / 2)
    found = digests(trained(group, wire))
    sys.stdout.write(json.dumps(found) + "\n")
    wire.close()


if __name__ == "__main__":
    _rank()
