"""The ClientApp and the ServerApp of a spec, for any of Flower's engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..lab.report import Result
from ..lab.settings import read_settings
from ..spec import Spec
from .client import Participant
from .grid import GridCarrier
from .records import NAME, app, flwr, letters_in, message, values_of
from .server import serve

__all__ = ["client_app", "server_app"]

KEY = "state"  # of a client, in its context


def client_app(spec: Spec | str | Path, plugins: Sequence[Path] = ()) -> Any:
    """A `flwr.clientapp.ClientApp` whose node trains worker `partition-id` of its node_config.

    Its state lives in the context, as bytes, so a node may run it in a new process for each message.
    """
    spec = spec if isinstance(spec, Spec) else Spec.load(spec, plugins=plugins)
    known: dict[tuple[int, int], Participant] = {}

    def at(context: Any) -> Participant:
        worker = _worker(context)
        if (context.run_id, worker) not in known:
            known[context.run_id, worker] = Participant(spec, worker, plugins)
        own = known[context.run_id, worker]
        if saved := values_of(context.state).get(KEY):
            own.load(saved)
        return own

    def keep(context: Any, own: Participant) -> None:
        context.state[NAME] = app().ConfigRecord({KEY: own.save()})

    client = flwr("clientapp").ClientApp()

    @client.query("hello")  # type: ignore[untyped-decorator]
    def hello(asked: Any, context: Any) -> Any:
        return message({"worker": _worker(context)}, reply_to=asked)

    @client.train()  # type: ignore[untyped-decorator]
    def train(asked: Any, context: Any) -> Any:
        values, own = values_of(asked.content), at(context)
        told = own.gradient(int(values["step"]), letters_in(values))
        keep(context, own)
        return message(told, reply_to=asked)

    @client.query("finish")  # type: ignore[untyped-decorator]
    def finish(asked: Any, context: Any) -> Any:
        own = at(context)
        told = own.finish(letters_in(values_of(asked.content)))
        keep(context, own)
        return message(told, reply_to=asked)

    return client


def server_app(
    spec: Spec | str | Path,
    *,
    name: str,
    out: Path,
    then: Callable[[Result], None] = lambda result: None,
    failed: Callable[[Exception], None] = lambda error: None,
    **how: Any,
) -> Any:
    """A `flwr.serverapp.ServerApp` that trains a spec with the nodes of its grid, and writes `out/name`.

    Args:
        then, failed: are told the result, or the error.
        how: what :func:`signa.flower.server.serve` takes besides.
    """
    spec = spec if isinstance(spec, Spec) else Spec.load(spec, plugins=how.get("plugins", ()))
    server = flwr("serverapp").ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        carrier = GridCarrier(grid, timeout=read_settings(spec.train).timeout)
        try:
            then(serve(spec, carrier, name=name, out=out, **how))
        except Exception as error:
            failed(error)
            raise

    return server


def _worker(context: Any) -> int:
    if "partition-id" not in context.node_config:
        raise ValueError("this node has no partition-id: start it with --node-config 'partition-id=0' (1, 2, ...)")
    return int(context.node_config["partition-id"])
