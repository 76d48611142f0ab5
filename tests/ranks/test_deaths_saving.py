"""Ranks that die or hang in a checkpoint: one typed error on all that live, in time, the older one stands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import signa
from signa import errors
from tests.paths.write_points import Disk, watched
from tests.ranks.cases import SMALL, SOURCE, build, fingerprint, parameters, plain, step
from tests.ranks.test_deaths import CODES, TIMEOUT, at_call, die
from tests.ranks.worlds import processes, within

pytestmark = pytest.mark.filterwarnings("ignore::signa.errors.Advice")
Say = Callable[[Any], None]
#: Who dies, and where: in front of a collective (its number), or of an operation on its disk (its name and number).
MOMENTS: dict[str, tuple[int, Any]] = {
    "preparing": (1, 1),
    "writing": (1, ("write", 2)),
    "syncing": (1, ("fsync", 1)),
    "the manifest": (0, ("open", 3)),
    "the new name": (0, ("replace", 1)),
    "behind the new name": (0, ("fsync", 5)),
    "loading": (2, 2),
}


def at_operation(name: str, number: int, act: Callable[[], None]) -> Callable[[Disk, str], None]:
    """Act in front of the ``number``-th operation of a name."""

    def fault(disk: Disk, what: str) -> None:
        if what == name and disk.done.count(name) == number:
            act()

    return fault


def saves(r: int, arguments: dict[str, Any], say: Say, how: str, moment: str, folder: str) -> None:
    """A checkpoint of step 1, and one of step 2 that one rank dies in; the others say what they met."""
    ps = nn.ParameterDict(parameters(shapes=SMALL))
    opt = build(SOURCE, ps.items(), signa.Group(**arguments))
    step(opt, dict(ps.items()), 0, plain)
    signa.save_checkpoint(folder, ps, opt)
    say(fingerprint(ps))
    step(opt, dict(ps.items()), 1, plain)
    victim, point = MOMENTS[moment]
    if r == victim and isinstance(point, int):
        at_call(point, lambda: die(how))
    strikes = at_operation(*point, lambda: die(how)) if r == victim and not isinstance(point, int) else lambda *_: None
    begun = time.monotonic()
    try:
        with watched(strikes):
            if moment == "loading":
                signa.load_checkpoint(folder, ps, opt)
            else:
                signa.save_checkpoint(folder, ps, opt)
        say("went through")  # the fault did not fire
    except errors.SignaError as error:
        facts = {"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - begun}
        for act in (opt.step, lambda: signa.save_checkpoint(folder, ps, opt)):
            try:
                act()
            except errors.Poisoned as again:
                facts["again"] = facts.get("again", 0) + ("no further step after a fault" in str(again))
        say(facts)


def dies(how: str, moment: str, folder: Path) -> None:
    victim, _ = MOMENTS[moment]
    ended = processes(3, saves, how, moment, str(folder), timeout=TIMEOUT)
    assert ended[victim].code == CODES[how], ended
    survivors = [rank for number, rank in enumerate(ended) if number != victim]
    for rank in survivors:
        facts = rank.said[1]
        assert rank.code == 0 and facts["error"] == ("CollectiveTimeout" if how == "stop" else "PeerLost"), ended
        assert f"rank {victim}" in facts["text"] and facts["again"] == 2, ended
        assert facts["seconds"] < TIMEOUT + within(2) and rank.seconds < within(3), ended
    visible = sorted(path.name for path in folder.glob("step-*"))
    renamed = moment == "behind the new name"
    assert visible == ["step-00000001", *["step-00000002"] * renamed]
    ps = nn.ParameterDict(parameters(shapes=SMALL))
    with torch.no_grad():
        for p in ps.values():
            p.zero_()
    opt = build(SOURCE, ps.items(), signa.Loopback(3))
    assert signa.load_checkpoint(folder / "step-00000001", ps, opt)["step"] == 1
    assert fingerprint(ps) == survivors[0].said[0]
    assert signa.load_checkpoint(folder, ps, opt)["step"] == 1 + renamed
    opt.steps = 3
    signa.save_checkpoint(folder, ps, opt, keep=1)
    assert os.listdir(folder) == ["step-00000003"]  # what was left behind is gone


QUICK = [("kill", "writing"), ("exit", "the new name")]
HOWS = ["kill", "exit", "sys.exit", "stop"]


@pytest.mark.parametrize(("how", "moment"), QUICK)
def test_a_rank_dies_in_a_checkpoint(how: str, moment: str, tmp_path: Path) -> None:
    dies(how, moment, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("how", HOWS)
def test_a_rank_dies_anywhere_in_a_checkpoint(how: str, moment: str, tmp_path: Path) -> None:
    dies(how, moment, tmp_path)
