"""Machines whose rates are made up, so that a plan's arithmetic can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence

from signa.planner import Machine
from signa.planner.blueprint import Blueprint
from signa.planner.dense import dense
from signa.planner.measure import _jobs
from signa.routing import Named
from signa.spec import Spec

GLOO = ("messages", "alltoall", "allgather", "allreduce float32", "allreduce bfloat16")


def made_up(spec: Spec, model: Sequence[Named], **rates: float) -> Machine:
    """Every rate that a plan asks for: 1e15 a second, or what is given by a name's first word."""
    jobs = _jobs(Blueprint.of(spec, model), dense(model))
    names = [name for job in jobs for name in job.names] + list(GLOO)
    return Machine({name: rates.get(name.split()[0], 1e15) for name in names})
