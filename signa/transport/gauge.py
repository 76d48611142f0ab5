"""How fast gloo itself is on this machine, over the loopback interface: ranks as threads of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch._C import _distributed_c10d as c10d

from .ranks import Ranks

_BYTES = 1 << 22  # of one rank's payload
_TIMES = 5
_PATIENCE = 60.0


T = TypeVar("T")


def gauge(size: int) -> dict[str, float]:
    """Bytes per second that the busiest of ``size`` ranks sends in each kind of collective, and ``messages``: the
    inverse of what a collective costs for each peer, whatever its length.

    A link that is slower than this is what a step waits for; a faster one is not.
    """

    def rates(group: Any, store: Any) -> dict[str, float]:
        ranks = Ranks(group, store, _PATIENCE)
        return {name: amount / _median(act, ranks) for name, amount, act in _kinds(ranks)}

    return in_threads(size, rates)[0]


def in_threads(size: int, act: Callable[[Any, Any], T]) -> list[T]:
    """What ``act(process group, store)`` gives on each of ``size`` gloo ranks, threads of this process with one thread
    of torch's each; what it raises on any of them."""
    store, found, errors = c10d.HashStore(), dict[int, T](), list[BaseException]()

    def rank(number: int) -> None:
        try:
            torch.set_num_threads(1)
            group = dist.ProcessGroupGloo(store, number, size, timedelta(seconds=_PATIENCE + 5))
            found[number] = act(group, c10d.PrefixStore("faults", store))
        except BaseException as error:  # raised in the caller's thread
            errors.append(error)

    own = torch.get_num_threads()
    threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(own)
    if errors:
        raise errors[0]
    return [found[number] for number in range(size)]


def _kinds(ranks: Ranks) -> list[tuple[str, float, Callable[[], object]]]:
    """(name, what is moved, the collective)."""
    size, what = ranks.size, "a gauge"
    payload = torch.zeros(_BYTES, dtype=torch.uint8)
    each = [_BYTES // size] * size
    own, little = payload[: sum(each)], payload[:32]
    share = each[0] * (size - 1)
    whole, half = payload.view(torch.float32), payload.view(torch.bfloat16)
    return [
        ("messages", size - 1, lambda: ranks.gather(little, [32] * size, what)),
        ("alltoall", share, lambda: ranks.swap(own, each, each, what)),
        ("allgather", share, lambda: ranks.gather(payload[: each[0]], each, what)),
        ("allreduce float32", 2 * _BYTES * (size - 1) / size, lambda: ranks.total(whole, what)),
        ("allreduce bfloat16", 2 * _BYTES * (size - 1) / size, lambda: ranks.total(half, what)),
    ]


def _median(act: Callable[[], object], ranks: Ranks) -> float:
    act()
    taken = []
    for _ in range(_TIMES):
        ranks.largest("a gauge")  # together
        begun = time.perf_counter()
        act()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[_TIMES // 2]


__all__ = ["gauge", "in_threads"]
