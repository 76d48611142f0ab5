"""Fields as bytes, one behind the other, each filled up to 8."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..codec import Block, Codec
from . import header

Fields = list[Tensor]
"""The fields of a codec: (rows, columns), or (workers, rows, columns)."""


def pad(size: int) -> int:
    """The next multiple of 8."""
    return -(-size // 8) * 8


def raw(tensor: Tensor) -> Tensor:
    """Its bytes. (A tensor of one entry may be contiguous with a stride of 0, which no other dtype can view.)"""
    return tensor.contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def columns(codec: Codec, block: Block, fields: Fields) -> Fields:
    """A block's share of the fields (k, B, columns) of a stack."""
    return [
        whole[:, block.first : block.last, field.part(block.start, block.stop)]
        for field, whole in zip(codec.fields, fields, strict=True)
    ]


def shapes(codec: Codec, block: Block, rows: int) -> list[tuple[tuple[int, int, int], torch.dtype]]:
    """What :func:`columns` gives for k = ``rows``."""
    return [
        ((rows, block.matrices, len(range(field.columns)[field.part(block.start, block.stop)])), field.dtype)
        for field in codec.fields
    ]


def payload_size(codecs: Sequence[Codec], pieces: Sequence[tuple[int, Block]], rows: int, status: int) -> int:
    """Bytes of a payload: the header, so many bytes of status, and so many rows of these pieces' fields."""
    parts = (part for index, block in pieces for part in shapes(codecs[index], block, rows))
    return header.SIZE + pad(status) + sum(pad(torch.Size(shape).numel() * d.itemsize) for shape, d in parts)


class Reader:
    """Reads tensors behind a header, and behind ``skip`` bytes more."""

    def __init__(self, payload: Tensor, skip: int = 0) -> None:
        self._payload, self._at = payload, header.SIZE + skip

    def read(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """The next one."""
        size = torch.Size(shape).numel() * dtype.itemsize
        data = self._payload[self._at : self._at + size]
        self._at += pad(size)
        return data.view(dtype).view(*shape)  # every payload and every part of it begins at a multiple of 8 bytes


__all__ = ["Fields", "Reader", "columns", "pad", "payload_size", "raw", "shapes"]
