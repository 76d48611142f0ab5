"""Labelled images in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Dataset", "Images"]


@dataclass(frozen=True, eq=False)
class Images:
    """Images (n, channels, height, width) in uint8 and their labels (n,) in int64."""

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.dtype != torch.uint8 or len(self.pixels) != len(self.labels):
            shapes = f"{tuple(self.pixels.shape)} of {self.pixels.dtype}, {tuple(self.labels.shape)} labels"
            raise ValueError(f"no labelled images: {shapes}")

    def __len__(self) -> int:
        """How many."""
        return len(self.labels)

    @classmethod
    def of(cls, pixels: np.ndarray, labels: np.ndarray) -> Images:
        """From arrays, which may be views of a file's bytes.

        >>> len(Images.of(np.zeros((2, 1, 4, 4), np.uint8), np.array([3, 1])))
        2
        """
        return cls(torch.from_numpy(np.array(pixels)), torch.from_numpy(labels.astype(np.int64)))

    def take(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(self.pixels[rows], self.labels[rows])

    def to(self, device: torch.device) -> Images:
        """On a device."""
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training images, the test sets by the name that a metric begins with, and each channel's mean and deviation.

    A test set is read when it is asked for: decoding one can take longer than training a small model.
    """

    train: Images
    tests: Mapping[str, Callable[[], Images]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int = 10
