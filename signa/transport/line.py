"""One thread that does a group's exchanges in the order in which they were asked for."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Job = tuple[Callable[[], Any], "Future[Any]", "torch.cuda.Event | None", torch.device]


class Line:
    """Exchanges beside the caller, one after the other, so that every rank sends in one order.

    Whoever has put jobs that other ranks may not have put yet sets ``flush``, which puts the rest and waits. It is
    called before anything else is sent (:meth:`settle`), so nothing gets between them on one rank and behind them on
    another.
    """

    def __init__(self) -> None:
        self.flush: Callable[[], None] | None = None
        self._owner: weakref.ref[object] | None = None
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def claim(self, owner: object) -> bool:
        """Whether ``owner`` may put jobs outside of calls that every rank makes: the first living one alone, for two
        could meet in another order elsewhere."""
        if self._owner is None or self._owner() is None:
            self._owner = weakref.ref(owner)
        return self._owner() is owner

    def put(self, job: Callable[[], T], device: torch.device) -> Future[T]:
        """Do it behind what was put before; what the caller has begun on a GPU is finished first."""
        if self._thread is None:
            self._thread = threading.Thread(target=_run, args=(self._queue,), daemon=True, name="signa line")
            self._thread.start()
            weakref.finalize(self, self._queue.put, None)
        begun = None
        if device.type == "cuda":
            begun = torch.cuda.Event()
            begun.record(torch.cuda.current_stream(device))
        future: Future[T] = Future()
        self._queue.put((job, future, begun, device))
        return future

    def settle(self) -> None:
        """Nothing is under way here that is not under way everywhere."""
        if self.flush is not None and threading.current_thread() is not self._thread:
            self.flush()


@torch.no_grad()  # of this thread
def _run(queue: SimpleQueue[Job | None]) -> None:
    streams: dict[torch.device, torch.cuda.Stream] = {}
    while (asked := queue.get()) is not None:
        job, future, begun, device = asked
        try:
            if begun is None:
                future.set_result(job())
                continue
            # The host waits on both ends, so no block of memory is given to one stream while the other still uses it.
            stream = streams.setdefault(device, torch.cuda.Stream(device))
            begun.synchronize()
            with torch.cuda.stream(stream):
                result = job()
            stream.synchronize()
            future.set_result(result)
        except BaseException as error:
            future.set_exception(error)
        finally:
            del asked, job, future  # a caller's tensors must not live until the next job


__all__ = ["Line"]
