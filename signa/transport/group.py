"""Workers on the ranks of torch.distributed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch import distributed as dist

from ..errors import PeerLost, WireError
from ..scratch import Scratch
from . import digest
from .agreement import Averaging, require_same
from .base import Bucket, Lane, Verdict
from .bucket import Talk, WireBucket
from .buffers import Followers
from .costs import Choice, choices, choose
from .cut import by_parameter, evenly
from .header import WIRE_VERSION
from .homes import Homes, InPlace
from .launch import join, leave, process_group_of, store_of
from .line import Line
from .node import Node
from .planning import Exchange, Server, grouped
from .ranks import Ranks
from .sums import SumBucket, encodings

_NOBODY = 1 << 30  # a number that no worker has


class Group:
    """The ranks of a process group, each with ``workers_per_rank`` workers; messages travel packed.

    Worker j of N lives on rank r if j is among r's; the ranks' workers are numbered one after the other. A run gives
    the bits of ``Loopback(N)``, whatever the exchange (but ``ring``), the buckets and the layout of the world.

    Args:
        process_group: a ProcessGroup, a one-dimensional DeviceMesh, or None for the default group, which is initialised
            from torchrun's environment if nobody has done so (NCCL for CUDA, gloo for CPU).
        workers_per_rank: how many workers this rank holds; ranks may differ. With more than one, each backward pass
            stands in ``with opt.worker(j):``.
        exchange: ``alltoall`` (each owner of a chunk aggregates it, 2 (N - 1) / N bits for a vote), ``allgather``
            (everybody aggregates everything, N - 1 bits, one round; owners need not be trusted), or ``auto``: the
            cheaper of the two by the cost model. Three add up by an all-reduce, where a bucket can be (any other one
            travels as in ``auto``): ``int8`` (signs in bytes, at most 127 workers), ``lanes`` (signs in as many bits as
            count them) and ``ring`` (dense means; not equal to the simulation bit for bit).
        server: ``sharded`` splits the server's work and state over ranks, parameter by parameter; ``replicated`` does
            it everywhere; ``auto`` takes what sends least.
        overlap: messages leave during the backward pass, as soon as their gradients are there, and are exchanged in a
            thread of its own; the bits are the same. With several workers per rank they leave in ``step()``, where the
            exchange of one bucket still runs beside the computing of the next. Costs a copy of the workers' state, and
            of the server's, in every step. See ``SignA.no_sync`` for accumulation.
        bucket_mb: packed megabytes of one worker's messages that travel together (with overlap: at the most, and a
            sixth of all where that is not too little).
        timeout: seconds (or a timedelta) that a collective may take before everybody raises CollectiveTimeout.
        check_replicas_every: steps between two comparisons of the replicas' digests; 0 never compares.
        store: the group's key-value store, where torch does not know it (a group made by hand).
        shard: the ranks of this node (as ``process_group``, which then joins the ranks with the same place in their
            nodes), over which ``fully_shard(model, mesh=...)`` has cut the model. A worker is a node then: gradients
            are averaged inside by FSDP, and each whole parameter is worked on by one rank of the node.

    Raises:
        ValueError: an argument makes no sense, or int8 cannot count so many workers. RuntimeError: there is no process
            group to join.
    """

    def __init__(
        self,
        process_group: Any = None,
        workers_per_rank: int = 1,
        exchange: Exchange = "auto",
        *,
        server: Server = "auto",
        overlap: bool = False,
        bucket_mb: float = 4.0,
        timeout: float | timedelta = 300.0,
        check_replicas_every: int = 100,
        store: Any = None,
        shard: Any = None,
    ) -> None:
        for name, value, allowed in (("exchange", exchange, Exchange), ("server", server, Server)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        for name, number, least in (
            ("workers_per_rank", workers_per_rank, 1),
            ("check_replicas_every", check_replicas_every, 0),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise ValueError(f"{name} must be an integer from {least} on, got {number!r}")
        timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        for name, size in (("bucket_mb", bucket_mb), ("timeout", timeout)):
            if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < 1e9:
                raise ValueError(f"{name} must be a positive number, got {size!r}")
        if not isinstance(overlap, bool):
            raise ValueError(f"overlap must be True or False, got {overlap!r}")
        if exchange == "allgather" and server == "sharded":
            raise ValueError("in an all-gather everybody serves: set server='replicated', or exchange='alltoall'")
        if shard is not None and (overlap or workers_per_rank > 1):
            what = "overlap=True" if overlap else f"workers_per_rank={workers_per_rank}"
            raise ValueError(f"with shard= a node is one worker whose gradients arrive in step(): leave {what} out")
        self.exchange, self.server, self.overlap, self.bucket_mb = exchange, server, overlap, float(bucket_mb)
        self.check_replicas_every, self._workers_here, self._timeout = (
            check_replicas_every,
            workers_per_rank,
            float(timeout),
        )
        self._attach(process_group, store, shard)

    def _attach(self, process_group: Any, store: Any = None, shard: Any = None) -> None:
        self._opened = process_group is None and _join_default(self._timeout)
        group = dist.group.WORLD if process_group is None else process_group_of(process_group)
        self.line = Line() if self.overlap else None
        self.ranks = Ranks(group, store_of(group) if store is None else store, self._timeout, self.line)
        self.node: Node | None = None
        if shard is not None:
            inside = process_group_of(shard)
            self.node = Node(Ranks(inside, store_of(inside), self._timeout, label="node"), self.ranks)
        told = self.ranks.texts(str(self._workers_here), "signa.Group()")
        self.held = tuple(int(text) for text in told)
        first = sum(self.held[: self.rank])
        self._local = range(first, first + self._workers_here)
        self._encodings = encodings(self.workers)
        if self.exchange in self._encodings and (why := self._encodings[self.exchange].uncountable):
            raise ValueError(why)
        self._talk = Talk()
        self._facts: list[str] = []
        self._plan: list[str] = []
        self._followers = Followers(self.ranks)
        self._averaging = Averaging(self.ranks)

    @property
    def rank(self) -> int:
        """This process' number in the group."""
        return self.ranks.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.ranks.size

    @property
    def workers(self) -> int:
        """N, the workers of all ranks."""
        return sum(self.held)

    @property
    def local(self) -> range:
        """The workers of this rank."""
        return self._local

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes that this rank has sent to and received from others until now, headers included.

        With ``shard=`` those between nodes; inside the node ``group.node.ranks`` counts.
        """
        return self.ranks.sent, self.ranks.received

    def homes(self) -> Homes:
        """Every model is whole, or sharded over the node."""
        if self.node is None:
            return InPlace()
        from .shards import Shards  # DTensor is slow to import

        return Shards(self.node.ranks, self.local.start)

    # Planning ----------------------------------------------------------------------------------------------------

    def plan(self, lanes: Sequence[Lane]) -> Sequence[Bucket]:
        """Buckets of lanes that can be treated alike, each with its exchange."""
        loads = [0.0] * self.size  # anew for each plan: a copy of an optimizer must split its server alike
        every = grouped(lanes, self.bucket_mb, self.size, overlap=self.overlap)
        return [self._bucket(mates, loads, cuts) for mates, cuts in every]

    def _bucket(self, lanes: list[Lane], loads: list[float], cuts: bool) -> Bucket:
        number = len(self._plan)
        found = choices(lanes, self.size, self.workers / self.size, self._link(lanes[0].device))
        chosen = choose(found, self.exchange, self.server, serves=lanes[0].serves, overlap=self.overlap)
        others = "; ".join(str(choice) for choice in found if choice is not chosen)
        self._plan.append(_told(number, lanes, f"{chosen}{self._instead(chosen, lanes[0])} (not {others})"))
        if encoding := self._encodings.get(chosen.exchange):
            return SumBucket(lanes, self.ranks, self.held, encoding, number, self._talk)
        mine = None
        if chosen.exchange == "alltoall":
            whole = chosen.sharded or not cuts
            mine = by_parameter(lanes, loads) if whole else evenly(lanes, self.size)
        return WireBucket(
            lanes,
            self.ranks,
            self.held,
            mine,
            sharded=chosen.sharded,
            number=number,
            talk=self._talk,
            scratch=Scratch() if self.overlap else self._talk.scratch,  # with overlap its content outlives the next
        )

    def _instead(self, chosen: Choice, lane: Lane) -> str:
        """Why a bucket does not take the exchange that was asked for."""
        if lane.aggregate.remembers and self.exchange != "allgather":
            return f", since everybody must remember what the {lane.aggregate} does"
        if self.exchange == chosen.exchange or self.exchange not in self._encodings:
            return ""
        why = self._encodings[self.exchange].refuses(lane) or "every rank serves behind a sum"
        return f", instead of {self.exchange}: {why}"

    def _link(self, device: torch.device) -> str:
        return "gloo" if self.ranks.home(device).type == "cpu" else "nccl"

    def __str__(self) -> str:
        """What was chosen, bucket by bucket."""
        return "\n".join([repr(self), *self._plan])

    def __repr__(self) -> str:
        """As it is written, with what the world is like."""
        held = str(self.held[0]) if len(set(self.held)) == 1 else str(list(self.held))
        return (
            f"Group(rank {self.rank} of {self.size}, workers_per_rank={held}, exchange={self.exchange!r}, "
            f"server={self.server!r}, overlap={self.overlap}, bucket_mb={self.bucket_mb:g}"
            + (f", shard=rank {self.node.ranks.rank} of {self.node.ranks.size})" if self.node else ")")
        )

    # Agreement ---------------------------------------------------------------------------------------------------

    def agree(self, facts: Mapping[str, str], model: nn.Module | None) -> None:
        """Refuse to start where ranks differ.

        Raises:
            LayoutMismatch: naming what differs, and where. On every rank.
        """
        self._averaging.watch(model)
        own = {
            key: getattr(self, key) for key in ("exchange", "server", "overlap", "bucket_mb", "check_replicas_every")
        }
        own |= {"wire": WIRE_VERSION, "torch": torch.__version__.split("+")[0]}
        mine = {**{key: str(value) for key, value in own.items()}, **facts}
        if self.node is not None:
            require_same(self.node.ranks, mine, "the start")
        require_same(self.ranks, mine, "the start")
        self._facts.append(json.dumps(mine, sort_keys=True))
        text = "\n".join([*self._facts, str(self.held)])
        self._talk.layout = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def refuse(self) -> None:
        """Refuse to go on after a fault.

        Raises:
            Poisoned: naming it.
        """
        self.ranks.refuse()

    def before(self, verdict: Verdict, *, ask: bool) -> Verdict:
        """The own verdict, or with ``ask`` (and with overlap always) that of all ranks."""
        self._talk.heard.clear()
        self._talk.culprit = verdict.culprit or (-1, -1)
        self._averaging.refuse()
        if not ask and self.line is None:
            return verdict
        worker, parameter = verdict.culprit or (_NOBODY, 0)
        what = f"step {self.ranks.step}, the verdict"
        flags, first = self.ranks.largest(what, 2 * verdict.infinite or verdict.stale, -(worker << 32 | parameter))
        worker, parameter = divmod(-first, 1 << 32)
        return Verdict(flags == 2, None if worker == _NOBODY else (worker, parameter), flags == 1)

    def first(self, gradients: Mapping[str, tuple[Tensor, Sequence[Tensor]]]) -> None:
        """Refuse gradients that a wrapper has averaged, and advise against the same data everywhere.

        Raises:
            AveragedGradients: with the remedies.
        """
        self._averaging.first(gradients)

    def compare(self, replicas: Mapping[str, Tensor], step: int) -> None:
        """Refuse where replicas differ by a bit.

        Raises:
            ReplicaDrift: naming the parameters and ranks.
        """
        digest.compare(replicas, self.ranks, step)

    def after(
        self, step: int, replicas: Callable[[], Mapping[str, Tensor]], buffers: Sequence[tuple[nn.Module, str]]
    ) -> Sequence[tuple[int, int]]:
        """Buffers follow worker 0's, and every so many steps the replicas are compared."""
        self.ranks.step = step
        if self.node is not None:  # worker 0's are those of its node's rank 0
            self.node.ranks.step = step
            self.node.followers.follow(buffers, f"step {step}, the buffers")
        self._followers.follow(buffers, f"step {step}, the buffers")
        if self.check_replicas_every and step % self.check_replicas_every == 0:
            digest.compare(replicas(), self.ranks, step)
        return list(self._talk.heard.values())

    def fail(self, error: BaseException, step: int) -> BaseException:
        """Tell the others, so that they raise as well and do not wait."""
        if self.ranks.fault is None and not isinstance(error, WireError):
            self.ranks.step = step
            self.ranks.meet(
                PeerLost, f"rank {self.rank} stopped: {type(error).__name__}: {str(error)[:300]}", call=False
            )
        return error

    def close(self) -> None:
        """Leave: the default process group is destroyed if this object initialised it. Collective; call it at the end.

        After a fault nothing is waited for.
        """
        if self._opened and dist.is_initialized() and self.ranks.fault is None:
            self.ranks.texts("bye", "the end")  # nobody leaves while another still reads the store
            leave()
            self._opened = False

    # Copies ------------------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Group:
        """The same group: a copy of an optimizer talks to the same ranks."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: the arguments; a process group cannot be saved.

        Raises:
            TypeError: with ``shard=``, since the default group cannot stand in for a mesh.
        """
        if self.node is not None:
            raise TypeError("a Group with shard= cannot be pickled: save opt.state_dict() on every rank")
        names = ("exchange", "server", "overlap", "bucket_mb", "check_replicas_every", "_timeout", "_workers_here")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Join the default group of the process that loads."""
        self.__dict__.update(state)
        self._attach(None)


def _join_default(timeout: float) -> bool:
    """Whether the default group had to be initialised."""
    if not dist.is_available():
        raise RuntimeError("this PyTorch was built without torch.distributed: use signa.Loopback(N)")
    if not dist.is_initialized() and ("RANK" not in os.environ or "MASTER_ADDR" not in os.environ):
        raise RuntimeError(
            "signa.Group() needs a process group: start the script with torchrun --nproc-per-node=N, or call "
            "torch.distributed.init_process_group first; signa.Loopback(N) simulates N workers in one process"
        )
    return join("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout)


def _told(number: int, lanes: Sequence[Lane], choice: str) -> str:
    """A bucket and its exchange in words."""
    count = sum(lane.matrices * lane.entries for lane in lanes)
    names = " -> ".join(_alphabet(codec) for codec in (lanes[0].up, lanes[0].middle, lanes[0].down))
    label = lanes[0].label + (", ..." if len(lanes) > 1 else "")
    return f"  bucket {number} ({label}): {count:,} entries, {names}, {lanes[0].aggregate}\n    {choice}"


def _alphabet(codec: Any) -> str:
    return {"ScaledSigns": "scaled signs"}.get(type(codec).__name__, type(codec).__name__.lower())


__all__ = ["Group"]
