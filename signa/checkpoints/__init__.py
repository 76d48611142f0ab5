"""Checkpoints: complete or invisible, verified, without pickle, and for any number of processes."""

from .load import WorldChange, load_checkpoint
from .save import save_checkpoint

__all__ = ["WorldChange", "load_checkpoint", "save_checkpoint"]
