"""What is trained: a task opens on a device and hands out a model, each worker's loss, and what to measure.

A task's configuration is a rule in the registry `tasks`; what it opens holds tensors.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...rule import Registry, Rule

__all__ = ["Goal", "Task", "TaskConfig", "seed_of", "seeded", "tasks"]


@dataclass(frozen=True)
class Goal:
    """The metric that runs are compared by.

    >>> Goal("val_accuracy", "max").better(0.9, 0.8), Goal("val_loss").better(float("nan"), 2.0)
    (True, False)
    """

    metric: str
    best: Literal["min", "max"] = "min"

    def better(self, a: float, b: float) -> bool:
        """Whether a is better than b; a number that is not finite is never."""
        return math.isfinite(a) and (not math.isfinite(b) or (a < b if self.best == "min" else a > b))


class Task(ABC):
    """An open task. Every draw is a function of the seed, the worker and its number, so a resume needs no data state.

    ``examples`` is how many tokens or images one draw of one worker holds.
    """

    examples: int
    goal: Goal = Goal("val_loss")

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model on the task's device, drawn from torch's global generator."""

    @abstractmethod
    def loss(self, model: nn.Module, worker: int, draw: int) -> Tensor:
        """The mean loss of this worker's batch number ``draw`` = 0, 1, ..."""

    @abstractmethod
    def evaluate(self, model: nn.Module, *, whole: bool) -> Mapping[str, float]:
        """What is measured, the goal's metric among it: ``whole`` at the end of a run, else a fixed part may do.

        Names say what was measured on what: ``val_loss``, ``val_accuracy``, ``test_accuracy``.
        """

    def sample(self, model: nn.Module) -> str:
        """Something a person can look at, or an empty string."""
        return ""

    def fingerprint(self) -> str:
        """Hex digits that change with the data; nothing where a task does not say."""
        return ""

    def weights(self) -> Sequence[float]:
        """What every worker's message weighs where ``weighted_mean`` is not told; nothing for equal weights."""
        return ()


class TaskConfig(Rule):
    """The numbers of a task: what stands under `train.task`."""

    @abstractmethod
    def open(self, *, workers: int, batch: int, seed: int, device: torch.device) -> Task:
        """Load the data and bind the run's numbers."""


tasks: Registry[TaskConfig] = Registry("task", TaskConfig)


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from numbers and words, equal on every platform.

    >>> seed_of(0, "worker", 1) == seed_of(0, "worker", 2)
    False
    """
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the block, and leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
