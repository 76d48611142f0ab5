"""Who trains: one process that simulates every worker, or the ranks that torchrun started, with some workers each.

Rank 0 alone writes, prints and evaluates. Whatever it finds is told to the others, so a run has one result everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from ..errors import SignaError, SpecError, WireError
from ..transport import Group, Loopback, replicate
from ..transport.launch import Launched, join, launched, leave
from .refusal import Diverged, refusal
from .settings import Settings

__all__ = ["World", "share", "together"]

T = TypeVar("T")
PATIENCE = 300.0  # seconds for processes to start: loading torch from a busy disk is no fault of a step


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees it."""

    transport: Loopback | Group
    device: torch.device

    @property
    def rank(self) -> int:
        """This process' number."""
        return self.transport.rank if isinstance(self.transport, Group) else 0

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.transport.size if isinstance(self.transport, Group) else 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def step(self) -> int:
        """The step under way, for errors."""
        return self.transport.ranks.step if isinstance(self.transport, Group) else 0

    def traffic(self) -> tuple[int, int]:
        """Payload bytes that this process has sent and received until now."""
        return self.transport.traffic if isinstance(self.transport, Group) else (0, 0)

    def lead(self, act: Callable[[], T]) -> T:
        """Rank 0's result of ``act``, which is plain data, on every rank; the others do not call it, and wait.

        Raises:
            SpecError: rank 0's, on every rank.
        """
        if not isinstance(self.transport, Group):
            return act()
        refused: list[SpecError] = []

        def told_act() -> str:
            try:
                return json.dumps({"value": act()})
            except SpecError as error:
                refused.append(error)
                return json.dumps({"refused": str(error)})

        told = json.loads(
            self.transport.ranks.together(told_act if self.leads else lambda: "{}", "the word of rank 0")[0]
        )
        if refused:
            raise refused[0]
        if "refused" in told:
            raise refusal(told["refused"])
        value: T = told["value"]
        return value

    def beside(self, rows: list[list[float]]) -> list[list[float]]:
        """Everybody's rows side by side, in the order of the workers."""
        if not isinstance(self.transport, Group):
            return rows
        told = [json.loads(text) for text in self.transport.ranks.texts(json.dumps(rows), "the losses")]
        return [[*chain(*parts)] for parts in zip(*told, strict=True)]

    def replicate(self, model: nn.Module) -> None:
        """Rank 0's parameters and buffers, everywhere."""
        if isinstance(self.transport, Group):
            replicate(model, self.transport)


def share(workers: int, ranks: int) -> list[int]:
    """How many workers each rank holds: as equal as can be, the first ranks one more.

    >>> share(5, 3)
    [2, 2, 1]
    """
    return [workers // ranks + (rank < workers % ranks) for rank in range(ranks)]


@contextmanager
def together(settings: Settings, what: str) -> Iterator[World]:
    """The world of a run, from its beginning to its end; ``what`` (the run's spec) must be the same on every rank.

    Leaving it waits for the others and destroys the process group, if it was made here. After an error the others are
    told, and after a fault of the wire nothing is destroyed: that could wait for a message that never comes.

    Raises:
        SpecError: there are more ranks than workers, a rank has no device, or ranks run different specs.
        PeerLost: the others did not come.
    """
    found = launched()
    if found is None:
        yield World(Loopback(workers=settings.workers), torch.device(settings.device))
        return
    own, backend = device_of(settings, found), "gloo"
    if settings.workers < found.size:
        raise refusal(
            f"there are {found.size} ranks for {settings.workers} workers",
            address="train.workers",
            because="every rank holds at least one",
            instead=f"pass --workers {found.size}, or torchrun --nproc-per-node={settings.workers}",
        )
    if own.type == "cuda":
        torch.cuda.set_device(own)
        alone = found.local_size == 1 or settings.device == "cuda"
        backend = "cpu:gloo,cuda:nccl" if alone else "gloo"  # NCCL refuses two ranks on one GPU
    made = join(backend, max(settings.timeout, PATIENCE))
    try:
        world = World(_group(settings, found), own)
        _same(world, what)
    except SignaError as error:
        if made and not isinstance(error, WireError):
            leave()
        raise
    try:
        yield world
    except BaseException as error:
        if not isinstance(error, Diverged):  # which every rank raises by itself
            world.transport.fail(error, world.step)
        if made and isinstance(error, SignaError) and not isinstance(error, WireError):
            leave()
        raise
    world.lead(lambda: None)
    if made:
        leave()


def _group(settings: Settings, found: Launched) -> Group:
    return Group(
        workers_per_rank=share(settings.workers, found.size)[found.rank],
        exchange=settings.exchange,
        server=settings.server,
        overlap=settings.overlap,
        bucket_mb=settings.bucket_mb,
        timeout=settings.timeout,
    )


def _same(world: World, what: str) -> None:
    """Refuse ranks that were given different runs: only the optimizer's part of a spec would be noticed otherwise."""
    assert isinstance(world.transport, Group)
    told = world.transport.ranks.texts(what, "the start")
    lines = [text.splitlines() for text in told]
    at = next((i for i in range(max(map(len, lines))) if len({tuple(own[i : i + 1]) for own in lines}) > 1), None)
    if at is not None:
        shown: dict[str, list[str]] = {}
        for rank, own in enumerate(lines):
            shown.setdefault(own[at].strip() if at < len(own) else "nothing", []).append(str(rank))
        parts = [f"'{text}' on rank {', '.join(ranks)}" for text, ranks in shown.items()]
        raise refusal(
            f"the ranks were given different runs: {' | '.join(parts)}",
            instead="start every rank with the same command and the same files",
        )


def device_of(settings: Settings, found: Launched | None) -> torch.device:
    """`cuda` is one GPU for each rank of a machine; `cuda:N` is that one for all of them.

    Raises:
        SpecError: the machine has fewer GPUs than ranks.
    """
    if found is None or settings.device != "cuda":
        return torch.device(settings.device)
    count = torch.cuda.device_count()
    if found.local_rank >= count:
        raise refusal(
            f"rank {found.rank} has no GPU: this machine has {count}, and {found.local_size} ranks",
            address="train.device",
            instead=f"start torchrun --nproc-per-node={count}, or pass --device cuda:0 or --device cpu",
        )
    return torch.device("cuda", found.local_rank)
