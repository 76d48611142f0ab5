"""From a spec, a model, a link and a machine to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from ..lab.refusal import refusal
from ..routing import Named
from ..spec import Spec
from .blueprint import Blueprint
from .dense import buckets, dense
from .machine import Machine, muon_name
from .models import of_module, of_shapes
from .plan import BASE, HALF, Plan, Row
from .times import Link, Load, Turn, pipelined
from .wire import Cost, Moves, Wire, cost, moves, offered

__all__ = ["Inside", "Planner", "predict"]

#: Of the time of a forward and a backward pass: each product of the first has two in the second.
_BACKWARD = 2 / 3

Model = nn.Module | Mapping[str, tuple[int, ...]] | Sequence[Named]


class Inside(NamedTuple):
    """``ranks`` on each host, joined by a link of their own; they share the host's link to the others."""

    ranks: int
    link: Link


class Planner:
    """Predicts steps of a spec and a model for any number of workers and any link; what can be done once, is.

    Args:
        model: a module (its storage is not looked at), names with shapes, or parameters of :mod:`.models`.
        machine: the rates of every process, as :func:`.measured` finds them.
        compute: seconds of a forward and backward pass.
        bucket_mb: as ``signa.Group`` takes it.
    """

    def __init__(
        self, spec: Spec, model: Model, machine: Machine, *, compute: float = 0.0, bucket_mb: float = 4.0
    ) -> None:
        model = of_module(model) if isinstance(model, nn.Module) else model
        named = of_shapes(model) if isinstance(model, Mapping) else list(model)
        self.blueprint, self.dense = Blueprint.of(spec, named, bucket_mb), dense(named)
        self.overlapped = replace(self.blueprint, overlap=True)
        self.machine, self.compute = machine, compute
        self._shares: dict[tuple[int, bool], Blueprint] = {}
        self._moves: dict[tuple[bool, int, int, str, str, str], Moves] = {}

    def at(self, workers: int, link: Link, inside: Inside | None = None) -> Plan:
        """The plan of so many workers, a rank each; on hosts of their own, or ``inside`` fewer of them.

        Raises:
            SpecError: an aggregator that does not take so many voters; ranks of a node that do not divide the workers.
        """
        local = 1 if inside is None else inside.ranks
        nodes, rest = divmod(workers, local)
        if rest or workers < 1:
            raise refusal(
                f"{workers} workers on nodes of {local}",
                because="every node has the same number of them",
                instead="take a multiple",
            )
        self.blueprint.spec.admit(nodes)
        outer = Wire(self.machine, link, nodes)
        inner = Wire(self.machine, link if inside is None else inside.link, local)
        return Plan([*self._ours(outer, inner), *self._ddp(outer, inner)], workers, link)

    def _ours(self, outer: Wire, inner: Wire) -> Iterator[Row]:
        """As ``Group()`` chooses, the same behind the backward pass, and with every other exchange.

        With several ranks to a node FSDP scatters gradients and gathers parameters in full precision; in between each
        parameter is whole on one rank of its node (two all-to-alls there, one back), and the nodes are the workers. The
        busiest rank's work is counted, and everything that passes a node's link.
        """
        ranks, label = inner.ranks, "signa" if inner.ranks == 1 else "signa per node"
        shards = 4 * self.blueprint.entries * (ranks - 1) / ranks
        around = 2 * inner.round("allgather", shards) + inner.round("alltoall", 3 * shards / ranks)

        def row(name: str, exchange: str = "auto", server: str = "auto", *, overlap: bool = False) -> Row:
            found = self._cost(ranks, outer, exchange, server, overlap=overlap)
            before, link, behind = found.whole
            hidden = self._hidden(found.turns) if overlap else 0.0
            asked = outer.ring(0, "float32") if overlap else 0.0  # whether what was sent early is what the step sends
            sent = found.total / outer.ranks / ranks
            bits = 8 * sent / self.blueprint.entries
            return Row(name, bits, sent, link + asked + around, self.compute + before + behind, hidden)

        yield row(label)
        yield row(f"{label}, overlap", overlap=True)
        for exchange, server in offered(self._share(ranks), outer.ranks, outer.link.backend):
            asked = exchange + (f", server {server}" if server != "auto" else "")
            yield row(f"{label}, {asked}", exchange, server)

    def _share(self, ranks: int, *, overlap: bool = False) -> Blueprint:
        """A rank's part of a node's matrices."""
        if (ranks, overlap) not in self._shares:
            self._shares[ranks, overlap] = (self.overlapped if overlap else self.blueprint).share(ranks)
        return self._shares[ranks, overlap]

    def _cost(self, local: int, outer: Wire, exchange: str, server: str, *, overlap: bool) -> Cost:
        """The turns of a node's busiest rank, on a link that carries all ranks' bytes; and the bytes of all."""
        own = cost(self._moved(local, outer, exchange, server, overlap=overlap), outer)
        if local == 1:
            return own
        node = cost(self._moved(1, outer, exchange, server, overlap=overlap), outer)
        longer = node.whole.link / own.whole.link if own.whole.link else 1.0
        turns = [turn._replace(load=turn.load._replace(link=turn.load.link * longer)) for turn in own.turns]
        return Cost(node.total, turns)

    def _moved(self, local: int, outer: Wire, exchange: str, server: str, *, overlap: bool) -> Moves:
        """What the buckets of a rank's part move; it does not depend on the link's rate."""
        asked = (outer.ranks, outer.link.backend, exchange, server)
        key = (overlap, local, *asked)
        if key not in self._moves:
            self._moves[key] = moves(self._share(local, overlap=overlap), *asked)
        return self._moves[key]

    def _ddp(self, outer: Wire, inner: Wire) -> Iterator[Row]:
        """All-reduce behind the backward pass, bucket by bucket; every rank takes torch.optim's whole step."""
        model, machine, ranks = self.dense, self.machine, inner.ranks
        optimizer = machine.seconds("AdamW", model.rest)
        optimizer += sum(machine.seconds(muon_name(*shape), count) for shape, count in model.matrices.items())
        for name, dtype, width, copies in ((BASE, "float32", 4, 2), (HALF, "bfloat16", 2, 4)):
            turns = []
            for count, entries in buckets(model.entries):
                nbytes = width * entries
                link = 2 * inner.round("allgather", nbytes * (ranks - 1) / ranks) + outer.ring(nbytes, dtype)
                turns.append(Turn(count, Load(machine.seconds("copy", 4 * entries * copies), link, 0.0), entries))
            before, link, _ = Cost(0.0, turns).whole
            sent = 2 * (outer.ranks - 1) / outer.ranks * width * model.entries / ranks
            compute = self.compute + before + optimizer
            yield Row(name, 8 * sent / model.entries, sent, link, compute, self._hidden(turns))

    def _hidden(self, turns: Sequence[Turn]) -> float:
        """Seconds of the link that pass while gradients are made and prepared; a bucket's share of the backward pass is
        its share of the entries."""
        entries = sum(turn.number * turn.entries for turn in turns)
        backward = _BACKWARD * self.compute
        made = [
            turn._replace(load=turn.load._replace(before=turn.load.before + backward * turn.entries / entries))
            for turn in turns
        ]
        before, link, _ = Cost(0.0, made).whole
        return before + link - pipelined(made)


def predict(
    spec: Spec,
    model: Model,
    *,
    workers: int,
    link: Link,
    machine: Machine,
    compute: float = 0.0,
    bucket_mb: float = 4.0,
    inside: Inside | None = None,
) -> Plan:
    """The plan of one setting; see :class:`Planner` for many of them."""
    return Planner(spec, model, machine, compute=compute, bucket_mb=bucket_mb).at(workers, link, inside)
