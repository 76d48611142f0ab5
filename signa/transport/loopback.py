"""N workers in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import SignaError
from ..host import constant
from .base import WORKING, Aggregate, Bucket, Clock, Lane, Message, Verdict
from .homes import Homes, InPlace
from .matrices import Matrices
from .pool import aggregate, everywhere, pooled


class Loopback:
    """All workers live in this process; aggregation runs over the leading axis, on bits where messages are packed.

    ``Loopback(1)`` is ordinary training. With more, each worker's backward pass stands in ``with opt.worker(j):``.

    >>> Loopback(5).local
    range(0, 5)
    """

    def __init__(self, workers: int = 1) -> None:
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise ValueError(f"Loopback needs at least one worker, got {workers!r}: write Loopback(workers=5)")
        self._workers = workers

    @property
    def workers(self) -> int:
        """N."""
        return self._workers

    @property
    def local(self) -> range:
        """All of them."""
        return range(self._workers)

    @property
    def line(self) -> None:
        """Nothing travels."""

    def homes(self) -> Homes:
        """Every model is whole."""
        return InPlace()

    def plan(self, lanes: Sequence[Lane]) -> Sequence[Bucket]:
        """Each lane by itself."""
        return [_Here(lane) for lane in lanes]

    def agree(self, facts: Mapping[str, str], model: nn.Module | None) -> None:
        """One process agrees with itself."""

    def refuse(self) -> None:
        """Nothing can have happened."""

    def before(self, verdict: Verdict, *, ask: bool) -> Verdict:
        """The own one."""
        return verdict

    def first(self, gradients: Mapping[str, tuple[Tensor, Sequence[Tensor]]]) -> None:
        """Nothing to compare them with."""

    def compare(self, replicas: Mapping[str, Tensor], step: int) -> None:
        """There is one."""

    def after(
        self, step: int, replicas: Callable[[], Mapping[str, Tensor]], buffers: Sequence[tuple[nn.Module, str]]
    ) -> Sequence[tuple[int, int]]:
        """Nobody told anything."""
        return ()

    def fail(self, error: BaseException, step: int) -> BaseException:
        """Nobody to tell."""
        return error

    def __repr__(self) -> str:
        """As it is written."""
        return f"Loopback(workers={self._workers})"


class _Here:
    """A lane whose workers and server are all in this process."""

    def __init__(self, lane: Lane) -> None:
        self.lanes = (lane,)

    def owned(self, lane: int) -> Sequence[int]:
        return range(self.lanes[lane].matrices)

    def collect(self, messages: Sequence[Message], clock: Clock) -> list[Aggregate]:
        (lane,), (message,) = self.lanes, messages
        status = message.status
        taking = message.taking
        if message.rows.packed or len(message.rows) * lane.entries > WORKING:
            fields = [field.unflatten(0, status.shape) for field in message.rows.fields]
            whole = aggregate(lane, everywhere(lane), fields, status, clock, lane.device)
            return [Aggregate(pooled(lane, whole, status).rows(taking), taking, taking)]
        rows = message.dense
        if len(taking) < lane.matrices:
            at = constant(taking, rows.device)
            rows, status = rows.index_select(1, at), status.index_select(1, at)
        if not taking:
            return [Aggregate(Matrices(lane.middle, dense=rows[0]), [], [])]
        x = lane.aggregate(rows, lane.active(status), lane.context(clock, taking))
        return [Aggregate(Matrices(lane.middle, dense=x), taking, taking)]

    def share(self, messages: Sequence[Matrices], aggregates: Sequence[Aggregate]) -> list[Matrices]:
        return list(messages)

    def whole(self, lane: int, x: Tensor) -> Tensor:
        return x


def default_transport() -> Loopback:
    """One worker; refused where several processes were started, since their gradients would never meet.

    Raises:
        SignaError: torch.distributed is initialised with more than one rank.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise SignaError(
            f"torch.distributed runs {distributed.get_world_size()} ranks, but no transport was given, so each rank "
            "would train alone: pass transport=signa.Group(), or signa.Loopback() if that is what you want"
        )
    return Loopback()
