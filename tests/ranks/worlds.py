"""Worlds of ranks on one machine: threads for what they compute, processes for how they die.

A thread rank is a real gloo process group over a HashStore; four of them start in milliseconds. A process rank can be
killed, stopped and left; the store then lives in the parent, as torchrun's does in its agent. Every wait has an end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import distributed as dist


def within(seconds: float) -> float:
    """What so many seconds of work may take on this machine now: longer, where more wants to run than it has cores."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def on_one_core() -> None:
    """Keep this thread, and those that it will start, on one core; each of pytest's workers has a core of its own.

    Ranks in threads that pass the interpreter's lock from core to core take half again as long as on one.
    """
    if hasattr(os, "sched_setaffinity"):  # Linux alone has it
        cores = sorted(os.sched_getaffinity(0))
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        os.sched_setaffinity(0, {cores[worker % len(cores)]})


Rank = Callable[[int, dict[str, Any]], Any]
"""f(rank, arguments): ``signa.Group(**arguments, ...)`` joins the world."""


def world(size: int, f: Rank, *, timeout: float = 10.0, deadline: float = 60.0) -> list[Any]:
    """What f returned on every rank, or the exception that ended it."""
    store, results = dist.HashStore(), [None] * size

    def run(rank: int) -> None:
        on_one_core()
        torch.set_num_threads(1)
        try:
            group = dist.ProcessGroupGloo(store, rank, size, timedelta(seconds=timeout + 5))
            own = dist.PrefixStore("faults", store)
            results[rank] = f(rank, {"process_group": group, "store": own, "timeout": timeout})
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    end = time.monotonic() + deadline
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    hung = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    assert not hung, f"ranks {hung} hang after {deadline} s; the others: {results}"
    return results


def every(results: list[Any]) -> list[Any]:
    """The results, if no rank failed."""
    for rank, result in enumerate(results):
        if isinstance(result, BaseException):
            raise AssertionError(f"rank {rank} failed: {result!r}") from result
    return results


@dataclass
class Ended:
    """How a process rank ended: its exit code (None: it had to be stopped here), what it said, and how long after its
    last word it lived."""

    code: int | None
    said: list[Any]
    seconds: float

    @property
    def result(self) -> Any:
        """Its last word."""
        return self.said[-1] if self.said else None


def processes(
    size: int,
    f: Callable[..., Any],
    *args: Any,
    timeout: float = 2.0,
    deadline: float = 40.0,
    host: bool = False,
    heard: Callable[[int, Any, int], None] | None = None,
) -> list[Ended]:
    """How f(rank, arguments, say, *args) ended on every rank; what it returns is its last word, as if it said it.

    ``host``: rank 0 hosts the store itself. ``heard`` is told each word as it comes: who said it, what, and the
    process' number. A rank that is stopped (SIGSTOP) when all others have ended is killed.
    """
    context = multiprocessing.get_context("forkserver")
    # torch imports its compiler, seconds of work, when the first optimizer is made.
    torchs = ["torch._dynamo", "torch.distributed", "torch.distributed.fsdp"]
    context.set_forkserver_preload([*torchs, "pytest", "signa.optim", "signa.checkpoints", "tests.ranks.cases"])
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    ranks = [
        context.Process(target=_rank, args=(pipes[r][1], r, size, store.port, host, f, args, timeout, deadline))
        for r in range(size)
    ]
    for process in ranks:
        process.start()
    for _, writer in pipes:
        writer.close()
    said: list[list[Any]] = [[] for _ in ranks]
    last, gone = [time.monotonic()] * size, [0.0] * size
    readers = {reader: rank for rank, (reader, _) in enumerate(pipes)}
    sentinels = {process.sentinel: rank for rank, process in enumerate(ranks)}
    end = time.monotonic() + deadline
    while (readers or sentinels) and time.monotonic() < end:
        if len(sentinels) == 1 and all(_stopped(ranks[rank].pid) for rank in sentinels.values()):
            break
        for ready in wait([*readers, *sentinels], 0.2):
            if ready in sentinels:
                gone[sentinels.pop(ready)] = time.monotonic()
                continue
            rank = readers[ready]
            try:
                said[rank].append(ready.recv())
                last[rank] = time.monotonic()
            except EOFError:
                del readers[ready]
                continue
            if heard:
                heard(rank, said[rank][-1], ranks[rank].pid or 0)
    codes = [None if rank in sentinels.values() else process.exitcode for rank, process in enumerate(ranks)]
    for process in ranks:
        if process.is_alive():
            process.kill()
        process.join()
    lived = [max(0.0, end - word) for end, word in zip(gone, last, strict=True)]
    return [Ended(*facts) for facts in zip(codes, said, lived, strict=True)]


def _stopped(pid: int | None) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _rank(
    pipe: Any, rank: int, size: int, port: int, host: bool, f: Any, args: Sequence[Any], timeout: float, deadline: float
) -> None:
    signal.alarm(int(deadline) + 5)  # even if the parent dies
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store: Any = dist.TCPStore("127.0.0.1", port, is_master=False)
    if host:
        if rank == 0:
            own = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            store.set("port", str(own.port))
        else:
            own = dist.TCPStore("127.0.0.1", int(store.get("port")), is_master=False)
        store = own
    seconds = timedelta(seconds=timeout + 5)
    group = dist.ProcessGroupGloo(dist.PrefixStore("gloo", store), rank, size, seconds)
    arguments = {"process_group": group, "store": dist.PrefixStore("faults", store), "timeout": timeout}
    result = f(rank, arguments, pipe.send, *args)
    pipe.send(result)
