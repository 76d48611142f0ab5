"""What may stand under `train.task`, in a registry: importing this registers all of it."""

from .base import Goal, Task, TaskConfig, seed_of, seeded, tasks
from .images import ImageClassification
from .text import Shakespeare, read_shakespeare
from .tokens import Tokens

__all__ = [
    "Goal",
    "ImageClassification",
    "Shakespeare",
    "Task",
    "TaskConfig",
    "Tokens",
    "read_shakespeare",
    "seed_of",
    "seeded",
    "tasks",
]
