"""Checkpoints: complete or invisible, verified, without pickle, and for any number of processes."""

from .dcp import DCPState
from .load import WorldChange, load_checkpoint
from .save import save_checkpoint

__all__ = ["DCPState", "WorldChange", "load_checkpoint", "save_checkpoint"]
