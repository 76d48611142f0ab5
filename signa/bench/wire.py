"""Packing, voting, and an exchange between ranks: what a step does with bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..aggregators import MajorityVote
from ..building import build
from ..coins import SERVER, Coins
from ..packing import WORD, signs, unpacked, words, words_for
from ..planner.timing import taken as timed
from ..reading import validated
from ..sentence import Method
from ..transport import Group
from ..transport.gauge import gauge, in_threads
from ..transport.ranks import Ranks
from .contest import Act, Case, Contestant, Row, contest, figure, ratio, row
from .floors import Floor, Rates
from .peers import LR, Stepping
from .shapes import Shapes

__all__ = ["exchange", "pack", "vote"]

_PATIENCE = 60.0
_MOST = 1 << 62


def pack(these: Shapes, workers: int, rounds: int, device: str, quick: bool) -> Case:
    """Floats to bits, and bits to a step of the parameters, over all entries of the set."""
    del workers
    rates, entries = Rates.measured(these, device, products=False), these.entries
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, entries, generator=generator).to(device)
    packed, model = words(x), torch.zeros(words_for(entries) * WORD, device=device)

    def apply() -> None:
        for at, part in unpacked(packed, torch.float32):
            model[at : at + len(part)].add_(part, alpha=-LR)

    flat = x[0]
    acts: dict[str, Callable[[], object]] = {
        "pack": lambda: words(x, out=packed),
        "unpack and update": apply,
        "signs as int8": lambda: torch.sign(flat).to(torch.int8),
        "clone and add": lambda: flat.clone().add_(flat, alpha=-LR),
    }
    if device == "cpu":
        acts["numpy.packbits(x >= 0)"] = lambda: np.packbits(flat.numpy() >= 0, bitorder="little")
    taken = contest({name: Act(act) for name, act in acts.items()}, rounds, device, quick=quick)
    packing = Floor.traffic(entries=entries, parts=("sign", "pack"))
    rows = [
        row("pack", taken["pack"].seconds, packing.seconds(rates)),
        row(
            "unpack and update",
            taken["unpack and update"].seconds,
            Floor.traffic(entries=entries, parts=("update",)).seconds(rates),
        ),
    ]
    compared = {"numpy.packbits(x >= 0)": "pack", "signs as int8": "pack", "clone and add": "unpack and update"}
    for name, of in compared.items():
        if name in taken:
            seconds = taken[name].seconds
            beside = ratio(taken[of].seconds, seconds)
            rows.append(Row(name, figure(seconds), of=of, ratio=beside, note=f"beside {of}"))
    return Case(these, rows, {"copy": rates.copy})


def vote(these: Shapes, workers: int, rounds: int, device: str, quick: bool) -> Case:
    """The majority of N random messages of bits, coins for ties included."""
    rates, entries = Rates.measured(these, device, products=False), these.entries
    generator, count = torch.Generator().manual_seed(0), words_for(entries)
    shape = (workers, 1, count)
    planes = torch.randint(-_MOST, _MOST, shape, generator=generator) * 2
    planes = (planes + torch.randint(0, 2, shape, generator=generator)).to(device)
    coins, rule = Coins(0, 0, [1], [0], [SERVER]), MajorityVote()
    floats = torch.stack([signs(plane, entries, torch.float32)[0] for plane in planes]).to(torch.int8)

    def unpacked_sum() -> Tensor:
        return torch.stack([signs(plane, entries, torch.float32)[0] for plane in planes]).sum(0).sign_()

    acts: dict[str, Callable[[], object]] = {
        "vote": lambda: rule.of_words(planes, lambda: coins.words(1, count, torch.device(device))),
        "sum of int8 signs": lambda: floats.sum(0, dtype=torch.int16).sign_(),
        "unpacked, then summed": unpacked_sum,
    }
    taken = contest({name: Act(act) for name, act in acts.items()}, rounds, device, quick=quick)
    name = f"vote of {workers}"
    floor = Floor.traffic(entries=entries, parts=("vote",), workers=workers)
    rows = [row(name, taken["vote"].seconds, floor.seconds(rates))]
    for other in list(acts)[1:]:
        seconds = taken[other].seconds
        rows.append(Row(other, figure(seconds), of=name, ratio=ratio(taken["vote"].seconds, seconds)))
    return Case(these, rows, {"copy": rates.copy})


# Ranks ----------------------------------------------------------------------------------------------------------------


def exchange(these: Shapes, workers: int, rounds: int, device: str, quick: bool) -> Case:
    """A step of signs between N ranks, threads of this process with gloo between them, beside dense means of gradients.

    Worker stages are left out: a gradient's signs travel, and the vote moves the model. Its floor is the bits of
    all-to-all and all-gather at gloo's own rates, and the traffic of all ranks, who share this machine, at a copy's.
    """
    del quick  # a turn is one call anyway
    rates, entries = Rates.measured(these, device, products=False), these.entries
    own = gauge(workers)
    every = in_threads(workers, lambda group, store: _rank(group, store, these, rounds, device))
    name, *others = every[0]
    slowest = {one: [max(turn) for turn in zip(*(rank[one] for rank in every), strict=True)] for one in every[0]}
    sent = entries / 8 * (workers - 1) / workers  # bytes of a rank, in each of the two
    network = sent / own["alltoall"] + sent / own["allgather"]
    # Each rank counts the votes on a share of its own, so everybody's bits are read once; models there are N.
    once = Floor.traffic(entries=entries, parts=("sign", "pack", "vote"), workers=workers)
    moved = once.moved + workers * Floor.traffic(entries=entries, parts=("update",)).moved
    rows = [row(name, slowest[name], network + moved / rates.copy)]
    for other in others:
        rows.append(Row(other, figure(slowest[other]), of=name, ratio=ratio(slowest[name], slowest[other])))
    return Case(these, rows, {"copy": rates.copy, **own})


def _rank(group: Any, store: Any, these: Shapes, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every contestant in every round, on one rank; they begin each turn together."""
    wire = Group(group, store=store, timeout=_PATIENCE, check_replicas_every=0)
    ranks = Ranks(group, store, _PATIENCE)
    generator = torch.Generator().manual_seed(ranks.rank)
    gradients = [torch.randn(m, n, generator=generator).to(device) for m, n in these.every]
    parameters = [nn.Parameter(torch.zeros(m, n, device=device)) for m, n in these.every]
    pairs = [(f"p{at}", parameter) for at, parameter in enumerate(parameters)]
    voting = build(validated(Method, {"up": "sign", "aggregate": "majority_vote"}), pairs, lr=LR, transport=wire)
    model = torch.zeros(these.entries, device=device)

    def dense(dtype: torch.dtype) -> Callable[[], None]:
        buffer = torch.empty(these.entries, dtype=dtype, device=device)

        def step() -> None:
            torch.cat([gradient.flatten() for gradient in gradients], out=buffer)
            ranks.total(buffer, "a dense mean")
            model.add_(buffer, alpha=-LR / ranks.size)

        return step

    def summed() -> None:
        bytes_ = torch.cat([gradient.flatten() for gradient in gradients]).sign_().to(torch.int8)
        ranks.total(bytes_, "a sum of signs")
        model.add_(bytes_.sign_(), alpha=-LR)

    contestants: dict[str, Contestant] = {
        f"SignA, {ranks.size} ranks": Stepping(parameters, gradients, voting.step),
        "all-reduce of float32": Act(dense(torch.float32)),
        "all-reduce of bfloat16": Act(dense(torch.bfloat16)),
        "all-reduce of int8 signs": Act(summed),
    }
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 2):
        for name, one in contestants.items():
            one.ready()
            ranks.largest("a turn")
            found[name].append(timed(one, device))
    wire.close()
    return {name: seconds[-rounds:] for name, seconds in found.items()}
