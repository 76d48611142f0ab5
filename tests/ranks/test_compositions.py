"""Methods that nobody wrote, on ranks: every registered part in every place it may have gives the simulation's bits."""

from __future__ import annotations

import pytest
from torch import Tensor

from signa import Method
from tests.paths.compositions import every_method
from tests.ranks.cases import SMALL, loopback, plain, ranks, same

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
WAYS = (("alltoall", "sharded"), ("alltoall", "replicated"), ("allgather", "replicated"), ("lanes", "auto"))


@every_method
def test_group_is_loopback(method: Method) -> None:
    """Awkward gradients, two workers on a rank and one on another; exchanges and the server's place go by turns."""
    exchange, server = WAYS[len(str(method)) % len(WAYS)]
    group = {"exchange": exchange, "server": server, "bucket_mb": 1e-3}
    source = {"groups": [{"method": method, "lr": 0.02, "weight_decay": 0.1}]}
    same(loopback(source, 3, steps=4, shapes=SMALL), ranks(source, [2, 1], group, steps=4, shapes=SMALL))


def test_means_are_added_in_worker_order() -> None:
    """A mean of floats depends on the order in which it is added, and gloo's own all-reduce has another one."""
    source = {"groups": [{"method": "sgd", "lr": 0.02}]}
    whole = loopback(source, 4, steps=3, shapes=SMALL, grad=plain)
    for exchange in ("alltoall", "allgather"):
        same(whole, ranks(source, [1, 2, 1], {"exchange": exchange}, steps=3, shapes=SMALL, grad=plain))


@pytest.mark.parametrize("exchange", ["alltoall", "lanes"])
def test_a_gradient_that_one_rank_alone_misses(exchange: str) -> None:
    """Every parameter has a bucket of its own, and each rank misses another one: all enter all collectives."""

    def grad(name: str, p: Tensor, t: int, j: int) -> Tensor | None:
        return None if list(SMALL)[(t + j) % 3] == name else plain(name, p, t, j)

    source = {"groups": [{"method": "signmuon", "lr": 0.02}]}
    group = {"exchange": exchange, "bucket_mb": 1e-6}
    same(
        loopback(source, 3, steps=3, shapes=SMALL, grad=grad),
        ranks(source, [1, 1, 1], group, steps=3, shapes=SMALL, grad=grad),
    )
