"""N workers in one process."""

from __future__ import annotations

import torch
from torch import Tensor

from ..aggregators import Aggregator
from ..errors import SignaError
from ..stage import Context


class Loopback:
    """All workers live in this process; aggregation runs over the leading axis.

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

    def collect(self, aggregator: Aggregator, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The aggregate of the messages (N, B, m, n)."""
        return aggregator(messages, active, ctx)

    def share(self, message: Tensor) -> Tensor:
        """The message itself: the server is here."""
        return message

    def __repr__(self) -> str:
        """As it is written."""
        return f"Loopback(workers={self._workers})"


def default_transport() -> Loopback:
    """One worker; refused where several processes were started, since their gradients would never meet.

    Raises:
        SignaError: torch.distributed is initialised with more than one rank.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise SignaError(
            f"torch.distributed runs {distributed.get_world_size()} ranks, but no transport was given, so each rank "
            "would train alone: pass transport=..., or signa.Loopback() if that is what you want"
        )
    return Loopback()
