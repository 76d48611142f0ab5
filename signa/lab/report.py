"""What a run tells while it goes on, and what it found in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .tasks import Goal

__all__ = ["Metrics", "Reporter", "Result", "Silent"]


Metrics = Mapping[str, float]
"""What a task measures, by name."""


class Reporter(Protocol):
    """Who is told how a run goes; the command line's reporters draw it."""

    def start(self, name: str, steps: int) -> None:
        """A run of so many steps begins."""

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """So many steps are done; the losses where they were just measured."""

    def say(self, line: str) -> None:
        """Something worth a line happened."""

    def stop(self) -> None:
        """The run is over, well or not."""


class Silent:
    """A reporter that tells nobody."""

    def start(self, name: str, steps: int) -> None:
        """Nothing."""

    def progress(
        self, step: int, *, train_loss: float | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Result:
    """What a finished run found, the same on every rank but for the bytes, which are the rank's own.

    `bits_*` are logical bits per parameter, model-wide; `round_trip` is how many times fewer both are than float32's.
    `payload_*` and `interface_*` are means over the steps; :mod:`signa.lab.ledger` says what they count. `model_digest`
    stands for the final parameters and buffers: equal digests are equal bits.
    """

    name: str
    folder: Path
    spec_id: str
    steps: int
    workers: int
    ranks: int
    parameters: int
    examples: int
    goal: Goal
    metrics: dict[str, float]
    bits_up: float
    bits_down: float
    round_trip: float
    payload_sent: float
    payload_received: float
    payload_bits_up: float
    payload_bits_down: float
    interface_sent: float | None
    interface_received: float | None
    seconds: float
    seconds_per_step: float
    model_digest: str
    sample: str
    records: list[dict[str, Any]] = field(repr=False)

    @property
    def value(self) -> float:
        """The goal's metric at the end."""
        return self.metrics[self.goal.metric]

    def summary(self) -> dict[str, Any]:
        """The numbers, as they stand in summary.json: the metrics beside the rest."""
        left_out = ("folder", "sample", "records", "metrics", "goal")
        goal = {"metric": self.goal.metric, "best": self.goal.best}
        return {k: v for k, v in self.__dict__.items() if k not in left_out} | self.metrics | {"goal": goal}
