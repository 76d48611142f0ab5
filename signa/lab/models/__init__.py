"""The models that tasks train."""

from .gpt import GPT

__all__ = ["GPT"]
