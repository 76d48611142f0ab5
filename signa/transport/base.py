"""The seam between the path and the wire."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..aggregators import Aggregator
from ..stage import Context


class Transport(Protocol):
    """Who the workers are, which of them live here, and how their messages become one."""

    @property
    def workers(self) -> int:
        """N, the number of workers in all."""
        ...

    @property
    def local(self) -> range:
        """The numbers of the workers in this process."""
        ...

    def collect(self, aggregator: Aggregator, messages: Tensor, active: Tensor, ctx: Context) -> Tensor:
        """The aggregate (B, m, n) of everybody's messages, of which (k, B, m, n) are the local ones."""
        ...

    def share(self, message: Tensor) -> Tensor:
        """The server's message, as every replica receives it."""
        ...
