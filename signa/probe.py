"""What an onlooker of a step is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from .stack import Stack


class Sight(NamedTuple):
    """What a probe is shown at a hop: what came there and what left, borrowed and only as long as the probe looks.

    ``address`` is a stage's (``worker.momentum``), or ``gradient``, ``up.compressor`` (what is compressed, and into
    what), ``up``, ``aggregate``, ``up.receiver``, and the same of ``down``. ``matrices`` numbers the rows within the
    stack; before the aggregate a matrix has a row for each local worker that takes part, worker by worker. At
    ``aggregate``, ``came`` are the local workers' messages for the whole stack, (k, B, m, n), zero where there is none.
    """

    stack: Stack
    address: str
    matrices: Sequence[int]
    came: Tensor
    left: Tensor


Probe = Callable[[Sight], None]
