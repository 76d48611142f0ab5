"""A group that misbehaves by a script, (rank, step, operation, action), over real gloo: every fault fires, and either
nothing was lost, or everybody raises one error in time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from torch import Tensor

import signa
from signa import errors
from signa.transport.ranks import Ranks
from tests.ranks.cases import SMALL, build, fingerprint, loopback, parameters, plain, step
from tests.ranks.worlds import within, world

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
SHORT, LONG = 1.2, 8.0  # timeouts: for who hangs, and for all others, so that a busy machine is no fault
STEPS = 3
SOURCE = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "ef21muonsign", "lr": 0.02}]}


class Entry(NamedTuple):
    """At this rank's ``nth`` such operation of a step."""

    rank: int
    step: int
    operation: str
    action: str
    nth: int = 1


def _flipped(payload: Tensor, place: int) -> Tensor:
    payload = payload.clone()
    payload[place] ^= 1
    return payload


#: What becomes of a payload, and of the call.
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "flips the first bit": lambda payload: _flipped(payload, 0),
    "flips the last bit": lambda payload: _flipped(payload, -1),
    "zeroes": lambda payload: payload * 0,
}


class Faulty(Ranks):
    """Does what the script says, and what it is asked to otherwise."""

    script: Entry
    fired: bool = False
    seen: tuple[int, str, int] = (-1, "", 0)

    def strikes(self, operation: str) -> bool:
        """Whether this is the call that the script speaks of."""
        before = self.seen[2] if self.seen[:2] == (self.step, operation) else 0
        self.seen = (self.step, operation, before + 1)
        entry = self.script
        own = (self.rank, self.step, operation, before + 1)
        here = own == (entry.rank, entry.step, entry.operation, entry.nth) and not self.fired
        self.fired |= here
        if here and entry.action == "raises":
            raise ZeroDivisionError("by the script")
        if here and entry.action == "is late":
            time.sleep(0.4)
        if here and entry.action == "hangs":
            time.sleep(SHORT + 1.0)
        return here and entry.action in CHANGES

    def swap(self, payload: Tensor, *rest: Any, **more: Any) -> Any:
        return super().swap(self._sent("swap", payload), *rest, **more)

    def gather(self, payload: Tensor, *rest: Any, **more: Any) -> Any:
        return super().gather(self._sent("gather", payload), *rest, **more)

    def total(self, tensor: Tensor, *rest: Any) -> None:
        self.strikes("total")
        super().total(tensor, *rest)

    def _sent(self, operation: str, payload: Tensor) -> Tensor:
        return CHANGES[self.script.action](payload) if self.strikes(operation) else payload


class Ended(NamedTuple):
    """What a rank met."""

    error: errors.SignaError | Exception | None
    seconds: float
    digests: list[str]
    poisoned: bool


def played(script: Entry, exchange: str) -> list[Ended]:
    """Three ranks and a script; every fault must have fired."""
    fired = []

    def rank(r: int, arguments: dict[str, Any]) -> Ended:
        group = signa.Group(**arguments, exchange=exchange)
        ranks: Any = group.ranks
        ranks.__class__, ranks.script = Faulty, script
        ps = parameters(shapes=SMALL)
        digests: list[str] = []
        error, begun = None, time.monotonic()
        try:
            opt = build(SOURCE, ps, group)  # of step 0, too: its collectives are the first
            for t in range(STEPS):
                begun = time.monotonic()
                step(opt, ps, t, plain)
                digests.append(fingerprint(ps))
        except (errors.SignaError, ZeroDivisionError) as met:
            error = met
        seconds = time.monotonic() - begun
        if ranks.fired:
            fired.append(r)
        try:
            group.refuse()
        except errors.Poisoned:
            return Ended(error, seconds, digests, True)
        return Ended(error, seconds, digests, False)

    gc.collect()  # what a fault left waits for its operations as it is collected: not in a rank that others wait for
    results = world(3, rank, timeout=SHORT if script.action == "hangs" else LONG)
    assert all(isinstance(result, Ended) for result in results), results
    assert fired == [script.rank], f"the fault did not fire: {results}"
    return results


PLACES = [("alltoall", "swap", 1), ("alltoall", "gather", 1), ("allgather", "gather", 1), ("ring", "total", 1)]
FATAL = {
    "raises": {"PeerLost"},
    "hangs": {"CollectiveTimeout", "PeerLost"},
    "flips the first bit": {"CorruptMessage"},
    "flips the last bit": {"CorruptMessage"},
    "zeroes": {"CorruptMessage"},
}


def cases() -> list[Any]:
    """Every action at every place where it means something, on each rank and in each step by turns."""
    found = []
    for action in ("is late", *FATAL):
        for exchange, operation, nth in PLACES:
            if operation == "total" and action in CHANGES:  # a sum carries no checksum: the gather in front of it does
                continue
            turn = len(found)
            found.append((Entry(turn % 3, turn % STEPS, operation, action, nth), exchange))
    return [
        pytest.param(
            *case,
            id="-".join(map(str, (*case[0], case[1]))),
            marks=[pytest.mark.slow] * (case[0].action == "hangs" and case[1] != "alltoall"),
        )
        for case in found
    ]


@pytest.mark.parametrize(("script", "exchange"), cases())
def test_a_scripted_fault(script: Entry, exchange: str) -> None:
    ended = played(script, exchange)
    whole = loopback(SOURCE, 3, steps=STEPS, shapes=SMALL, grad=plain).digests
    for rank in ended:
        done = len(rank.digests)
        assert exchange == "ring" or rank.digests == whole[:done]
        if script.action == "is late":  # nothing was lost
            assert rank.error is None and done == STEPS
            continue
        assert done == script.step and rank.poisoned, ended
        assert rank.seconds < SHORT + within(2), ended
        own = script.action == "raises" and rank is ended[script.rank]
        assert type(rank.error).__name__ in ({"ZeroDivisionError"} if own else FATAL[script.action]), ended
        assert own or f"step {script.step}, " in str(rank.error)
    assert len({type(rank.error) for rank in ended}) <= 1 + (script.action == "raises")
