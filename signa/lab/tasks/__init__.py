"""What may stand under `train.task`, in a registry: importing this registers all of it."""

from .base import Goal, Task, TaskConfig, seed_of, tasks
from .text import Shakespeare, read_shakespeare

__all__ = ["Goal", "Shakespeare", "Task", "TaskConfig", "read_shakespeare", "seed_of", "tasks"]
