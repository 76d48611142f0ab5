"""Methods that nobody wrote, on ranks: every registered part in every place it may have gives the simulation's bits."""

from __future__ import annotations

import pytest

from signa import Method
from tests.paths.compositions import every_method
from tests.ranks.cases import SMALL, loopback, ranks, same

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
WAYS = (("alltoall", "sharded"), ("alltoall", "replicated"), ("allgather", "replicated"), ("lanes", "auto"))


@every_method
def test_group_is_loopback(method: Method) -> None:
    """Awkward gradients, two workers on a rank and one on another; exchanges and the server's place go by turns."""
    exchange, server = WAYS[len(str(method)) % len(WAYS)]
    group = {"exchange": exchange, "server": server, "bucket_mb": 1e-3}
    source = {"groups": [{"method": method, "lr": 0.02, "weight_decay": 0.1}]}
    same(loopback(source, 3, steps=4, shapes=SMALL), ranks(source, [2, 1], group, steps=4, shapes=SMALL))
