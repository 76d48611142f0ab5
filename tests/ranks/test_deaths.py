"""Ranks that die or hang: one typed error on all that live, in time, an exit of their own, and no step after it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

import signa
from signa import errors
from signa.transport.ranks import Ranks
from tests.ranks.cases import build, fingerprint, parameters, plain, step
from tests.ranks.worlds import Ended, processes, within

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
TIMEOUT = 1.5
SMALL = {"a": (9, 21), "b": (24, 16), "bias": (5,)}
SOURCE = {"groups": [{"match": "bias", "method": "adamw", "lr": 0.01}, {"method": "muonsign", "lr": 0.02}]}
Say = Callable[[Any], None]


def die(how: str) -> None:
    """In the way that is asked for."""
    sys.stderr.flush()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "exit":
        os._exit(7)
    elif how == "sys.exit":
        sys.exit(3)
    raise ZeroDivisionError("in its loss")


def at_call(number: int, act: Callable[[], None]) -> None:
    """Act in front of the ``number``-th collective from now on."""
    original, count = Ranks._finish, [0]

    def finish(self: Ranks, start: Any, what: str) -> None:
        count[0] += 1
        if count[0] == number:
            act()
        original(self, start, what)

    Ranks._finish = finish  # type: ignore[method-assign]


def lives(r: int, arguments: dict[str, Any], say: Say, how: str, when: str, exchange: dict[str, str]) -> None:
    """Train; rank 1 dies; the others say what they met, how long it took, and what a second step does."""
    if when == "init" and r == 1:
        die(how)
    try:
        begun = time.monotonic()
        group = signa.Group(**arguments, **exchange)
        ps = parameters(shapes=SMALL)
        opt = build(SOURCE, ps, group)
        before = fingerprint(ps)
        for t in range(4):
            if t == {"first": 0, "later": 2}.get(when) and r == 1:
                die(how)
            if t == 2 and when == "middle" and r == 1:
                at_call(2, lambda: die(how))
            before = fingerprint(ps)
            begun = time.monotonic()
            step(opt, ps, t, plain)
    except errors.SignaError as error:
        facts = {"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - begun}
        if when != "init":
            facts |= {"step": opt.steps, "moved": fingerprint(ps) != before}
            try:
                opt.step()
            except errors.Poisoned as again:
                facts["again"] = str(again)
        say(facts)


def check(ended: list[Ended], allowed: set[str]) -> list[dict[str, Any]]:
    """The survivors met one error, in time, and ended by themselves at once."""
    survivors = [rank for number, rank in enumerate(ended) if number != 1]
    told = [next((word for word in rank.said if isinstance(word, dict)), {}) for rank in survivors]
    assert all(told), ended
    assert [rank.code for rank in survivors] == [0] * len(survivors), ended
    assert len({facts["error"] for facts in told}) == 1 and told[0]["error"] in allowed, ended
    for rank, facts in zip(survivors, told, strict=True):
        assert facts["seconds"] < TIMEOUT + within(2), ended
        assert rank.seconds < within(3), ended
    return told


DEATHS = ["kill", "exit", "raise", "sys.exit", "stop"]
CODES = {"kill": -9, "exit": 7, "raise": 1, "sys.exit": 3, "stop": None}
QUICK = [("kill", "middle"), ("stop", "later"), ("raise", "first"), ("exit", "middle")]


def dies(how: str, when: str, exchange: dict[str, str], size: int = 3, host: bool = False) -> None:
    ended = processes(size, lives, how, when, exchange, timeout=TIMEOUT, host=host)
    assert ended[1].code == CODES[how], ended
    allowed = {"CollectiveTimeout"} if how == "stop" or when == "init" else {"PeerLost"}
    for facts in check(ended, allowed | ({"PeerLost"} if when == "init" else set())):
        assert f"group of {size} ranks" in facts["text"]
        if when == "init":
            continue
        assert facts["again"].startswith("no further step after a fault (")
        expected = 0 if when == "first" else 2
        assert f"step {expected}, " in facts["text"] and facts["step"] == expected
        assert "rank 1" in facts["text"], facts
        if when != "middle":
            assert not facts["moved"]


@pytest.mark.parametrize(("how", "when"), QUICK)
def test_a_rank_dies(how: str, when: str) -> None:
    dies(how, when, {"exchange": "alltoall"})


@pytest.mark.slow
@pytest.mark.parametrize("exchange", ["alltoall", "allgather", "ring"])
@pytest.mark.parametrize("when", ["init", "first", "middle", "later"])
@pytest.mark.parametrize("how", DEATHS)
def test_a_rank_dies_anywhere(how: str, when: str, exchange: str) -> None:
    dies(how, when, {"exchange": exchange}, size=4)


def host_stops(r: int, arguments: dict[str, Any], say: Say) -> None:
    ps = parameters(shapes=SMALL)
    opt = build(SOURCE, ps, signa.Group(**arguments))
    step(opt, ps, 0, plain)
    if r == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    begun = time.monotonic()
    try:
        step(opt, ps, 1, plain)
    except errors.WireError as error:
        say((type(error).__name__, time.monotonic() - begun))


def test_the_host_of_the_store_hangs() -> None:
    """A store's calls have no end of their own: whoever asks must not wait for it."""
    ended = processes(3, host_stops, timeout=TIMEOUT, host=True)
    assert [rank.code for rank in ended] == [None, 0, 0], ended
    for rank in ended[1:]:
        kind, seconds = rank.said[0]
        assert kind == "CollectiveTimeout" and seconds < TIMEOUT + within(2), ended


def uncaught(r: int, arguments: dict[str, Any], say: Say) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    ps = parameters(shapes=SMALL)
    opt = build(SOURCE, ps, signa.Group(**arguments))
    if r == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    say("starts")
    step(opt, ps, 0, plain)


def test_who_catches_nothing_ends_with_an_exit_code() -> None:
    ended = processes(2, uncaught, timeout=TIMEOUT)
    assert [rank.code for rank in ended] == [1, -9] and ended[0].seconds < TIMEOUT + within(3), ended
