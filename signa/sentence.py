"""The sentence: a Method is worker, up, aggregate, server, down, replica; everything else about it is derived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from math import comb, pi, sqrt
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from .address import label_stages
from .aggregators import Aggregator, Mean, aggregators
from .channel import Channel
from .errors import Fault, a_or_an
from .lmo import LMO
from .reading import changed
from .rule import Frozen
from .scaling import Scaling
from .signal import BITS, Signal
from .stage import Stage, stages
from .stages import Decay, Project, Step


class Hop(NamedTuple):
    """One place on the path, the Signal there, and the logical bits per entry it would cost to send it."""

    address: str
    signal: Signal

    def __str__(self) -> str:
        """Address and Signal."""
        return f"{self.address:<22} {self.signal}"


class MethodBits(NamedTuple):
    """Logical bits per entry, scales included: sent by one worker, and received by it."""

    up: float
    down: float


#: Stages of one part. The longest published one has four; a word is two letters, so that a page could hold thousands.
MOST_STAGES = 32


def _words(value: Any) -> Any:
    """``momentum spectral`` is the list of its words; one stage is a list of one."""
    value = tuple(value.split()) if isinstance(value, str) else value
    if isinstance(value, list | tuple) and len(value) > MOST_STAGES:
        raise Fault(
            f"{len(value)} stages stand here", because=f"a part has up to {MOST_STAGES}", instead="leave some out"
        )
    return (value,) if isinstance(value, Stage | Mapping) else value


Stages = Annotated[tuple[Annotated[Stage, stages], ...], BeforeValidator(_words)]

#: The share of tied votes from which on an even number of voters is advised against: up to 254 of them. The coins of
#: four voters (37.5 % ties) cost 0.014 of validation loss in examples/stabilisation.
MANY_TIES = 0.05
#: The six parts of the sentence, in the order in which a gradient passes them.
PARTS = ("worker", "up", "aggregate", "server", "down", "replica")


class Method(Frozen):
    """A distributed optimizer for one group of matrices.

    Args:
        worker: stages every worker applies to its gradient.
        up: the channel from a worker to the server.
        aggregate: how the workers' messages become one.
        server: stages of the server, a role that any process may play.
        down: the channel back.
        replica: stages every replica applies to what it receives.

    Exactly one stage of ``server`` and ``replica`` is ``step``. What a part puts out is derived (:meth:`trace`), and a
    part that cannot read what it gets is refused.

    >>> print(Method(worker="momentum spectral", up="sign", aggregate="majority_vote"))
    momentum spectral | sign | majority_vote |  | identity | step
    """

    worker: Stages = ()
    up: Channel = Channel()
    aggregate: Annotated[Aggregator, aggregators] = Mean()
    server: Stages = ()
    down: Channel = Channel()
    replica: Stages = Field(default_factory=lambda data: () if _has_step(data) else (Step(),))

    @model_validator(mode="after")
    def _composes(self) -> Method:
        steps = [place for place, stage in self._placed() if isinstance(stage, Step) and place[0] != "worker"]
        if len(steps) != 1:
            raise Fault(
                f"a method has exactly one 'step' in server and replica, this one has {len(steps)}",
                because="the step is where directions become a model",
                instead="put one 'step' at the end of 'replica' (or of 'server', with down: ef21(...))",
                at=("replica",) if not steps else (steps[-1][0],),
            )
        if self.up.feedback.needs_linear and not self.aggregate.linear:
            raise Fault(
                f"aggregate '{self.aggregate.kind}' cannot stand behind '{self.up}'",
                because=f"the receiver adds up, and a sum of {self.aggregate.kind}s says nothing of the sum",
                instead="aggregate with 'mean', or drop the feedback",
                at=("aggregate",),
            )
        if steps[0][0] == "server" and any(isinstance(stage, Project) for stage in self.replica):
            raise Fault(
                "'project' cannot stand behind a step on the server",
                because="it would move the replica and not the server's exact model X",
                instead="move 'step' to 'replica'",
                at=("replica",),
            )
        decays = [index for index, stage in enumerate(self.worker) if isinstance(stage, Decay)]
        if len(decays) > 1:
            raise Fault(
                "'decay' stands twice in worker",
                because="the gradient would decay twice",
                instead="keep one",
                at=("worker",),
            )
        if self.coupled and steps[0][0] == "server":
            raise Fault(
                "coupled decay ('decay' in worker) cannot be used when 'step' stands on the server",
                because="a worker does not see the server's exact model X",
                instead="drop 'decay': the step applies the group's weight_decay (decoupled)",
                at=("worker", decays[0]),
            )
        self._hops  # noqa: B018  (folding the Signals is the check)
        return self

    @property
    def coupled(self) -> bool:
        """Whether the group's weight decay belongs to the worker's ``decay`` stage (else to the step)."""
        return any(isinstance(stage, Decay) for stage in self.worker)

    def _placed(self) -> Iterator[tuple[tuple[str, int], Stage]]:
        for part in ("worker", "server", "replica"):
            for index, stage in enumerate(getattr(self, part)):
                yield (part, index), stage

    @cached_property
    def _hops(self) -> tuple[Hop, ...]:
        s = Signal()
        hops = [Hop("gradient", s)]
        for part in PARTS:
            if part in ("worker", "server", "replica"):
                for index, (address, stage) in enumerate(self.stages(part)):
                    s = _through(stage, s, part, index)
                    hops.append(Hop(address, s))
            elif part == "up":
                sent, s = s, _blame(("up",), lambda s=s: self.up.message(s))
                hops.append(Hop("up", s))
            elif part == "aggregate":
                s = self.up.feedback.signal(sent, _blame(("aggregate",), lambda s=s: self.aggregate.signal(s)))
                hops.append(Hop("aggregate", s))
            else:
                s = self.down.feedback.signal(s, _blame(("down",), lambda s=s: self.down.message(s)))
                hops.append(Hop("down", s))
        return tuple(hops)

    def stages(self, part: str) -> list[tuple[str, Stage]]:
        """The stages of worker, server or replica with their addresses (``worker.momentum``)."""
        own = getattr(self, part)
        return [
            (f"{part}.{label}", stage) for label, stage in zip(label_stages([s.kind for s in own]), own, strict=True)
        ]

    def trace(self) -> tuple[Hop, ...]:
        """The Signal after every hop, from the gradient to the model.

        >>> for hop in Method(worker="momentum spectral", up="sign", aggregate="majority_vote").trace(): print(hop)
        gradient               gradient | dense | norm free
        worker.momentum        gradient | dense | norm free
        worker.spectral        direction | dense | norm sqrt(min(m, n))
        up                     direction | sign | norm sqrt(m n)
        aggregate              direction | sign | norm sqrt(m n)
        down                   direction | sign | norm sqrt(m n)
        replica.step           model | dense | norm free
        """
        return self._hops

    def before(self, address: str) -> Signal:
        """The Signal that arrives at a hop."""
        addresses = [hop.address for hop in self._hops]
        return self._hops[addresses.index(address) - 1].signal

    @cached_property
    def step_address(self) -> str:
        """Where ``step`` stands: ``replica.step``, or ``server.step`` where DOWN carries the model."""
        placed = [hop for part in ("server", "replica") for hop in self.stages(part)]
        return next(address for address, stage in placed if isinstance(stage, Step))

    @property
    def integrand(self) -> Signal:
        """The Signal that ``step`` integrates; the layers' multipliers come from it."""
        return self.before(self.step_address)

    def multiplier(self, scaling: Scaling, m: int, n: int) -> float:
        """lam(m, n), which the step multiplies the learning rate by."""
        return scaling(self.integrand, m, n)

    def bits(self, m: int, n: int) -> MethodBits:
        """Logical bits per entry of an m x n matrix, up and down, scales included.

        >>> Method(worker="momentum", up="ef21(scaled_sign)").bits(8, 8)
        MethodBits(up=1.5, down=32.0)
        """
        return MethodBits(self.up.bits(self.before("up"), m, n), self.down.bits(self.before("down"), m, n))

    def bits_at(self, address: str, m: int, n: int) -> float:
        """What one entry costs to send at a hop, scales included (for the printed trace)."""
        if address in ("up", "down"):
            return float(getattr(self.bits(m, n), address))
        return BITS.get(dict(self._hops)[address].alphabet, BITS["dense"])

    def advice(self, workers: int = 1) -> list[str]:
        """What papers and measurements say against this method, if anything."""
        found = [stage.caution for _, stage in self._placed() if stage.caution]
        if self.down.feedback.kind == "ef21" and self.before("down").role == "direction":
            found.append(
                "'down' runs ef21 on a direction, which jumps while the estimate follows: put 'step' on the server"
            )
        if self.up.feedback.kind == "ef21" and self.before("up").role == "direction":
            found.append(
                "'up' runs ef21 on an LMO's output, which can diverge for every step size "
                "(EF21-SignMuon, Theorem 4): put the LMO on the server"
            )
        last = self.worker[-1] if self.worker else None
        if isinstance(last, LMO) and last.keeps_signs and self.up.compressor.kind == "sign":
            found.append(f"'{last.kind}' keeps every sign, so 'up: sign' sends what it would send without it")
        if self.up.feedback.kind == "ef14" and self.up.compressor.contraction(64, 64) is None:
            found.append(
                f"ef14({self.up.compressor}) keeps an error that never shrinks with the signal: use ef14(scaled_sign)"
            )
        if self.aggregate.kind == "majority_vote" and workers % 2 == 0 and tied(workers) >= MANY_TIES:
            found.append(
                f"an even number of voters ({workers}) ties, in {tied(workers):.1%} of random votes: prefer an odd one"
            )
        return found

    def replace(self, changes: Mapping[str, Any]) -> Method:
        """A validated copy with other values at some addresses.

        >>> print(Method(worker="momentum").replace({"worker.momentum.beta": 0.9, "up": "sign"}))
        momentum(beta=0.9) | sign | mean |  | identity | step

        Raises:
            SpecError: an address that leads nowhere, or a value that does not fit.
        """
        return changed(self, changes)

    def __str__(self) -> str:
        """The sentence in one line."""
        parts = (" ".join(map(str, part)) if isinstance(part, tuple) else str(part) for _, part in self)
        return " | ".join(parts)


def tied(workers: int) -> float:
    """How often an even number of fair coins comes out even: N choose N / 2, over 2^N.

    >>> tied(4)
    0.375
    """
    return comb(workers, workers // 2) / 2**workers if workers <= 1000 else sqrt(2 / (pi * workers))  # Stirling


def _has_step(data: Mapping[str, Any]) -> bool:
    return any(isinstance(stage, Step) for stage in data.get("server", ()))


def _through(stage: Stage, s: Signal, part: str, index: int) -> Signal:
    """One stage's rule, with the general ones in front."""
    if part not in stage.places:
        places = " or ".join(stage.places)
        raise Fault(f"'{stage.kind}' cannot stand in '{part}'", instead=f"move it to {places}", at=(part, index))
    if s.role not in stage.takes:
        raise Fault(
            f"'{stage.kind}' takes {a_or_an(' or '.join(stage.takes))}, but gets {a_or_an(s.role)}",
            because="stages behind 'step' receive the model" if s.role == "model" else "",
            instead=f"move '{stage.kind}' in front of " + ("'step'" if s.role == "model" else "the stage before it"),
            at=(part, index),
        )
    return _blame((part, index), lambda: stage.signal(s))


def _blame(at: tuple[str | int, ...], rule: Any) -> Signal:
    """A Signal rule whose objection gets its address."""
    try:
        signal: Signal = rule()
    except Fault as fault:
        raise Fault(fault.what, because=fault.because, instead=fault.instead, at=at) from None
    return signal
