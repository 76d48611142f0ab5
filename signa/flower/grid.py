"""Letters over Flower's grid."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ..errors import LayoutMismatch, PeerLost
from .records import FINISH, HELLO, TRAIN, message, values_of, with_letters

__all__ = ["GridCarrier"]

KINDS = {"train": TRAIN, "finish": FINISH}


class GridCarrier:
    """Asks the nodes of a grid; which worker a node is, it says itself (its `partition-id`).

    Args:
        timeout: seconds to wait for the replies of a step.
        patience: seconds to wait for the clients to be there at the start.
    """

    def __init__(self, grid: Any, *, timeout: float, patience: float = 300.0) -> None:
        self.grid, self.timeout, self.patience = grid, timeout, patience
        self.nodes: dict[int, int] = {}  # of a worker
        self._met: set[int] = set()

    def gather(self, workers: int) -> None:
        """Wait until as many clients as workers are there.

        Raises:
            PeerLost: they do not come.
        """
        end = time.monotonic() + self.patience
        while len(self.nodes) < workers:
            self._meet()
            if len(self.nodes) < workers:
                if time.monotonic() > end:
                    raise PeerLost(f"{len(self.nodes)} of {workers} clients came within {self.patience:g} s")
                time.sleep(0.2)

    def ask(
        self, kind: str, requests: Mapping[int, Mapping[str, Any]], letters: Mapping[int, list[bytes]]
    ) -> dict[int, dict[str, Any]]:
        """One message to each worker's node, and the replies that come in time.

        Raises:
            PeerLost: a client stopped with an error.
        """
        self._meet()
        whose = {self.nodes[worker]: worker for worker in requests if worker in self.nodes}
        messages = [
            message(
                with_letters(requests[worker], letters[worker]),
                dst_node_id=node, message_type=KINDS[kind], group_id=str(requests[worker].get("step", kind)),
            )
            for node, worker in whose.items()
        ]  # fmt: skip
        return {whose[node]: values for node, values in self._replies(messages).items()}

    def _meet(self) -> None:
        """Learn which workers those nodes are that were not met before."""
        there = set(self.grid.get_node_ids())
        self.nodes = {worker: node for worker, node in self.nodes.items() if node in there}
        self._met &= there
        new = [message({}, dst_node_id=node, message_type=HELLO, group_id="hello") for node in there - self._met]
        for node, values in self._replies(new).items():
            worker = int(values["worker"])
            if self.nodes.get(worker, node) != node:
                raise LayoutMismatch(f"two clients say that they are worker {worker}: give each its own partition-id")
            self.nodes[worker] = node
            self._met.add(node)

    def _replies(self, messages: list[Any]) -> dict[int, dict[str, Any]]:
        found = {}
        for reply in self.grid.send_and_receive(messages, timeout=self.timeout) if messages else ():
            node = reply.metadata.src_node_id
            if reply.has_error():
                who = next((f"client {w}" for w, other in self.nodes.items() if other == node), f"node {node}")
                raise PeerLost(f"{who} stopped: {str(reply.error.reason).strip()}")
            found[node] = values_of(reply.content)
        return found
