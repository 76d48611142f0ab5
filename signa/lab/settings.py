"""The settings of one training run: what may stand under `train:` in a spec file."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..errors import Fault, Problem, SpecError
from ..reading import validated
from ..rule import Count, Fraction, Frozen, Positive, Registry, Rule, Share, plain
from ..sources import Source, read
from ..spec import Spec
from ..transport.group import Exchange, Server
from .tasks import Shakespeare, TaskConfig, tasks

__all__ = [
    "Constant",
    "Cosine",
    "Linear",
    "Schedule",
    "Settings",
    "Wsd",
    "load_experiment",
    "read_settings",
    "schedules",
]


class Schedule(Rule):
    """The multiple of every group's learning rate, step by step.

    A linear rise over `warmup`, a fraction of the steps, then the schedule's shape.
    """

    warmup: Fraction = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The multiple at `step` = 0 .. steps - 1. It is not 0 within the run, so no step is wasted."""
        rising = round(self.warmup * steps)
        return (step + 1) / rising if step < rising else self.shape((step - rising) / max(1, steps - rising))

    @abstractmethod
    def shape(self, t: float) -> float:
        """The multiple after the warm-up, t in [0, 1)."""


schedules: Registry[Schedule] = Registry("schedule", Schedule)


@schedules.register
class Constant(Schedule):
    """`1`.

    >>> [Constant(warmup=0.5).factor(i, 4) for i in range(4)]
    [0.5, 1.0, 1.0, 1.0]
    """

    kind: Literal["constant"] = "constant"

    def shape(self, t: float) -> float:
        """1."""
        return 1.0


@schedules.register
class Linear(Schedule):
    """`1 - t`.

    >>> [Linear().factor(i, 4) for i in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """

    kind: Literal["linear"] = "linear"

    def shape(self, t: float) -> float:
        """1 - t."""
        return 1.0 - t


@schedules.register
class Cosine(Schedule):
    """`(1 + cos(pi t)) / 2` (arXiv 1608.03983, equation 5, without restarts).

    >>> [round(Cosine().factor(i, 4), 3) for i in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """

    kind: Literal["cosine"] = "cosine"

    def shape(self, t: float) -> float:
        """(1 + cos(pi t)) / 2."""
        return 0.5 * (1.0 + math.cos(math.pi * t))


@schedules.register
class Wsd(Schedule):
    """Warm-up, stable, decay: `min(1, (1 - t) / cooldown)`, linear over the last part (arXiv 2404.06395, section 4).

    >>> [Wsd(cooldown=0.5).factor(i, 4) for i in range(4)]
    [1.0, 1.0, 1.0, 0.5]
    """

    kind: Literal["wsd"] = "wsd"
    cooldown: Share = 0.4

    def shape(self, t: float) -> float:
        """min(1, (1 - t) / cooldown)."""
        return min(1.0, (1.0 - t) / self.cooldown)


class Settings(Frozen):
    """Everything of a run but its optimizer.

    `batch` is what one worker takes in one step; `compare` holds the matrix learning rate of each method that
    `--compare` may name. `checkpoint_every` counts steps, 0 is never. `exchange`, `server`, `bucket_mb` and `timeout`
    are those of `signa.Group` and say how ranks talk; ranks wait that many seconds for rank 0's evaluation as well.
    """

    task: Annotated[TaskConfig, tasks] = Shakespeare()
    steps: Count = 300
    workers: Count = 5
    batch: Count = 12
    seed: int = Field(default=0, strict=True, ge=0, lt=2**63)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    schedule: Annotated[Schedule, schedules] = Wsd()
    eval_every: Count = 50
    log_every: Count = 10
    checkpoint_every: int = Field(default=100, strict=True, ge=0)
    exchange: Exchange = "auto"
    server: Server = "auto"
    bucket_mb: Positive = 4.0
    timeout: Positive = 300.0
    compare: dict[str, Positive] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Settings:
        if (self.exchange, self.server) == ("allgather", "sharded"):
            because = "in an all-gather every rank serves"
            raise Fault(
                "exchange: allgather does not go with server: sharded",
                because=because,
                instead="write server: replicated, or exchange: alltoall",
            )
        return self


def read_settings(mapping: Mapping[str, Any], places: Source | None = None) -> Settings:
    """Validate `train:`.

    Raises:
        SpecError: every wrong entry at once, with its address, its place in the file, and what was probably meant.
    """
    try:
        return validated(Settings, dict(mapping))
    except SpecError as error:
        places = places or Source()
        raise SpecError([places.locate(_below_train(problem)) for problem in error.problems]) from None


def _below_train(problem: Problem) -> Problem:
    address = f"train.{problem.address}" if problem.address else "train"
    return replace(problem, address=address, path=("train", *problem.path))


def load_experiment(
    source: str | Path, *, plugins: Sequence[Path] = (), changes: Mapping[str, Any] | None = None
) -> Spec:
    """A spec with a valid `train:`, every setting of it written out, and then the changes made, address by address.

    Raises:
        SpecError: everything that is wrong with it.
    """
    spec = Spec.load(source, plugins=plugins)
    path = Path(source)
    settings = read_settings(spec.train, read(path)[1] if path.suffix else None)
    spec = spec.replace({"train": plain(settings), **(changes or {})})
    read_settings(spec.train)
    return spec
