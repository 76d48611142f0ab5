"""The settings of one training run: what may stand under `train:` in a spec file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..address import labels
from ..errors import Fault, Problem, SpecError
from ..reading import validated
from ..rule import Count, Frozen, Positive, Share, plain
from ..sources import Source, read
from ..spec import Spec
from ..transport.planning import Exchange, Server
from ..transport.sums import Int8
from .refusal import refusal
from .schedules import Schedule, Wsd, schedules
from .tasks import Shakespeare, TaskConfig, tasks

__all__ = ["Settings", "load_experiment", "read_settings"]


class Settings(Frozen):
    """Everything of a run but its optimizer.

    `batch` is what one worker takes in one draw, and `accumulate` how many draws its gradient is the mean of. The share
    `sample` of the workers takes part in a step, drawn anew each time. With `local_steps` K > 1 a worker first takes K
    steps of its own, W_k+1 = W_k - local_lr g(W_k), and (W_0 - W_K) / (K local_lr) stands for its gradient
    (arXiv 1602.05629). Every `diagnose_every` steps the optimizer's inside is measured; that and `checkpoint_every` may
    be 0, never. `compare` holds the matrix learning rate of each method that `--compare` may name. `exchange`,
    `server`, `overlap`, `bucket_mb` and `timeout` are those of `signa.Group` and say how ranks talk; ranks wait that
    many seconds for rank 0's evaluation as well.
    """

    task: Annotated[TaskConfig, tasks] = Shakespeare()
    steps: Count = 300
    workers: Count = 5
    batch: Count = 12
    accumulate: Count = 1
    sample: Share = 1.0
    local_steps: Count = 1
    local_lr: Positive = 0.1
    seed: int = Field(default=0, strict=True, ge=0, lt=2**63)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    schedule: Annotated[Schedule, schedules] = Wsd()
    eval_every: Count = 50
    log_every: Count = 10
    checkpoint_every: int = Field(default=100, strict=True, ge=0)
    diagnose_every: int = Field(default=0, strict=True, ge=0)
    exchange: Exchange = "auto"
    server: Server = "auto"
    overlap: bool = Field(default=False, strict=True)
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
        if self.exchange == "int8" and self.workers > Int8.MOST:
            raise Fault(
                f"exchange: int8 does not go with workers: {self.workers}",
                because=f"a sum of int8 wraps silently at {Int8.MOST + 1}",
                instead="write exchange: lanes, or exchange: alltoall",
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
    for address in changes or {}:
        _begins_a_spec(address, spec)
    settings = read_settings(spec.train, read(path)[1] if path.suffix else None)
    spec = spec.replace({"train": plain(settings), **(changes or {})})
    read_settings(spec.train)
    return spec


def _begins_a_spec(address: str, spec: Spec) -> None:
    """Refuse an address whose first word was left out."""
    word = address.split(".")[0]
    if word in Spec.model_fields:
        return
    groups = ", ".join(f"groups.{name}.{address}" for name in labels(spec.groups))
    raise refusal(
        "no part of a spec begins so",
        address=address,
        because=f"a spec has {', '.join(sorted(Spec.model_fields))}",
        instead=f"write train.{address}" if word in Settings.model_fields else f"write one of {groups}",
    )
