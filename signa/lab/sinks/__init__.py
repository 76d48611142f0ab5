"""Where a run's records go besides metrics.jsonl: services and viewers that others make, each an optional package."""

from .base import Record, Run, Sink, SinkConfig, Sinks, chosen, sinks, used
from .kinds import Mlflow, Tensorboard, Trackio, Wandb

__all__ = [
    "Mlflow",
    "Record",
    "Run",
    "Sink",
    "SinkConfig",
    "Sinks",
    "Tensorboard",
    "Trackio",
    "Wandb",
    "chosen",
    "sinks",
    "used",
]
