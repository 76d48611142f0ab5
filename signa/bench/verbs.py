"""What is measured, by its name: whole steps, and their parts alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import Advice
from ..lab.records import environment
from ..lab.refusal import refusal
from ..lmo import Spectral
from ..lmo.schedules import SCHEDULES
from ..rule import closest
from .contest import Act, Case, Contestant, Row, contest, figure, ratio, row
from .floors import Floor, Rates
from .ours import REST, SCHEDULE, STEPS, SignMuon
from .peers import PEERS, enter, textbook_polar
from .shapes import Shapes, shapes
from .wire import exchange, pack, vote

__all__ = ["VERBS", "Options", "Verb", "run"]

_LIMIT = 1.2  # what N workers may take of N times one worker's LMO


@dataclass(frozen=True)
class Options:
    """How to measure; sets, workers and rounds are the verb's own and threads torch's, where they are empty and 0.

    ``quick`` is two rounds of one call each, on tiny matrices: to see that it runs, not to measure.
    """

    shapes: Sequence[str] = ()
    workers: int = 0
    rounds: int = 0
    threads: int = 0
    device: str = "cpu"
    quick: bool = False


class Measure(Protocol):
    """A case of one set of matrices."""

    def __call__(self, these: Shapes, workers: int, rounds: int, device: str, quick: bool, /) -> Case: ...


@dataclass(frozen=True)
class Verb:
    """What a verb does, over which sets of matrices, and with how many workers."""

    about: str
    shapes: tuple[str, ...]
    workers: int
    measure: Measure


def run(name: str, options: Options, command: Sequence[str] = ()) -> dict[str, Any]:
    """What a verb finds, for programs, and where it was found.

    Raises:
        SpecError: no such verb, set or device, or workers for a verb that is of one.
    """
    if name not in VERBS:
        known = list(VERBS)
        raise refusal(f"unknown benchmark '{name}'", instead=closest(name, known))
    verb = VERBS[name]
    if options.workers and verb.workers == 1:
        several = [other for other, one in VERBS.items() if one.workers > 1]
        because = f"'{name}' is of one worker, {', '.join(several)} are of several"
        raise refusal("a number of workers", address="--workers", because=because, instead="leave it out")
    device, quick = _here(options.device), options.quick
    sets = [shapes(text) for text in options.shapes or (_QUICK if quick else verb.shapes)]
    workers = options.workers or (min(verb.workers, _QUICK_WORKERS) if quick else verb.workers)
    rounds = options.rounds or (2 if quick else _ROUNDS)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Advice)  # an even number of voters is what is asked for here
            cases = [verb.measure(one, workers, rounds, device, quick).data() for one in sets]
        where = environment(command, torch.device(device))
    finally:
        torch.set_num_threads(before)
    facts = {"verb": name, "about": verb.about, "workers": workers, "rounds": rounds, "quick": quick}
    return {**facts, "environment": where, "cases": cases}


def _here(device: str) -> str:
    """A device that this machine has."""
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        because = "torch finds no CUDA device" if kind == "cuda" else "clocks are made for cpu, cuda and cuda:N"
        raise refusal(f"device '{device}'", address="--device", because=because, instead="write cpu")
    return device


def step(these: Shapes, workers: int, rounds: int, device: str, quick: bool) -> Case:
    """A step of SignMuon in one process, its LMO, all but that, and everybody else's step."""
    del workers
    rates = Rates.measured(these, device)
    entered = {peer.name: enter(peer, these.every, device) for peer in PEERS}
    contestants: dict[str, Contestant] = {"": SignMuon(these, 1, device)}
    contestants |= {name: one for name, one in entered.items() if not isinstance(one, str)}
    taken = contest(contestants, rounds, device, quick=quick)
    seconds, lmo = taken[""]
    work = Floor.spectral(these.matrices, steps=STEPS)
    rest = Floor.traffic(entries=these.entries, parts=REST)
    rows = [
        row("SignMuon", seconds, (work + rest).seconds(rates)),
        row("- its LMO", lmo, work.seconds(rates)),
        row("- all but that", [a - b for a, b in zip(seconds, lmo, strict=True)], rest.seconds(rates)),
    ]
    for name, one in entered.items():
        if isinstance(one, str):
            rows.append(Row(name, note=one))
        else:
            theirs = taken[name].seconds
            rows.append(Row(name, figure(theirs), of="SignMuon", ratio=ratio(seconds, theirs)))
    return Case(these, rows, _rates(rates))


def spectral(these: Shapes, workers: int, rounds: int, device: str, quick: bool) -> Case:
    """The LMO alone, for two schedules, on stacks of the same shape; and others' functions."""
    del workers
    rates = Rates.measured(these, device)
    generator = torch.Generator().manual_seed(0)
    stacks = [torch.randn(count, m, n, generator=generator).to(device) for (m, n), count in these.matrices.items()]

    def each(function: Callable[[torch.Tensor], object], *, alone: bool) -> Contestant:
        matrices = [matrix for stack in stacks for matrix in (stack.unbind() if alone else (stack,))]
        return Act(torch.no_grad()(lambda: [function(matrix) for matrix in matrices]))

    ours = {name: Spectral(schedule=name) for name in (SCHEDULE, "polar6")}
    contestants = {name: each(lmo.direction, alone=False) for name, lmo in ours.items()}
    contestants["textbook"] = each(textbook_polar, alone=True)
    try:
        from torch.optim._muon import _zeropower_via_newtonschulz as theirs
    except ImportError:  # it is nobody's promise
        pass
    else:
        table = SCHEDULES[SCHEDULE].coefficients[0]
        contestants["torch.optim.Muon's"] = each(lambda g: theirs(g, table, STEPS, 1e-7), alone=True)
    taken = contest(contestants, rounds, device, quick=quick)
    rows = [
        row(name, taken[name].seconds, Floor.spectral(these.matrices, steps=lmo.steps).seconds(rates))
        for name, lmo in ours.items()
    ]
    for name in list(taken)[len(ours) :]:
        seconds = taken[name].seconds
        rows.append(Row(name, figure(seconds), of=SCHEDULE, ratio=ratio(taken[SCHEDULE].seconds, seconds)))
    return Case(these, rows, _rates(rates))


def simulate(these: Shapes, workers: int, rounds: int, device: str, quick: bool) -> Case:
    """A step of N workers in one process, beside N times the LMO of one worker."""
    rates = Rates.measured(these, device)
    name, alone = f"{workers} workers", f"{workers} x one worker's LMO"
    contestants: dict[str, Contestant] = {name: SignMuon(these, workers, device), alone: SignMuon(these, 1, device)}
    taken = contest(contestants, rounds, device, quick=quick)
    seconds, lmo = taken[name]
    limit = [workers * one for one in taken[alone].inner]
    work = Floor.spectral(these.matrices, steps=STEPS, workers=workers)
    rest = Floor.traffic(entries=these.entries, parts=REST, workers=workers)
    rows = [
        row(name, seconds, (work + rest).seconds(rates)),
        row("- their LMO", lmo, work.seconds(rates)),
        row("- all but that", [a - b for a, b in zip(seconds, lmo, strict=True)], rest.seconds(rates)),
        Row(alone, figure(limit), of=name, ratio=ratio(seconds, limit), note=f"at most {_LIMIT:g} is meant"),
    ]
    return Case(these, rows, _rates(rates))


def _rates(rates: Rates) -> dict[str, float]:
    return {"copy": rates.copy, **{f"gemm {m}x{n}": rate for (m, n), rate in rates.gemm.items()}}


_QUICK = ("16x16*4", "24x8,8x8*2")
_QUICK_WORKERS = 3
_ROUNDS = 9
_SMALL = ("16x16*256", "64x64*96")
_WHOLE = (*_SMALL, "gpt-6x384", "resnet18", "gpt2", "1b", "7b")

VERBS: dict[str, Verb] = {
    "step": Verb("a step of SignMuon beside others' steps", _WHOLE, 1, step),
    "spectral": Verb("orthogonalising alone", _WHOLE, 1, spectral),
    "pack": Verb("signs to bits, and bits to a step", (*_SMALL, "gpt-6x384", "gpt2"), 1, pack),
    "vote": Verb("the majority of N workers' bits", (*_SMALL, "gpt-6x384", "gpt2"), 8, vote),
    "exchange": Verb("a step of signs between N gloo ranks", ("64x64*96", "gpt-6x384"), 4, exchange),
    "simulate": Verb("N workers in one process", (*_SMALL, "layer-384"), 64, simulate),
}
