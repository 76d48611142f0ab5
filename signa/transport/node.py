"""The ranks of one node that hold a model together, each a shard of it, and their place among the nodes."""

from __future__ import annotations

import json
import secrets

from ..errors import LayoutMismatch
from .buffers import Followers
from .ranks import Ranks

_REMEDY = (
    "mesh = init_device_mesh('cuda', (nodes, ranks_per_node), mesh_dim_names=('replicate', 'shard')), and then "
    "signa.Group(mesh['replicate'], shard=mesh['shard'])"
)


class Node:
    """The processes of one worker: ``ranks`` is the group inside the node.

    A fault in it is a fault of the group between the nodes, and the other way round.
    """

    def __init__(self, ranks: Ranks, between: Ranks) -> None:
        self.ranks = ranks
        self.followers = Followers(ranks)
        ranks.link(between)
        self._refuse_crossing(between)

    def _refuse_crossing(self, between: Ranks) -> None:
        """Refuse groups that are not the rows and columns of one grid; collective.

        Every rank of a group between nodes must have the same place in its node, and all ranks of a node must meet
        the same nodes in the same order.

        Raises:
            LayoutMismatch: on every rank.
        """
        what = "signa.Group(shard=...)"
        own = self.ranks
        node = own.texts(secrets.token_hex(8), what)[0]
        told = [json.loads(text) for text in between.texts(json.dumps([node, own.rank, own.size]), what)]
        nodes, places = [at for at, _, _ in told], sorted({f"{rank} of {size}" for _, rank, size in told})
        rows = set(own.texts(json.dumps(nodes), what))
        reason = ""
        if len(places) > 1:
            reason = f"one group between nodes has ranks with different places in their nodes ({', '.join(places)})"
        elif len(rows) > 1:
            reason = "the ranks of one node do not meet the same nodes in the same order"
        elif len(set(nodes)) < len(nodes):
            reason = "a group between nodes has several ranks of one node"
        if reason:
            raise own.meet(LayoutMismatch, f"shard= and the group do not cross: {reason}: {_REMEDY}", call=False)


__all__ = ["Node"]
