"""What floats look like as integers of their size."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch

__all__ = ["FLOATS", "INTEGERS", "Image", "image_of", "signs_of_bytes"]

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Those whose infinity is all ones in the exponent and nothing else."""

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers that a float may be viewed as, by its size in bytes."""


class Image(NamedTuple):
    """+1, -1 and infinity as signed integers; ``size`` is everything but the sign bit, and the largest integer."""

    plus: int
    minus: int
    infinity: int
    size: int


@lru_cache(maxsize=16)
def image_of(dtype: torch.dtype) -> Image:
    """A dtype's.

    >>> hex(image_of(torch.float32).infinity)
    '0x7f800000'
    """
    integer = INTEGERS[dtype.itemsize]
    plus, minus, infinity = torch.tensor([1.0, -1.0, torch.inf], dtype=dtype).view(integer).tolist()
    return Image(plus, minus, infinity, torch.iinfo(integer).max)


def signs_of_bytes() -> torch.Tensor:
    """For every byte its eight signs (256, 8) int8, least significant bit first.

    >>> signs_of_bytes()[5].tolist()
    [1, -1, 1, -1, -1, -1, -1, -1]
    """
    bits = torch.arange(256).unsqueeze(1) >> torch.arange(8) & 1
    return (2 * bits - 1).to(torch.int8)
