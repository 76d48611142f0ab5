"""The settings of one training run: what may stand under `train:` in a spec file."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from ..errors import Fault, Problem, SpecError
from ..rule import Count, Fraction, Frozen, Inside, Positive, Registry, Rule, Share, closest
from .tasks import Shakespeare, TaskConfig, tasks

__all__ = ["Constant", "Cosine", "Linear", "Schedule", "Settings", "Wsd", "read_settings", "schedules"]


class Schedule(Rule):
    """The multiple of every group's learning rate, step by step: a linear rise over `warmup`, a fraction of the steps, then a shape."""

    warmup: Fraction = 0.0

    def factor(self, step: int, steps: int) -> float:
        """The multiple at `step` = 0 .. steps - 1. It is not 0 within the run, so no step is wasted."""
        rising = round(self.warmup * steps)
        return (step + 1) / rising if step < rising else self.shape((step - rising) / max(1, steps - rising))

    @abstractmethod
    def shape(self, t: float) -> float:
        """The multiple after the warm-up, t in [0, 1)."""


schedules = Registry("schedule", Schedule)


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

    `batch` is what one worker takes in one step; `compare` holds the matrix learning rate of each method that `--compare` may name.
    """

    task: Annotated[TaskConfig, tasks] = Shakespeare()
    steps: Count = 400
    workers: Count = 5
    batch: Count = 12
    seed: int = Field(default=0, strict=True, ge=0, lt=2**63)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    schedule: Annotated[Schedule, schedules] = Wsd()
    eval_every: Count = 100
    log_every: Count = 10
    compare: dict[str, Positive] = {}


def read_settings(mapping: Mapping[str, Any]) -> Settings:
    """Validate `train:`.

    Raises:
        SpecError: every wrong entry at once, with its address, and the nearest known name of a misspelt one.
    """
    try:
        return Settings.model_validate(dict(mapping))
    except ValidationError as error:
        raise SpecError(list(_problems(error, Settings, ("train",)))) from None


def _problems(error: ValidationError, model: type[Any], at: tuple[str | int, ...]) -> Iterator[Problem]:
    for detail in error.errors(include_url=False):
        yield from _explain(detail, model, (*at, *detail["loc"]))


def _explain(detail: ErrorDetails, model: type[Any], path: tuple[str | int, ...]) -> Iterator[Problem]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Inside):
        yield from _problems(cause.error, cause.model, path)
        return
    address = ".".join(map(str, path))
    if isinstance(cause, Fault):
        yield Problem(cause.what, address, path, cause.because, cause.instead)
    elif detail["type"] == "extra_forbidden":
        yield Problem(
            f"unknown key '{path[-1]}'", address, path, instead=closest(str(path[-1]), sorted(model.model_fields))
        )
    else:
        yield Problem(f"{detail['msg']}, got {detail['input']!r}", address, path)
