"""Rates of this machine for a plan: which are asked for, and who measures them: this process, or several at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import torch

from ..plugin import _loaded, load_plugins
from ..routing import Named
from ..spec import Spec
from ..transport.gauge import gauge
from ..transport.sums import encodings
from . import timing
from .blueprint import Blueprint
from .dense import Dense, dense
from .machine import CODECS, PARTS, Machine, aggregate_name, codec_name, muon_name, stack_name, sum_name
from .models import bodiless

__all__ = ["measured"]


def measured(spec: Spec, model: Sequence[Named], *, known: Machine | None = None, bucket_mb: float = 4.0) -> Machine:
    """A machine that knows every rate which a plan of this spec and model asks for; ``known`` ones are not timed again.

    With ``known.together`` above 1 so many processes measure at once, started by multiprocessing's ``spawn``, so a
    script that calls this keeps its own work under ``if __name__ == "__main__":``. The number of threads is torch's.
    """
    machine = known or Machine()
    jobs = _jobs(Blueprint.of(spec, model, bucket_mb), dense(model))
    missing = {name for job in jobs for name in job.names if name not in machine.rates}
    found: dict[str, float] = {}
    if missing and machine.together == 1:
        found = _run(jobs, missing)
    elif missing:
        context = get_context("spawn")
        barrier = context.Barrier(machine.together)
        shapes = [(one.name, tuple(one.parameter.shape), one.module, one.tied) for one in model]
        task = (spec.canonical(), list(_loaded), shapes, bucket_mb, missing, torch.get_num_threads())
        with ProcessPoolExecutor(machine.together, context, _keep, (barrier,)) as pool:
            every = list(pool.map(_elsewhere, [task] * machine.together))
        found = {name: min(one[name] for one in every) for name in missing}  # a step waits for the slowest
    if "messages" not in machine.rates:
        found |= gauge(max(2, machine.together))
    return replace(machine, rates={**machine.rates, **found})


class _Job(NamedTuple):
    """What is timed together: the names of its rates, and how they are found."""

    names: tuple[str, ...]
    run: Callable[[], Sequence[float]]


def _run(jobs: Sequence[_Job], missing: Set[str], meet: Callable[[], object] = bool) -> dict[str, float]:
    """The missing rates; ``meet`` waits for the other processes, for only what runs at once shares the cores."""
    found: dict[str, float] = {}
    timing.adamw()  # torch imports its compiler, seconds of work, when the first optimizer is made
    for job in jobs:
        if not missing.isdisjoint(job.names):
            meet()
            found |= dict(zip(job.names, job.run(), strict=True))
    return {name: rate for name, rate in found.items() if name in missing}


_barrier: list[Barrier] = []


def _keep(barrier: Barrier) -> None:
    _barrier.append(barrier)


def _elsewhere(task: tuple[Any, ...]) -> dict[str, float]:
    """In another process."""
    text, plugins, shapes, bucket_mb, missing, threads = task
    torch.set_num_threads(threads)
    load_plugins(plugins)
    model = [Named(name, bodiless(shape), module, tied) for name, shape, module, tied in shapes]
    spec = Spec.load(json.loads(text))
    jobs = _jobs(Blueprint.of(spec, model, bucket_mb), dense(model))
    return _run(jobs, missing, _barrier[0].wait)


def _jobs(blueprint: Blueprint, comparison: Dense) -> list[_Job]:
    """Every rate that a plan asks for."""
    found: dict[tuple[str, ...], _Job] = {}

    def add(run: Callable[[], Sequence[float]], *names: str) -> None:
        found.setdefault(names, _Job(names, run))

    for stack in sorted(blueprint.stacks, key=lambda stack: -stack.entries):  # the largest of each kind is timed
        add(partial(timing.stack, stack), *(stack_name(part, stack) for part in PARTS))
        for codec in CODECS:
            lane = stack.lane
            add(partial(timing.codec, stack, codec), codec_name("pack", lane, codec), codec_name("unpack", lane, codec))
        add(partial(timing.aggregate, stack), aggregate_name(stack.lane))
        for name, encoding in encodings(timing.VOTERS).items():
            if not encoding.refuses(stack.lane):
                add(partial(timing.summed, stack, encoding), sum_name("fold", name), sum_name("unfold", name))
    for (m, n), count in comparison.matrices.items():
        add(partial(timing.muon, m, n, count), muon_name(m, n))
    add(timing.adamw, "AdamW")
    add(timing.payload, "payload")
    add(timing.copy, "copy")
    return list(found.values())
