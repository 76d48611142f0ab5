"""Flower's apps in one process: every client answers in turn, from its own context. No ray, no network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .records import app, flwr

__all__ = ["simulate"]


def simulate(server: Any, client: Any, clients: int) -> None:
    """Run a ServerApp with so many nodes of a ClientApp.

    An error of a client is raised as it is, and not told as a reply.
    """
    there = app()

    def context(node: int, **config: int) -> Any:
        return there.Context(run_id=1, node_id=node, node_config=config, state=there.RecordDict(), run_config={})

    contexts = {
        worker + 1: context(worker + 1, **{"partition-id": worker, "num-partitions": clients})
        for worker in range(clients)
    }

    class Near(flwr("serverapp").Grid):  # type: ignore[misc]
        """A grid whose nodes are functions."""

        run: Any = None

        def set_run(self, run: Any) -> None:
            self.run = run

        def create_message(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError("write flwr.app.Message(...)")

        def get_node_ids(self) -> Iterable[int]:
            return list(contexts)

        def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
            raise NotImplementedError("nothing waits here: send_and_receive")

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
            raise NotImplementedError("nothing waits here: send_and_receive")

        def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Iterable[Any]:
            return [client(message, contexts[message.metadata.dst_node_id]) for message in messages]

    me = flwr("supercore.task_identity").TaskIdentity  # whose messages a process writes; Flower's runtimes set it
    me.task_id, me.run_id, me.node_id = 1, 1, 0
    server(Near(), context(0))
